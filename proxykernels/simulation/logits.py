"""The outputs of a ReLU network, read from the spikes and potentials of the one that it was converted to.

A soft reset loses no charge: over t steps the currents of a neuron add up to v_threshold times its spikes, plus what
its potential has gained. Their mean, times what a spike a step stands for, is the logit; also where it is negative and
no neuron fires.

    logit = scale (v_threshold count + v[t] - v[0]) / t

Where the ReLU network ends in a ReLU, its outputs are the positive part of this, up to the ReLU's limit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..layers import SpikingLayer
from ..neurons import IFNeuron


def logits(layer: SpikingLayer, counts: Tensor, state: list[Tensor], given: Sequence[Tensor], steps: Tensor) -> Tensor:
    """float32 [N, ...] of the last layer of neurons; ``counts`` [N, ...], ``given``: the state at the start, if any.

    Raises:
        AttributeError: the layer was not made by convert, or it loses charge.
    """
    scale: Any = getattr(layer, "scale", None)
    if scale is None:
        raise AttributeError("logits are those of the network that convert was given; this network was not converted")
    neuron: Any = layer.neuron
    if type(neuron) is not IFNeuron or neuron.v_reset is not None or len(state) != 1:
        raise AttributeError("logits need a last layer with the soft reset, v_reset=None, which loses no charge")
    start: Any = given[0] if given else layer.v_init
    if not given and isinstance(start, Tensor):  # one a channel
        start = start.view(-1, *[1] * (state[0].ndim - 2))
    gained = state[0] - start
    theta = torch.as_tensor(neuron.v_threshold, device=counts.device)
    theta = theta.view(-1, *[1] * (gained.ndim - 2)) if theta.ndim else theta
    charge = theta * counts.view_as(gained) + gained
    scale = torch.as_tensor(scale, device=charge.device)
    scale = scale.view(-1, *[1] * (gained.ndim - 2)) if scale.ndim else scale
    outputs = (scale * charge / steps.view(-1, *[1] * (gained.ndim - 1))).view_as(counts)
    return outputs.clamp(0, layer.limit) if getattr(layer, "rectifies", False) else outputs
