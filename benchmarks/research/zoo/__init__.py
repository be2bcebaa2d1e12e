"""Parts of supported_models.py: the models, and how their spikes are compared."""
