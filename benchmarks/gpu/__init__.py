"""Parts of gpu_speed.py: what it measures, compiles and models, and the rivals that only a GPU can run."""
