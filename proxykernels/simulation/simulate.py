"""Simulate a whole network for T steps in bounded memory."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks, spike_ops
from ..kernels import constants
from ..kernels.heap import keep_freed
from ..layers import SpikingLayer
from ..sequences import is_sequence
from ..spike_tensor import packed
from ..spikes import Spikes, is_binary, pack
from .carried import Carried
from .carrier import Carrier, unwatched
from .chunks import Chunks
from .early_exit import Stop
from .logits import logits
from .quantize import round_input
from .replay import Replay
from .state import Batch
from .summary import summary
from .synops import SynOps, Tally


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
        tallies: dict[str, Tally],
        state: dict[str, list[Tensor]],
        steps: Tensor,
        records: dict[str, Spikes | Tensor],
        last: tuple[SpikingLayer, Sequence[Tensor]],
    ):
        """``tallies``: layer name -> its counts. ``last``: the last layer of neurons, and the state it was given."""
        self._tallies, self._last = tallies, last
        self.output, self.state, self.steps, self.records = output, state, steps, records

    @cached_property
    def rates(self) -> dict[str, float]:  # a GPU is waited for when they are first asked for
        return {name: tally.rate for name, tally in self._tallies.items()}

    @cached_property
    def synops(self) -> SynOps:
        return SynOps(
            {name: tally.accumulates for name, tally in self._tallies.items()},
            {name: tally.multiply_accumulates for name, tally in self._tallies.items()},
        )

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
    With glibc up to 512 MB that a call on a CPU frees stay with the process, for the next one.

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
    with_synops=True,
) -> Result:
    """simulate, for callers with needs of their own.

    ``batch_statistics``: normalise by the statistics of the batch (training), of all T steps at once. ``masks``: which
    units each Dropout in training keeps; None: all. ``watch``: a context, of a layer's name and its input, in which
    each layer computes. ``with_synops``: whether synaptic operations are counted.
    """
    T = checks.steps(T)
    checks.module("net", net)
    if state is not None and not isinstance(state, dict):
        raise TypeError(f"state must be the .state of an earlier result, got {type(state).__name__}")
    checks.precision(precision)
    if stop is not None and not callable(stop):
        raise TypeError(f"stop must be a rule such as proxykernels.margin(8), a function of (counts, t), got {stop!r}")
    if stop is not None and record:
        raise ValueError("record and stop exclude each other: a record holds all samples at every step")
    x = _input(net, x, T, precision)
    on_gpu = x.device.type == "cuda"
    if not on_gpu:
        keep_freed()
    chunks = Chunks(T if batch_statistics else chunk, stop, tuple(x.shape), x.device)
    parts: list[Any] = []

    def seen(y: Any) -> None:
        if not parts:
            chunks.add(y)

    with constants.unchanging(*[x] * isinstance(x, Tensor)):
        carried = Carried(
            net, state, ahead=T if stop is None else 0, record=record, precision=precision,
            batch_statistics=batch_statistics, masks=masks, watch=watch, with_synops=with_synops, seen=seen,
        )  # fmt: skip
        if on_gpu:
            carried.look(x)
        carriers, replay, start = carried.carriers, Replay(carried), 0
        batch = Batch(x.shape[1], T, stop, x.device)
        while start < T:
            steps = chunks.steps(start)
            to_come = (T - start) // steps if stop is None else 0
            part = replay(batch.of(x[start : start + steps]), start, to_come)
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
        {name: carrier.tally for name, carrier in carriers.items()},
        {name: carrier.states.whole(batch.index) for name, carrier in carriers.items()},
        batch.steps,
        {key: record for carrier in carriers.values() for key, record in carrier.records.whole().items()},
        (list(carriers.values())[-1].firing.layer, given),
    )


def _input(net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None) -> Tensor | Spikes:
    """The input as a sequence of T steps; a held input is repeated without a copy."""
    sequence = is_sequence(net, x, T)
    checks.values("x", x)
    x = packed(x)
    if isinstance(x, Spikes):
        return x
    if not x.is_floating_point():  # a GPU is asked once, and not by each chunk
        return x.bool() if x.device.type == "cuda" and is_binary(x) else x
    if x.device.type == "cpu":  # of a GPU all values are looked at together
        checks.finite("x", x)
    if not sequence:
        x = x.detach() if precision is None else round_input(x.detach(), 0)
        return x.expand(T, *x.shape)
    return x if precision is None else round_input(x, 1)
