"""Runs a converted network beside its ReLU network, layer by layer, to calibrate the initial potentials.

The weights of both are the same, so that the ReLU network is computed by the converted one's layers. Where a neuron's
currents come early or late, it fires too often or too rarely, mostly within the first steps, and spikes cannot be
taken back. The potential that it starts from shifts its spikes in time, and its share of the count fades as 1 / T, so
that rates stay exact. Each channel starts where the squared error of its counts is least, over samples and pixels; the
last layer, whose charges decide, where their mean error is nothing. Layers are calibrated one after the other, on
spikes of those before, as in: Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks
calibration", ICML 2021, arXiv:2106.06984, section 4.1. Half a threshold to start from: Bu et al., "Optimized potential
initialization for low-latency spiking neural networks", AAAI 2022, arXiv:2202.01440. A start that is shifted by what
neurons fired too often: Hao et al., "Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR 2023,
arXiv:2302.10685.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...layers import Neurons, SpikingLayer
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...network import Network

STEPS = 8  # of the calibration: as good as any for T from 4 to 1024 (docs/convert.md)
COMPARED = STEPS // 2, STEPS  # steps after which counts are compared
FEWEST, SAMPLES = 4, 64  # of the calibration data, at most; fewer than SAMPLES where these have many values
INPUTS = 1 << 20  # values of those samples, at most: of photographs a few do
UNIT = 1 / 256  # what potentials are rounded to: sums with weights of few bits stay exact
HALF = 0.5  # of a threshold, which is 1: rounds counts to the nearest
SHIFTS = 1 / 2, 1 / 4, 1 / 8, 1 / 16  # of a threshold, by which the search for a channel's start goes up and down

Fire = Callable[[str, Neurons, Tensor, Any], tuple[Any, Tensor]]


@torch.no_grad()
def follow(net: Network, x: Tensor, T: int, fire: Fire) -> None:
    """Go through both networks, on a constant input x [N, ...].

    ``fire(name, layer, current, inputs)`` has the ReLU network's currents [N, ...] and the spiking network's inputs
    (T, N, ...), and gives spikes and potentials.
    """
    layers = net.layers()
    last_use = {source: k for k, (_, _, sources) in enumerate(layers) for source in sources}
    values: dict[str, tuple[Any, Any]] = {Network.INPUT: (x, x.expand(T, *x.shape))}
    for k, (name, module, sources) in enumerate(layers):
        layer: Any = module
        pairs = [values[source] for source in sources]
        real: Any
        spiking: Any
        real, spiking = (side[0] if len(side) == 1 else side for side in zip(*pairs, strict=True))
        value = relu_value(layer, real if isinstance(real, tuple) else (real,))
        if isinstance(module, Neurons):
            spikes, _ = fire(name, layer, value, spiking)
            values[name] = activation(layer, value), spikes
        elif isinstance(module, SpikingLayer):  # pooling over time
            values[name] = value, layer.spike(spiking)[0]
        else:
            values[name] = value, layer(spiking)
        for source in sources:
            if last_use[source] == k:
                values.pop(source, None)


def relu_value(layer: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    """The output of a layer in the ReLU network; of neurons, their currents [N, ...]."""
    if isinstance(layer, SpikingLayer):
        taken: Any = inputs if len(inputs) > 1 else inputs[0]
        return layer.affine(taken)
    once = tuple(part.unsqueeze(0) for part in inputs)
    return layer(once if len(once) > 1 else once[0]).squeeze(0)


def activation(layer: Neurons | SigmaDeltaNeurons, current: Tensor) -> Tensor:
    """The activation of the ReLU network for a current [N, C, ...], both in scales."""
    if not layer.neuron.fires:
        return current
    rectified = current.relu()
    if layer.limit is None:
        return rectified
    highest = layer.limit / torch.as_tensor(layer.scale, dtype=torch.float32, device=current.device)
    return rectified.minimum(highest.view(-1, *[1] * (current.ndim - 2)) if highest.ndim else highest)


def calibrate_potentials(net: Network, x: Tensor) -> None:
    """Set the potentials that each channel of the neurons of threshold 1 and soft reset starts from."""
    last = [name for name, layer, _ in net.layers() if isinstance(layer, Neurons)][-1]

    def fire(name: str, layer: Neurons, current: Tensor, inputs: Any) -> tuple[Any, Tensor]:
        if layer.neuron.fires:
            (_balance_charges if name == last else _search_start)(layer, current, inputs)
        return layer.spike(inputs)

    follow(net, x, STEPS, fire)


def _search_start(layer: Neurons, current: Tensor, inputs: Any) -> None:
    """Start each channel where its counts err least: from half a threshold up or down, by less and less."""
    expected = activation(layer, current).clamp(max=1)

    def error(start: Tensor) -> Tensor:
        layer._set_value("v_init", start)
        spikes, _ = layer.spike(inputs)
        early, late = ((spikes.count(until=T) - T * expected) ** 2 for T in COMPARED)
        return _channel_means(early + late)

    best = torch.full((current.shape[1],), HALF, dtype=torch.float32, device=current.device)
    least = error(best)
    for shift in SHIFTS:
        for start in (best - shift, best + shift):
            found = error(start)
            best, least = torch.where(found < least, start, best), torch.minimum(found, least)
    layer._set_value("v_init", best)


def _balance_charges(layer: Neurons, current: Tensor, inputs: Any) -> None:
    """Start each channel with the charge that comes too late: that of negative outputs counts too."""
    spikes, after = layer.spike(inputs)
    start = HALF + _channel_means(STEPS * current - (spikes.count() + after - HALF))
    layer._set_value("v_init", torch.round(start / UNIT) * UNIT)


def _channel_means(values: Tensor) -> Tensor:
    """[C] of [N, C, ...]."""
    return values.transpose(0, 1).flatten(1).mean(1)
