"""A converted network beside its ReLU network, layer by layer: what the potentials to start from are taken from.

The weights of both are the same, so that the ReLU network is computed by the converted one's layers. Where a neuron's
currents come early or late, it fires too often or too rarely, mostly within the first steps, and spikes
cannot be taken back. Their mean in each channel, over samples and pixels, is put into the potential that the channel
starts from; it fades as 1 / T, so that rates stay exact. Channel means: Li et al., "A free lunch from ANN:
towards efficient, accurate spiking neural networks calibration", ICML 2021, arXiv:2106.06984, section 4.1. Half a
threshold to start from: Bu et al., "Optimized potential initialization for low-latency spiking neural networks", AAAI
2022, arXiv:2202.01440. A start that is shifted by what neurons fired too often: Hao et al., "Bridging the gap between
ANNs and SNNs by calibrating offset spikes", ICLR 2023, arXiv:2302.10685.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..layers import Neurons, SpikingLayer
from ..network import Network

STEPS = 8  # of the calibration: as good as any for T from 4 to 1024 (docs/convert.md)
SAMPLES = 64  # of the calibration data, at most
INPUTS = 1 << 22  # values of those samples, at most: of photographs fewer do
UNIT = 1 / 256  # what potentials are rounded to: sums with weights of few bits stay exact
HALF = 0.5  # of a threshold, which is 1: rounds counts to the nearest

Fire = Callable[[str, Neurons, Tensor, Any], tuple[Any, Tensor]]


@torch.no_grad()
def follow(net: Network, x: Tensor, T: int, fire: Fire) -> None:
    """Go through both networks, on x [N, ...] that is held for T steps. ``fire(name, layer, current, inputs)`` has the
    ReLU network's currents [N, ...] and the spiking network's inputs (T, N, ...), and gives spikes and potentials."""
    layers = net.layers()
    last_use = {source: k for k, (_, _, sources) in enumerate(layers) for source in sources}
    values: dict[str, tuple[Any, Any]] = {Network.INPUT: (x, x.expand(T, *x.shape))}
    for k, (name, module, sources) in enumerate(layers):
        layer: Any = module
        pairs = [values[source] for source in sources]
        real: Any
        spiking: Any
        real, spiking = (side[0] if len(side) == 1 else side for side in zip(*pairs, strict=True))
        if isinstance(module, Neurons):
            current = layer.affine(real)
            spikes, _ = fire(name, layer, current, spiking)
            values[name] = activation(layer, current) if layer.neuron.fires else current, spikes
        elif isinstance(module, SpikingLayer):  # pooling of rates
            values[name] = layer.affine(real), layer.spike(spiking)[0]
        else:
            once = tuple(part.unsqueeze(0) for part in real) if isinstance(real, tuple) else real.unsqueeze(0)
            values[name] = layer(once).squeeze(0), layer(spiking)
        for source in sources:
            if last_use[source] == k:
                values.pop(source, None)


def activation(layer: Neurons, current: Tensor) -> Tensor:
    """What the ReLU network makes of a current [N, C, ...], in scales, as the current is."""
    rectified = current.relu()
    if layer.limit is None:
        return rectified
    highest = layer.limit / torch.as_tensor(layer.scale, device=current.device)
    return rectified.minimum(highest.view(-1, *[1] * (current.ndim - 2)) if highest.ndim else highest)


def calibrate_potentials(net: Network, x: Tensor) -> None:
    """Set the potentials that each channel of the neurons of threshold 1 and soft reset starts from."""
    last = [name for name, layer, _ in net.layers() if isinstance(layer, Neurons)][-1]

    def fire(name: str, layer: Neurons, current: Tensor, inputs: Any) -> tuple[Any, Tensor]:
        spikes, after = layer.spike(inputs)
        if not layer.neuron.fires:
            return spikes, after
        if name == last:  # its negative outputs count too: all charge
            missing = STEPS * current - (spikes.count() + after - HALF)
        else:
            missing = STEPS * activation(layer, current).clamp(max=1) - spikes.count()
        start = HALF + missing.transpose(0, 1).flatten(1).mean(1)
        layer._set_value("v_init", torch.round(start / UNIT) * UNIT)
        return layer.spike(inputs)

    follow(net, x, STEPS, fire)
