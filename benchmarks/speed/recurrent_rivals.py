"""Recurrent networks as a step loop in plain torch, and in other libraries."""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ATanSpike(torch.autograd.Function):
    """x >= 0, with the derivative of pk.ATan(2.0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (1 + (math.pi * x) ** 2)


class Loop:
    """A layer of leaky or current-based neurons with hard reset to 0, recurrent or not, as a loop over steps."""

    def __init__(self, layer: Any):
        self.layer, neuron = layer, layer.neuron
        self.decay, self.current_decay = neuron.decay, getattr(neuron, "current_decay", 0.0)
        self.recurrent = getattr(layer, "recurrent_weight", None)

    def __call__(self, x: Tensor, surrogate: bool = False) -> Tensor:
        currents, spikes = F.linear(x, self.layer.weight, self.layer.bias), []
        v = i = s = torch.zeros_like(currents[0])
        for current in currents:
            if self.recurrent is not None:
                current = current + F.linear(s, self.recurrent)
            i = self.current_decay * i + current if self.current_decay else current
            h = self.decay * v + i
            s = ATanSpike.apply(h - 1) if surrogate else (h >= 1).float()
            v = h * (1 - s)
            spikes.append(s)
        return torch.stack(spikes)


def snntorch(net: nn.Sequential) -> Callable[[Tensor], Tensor] | None:
    """The same network in snnTorch, whose synaptic neurons reset by subtraction; None: it is not installed.

    Its potentials and so its spikes are others; its work is the same.
    """
    if importlib.util.find_spec("snntorch") is None:
        return None
    import snntorch as snn

    first, last = net[0].neuron, net[1].neuron
    options = {"reset_mechanism": "subtract"}
    lif1 = snn.RSynaptic(first.current_decay, first.decay, linear_features=38, **options)
    lif2 = snn.Synaptic(last.current_decay, last.decay, **options)
    with torch.no_grad():
        lif1.recurrent.weight.copy_(net[0].recurrent_weight)
        lif1.recurrent.bias.zero_()

    def run(x: Tensor) -> Tensor:
        first_state, last_state, spikes = lif1.reset_mem(), lif2.reset_mem(), []
        for step in x:
            first_state = lif1(F.linear(step, net[0].weight, net[0].bias), *first_state)
            last_state = lif2(F.linear(first_state[0], net[1].weight, net[1].bias), *last_state[-2:])
            spikes.append(last_state[0])
        return torch.stack(spikes)

    return run


def norse(net: nn.Sequential) -> Callable[[Tensor], Tensor] | None:
    """The same sizes in Norse, of current-based neurons; None: it is not installed."""
    if importlib.util.find_spec("norse") is None:
        return None
    from norse.torch.module.lif import LIFCell, LIFRecurrentCell

    recurrent, linear, last = LIFRecurrentCell(12, 38), nn.Linear(38, 7), LIFCell()

    def run(x: Tensor) -> Tensor:
        first_state = last_state = None
        spikes = []
        for step in x:
            z, first_state = recurrent(step, first_state)
            z, last_state = last(linear(z), last_state)
            spikes.append(z)
        return torch.stack(spikes)

    return run
