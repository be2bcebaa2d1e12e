"""The step loop of a network of sigma-delta neurons in plain torch: what pk.simulate is compared with.

Each layer takes what the layers before it have sent so far, so that its sums are whole at each step, and pooling is
that of the ReLU network, before neurons or not. As fast as we could make it: channels last, in place, powers of two by
integers.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons

SIGN, EXPONENT, HALF, ONE = -(1 << 31), 0xFF << 23, 1 << 22, 127 << 23  # bits of a float


@torch.inference_mode()
def outputs(net: pk.Network, images: Tensor, T: int) -> Iterator[Tensor]:
    """The network's outputs [N, classes] after each of ``T`` steps of constant images [N, C, H, W]."""
    images = images.contiguous(memory_format=torch.channels_last)
    layers = net.layers()
    steps = {name: _step_of(layer) for name, layer, _ in layers}
    for _ in range(T):
        values = {pk.Network.INPUT: images}
        for name, _, sources in layers:
            values[name] = steps[name](*(values[source] for source in sources))
        yield values[name] * layers[-1][1].scale


def _step_of(layer: Any):
    """One step of a layer: what it has sent so far, as a function of what the layers before it have."""
    if isinstance(layer, SigmaDeltaNeurons):
        return _Neurons(layer)
    if isinstance(layer, pk.RunningMaxPool2d):
        return _pooling(layer)
    if isinstance(layer, pk.Concatenate):
        return lambda *inputs: torch.cat(inputs, 1)
    if isinstance(layer, pk.Flatten):
        return nn.Flatten()
    return lambda x: layer(x.unsqueeze(0)).squeeze(0)


def _pooling(pool: pk.RunningMaxPool2d):
    window = pool.kernel_size, pool.stride, pool.padding, 1, pool.ceil_mode
    return lambda x: F.max_pool2d(x, *window)


class _Neurons:
    """What has been sent, and the synapses; without neurons what has arrived."""

    def __init__(self, layer: SigmaDeltaNeurons):
        self.layer = layer
        self.synapses = [synapse.to(memory_format=torch.channels_last) for synapse in layer.synapses]
        self.least = (128 - layer.neuron.exponents) << 23
        self.sent: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        z, *others = (synapse(x) for synapse, x in zip(self.synapses, inputs, strict=True))
        for other in others:
            z = z + other
        if self.layer.pool is not None:
            z = _pooling(self.layer.pool)(z)
        if not self.layer.fires:
            return z
        if not self.layer.rectifies:
            left = z
        elif self.layer.limit is None:
            left = z.relu_()
        else:
            limit = (self.layer.limit / self.layer.scale).view(-1, *[1] * (z.ndim - 2))
            left = torch.minimum(z, limit, out=z).relu_()
        if self.sent is None:
            self.sent = torch.zeros_like(left)
        bits = left.sub_(self.sent).view(torch.int32)
        power = bits & ~SIGN
        power.add_(HALF).bitwise_and_(EXPONENT).clamp_(max=ONE)
        power.mul_(power >= self.least).bitwise_or_(bits.bitwise_and_(SIGN))
        self.sent += power.view(torch.float32)
        return self.sent
