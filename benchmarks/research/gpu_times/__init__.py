"""Parts of gpu_model.py: the modelled times of our kernels and of their strongest rival."""
