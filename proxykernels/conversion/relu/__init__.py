"""Spiking networks of trained ReLU networks."""
