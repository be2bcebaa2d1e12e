"""The value of a spike in a channel: the scale of firing rates, or the threshold of sigma-delta neurons.

A scale is the activation of the ReLU network that one spike per step stands for. Maximum: Diehl et al.,
"Fast-classifying, high-accuracy spiking deep networks", IJCNN 2015. Percentile: Rueckauer et al., Frontiers in
Neuroscience 11:682, 2017, doi 10.3389/fnins.2017.00682. A scale for each channel: Kim et al., "Spiking-YOLO", AAAI
2020, arXiv:1903.06530. A spiking network may share the ReLU network's own parameters only if each of its weights is a
parameter of one layer of that network, since weights are rescaled in place, and if its normalisations are modules,
since they are folded.

A threshold of sigma-delta neurons is the largest activation of its channel on the calibration data, or for a layer
without a ReLU the largest absolute value. The weights contain it, as they contain the scales of rates: a spike of 1 is
one threshold. Neurons of an identity shortcut keep their own thresholds, and the ratio becomes the shortcut's weight.

An increasing activation and a maximum can be exchanged, max(relu(z)) = relu(max(z)). So sigma-delta neurons come behind
max pooling: there are fewer of them, and their spikes are additions in the next layer. This needs neurons whose output
only the pooling takes, directly or in a concatenation. Otherwise the neurons stay in front, and the pooling passes on
real values: the change of the maximum of everything sent so far.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import layers
from ...kernels import heap
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...layers.synapses import synapse_of
from ...network import Network
from ...neurons import Graded, SigmaDelta
from ..graph.graph_values import ModelPopulation, Projection, Signal, tied
from ..graph.rewrites import scaled_identity
from .relu_graph import ReluGraph

METHODS = ("max", "percentile")
ROOM = 1.5  # times a channel's largest activation: other data may exceed it, and more steps do not recover clipping
LEAST = 0.1  # times the layer's scale is the smallest scale of a channel, which may be more active on other data
ABOVE = 1.0625  # times the largest second output, so that the second class does not fire at every step
KEEP_CHANNELS = (
    layers.MaxRatePool2d, layers.AvgPool2d, layers.AdaptiveAvgPool2d, layers.MaxRatePool1d, layers.AvgPool1d,
    layers.AdaptiveAvgPool1d, layers.Flatten, layers.Upsample, layers.ZeroPad2d, layers.RunningMaxPool1d,
    layers.RunningMaxPool2d,
)  # fmt: skip
Scales = dict[str, Tensor]  # population -> [C], or no dimensions: one for all channels
SIGMA_DELTA, GRADED = "sigma-delta", "graded"
COMMON = 99  # percent of the activations are not above the scale of graded neurons, rounded to a power of two
# No channel's threshold is smaller than this share of the layer's largest activation. A channel that is hardly active
# on the calibration data would otherwise send many spikes on other data.
LEAST_THRESHOLD = 1 / 4
RUNNING: dict[type, Any] = {
    layers.MaxPool1d: layers.RunningMaxPool1d,
    layers.MaxPool2d: layers.RunningMaxPool2d,
    layers.MaxRatePool1d: layers.RunningMaxPool1d,
    layers.MaxRatePool2d: layers.RunningMaxPool2d,
    layers.RunningMaxPool1d: layers.RunningMaxPool1d,
    layers.RunningMaxPool2d: layers.RunningMaxPool2d,
}


class Distribution:
    """Maximum and percentiles of the positive part of values [N, C, ...] that come in batches, in one pass.

    A histogram over the upper 20 bits of a float32 without the sign: bins are 1/4096 of their value wide.
    ``signed``: take absolute values instead of the positive part.

    Attributes:
        maximum: of each channel, float32 [C]. lowest: of all values, at most 0.
        second: the largest second value of a sample, for values [N, C]; otherwise None.
    """

    SHIFT = 12

    def __init__(self, signed: bool = False):
        self.signed = signed
        self.maximum, self.counts = heap.zeros(), heap.zeros(dtype=torch.int64)
        self.second: float | None = None
        self.lowest = 0.0

    def add(self, values: Tensor) -> None:
        values = values.detach().float()
        self.lowest = min(self.lowest, values.amin().item())
        values = (values if self.signed else values.clamp(min=0)).abs()  # of -0.0, too
        self.maximum = torch.maximum(values.amax([d for d in range(values.ndim) if d != 1]).cpu(), self.maximum)
        if values.ndim == 2 and values.shape[1] > 1:
            self.second = max(self.second or 0.0, values.topk(2, 1).values[:, 1].max().item())
        bits = values.flatten().view(torch.int32) >> self.SHIFT
        self.counts = self.counts.to(bits.device) + torch.bincount(bits, minlength=1 << (31 - self.SHIFT))

    def percentile(self, percent: float) -> float:
        below = self.counts.cumsum(0)
        reached = (below[-1:].float() * (percent / 100)).ceil().long()
        bin = torch.searchsorted(below, reached)
        edge = ((bin + 1) << self.SHIFT).int().view(torch.float32).item()
        return min(edge, self.maximum.max().item()) if bin else 0.0


def watched(graph: ReluGraph) -> tuple[dict[str, Distribution], dict[fx.Node, list[Distribution]]]:
    """A distribution for each population that fires, and for each node the distributions of its values."""
    distributions = {name: Distribution(population.signed) for name, population in graph.firing.items()}
    nodes: dict[fx.Node, list[Distribution]] = {}
    for name, population in graph.firing.items():
        nodes.setdefault(population.node, []).append(distributions[name])
    return distributions, nodes


def scales_of(graph: ReluGraph, distributions: dict[str, Distribution], method: str, percentile: float) -> Scales:
    """The scale of each population's activations; 1 for the model's input."""
    last = list(distributions)[-1]
    scales = {}
    for name, distribution in distributions.items():
        path, largest = graph.populations[name].current.path, _largest(graph, name, distribution)
        whole = largest if method == "max" else distribution.percentile(percentile)
        if name == last:
            whole = largest if method == "max" else _range(distribution)
            if largest == 0 and graph.populations[name].neuron is None:  # no neuron fires, and the charges are negative
                whole = -distribution.lowest
        if whole == 0:
            remedy = "more samples, or other ones" if largest == 0 else "method='max'"
            raise ValueError(f"{graph.model}: {path} is silent on the calibration data; it needs {remedy}")
        one = torch.tensor(whole, dtype=torch.float32, device=heap.CPU)
        scales[name] = one if name == last else (ROOM * distribution.maximum).clamp(one * LEAST, one)
    _tie(graph, scales, last)
    return _unscaled(graph) | scales


def _largest(graph: ReluGraph, name: str, distribution: Distribution) -> float:
    """The largest activation of a population; refuses infinity."""
    largest = distribution.maximum.max().item()
    if not math.isfinite(largest):
        raise ValueError(f"{graph.model}: {graph.populations[name].current.path} overflows on the calibration data")
    return largest


def _unscaled(graph: ReluGraph) -> Scales:
    """A scale of 1 for the input and all populations."""
    return dict.fromkeys([*graph.populations, Network.INPUT], torch.ones((), dtype=torch.float32, device=heap.CPU))


def _range(outputs: Distribution) -> float:
    """The scale of the last layer: the largest output that was second in its sample, so that two classes never both
    fire at every step; the maximum if outputs are no classes. It may clip counts of the first class, but not logits,
    which include potentials."""
    largest = outputs.maximum.max().item()
    return largest if outputs.second is None else min(largest, max(ABOVE * outputs.second, LEAST * largest))


def _tie(graph: ReluGraph, scales: Scales, last: str) -> None:
    """Set scales to the largest where no weight can rescale: per channel for populations that identity shortcuts join,
    and for all channels of populations whose spikes are concatenated or rearranged."""
    joined = {name: {name} for name in scales}
    together = list(graph.one_scale)
    for name, population in graph.firing.items():
        for projection in population.current.projections:
            if isinstance(projection.module, nn.Identity) and projection.source.neurons != Network.INPUT:
                together.append({name, projection.source.neurons})
    for group in together:
        group = set().union(*(joined[member] for member in group))
        joined.update({member: group for member in group})
    uniform = set().union(*graph.one_scale, rearranged(graph))
    tied = {}
    for name, group in joined.items():
        members = [scales[member] for member in group]
        if group & uniform or len({member.shape for member in members}) > 1:
            members = [member.max() for member in members]
        tied[name] = torch.stack(members).amax(0)
        most = limit(graph.populations[name].neuron)
        if most is not None and (tied[name] > most * (1 + 1e-6)).any():
            path = graph.populations[name].current.path
            raise TypeError(
                f"{graph.model}: {path} is limited (ReLU6) at {most:g}, and takes the spikes of neurons whose "
                "activations are larger, or an identity shortcut or a concatenation joins it with them; use ReLU "
                "there, or limit these in the same way"
            )
    scales.update(tied)


def rearranged(graph: ReluGraph) -> set[str]:
    """The populations whose spikes reach other layers in another order of channels."""
    found = set()
    for layer, sources in graph.others.values():
        if isinstance(layer, KEEP_CHANNELS):
            continue
        behind = list(sources)
        while behind:
            name = behind.pop()
            found.add(name)
            behind.extend(graph.others[name][1] if name in graph.others else ())
    return found & set(graph.populations)


@torch.no_grad()
def rescale(population: ModelPopulation, scales: Scales, name: str, like: Tensor) -> None:
    """Multiply the weights by scale in / scale out, and divide the biases by scale out, in place.

    An identity shortcut gets weights of the type of ``like`` where the scales differ.
    """
    out = scales[name]
    for projection in population.current.projections:
        into = scales[projection.source.neurons]
        if isinstance(projection.module, nn.Identity):
            if torch.equal(into, out):
                continue
            shape: Any = projection.source.shape
            projection.module = scaled_identity(shape[1], len(shape), like)
        module = projection.module
        weight, groups = module.weight, getattr(module, "groups", 1)
        out_column = out.to(weight).view(-1, *[1] * (weight.ndim - 1))
        if into.ndim:  # flattened, each channel has become several features
            inputs = into.to(weight).repeat_interleave(weight.shape[1] * groups // len(into)).view(groups, 1, -1)
            rows = weight.unflatten(0, (groups, -1))
            rows.mul_(inputs.view(groups, 1, -1, *[1] * (weight.ndim - 2)))
        else:
            weight.mul_(into.to(weight))
        weight.div_(out_column)
        if module.bias is not None:
            module.bias.div_(out.to(weight))


def limit(relu: nn.Module | None) -> float | None:
    return relu.max_val if isinstance(relu, nn.Hardtanh) else None  # ReLU6 is a Hardtanh


def check_shareable(graph: ReluGraph, ann: nn.Module) -> None:
    """Check that all weights can be ``ann``'s own.

    Raises:
        ValueError: some cannot; the message names the layer.
    """
    if path := next(tied(graph.populations), None):
        raise ValueError(
            f"share=True rescales {graph.model}, whose {path} has another layer's weights; use share=False"
        )
    modules = {id(module) for module in ann.modules()}
    parameters = {id(parameter) for parameter in ann.parameters()}
    for population in graph.populations.values():
        where = f"share=True rescales {graph.model}, whose {population.current.path}"
        for projection in population.current.projections:
            module, norm = projection.module, projection.norm
            if (
                projection.added
                or projection.before is not None
                or (isinstance(module, nn.Identity) and not _keeps_scale(population, projection))
            ):
                raise ValueError(f"{where} has no weights that could be; use share=False")
            if isinstance(module, nn.Identity):
                continue
            all_known = all(id(parameter) in parameters for parameter in module.parameters())
            own = id(module) in modules or (norm is None and all_known)
            if not own or not (norm is None or id(norm) in modules):
                raise ValueError(
                    f"{where} is called twice, or computes with weights or statistics that no module of its own has; "
                    "use share=False"
                )
        if limit(population.neuron):
            raise ValueError(f"{where} is limited (ReLU6) at a value that cannot be rescaled; use ReLU, or share=False")


def _keeps_scale(population: ModelPopulation, projection: Projection) -> bool:
    """Whether an identity joins values of one scale: both are of neurons, or neither is."""
    return population.fires == (projection.source.neurons != Network.INPUT)


def neuron_of(neuron: Any, share: bool, **options: tuple[Any, Any]) -> SigmaDelta | Graded | None:
    """The neurons that the caller asks for; None: IF neurons. ``options``: those of IF neurons, and their defaults.

    Raises:
        TypeError, ValueError: the neurons are unknown, or an option is for IF neurons only.
    """
    if neuron == "if":
        return None
    if isinstance(neuron, str):
        neuron = {SIGMA_DELTA: SigmaDelta(), GRADED: Graded()}.get(neuron, neuron)
    if not isinstance(neuron, SigmaDelta | Graded):
        raise ValueError(
            f"neuron must be 'if', {SIGMA_DELTA!r}, {GRADED!r}, or proxykernels.neurons.SigmaDelta(exponents=...) or "
            f"Graded(threshold=...), got {neuron!r}"
        )
    for name, (value, default) in options.items():
        if value != default:
            raise ValueError(f"{name} is an option for IF neurons, got {value!r} for {neuron}; leave it out")
    if share:
        raise ValueError(f"share=True is not supported for {neuron}; leave it out")
    return neuron


def thresholds(graph: ReluGraph, distributions: dict[str, Distribution], neuron: SigmaDelta | Graded) -> Scales:
    """The thresholds of each population, [C] or one for all channels []; 1 where there are no neurons.

    Of graded neurons a power of two, so that no weight is rounded.
    """
    found: Scales = {}
    for name, distribution in distributions.items():
        population, largest = graph.populations[name], _largest(graph, name, distribution)
        if population.neuron is None and not population.signed:
            continue
        if largest == 0:
            path = population.current.path
            raise ValueError(f"{graph.model}: {path} is silent on the calibration data; it needs more samples")
        if isinstance(neuron, Graded):
            exponent = round(math.log2(distribution.percentile(COMMON) or largest))
            found[name] = torch.tensor(2.0**exponent, dtype=torch.float32, device=heap.CPU)
        else:
            found[name] = distribution.maximum.clamp(min=LEAST_THRESHOLD * largest)
    scales = _unscaled(graph) | found
    for name in rearranged(graph):  # whose channels are others' features
        scales[name] = scales[name].max()
    changed = True
    while changed:  # groups may overlap
        changed = False
        for group in graph.one_scale:
            shared = torch.stack([scales[name].max() for name in group]).max()
            for name in group:
                changed = changed or not torch.equal(scales[name], shared)
                scales[name] = shared
    return scales


def layer_of(population: ModelPopulation, scale: Tensor, neuron: SigmaDelta | Graded) -> SigmaDeltaNeurons:
    """The layer of a population: neurons, or one that passes the sum on as real values."""
    modules = [synapse_of(module).plain() for module in population.modules]
    return SigmaDeltaNeurons(
        *modules, neuron=neuron, scale=scale, limit=limit(population.neuron), rectifies=population.neuron is not None,
        fires=is_fired(population), pool=population.pool,
    )  # fmt: skip


def is_fired(population: ModelPopulation) -> bool:
    """Whether sigma-delta neurons send the population's values; the last layer passes real values on."""
    return population.signed or (population.fires and population.neuron is not None)


def pool_before_neurons(graph: ReluGraph) -> None:
    """Put each max pooling in front of the neurons whose spikes it takes, or let it pool what was sent so far."""
    for name in list(graph.order):
        old, (source, *_) = graph.others.get(name, (None, ("",)))
        if type(old) not in RUNNING:
            continue
        taken = _taken_alone(graph, source, name)
        if taken is None:
            graph.others[name] = _running(old), (source,)
            continue
        for neurons in taken & set(graph.populations):
            graph.populations[neurons].pool = _running(old)
        _leave_out(graph, name, source, taken)


def _running(pool: Any) -> layers.RunningMaxPool2d:
    return RUNNING[type(pool)](pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode)


def _taken_alone(graph: ReluGraph, name: str, reader: str) -> set[str] | None:
    """A layer that only ``reader`` takes, and the layers before it up to neurons; None: other layers take one of them,
    or one is neither neurons nor a concatenation."""
    if [other for other in graph.order if name in _sources(graph, other)] != [reader]:
        return None
    if name in graph.populations:
        population = graph.populations[name]
        return {name} if is_fired(population) and population.pool is None else None
    layer, sources = graph.others.get(name, (None, ()))
    if not isinstance(layer, layers.Concatenate):
        return None
    found = [_taken_alone(graph, source, name) for source in sources]
    parts = [part for part in found if part is not None]
    return {name}.union(*parts) if len(parts) == len(found) else None


def _sources(graph: ReluGraph, name: str) -> tuple[str, ...]:
    if name in graph.others:
        return graph.others[name][1]
    return tuple(projection.source.layer for projection in graph.populations[name].current.projections)


def _leave_out(graph: ReluGraph, name: str, source: str, pooled: set[str]) -> None:
    """Remove the pooling ``name``: ``source`` now gives its values, and no layer gives those of ``pooled`` any more."""
    graph.order.remove(name)
    del graph.others[name]
    for other, (layer, sources) in graph.others.items():
        graph.others[other] = layer, tuple(source if taken == name else taken for taken in sources)
    for population in graph.populations.values():
        for projection in population.current.projections:
            if projection.source.layer == name:
                projection.source = replace(projection.source, layer=source)
    for nodes in (graph.values, graph.carried):
        _rename(nodes, name, source, pooled)


def _rename(nodes: dict[fx.Node, Any], name: str, source: str, pooled: set[str]) -> None:
    for node, value in list(nodes.items()):
        if not isinstance(value, Signal):
            continue
        if value.layer in pooled:
            del nodes[node]
        elif value.layer == name:
            nodes[node] = replace(value, layer=source)
