"""A network prepared for simulation: its layers keep their state from chunk to chunk, and spikes are counted."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import rehearsal, value_checks_cache, weight_cache
from ..layers import Dropout, FusedConv2d, MaxPool2d, Neurons, SpikingLayer
from ..layers.base import BatchStatistics, chunked_pass
from ..layers.fused import Fused
from ..layers.layer_graph import LayerGraph
from ..layers.parametrized import shallow_copy, uncompiled, with_plain_weights
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons
from ..plan.plain_modules import check_forward, with_path
from ..plan.quantize import Rounded, quantized
from ..spikes import Spikes
from ..spikes.spike_tensor import InputMemory, SpikeTensor
from .stateful_layer import (
    Counters,
    HeldDropout,
    LayerTally,
    Masks,
    StatefulLayer,
    Watch,
    ask,
    check_calls,
    check_layers,
    unwatched,
)


class Seen(Protocol):
    """Is told what goes through a network."""

    def begin(self, start: int) -> None:
        """A chunk from step ``start`` begins, maybe once more."""

    def add(self, y: Any) -> None:
        """A layer gives y."""


class PreparedNetwork:
    """A network whose layers continue, at each call, from the state after the last call.

    Args:
        state: of an earlier simulation, or None. ahead: as of :class:`StatefulLayer`.
        record, precision: as of ``simulate``.
        batch_statistics, masks, watch, with_synops: as of ``simulate.run``.
        seen: is told of each chunk that begins, and is shown what each layer gives.
        dtype: Spikes are given to the network as a tensor of this type, whose bits layers take; None: as they are.

    Attributes:
        stateful_layers: layer name -> its stateful.
        repeats: whether nothing else looks into a chunk, and no chunk changes anything but potentials and counts.
    """

    def __init__(
        self,
        net: nn.Module,
        state: dict[str, list[Tensor]] | None,
        *,
        ahead: int,
        record: Iterable[str],
        precision: str | None,
        batch_statistics: BatchStatistics,
        masks: Masks | None,
        watch: Watch,
        with_synops: bool,
        seen: "Seen",
        dtype: torch.dtype | None,
    ):
        self.net, self.state, self.stateful_layers = net, state or {}, dict[str, StatefulLayer]()
        self._seen = seen
        self._batch_statistics, self._dtype = batch_statistics, dtype
        self._counters, self._dropouts = Counters(), list[HeldDropout]()
        before_pools = _before_pools(net)

        def make_stateful(name: str, layer: SpikingLayer) -> StatefulLayer:
            layer = _prepared(name, layer, layer in before_pools, precision)
            tally = LayerTally(name, layer, self._counters, with_synops)
            self.stateful_layers[name] = StatefulLayer(
                name, layer, ahead, self.state.get(name), batch_statistics, tally, watch, seen.add
            )
            return self.stateful_layers[name]

        def hold(name: str, layer: Dropout) -> HeldDropout:
            self._dropouts.append(HeldDropout(name, layer, masks))
            return self._dropouts[-1]

        self.network = replace_neurons(net, make_stateful, hold, seen=seen.add)
        checks.neurons("net", self.stateful_layers)
        check_layers(self.state, self.stateful_layers)
        ask({name: stateful.records for name, stateful in self.stateful_layers.items()}, record)
        recorded = any(stateful.records for stateful in self.stateful_layers.values())
        self.repeats = watch is unwatched and masks is None and not batch_statistics and not recorded

    def __call__(self, x: Spikes | Tensor, start: int) -> Any:
        """What the network gives for the chunk of steps from ``start``."""
        y = self._layers(x, start)
        self._counters.end_chunk()
        return y

    def rehearsed(self, x: Spikes | Tensor, start: int) -> Any:
        """The same on a GPU: the kernels that are not compiled yet are compiled side by side, for which the layers are
        called once more. Of networks whose chunks change nothing but states and counts."""
        y = rehearsal.rehearsed(lambda: self._layers(x, start), self.mark(), self._counters.end_chunk)
        self._counters.end_chunk()
        return y

    def _layers(self, x: Spikes | Tensor, start: int) -> Any:
        self._seen.begin(start)
        for stateful in self.stateful_layers.values():
            stateful.start_chunk(start)
        for dropout in self._dropouts:
            dropout.start_chunk()
        with chunked_pass(self.net):
            y = self.network(self._given(x))
        for name, stateful in self.stateful_layers.items():
            if start == 0:
                check_calls(name, len(self.state.get(name, ())), stateful.calls)
        return y

    def _given(self, x: Spikes | Tensor) -> Spikes | Tensor:
        """A chunk of :func:`proxykernels.running.simulate.input_of` as the network takes it."""
        if isinstance(x, Spikes):
            return x if self._dtype is None else SpikeTensor(x, InputMemory(x, self._dtype))
        if x.is_floating_point():
            return x
        return checks.frames(x) if x.dtype == torch.bool else checks.counts(x)

    def forget_chunk(self) -> None:
        """Forget what was to be counted of a chunk that came to no end."""
        self._counters.forget_chunk()

    def mark(self) -> Callable[[], None]:
        """A function that puts states and counts back to where they are now, after a chunk that came to no end."""
        kept = [
            (stateful, list(stateful.states.now), vars(stateful.tally.copy(self._counters)))
            for stateful in self.stateful_layers.values()
        ]

        def back() -> None:
            self.forget_chunk()
            for stateful, states, counts in kept:
                stateful.states.now = states
                vars(stateful.tally).update(counts)

        return back

    def restart(self) -> None:
        """Forget all states and counts: the next chunk is the first."""
        self._counters.restart()
        for stateful in self.stateful_layers.values():
            stateful.restart()

    def tallies(self) -> dict[str, LayerTally]:
        """The counts of each layer so far; later chunks do not change them."""
        counters = self._counters.copy()
        return {name: stateful.tally.copy(counters) for name, stateful in self.stateful_layers.items()}

    def modules(self) -> Iterator[nn.Module]:
        """All whose code runs in a chunk."""
        yield from self.network.modules()
        yield from (stateful.firing.layer for stateful in self.stateful_layers.values())

    def look(self, x: Spikes | Tensor) -> None:
        """:func:`look` at all values of a simulation."""
        layers = {name: stateful.firing.layer for name, stateful in self.stateful_layers.items()}
        given = [v for vs in self.state.values() if isinstance(vs, list | tuple) for v in vs if isinstance(v, Tensor)]
        look(x, layers, [*self.net.parameters(), *given], self._batch_statistics)


def look(x: Spikes | Tensor, layers: Mapping[str, SpikingLayer], values: list[Tensor], batch_statistics: Any) -> None:
    """Check an input, layers and other values on a GPU at once, with one wait, so that no layer has to check its own.

    Where something is not finite they do, and name it. Of a block of weight_cache.unchanging.
    """
    values += [x] if isinstance(x, Tensor) else []
    folded = [layer for layer in layers.values() if isinstance(layer, Fused) and not (layer.bn and batch_statistics)]
    values += [p for layer in folded for p in layer.folded() if p is not None]
    values += [p for layer in layers.values() if isinstance(layer, Rounded) for p in layer.rounded if p is not None]
    thresholds = [value for layer in layers.values() if isinstance(layer, Neurons) for value in layer.neuron.tensors()]
    if not value_checks_cache.look_at_all(values, thresholds, x.device):
        if isinstance(x, Tensor):
            checks.finite("x", x)
        return
    for name, layer in layers.items():
        if isinstance(layer, Neurons):
            with checks.at(f"layer {name}"):
                layer.neuron.check()
    weight_cache.looked_at()


def _prepared(name: str, layer: SpikingLayer, pool_follows: bool, precision: str | None) -> SpikingLayer:
    """The layer as it computes: plain weights, of 14 bits if so asked for, and told whether a pooling follows."""
    layer = with_plain_weights(layer)
    if pool_follows:
        layer = shallow_copy(layer)
        layer.pool_follows = True  # type: ignore[assignment]  # torch's modules are annotated as full of modules
    return layer if precision is None else quantized(name, layer, precision)


def _before_pools(net: nn.Module) -> set[nn.Module]:
    """The convolutions of a network that :class:`MaxPool2d` by 2 x 2 follows, where it is written down what follows: in
    an nn.Sequential or a :class:`Network`. A GPU pools in their launch."""
    pairs: list[tuple[nn.Module | None, nn.Module]] = []
    for module in net.modules():
        if isinstance(module, nn.Sequential):
            pairs += pairwise(module)
        elif isinstance(module, LayerGraph):
            layers = {name: layer for name, layer, _ in module.layers()}
            pairs += [(layers.get(source), layer) for _, layer, sources in module.layers() for source in sources]
    return {layer for layer, following in pairs if isinstance(layer, FusedConv2d) and _is_two_by_two(following)}


def _is_two_by_two(layer: nn.Module) -> bool:
    if not isinstance(layer, MaxPool2d):
        return False
    stride = layer.kernel_size if layer.stride is None else layer.stride
    window = [(v, v) if checks.is_integer(v) else tuple(v) for v in (layer.kernel_size, stride, layer.padding)]
    return window == [(2, 2), (2, 2), (0, 0)]


def replace_neurons(
    net: nn.Module,
    replacement: Callable[[str, SpikingLayer], nn.Module],
    dropout: Callable[[str, Dropout], nn.Module] | None = None,
    name: str = "",
    seen: Callable[[Any], None] | None = None,
) -> nn.Module:
    """The network with each layer of neurons replaced by ``replacement(name, layer)``; errors of others name them.

    ``dropout``: likewise for each Dropout; None: they stay. ``seen``: is shown what each other layer gives.

    Other modules are shallow copies: they share their parameters and buffers with ``net``, which stays as it is, so two
    threads may do this to one network.
    """
    net = uncompiled(net)
    if isinstance(net, SpikingLayer):
        check_forward(name, net)
        return replacement(name or type(net).__name__, net)
    if dropout and isinstance(net, Dropout):
        check_forward(name, net)
        return dropout(name or type(net).__name__, net)
    if not net._modules:
        return with_path(name or type(net).__name__, net, seen)
    clone = shallow_copy(net)
    clone._modules = {
        key: child and replace_neurons(child, replacement, dropout, f"{name}.{key}" if name else key, seen)
        for key, child in net._modules.items()
    }
    clone._compiled_call_impl = None  # of net.compile(), which calls the layers of net
    forward = net.__dict__.get("forward")
    if isinstance(forward, MethodType) and forward.__self__ is net:  # replaced, and would call the layers of net
        clone.__dict__["forward"] = MethodType(forward.__func__, clone)
    return clone


def check_runnable(net: nn.Module) -> None:
    """``net`` must be a network of layers of neurons that has its weights.

    Raises:
        TypeError: it trains a network. ValueError: it has no layer of neurons, such as a ReLU network, or no weights.
    """
    if getattr(type(net), "trains_its_net", False):
        kind = type(net).__name__
        raise TypeError(f"net is a {kind}, which trains a network: pass that network, the {kind}'s .net")
    checks.neurons("net", [module for module in net.modules() if isinstance(module, SpikingLayer | SigmaDeltaNeurons)])
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"net is on the meta device: its {name} has no values; load the network's weights first")
