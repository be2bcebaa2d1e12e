"""Backpropagation through time: neurons with a surrogate derivative, and spikes that carry a gradient."""
