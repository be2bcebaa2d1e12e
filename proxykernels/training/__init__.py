"""Training: by a ReLU network that shares the weights, and by surrogate gradients."""
