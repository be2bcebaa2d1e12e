"""Backpropagation through time with a surrogate derivative, in the memory of packed spikes."""

from torch import Tensor, nn

import proxykernels as pk


class Surrogate(nn.Module):
    """The spiking network's firing rates [N, classes], differentiable through all T steps."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model
        surrogate = pk.Triangle(detach_reset=True)  # of Esser et al., arXiv:1603.08270
        self.through_time = pk.SurrogateNet(model.net, model.T, surrogate=surrogate, readout="rate")

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        self.through_time.training = model.training and not model.batch_norm_frozen  # whether statistics learn
        output = self.through_time(x)
        model.rates, model.ann_rates, model.ann_output = self.through_time.rates, {}, None  # no twin runs
        return output
