"""Backpropagation through time with a surrogate derivative: every step of the spiking network in autograd's graph."""

import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.layers import Neurons, each_step
from proxykernels.simulation.simulate import replace_neurons


class Surrogate(nn.Module):
    """The spiking network's firing rates [N, classes], differentiable through all T steps."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        model.rates, model.ann_rates, model.ann_output = {}, {}, None  # no twin runs
        learn = model.training and not model.batch_norm_frozen
        net = replace_neurons(model.net, lambda name, layer: _Unrolled(name, layer, learn, model.rates))
        return net(x.expand(model.T, *x.shape)).mean(0)


class _Unrolled(nn.Module):
    """A layer on all steps at once: [T, N, ...] to spikes [T, N, ...], as float32."""

    def __init__(self, name: str, layer: Neurons, statistics_learn: bool, rates: dict[str, float]):
        super().__init__()
        self.name, self.layer, self.statistics_learn, self.rates = name, layer, statistics_learn, rates

    def forward(self, x: Tensor) -> Tensor:
        current = each_step(self.currents, x)
        spikes = pk.if_scan_surrogate(current, v_threshold=self.layer.v_threshold, v_reset=self.layer.v_reset)
        self.rates[self.name] = spikes.detach().mean().item()
        return spikes

    def currents(self, x: Tensor) -> Tensor:
        y, bn = self.layer.affine(x), getattr(self.layer, "bn", None)
        if bn is None:
            return y
        statistics = bn.running_mean, bn.running_var
        return F.batch_norm(y, *statistics, bn.weight, bn.bias, self.statistics_learn, bn.momentum, bn.eps)
