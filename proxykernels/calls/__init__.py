"""Functions over all time steps: neurons, convolutions, operations on spikes, and their gradients."""
