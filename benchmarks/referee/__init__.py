"""Parts of nir_referee.py."""
