"""Parts of train_iteration.py."""
