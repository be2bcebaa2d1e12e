"""Simulate a whole network for T steps in bounded memory."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks, known, spike_ops
from ..layers import Dropout, SpikingLayer
from ..parametrized import shallow_copy, with_plain_weights
from ..sequences import is_sequence
from ..spikes import Spikes, pack
from .carrier import Carrier, unwatched
from .chunks import Chunks
from .dropout import HeldDropout
from .early_exit import Stop
from .logits import logits
from .one_step import with_path
from .pool_fusion import layers_before_pools
from .quantize import PRECISIONS, quantized, round_input
from .records import ask
from .state import Batch
from .summary import summary
from .synops import SynOps


class Result:
    """What a simulation leaves behind; ``print(result)`` shows its size, and rate and operations of each layer.

    Attributes:
        spikes: Spikes (T, N, ...) of the network's output. A sample that was stopped early is silent from then on.
        potentials: float32 [T, N, ...], in place of spikes: those after every step of the readout (:class:`LI`,
            :class:`FusedLILinear`) that the network ends in.
        rates: layer name -> firing rate (spikes a neuron and step), over all samples and the steps each was simulated;
            nan for a readout.
        state: layer name -> potentials after the last step of each sample; pass it to :func:`simulate` to go on.
        steps: steps that each sample was simulated for, int64 [N]; T without ``stop``.
        synops: :class:`SynOps`, the synaptic operations and the energy estimated from them.
        records: what ``record`` asked for, by the same names: Spikes (T, N, ...), or potentials float32 [T, N, ...].
    """

    def __init__(
        self,
        output: Spikes | Tensor,
        rates: dict[str, float],
        state: dict[str, list[Tensor]],
        steps: Tensor,
        synops: SynOps,
        records: dict[str, Spikes | Tensor],
        last: tuple[SpikingLayer, Sequence[Tensor]],
    ):
        """``last``: the last layer of neurons, and the state that it was given."""
        self._last = last
        self.output, self.rates, self.state = output, rates, state
        self.steps, self.synops, self.records = steps, synops, records

    @property
    def spikes(self) -> Spikes:
        if isinstance(self.output, Tensor):
            raise AttributeError("the network ends in a readout that does not fire: take result.potentials")
        return self.output

    @property
    def potentials(self) -> Tensor:
        if isinstance(self.output, Spikes):
            raise AttributeError("the network ends in spikes: take result.spikes, or record=['layer.v']")
        return self.output

    @property
    def logits(self) -> Tensor:
        """Of a network that :func:`convert` made: the ReLU network's outputs before a last ReLU, float32 [N, ...],
        as far as the steps tell them; negative ones too (:mod:`proxykernels.simulation.logits`)."""
        layer, given = self._last
        return logits(layer, self.count(), list(self.state.values())[-1], given, self.steps)

    def count(self, until: int | None = None) -> Tensor:
        """Output spikes in the first ``until`` steps (default: all): int32 [N, ...]."""
        return self.spikes.count(until)

    def __repr__(self) -> str:
        return summary(self)


@torch.no_grad()
def simulate(
    net: nn.Module,
    x: Tensor | Spikes,
    T: int,
    *,
    chunk: int | None = None,
    state: dict | None = None,
    stop: Stop | None = None,
    record: Iterable[str] = (),
    precision: str | None = None,
) -> Result:
    """Run a network of this package's layers for ``T`` steps.

    The steps go through the whole network a chunk at a time with the potentials handed on, so memory does not grow with
    T beyond the output's packed spikes, and what the layers give in a chunk takes at most 256 MB, beside weights and
    potentials. Normalisation uses its running statistics, and Dropout drops nothing, whatever ``net.training`` says.

    Args:
        net: an nn.Sequential or any nn.Module of the layers of this package; its output must be spikes, or the
            potentials of a readout.
        x: an input held for all steps, [N, features] or [N, C, H, W] (constant currents, an image for example), or a
            sequence [T, N, features] or [T, N, C, H, W] of spikes, event counts (bool or integers) or real values, or
            Spikes; :func:`time_first` makes it of frames [N, T, ...]. For a network with a FusedIFConv1d or a pooling
            along one axis, C, L stand in the place of C, H, W.
        T: number of steps.
        chunk: steps at a time (default 64, up to 256 for a small input, fewer for one whose spikes would take more than
            256 MB, with ``stop`` 8; on a GPU rounded up to a multiple of 32). Any value gives
            the same spikes, but for the rounding of sums of float weights.
        state: ``result.state`` of an earlier call, to go on from there.
        stop: a rule such as ``pk.margin(8)``, asked after every chunk, by which samples stop early; the others go on in
            a smaller batch.
        record: names of layers whose output spikes are kept, "conv1" for example; "conv1.v" keeps the potentials after
            every step, float32, for which that layer is computed once more, step by step.
        precision: None: the weights as they are, in float32. "int16": weights of 14 bits whose sums are exact, so that
            the spikes are the same on any machine, in any batch and with any number of threads
            (:mod:`proxykernels.simulation.quantize`), and a CPU adds 32 of them at a time. "int8": the same with
            weights of 7 bits, as neuromorphic chips have them, 64 at a time.

    Returns:
        A :class:`Result`: ``.count(until=t)``, ``.spikes``, ``.rates``, ``.steps``, ``.state``, ``.synops``,
        ``.records``; ``.logits`` of a converted network, ``.potentials`` of one that ends in a readout.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value; the message names it.
    """
    return run(net, x, T, chunk=chunk, state=state, stop=stop, record=record, precision=precision)


def run(
    net,
    x,
    T,
    *,
    chunk=None,
    state=None,
    stop=None,
    record=(),
    precision=None,
    batch_statistics=False,
    masks=None,
    watch=unwatched,
) -> Result:
    """simulate, for callers with needs of their own.

    ``batch_statistics``: normalise by the statistics of the batch (training), of all T steps at once. ``masks``: which
    units each Dropout in training keeps; None: all. ``watch``: a context, of a layer's name and its input, in which
    each layer computes.
    """
    T = checks.steps(T)
    checks.module("net", net)
    if state is not None and not isinstance(state, dict):
        raise TypeError(f"state must be the .state of an earlier result, got {type(state).__name__}")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision must be None, 'int16' or 'int8', got {precision!r}")
    x = _input(net, x, T, precision)
    chunks = Chunks(T if batch_statistics else chunk, stop, tuple(x.shape), x.device)
    if x.device.type != "cpu":
        known.look_at_all(net.parameters(), x.device)
    if stop is not None and record:
        raise ValueError("record and stop exclude each other: a record holds all samples at every step")
    carriers: dict[str, Carrier] = {}
    before_pools, ahead = layers_before_pools(net), T if stop is None else 0
    parts: list[Any] = []

    def seen(y: Any) -> None:
        if not parts:
            chunks.add(y)

    def carry(name: str, layer: SpikingLayer) -> Carrier:
        layer = _prepared(name, layer, layer in before_pools, precision)
        carriers[name] = Carrier(name, layer, ahead, (state or {}).get(name), batch_statistics, watch, seen)
        return carriers[name]

    dropouts: list[HeldDropout] = []

    def hold(name: str, layer: Dropout) -> HeldDropout:
        dropouts.append(HeldDropout(name, layer, masks))
        return dropouts[-1]

    carrying = replace_neurons(net, carry, hold, seen=seen)
    checks.neurons("net", carriers)
    unknown = set(state or ()) - set(carriers)
    if unknown:
        raise ValueError(f"state holds layers that net has not: {sorted(unknown)}; it has {sorted(carriers)}")
    ask({name: carrier.records for name, carrier in carriers.items()}, record)
    batch, start = Batch(x.shape[1], T, stop, x.device), 0
    while start < T:
        for carrier in carriers.values():
            carrier.start_chunk(start)
        for dropout in dropouts:
            dropout.start_chunk()
        part = carrying(checks.frames(batch.of(x[start : start + chunks.steps(start)])))
        _check_output(part, carriers.values(), stop)
        if not parts:
            checks.room(T, part.shape[1:], part.device)
        parts.append(batch.whole(part))
        start += len(part)
        batch.retire(part, start, (carrier.states for carrier in carriers.values()))
        if stop is not None and not len(batch.index):
            break
    silent = T - sum(map(len, parts))
    if silent:  # every sample was stopped before T
        parts.append(pack(torch.zeros(silent, *parts[0].shape[1:], dtype=torch.bool, device=x.device)))
    last = list(carriers)[-1]
    return _result(spike_ops.cat_steps(parts), carriers, batch, (state or {}).get(last, ()))


def _prepared(name: str, layer: SpikingLayer, pool_follows: bool, precision: str | None) -> SpikingLayer:
    """The layer as it computes: plain weights, of 14 bits if so asked for, and told whether a pooling follows."""
    layer = with_plain_weights(layer)
    if pool_follows:
        layer = shallow_copy(layer)
        layer.pool_follows = True  # type: ignore[assignment]  # torch's modules are annotated as full of modules
    return layer if precision is None else quantized(name, layer, precision)


def _check_output(part: Any, carriers: Iterable[Carrier], stop: Stop | None) -> None:
    """Spikes; or potentials, if there is a readout."""
    if isinstance(part, Spikes):
        return
    if not isinstance(part, Tensor) or not any(carrier.is_readout for carrier in carriers):
        raise TypeError(
            "net must end in a layer of neurons (or pooling or flattening of one), or in a readout such as LI; it gave "
            f"{type(part).__name__}"
        )
    if stop is not None:
        raise ValueError("stop counts output spikes, and net ends in a readout that does not fire; leave stop out")


def _result(output: Spikes | Tensor, carriers: dict[str, Carrier], batch: Batch, given: Sequence[Tensor]) -> Result:
    """``given``: the state of the last layer at the start."""
    return Result(
        output,
        {name: carrier.tally.rate for name, carrier in carriers.items()},
        {name: carrier.states.whole(batch.index) for name, carrier in carriers.items()},
        batch.steps,
        SynOps(
            {name: carrier.tally.accumulates for name, carrier in carriers.items()},
            {name: carrier.tally.multiply_accumulates for name, carrier in carriers.items()},
        ),
        {key: record for carrier in carriers.values() for key, record in carrier.records.whole().items()},
        (list(carriers.values())[-1].firing.layer, given),
    )


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
    if isinstance(net, SpikingLayer):
        return replacement(name or type(net).__name__, net)
    if dropout and isinstance(net, Dropout):
        return dropout(name or type(net).__name__, net)
    if not net._modules:
        return with_path(name or type(net).__name__, net, seen)
    clone = shallow_copy(net)
    clone._modules = {
        key: child and replace_neurons(child, replacement, dropout, f"{name}.{key}" if name else key, seen)
        for key, child in net._modules.items()
    }
    return clone


def _input(net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None) -> Tensor | Spikes:
    """The input as a sequence of T steps; a held input is repeated without a copy."""
    sequence = is_sequence(net, x, T)
    checks.values("x", x)
    if isinstance(x, Spikes) or not x.is_floating_point():
        return x
    checks.finite("x", x)
    if not sequence:
        x = x.detach() if precision is None else round_input(x.detach(), 0)
        return x.expand(T, *x.shape)
    return x if precision is None else round_input(x, 1)
