"""Runs a converted network beside its ReLU network, layer by layer: to calibrate initial potentials, and to compare.

The weights of both are the same, so the converted network's layers compute the ReLU network. Where a neuron's currents
come early or late, it fires too often or too rarely, mostly within the first steps, and spikes cannot be taken back.
The potential that it starts from shifts its spikes in time; its share of the count fades as 1 / T, so rates stay exact.
Each channel starts where the squared error of its counts, over samples and pixels, is least; the last layer, whose
charges decide, where their mean error is zero. Layers are calibrated one after the other, on the spikes of those
before, as in Li et al., "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML
2021, arXiv:2106.06984, section 4.1. Half a threshold to start from: Bu et al., "Optimized potential initialization for
low-latency spiking neural networks", AAAI 2022, arXiv:2202.01440. A start shifted by the excess spikes: Hao et al.,
"Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR 2023, arXiv:2302.10685.

The comparison gives each layer what the original computes at its place, not the rounded output of the layers before: a
difference is named where it arises. An ignored option, a forward pass that was not followed, or a mistake of this
package is found.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ...layers import Neurons, SpikingLayer
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...network import Network
from ..graph.fx_calls import path_of
from ..graph.graph_values import Signal
from .relu_graph import ReluGraph
from .scales import Scales
from .viewed_graph import keeps_samples

STEPS = 8  # of the calibration: as good as any other number for T from 4 to 1024 (docs/convert.md)
COMPARED = STEPS // 2, STEPS  # steps after which counts are compared
FEWEST, SAMPLES = 4, 64  # of the calibration data, at most; fewer than SAMPLES where these have many values
INPUTS = 1 << 20  # values of those samples, at most
UNIT = 1 / 256  # potentials are rounded to it, so that sums with weights of few bits stay exact
HALF = 0.5  # half a threshold, which rounds counts to the nearest
SHIFTS = 1 / 2, 1 / 4, 1 / 8, 1 / 16  # of a threshold: steps of the search for a channel's initial potential
Fire = Callable[[str, Neurons, Tensor, Any], tuple[Any, Tensor]]
CHECKED, VALUES = 4, 1 << 16  # samples of the calibration data for the comparison, and values in them, at most
TOLERANCE = 1e-4  # relative to a node's largest value, or to the sum of its terms' absolute values


@torch.no_grad()
def follow(net: Network, x: Tensor, T: int, fire: Fire) -> None:
    """Run both networks, layer by layer, on a constant input x [N, ...].

    ``fire(name, layer, current, inputs)`` takes the ReLU network's currents [N, ...] and the spiking network's inputs
    (T, N, ...), and returns spikes and potentials.
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
    """Start each channel where the error of its counts is least, searched from half a threshold by smaller steps."""
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
    """Start each channel with the charge that arrives too late, including charge of negative outputs."""
    spikes, after = layer.spike(inputs)
    start = HALF + _channel_means(STEPS * current - (spikes.count() + after - HALF))
    layer._set_value("v_init", torch.round(start / UNIT) * UNIT)


def _channel_means(values: Tensor) -> Tensor:
    """[C] of [N, C, ...]."""
    return values.transpose(0, 1).flatten(1).mean(1)


def samples_of(batch: Tensor) -> Tensor:
    """Few enough samples that the check is a small part of the conversion."""
    return batch[: max(1, min(CHECKED, VALUES // max(1, batch[0].numel())))]


class OriginalValues(fx.Interpreter):
    """The original network's values on samples x [N, ...], for nodes that are outputs of layers.

    They are copied at once, since a later node may change them in place.
    """

    def __init__(self, traced: fx.GraphModule, graph: ReluGraph, x: Tensor):
        super().__init__(traced)
        self.x = x
        self.values: dict[fx.Node, Tensor] = {}
        self.layers: dict[str, list[tuple[fx.Node, Signal]]] = {}
        nodes = {**{n: v for n, v in graph.values.items() if isinstance(v, Signal)}, **graph.carried}
        nodes = {n: v for n, v in nodes.items() if v.view is None or keeps_samples(v.view, v.shape or ())}
        for node, signal in nodes.items():
            self.layers.setdefault(signal.layer, []).append((node, signal))
        self._wanted = set(nodes)
        self.run(x)

    @torch.no_grad()
    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        if node in self._wanted:
            self.values[node] = value.clone()
        return value


@torch.no_grad()
def check(net: Network, graph: ReluGraph, scales: Scales, original: OriginalValues) -> None:
    """Compare the layers of ``net``, run as a ReLU network, with the original's values.

    Raises:
        TypeError: some differ by more than rounding; the message names the first module where they do.
    """
    computed: dict[str, Tensor] = {Network.INPUT: original.x}
    last_use = {source: name for name, _, sources in net.layers() for source in sources}
    for name, module, sources in net.layers():
        inputs = tuple(computed[source] for source in sources)
        value = layer_value(graph, name, module, inputs)
        first = graph.populations[name].current.path if name in graph.populations else None
        for node, signal in original.layers.get(name, ()):
            expected = original.values[node]
            scale = spread(scales[signal.neurons], value)
            found = _seen(value * scale, signal)
            if not _agree(found, expected) and not _agree_in_sums(module, inputs, signal, scale, found, expected):
                raise TypeError(_difference(graph.model, first, path_of(node), found, expected))
            first = None  # what comes behind this node is at fault for the next difference
            if signal.view is None:
                value = expected.to(value).view_as(value) / scale
        computed[name] = value
        for source in set(sources):
            if last_use[source] == name:
                del computed[source]


def layer_value(graph: ReluGraph, name: str, module: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    """The output of a layer in the ReLU network; the currents of the last layer are the logits."""
    value = relu_value(module, inputs)
    if not isinstance(module, Neurons | SigmaDeltaNeurons) or graph.populations[name].neuron is None:
        return value
    return activation(module, value)


def spread(scale: Tensor, value: Tensor) -> Tensor:
    """A scale, or one for each channel, for a layer's values [N, C, ...]; flattened channels have several values."""
    if scale.ndim:
        scale = scale.repeat_interleave(value.shape[1] // len(scale)).view(-1, *[1] * (value.ndim - 2))
    return scale.to(value)


def _seen(value: Tensor, signal: Signal) -> Tensor:
    """A layer's values in the order in which the model sees them."""
    if signal.view is None:
        return value
    places = signal.view[0]
    seen = value.flatten(1)[:, places.clamp(min=0).flatten().to(value.device)].view(len(value), *places.shape)
    return seen.masked_fill((places < 0).to(value.device), 0)


def _agree(found: Tensor, expected: Tensor) -> bool:
    if found.numel() != expected.numel():
        return False
    if not expected.numel():
        return True
    tolerance = max(TOLERANCE, 16 * torch.finfo(expected.dtype).eps)
    error = (found.reshape(expected.shape) - expected).abs().max()
    return bool(error <= tolerance * expected.abs().max())


def _agree_in_sums(
    module: Any, inputs: tuple[Tensor, ...], signal: Signal, scale: Tensor, found: Tensor, expected: Tensor
) -> bool:
    """Whether a difference is due to rounding, in sums whose terms cancel each other."""
    if not isinstance(module, SpikingLayer) or found.numel() != expected.numel() or found.isnan().any():
        return False
    absolute = copy.deepcopy(module)
    for parameter in absolute.parameters():
        parameter.abs_()
    terms = _seen(relu_value(absolute, tuple(part.abs() for part in inputs)) * scale, signal)
    return bool(((found - expected.view_as(found)).abs() <= TOLERANCE * terms).all())


def _difference(model: str, first: str | None, last: str, found: Tensor, expected: Tensor) -> str:
    if found.numel() != expected.numel():
        how = f"{tuple(found.shape)} in place of {tuple(expected.shape)}"
    else:
        error = (found.reshape(expected.shape) - expected).abs().max().item()
        how = f"off by {error:.2g} where the largest is {expected.abs().max().item():.2g}"
    between = f"{first} to {last}" if first and first != last else last
    return (
        f"{model}: what {between} computes is not what convert makes of it, {how}: it has an option or a forward "
        "pass that convert does not know; leave it out, and please report it"
    )
