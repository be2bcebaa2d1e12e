"""Parts of imagenet.py."""
