"""Compares a translation with its original, node by node: both run on samples as ReLU networks.

Each layer is given what the original computes at its place, not what the layers before it made of rounding: so what
differs is named where it arises. An option that is passed over, a forward pass that is not followed, or a mistake of
this package cannot go unnoticed.
"""

import copy
from typing import Any

import torch
from torch import Tensor, fx

from ...layers import Neurons, SpikingLayer
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...network import Network
from ..graph.fx_calls import path_of
from ..graph.graph_values import Signal
from ..graph.index_ops import keeps_samples
from .calibrate import activation, relu_value
from .relu_graph import ReluGraph
from .scales import Scales

SAMPLES, VALUES = 4, 1 << 16  # of the calibration data, and of numbers in them, at most
TOLERANCE = 1e-4  # of a node's largest value; or of the sum of its terms' absolute values, which rounding grows with


def samples_of(batch: Tensor) -> Tensor:
    """As many samples as keep the check a small part of the conversion."""
    return batch[: max(1, min(SAMPLES, VALUES // max(1, batch[0].numel())))]


class OriginalValues(fx.Interpreter):
    """The original network's values on samples x [N, ...], of the nodes that layers give.

    They are kept as they are at first: others may be changed in place later.
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
    """Compare the layers of ``net``, as those of a ReLU network, with the original's values.

    Raises:
        TypeError: some differ by more than rounding; the message names the first module where they do.
    """
    computed: dict[str, Tensor] = {Network.INPUT: original.x}
    last_use = {source: name for name, _, sources in net.layers() for source in sources}
    for name, module, sources in net.layers():
        inputs = tuple(computed[source] for source in sources)
        value = _value(graph, name, module, inputs)
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


def _value(graph: ReluGraph, name: str, module: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    """What a layer gives in a ReLU network; the last one's currents are the logits."""
    value = relu_value(module, inputs)
    if not isinstance(module, Neurons | SigmaDeltaNeurons) or graph.populations[name].neuron is None:
        return value
    return activation(module, value)


def spread(scale: Tensor, value: Tensor) -> Tensor:
    """A scale, or one for each channel, for a layer's values [N, C, ...], of which flattening makes several."""
    if scale.ndim:
        scale = scale.repeat_interleave(value.shape[1] // len(scale)).view(-1, *[1] * (value.ndim - 2))
    return scale.to(value)


def _seen(value: Tensor, signal: Signal) -> Tensor:
    """A layer's values where the model sees them."""
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
    """Whether a difference is that of rounding, in sums whose terms cancel each other."""
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
