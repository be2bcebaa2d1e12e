"""Parts of gpu_speed.py: what it measures and compiles, and the rivals that only a GPU can run."""
