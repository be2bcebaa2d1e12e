"""Simulate a whole network for T steps in bounded memory: some steps go through the network at a time, a chunk.

Each launch has a cost, and outputs of layers take memory. How much a step takes is known after the first chunk, which
is a short one where the input is large.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import unfused, value_checks_cache, weight_cache
from ..kernels.heap import keep_freed
from ..layers.all_steps import OfAllSteps
from ..layers.layer_graph import look_at_input
from ..spikes import Spikes, pack, spike_autograd, storage
from ..spikes.spikes import cat_steps
from ..stop import STOP_EVERY, Lengths, LogitMargin, Stop, check_rule, decided_by
from . import kept_plans as plans
from . import sigma_delta_layers
from .inputs import input_of
from .prepared_network import PreparedNetwork, check_runnable
from .replay import Replay
from .result import NO_SPIKES, LayerResult, Result, gives_integers, listen, logits
from .stateful_layer import StatefulLayer, States, unwatched
from .stream_state import StreamState, has_sigma_delta

CHUNK = 64  # steps: two words of a GPU, and a size at which a CPU's launch costs vanish
LONGEST_CHUNK = 256  # layers that are fed by spikes that repeat themselves gain from long chunks
CHUNK_INPUTS = 1 << 23  # inputs times steps of a chunk that is longer than CHUNK, so that its spikes take little memory
CHUNK_BYTES = 256 << 20  # of what all layers give in a chunk
LARGE_INPUT = 1 << 17  # values of a step, above which a network may give more than that
WHOLE = 16  # steps that kernels take at a time: a chunk of two and more is a multiple of them
FIRST_CHUNK = WHOLE  # steps, of a large input


def simulate(
    net: nn.Module,
    x: Tensor | Spikes,
    T: int,
    *,
    chunk: int | None = None,
    state: dict | None = None,
    stop: Stop | None = None,
    lengths: Sequence[int] | Tensor | None = None,
    record: Iterable[str] = (),
    precision: str | None = None,
) -> Result:
    """Run a network of this package's layers for ``T`` steps.

    The network processes a chunk of steps at a time and keeps its potentials between chunks. Only its outputs (packed
    spikes, or the potentials of a readout) and records grow with T. The outputs of all layers in a chunk take at most
    256 MB. Normalisation uses its running statistics and Dropout is inactive, whatever ``net.training`` says. On a CPU
    with glibc, the process keeps up to 512 MB of freed memory for the next call.

    Args:
        net: an nn.Sequential or any nn.Module of this package's layers. Its last layer has neurons or is a readout.
        x: a constant input, such as an image: [N, features], [N, C, L] or [N, C, H, W]. Or a sequence, with T in front:
            :class:`Spikes`, or a tensor of spikes, event counts (bool or integers) or real values. On a CPU one whose
            values are all 0 and 1 is taken as spikes, whatever its type; on a GPU one of bool or integers.
            :func:`time_first` turns frames [N, T, ...] into a sequence.
        T: number of steps.
        chunk: steps per chunk. Default: 64; up to 256 for small inputs, fewer where 256 MB would be exceeded, 8 with
            ``stop``. A GPU rounds it up to a multiple of 32. It changes spikes only by the rounding of float sums. Of
            sigma-delta neurons: 32, 2 with ``stop``. Where a CPU runs the network's plan, it matters only to ``stop``.
        state: ``result.state`` of an earlier call or ``stream.state``, to continue from it. Networks of sigma-delta
            neurons keep a state only if one is given, ``{}`` at the start.
        stop: a rule that stops samples early: ``pk.stop.margin(8)``, ``pk.stop.margin(0.5, of="logits")``, whose chunk
            is one step, or ``pk.stop.settled()`` for sigma-delta neurons. It is applied after every chunk. The
            remaining samples continue in a smaller batch.
        lengths: steps of each sample, integers [N] from 1 to T, such as :func:`recordings.batch` gives: a sample stops
            at its end, and its result is that of a run alone. After it, it is silent, and a readout keeps its last
            potentials. Not with ``stop`` or ``record``.
        record: names of layers to record. "conv1" records its output spikes. "conv1.v" records its potentials after
            every step, float32; that layer is then computed a second time, step by step.
        precision: None: float32 weights. "int16": weights rounded to 14 bits. "int8": weights rounded to 7 bits. With
            rounded weights sums are exact, so spikes are the same on every machine, for every batch and number of
            threads (:mod:`proxykernels.plan.quantize`), and a CPU is faster. Networks of sigma-delta neurons take None,
            those of graded neurons also "int8", which rounds what the neurons send as well.

    Returns:
        A :class:`Result`: ``.count(until=t)``, ``.spikes``, ``.rates``, ``.steps``, ``.state``, ``.synops``,
        ``.records``; ``.logits`` of a converted network, ``.potentials`` of one that ends in a readout.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value; the message names it.
    """
    known = getattr(net, "calibrated", None)
    listens = look_at_input(net, known, x)
    if lengths is not None:
        stop = Lengths.of(lengths, checks.steps(T), stop)
    result = run(net, x, T, chunk=chunk, state=state, stop=stop, record=record, precision=precision)
    if listens:
        listen(net, known, result)
    return result


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

    ``batch_statistics``: as of ``SpikingLayer.spike``, over all T steps. ``masks``: which units each Dropout in
    training keeps; None: all. ``watch``: a context, of a layer's name and its input, in which each layer computes.
    ``with_synops``: whether synaptic operations are counted.
    """
    T = checks.steps(T)
    if state is not None and not isinstance(state, dict):
        raise TypeError(f"state must be the .state of an earlier result or of a stream, got {type(state).__name__}")
    state = state.of_simulate() if isinstance(state, StreamState) else state
    if precision is not None:
        checks.precision(precision)
    chunk = None if chunk is None else _checked(chunk)
    alone = not record and watch is unwatched and not batch_statistics and masks is None
    if alone and (stop is None or callable(stop)) and not (chunk and isinstance(stop, LogitMargin)):
        planned = plans.run(net, x, T, state, stop, precision, chunk)
        if planned is not None:
            return planned
    checks.module("net", net)
    check_runnable(net)
    options = {"chunk": chunk, "state": state, "stop": stop, "record": record, "precision": precision}
    if has_sigma_delta(net):
        trains = bool(batch_statistics or masks)
        return sigma_delta_layers.simulate(net, x, T, **options, watch=watch, training=trains)
    ways = {"batch_statistics": batch_statistics, "masks": masks, "watch": watch, "with_synops": with_synops}
    return _by_layers(net, x, T, **options, **ways)


@torch.no_grad()
def _by_layers(
    net, x, T, *, chunk, state, stop, record, precision, batch_statistics, masks, watch, with_synops
) -> Result:  # fmt: skip
    """A simulation that calls the layers one by one."""
    check_rule(stop)
    if state and isinstance(stop, LogitMargin):
        raise ValueError("margin(of='logits') looks at what has come since rest; leave state out")
    if stop is not None and record:
        name = "lengths" if isinstance(stop, Lengths) else "stop"
        raise ValueError(
            f"record and {name} exclude each other: a record holds all samples at every step; leave {name} out, and "
            "cut the record of each sample at its end"
        )
    dtype = x.dtype if isinstance(x, Tensor) and x.dtype.is_floating_point else None
    given, x = x, input_of(net, x, T, precision)
    on_gpu = x.device.type == "cuda"
    if on_gpu and isinstance(given, Tensor) and isinstance(x, Tensor) and checks.is_repeated(x):
        value_checks_cache.computed_from(x, given)  # is finite if that is
    if not on_gpu:
        keep_freed()
    whole = batch_statistics or (_takes_all_steps(net, stop) and chunk is None)
    chunks = Chunks(T if whole else chunk, stop, tuple(x.shape), x.device)
    parts: list[Any] = []

    with weight_cache.unchanging(*[x] * isinstance(x, Tensor)):
        prepared = PreparedNetwork(
            net, state, ahead=T if stop is None else 0, record=record, precision=precision,
            batch_statistics=batch_statistics, masks=masks, watch=watch, with_synops=with_synops, seen=chunks,
            dtype=dtype,
        )  # fmt: skip
        if on_gpu:
            prepared.look(x)
        stateful_layers, replay, start = prepared.stateful_layers, Replay(prepared), 0
        batch = Batch(x.shape[1], T, stop, x.device)

        def told(counts: Tensor, t: int) -> Tensor:
            last = list(stateful_layers.values())[-1]
            steps = torch.full((len(counts),), t, dtype=torch.int64, device=counts.device)
            return logits(last.firing.layer, counts, last.states.now, (), steps)

        while start < T:
            steps = chunks.steps(start)
            to_come = (T - start) // steps if stop is None else 0
            back = prepared.mark() if on_gpu else None
            try:
                part = replay(batch.active(x[start : start + steps]), start, to_come)
            except torch.OutOfMemoryError:
                if back is None or not replay.may_run_again() or not chunks.halve(min(steps, T - start)):
                    raise
                back()
                continue
            check_output(part, stateful_layers.values(), stop)
            if not parts:
                checks.room(T, part.shape[1:], part.device)
            if gives_integers(list(stateful_layers.values())[-1].firing.layer):
                batch.holds = False
            parts.append(batch.whole(part))
            start += len(part)
            batch.retire(part, start, (stateful.states for stateful in stateful_layers.values()), told)
            if stop is not None and not len(batch.index):
                break
    silent = T - sum(map(len, parts))
    if silent:  # every sample was stopped before T
        parts.append(batch.after_the_end(parts[-1], silent))
    last = list(stateful_layers)[-1]
    constant = isinstance(x, Tensor) and checks.is_repeated(x)
    return _result(cat_steps(parts), stateful_layers, batch, (state or {}).get(last, ()), constant)


def check_output(part: Any, stateful_layers: Iterable[StatefulLayer], stop: Stop | None) -> None:
    """Spikes; or potentials, if there is a readout."""
    if isinstance(part, Spikes):
        return
    if not isinstance(part, Tensor) or not any(stateful.is_readout for stateful in stateful_layers):
        raise TypeError(
            "net must end in a layer of neurons (or pooling or flattening of one), or in a readout such as LI; it gave "
            f"{type(part).__name__}"
        )
    if stop is not None and not isinstance(stop, Lengths):
        raise ValueError(f"stop counts output spikes, and {NO_SPIKES}; leave stop out")


def _result(
    output: Spikes | Tensor,
    stateful_layers: dict[str, StatefulLayer],
    batch: "Batch",
    given: Sequence[Tensor],
    constant: bool,
) -> Result:
    """``given``: the state of the last layer at the start. ``constant``: whether the input was."""
    layer = list(stateful_layers.values())[-1].firing.layer
    called = {name: stateful for name, stateful in stateful_layers.items() if stateful.states.now}
    index, steps = (None, None) if batch.stop is None else (batch.index, batch.steps)
    state = {name: stateful.states.whole(index) for name, stateful in called.items()}
    tallies = {name: stateful.tally for name, stateful in called.items()}
    records = {key: record for stateful in stateful_layers.values() for key, record in stateful.records.whole().items()}
    last = list(state.values())[-1]
    return LayerResult(output, steps, tallies, layer, state, given, last, constant, records)


class Chunks:
    """The number of steps of each chunk, by what layers give in the first (prepared_network.Seen)."""

    def __init__(self, given: int | None, stop: Stop | None, shape: tuple[int, ...], device: torch.device):
        """``given``: what the caller wants, None: as many as are fast. ``shape``: of the input (T, N, ...)."""
        self.given, self.T, self.device, self.step_bytes = given, shape[0], device, 0.0
        self._room, self._halved, self._is_first = 0.0, False, True
        inputs = max(1, math.prod(shape[1:]))
        most = max(CHUNK, min(CHUNK_INPUTS // inputs // CHUNK * CHUNK, LONGEST_CHUNK))
        self.ends = sorted({*stop.steps}) if isinstance(stop, Lengths) else []
        whole = stop is None or self.ends
        self.most = most if whole else 1 if isinstance(stop, LogitMargin) else STOP_EVERY
        self.first = FIRST_CHUNK if inputs > LARGE_INPUT else self.most

    def begin(self, start: int) -> None:
        self._is_first = start == 0
        self.step_bytes = 0.0 if self._is_first else self.step_bytes

    def add(self, y: Any) -> None:
        if not self._is_first:
            return
        if isinstance(y, Spikes):
            self.step_bytes += math.prod(y.shape[1:]) / 8
        elif isinstance(y, Tensor) and not checks.is_constant(y):
            self.step_bytes += math.prod(y.shape[1:]) * y.element_size()

    def steps(self, start: int) -> int:
        """Steps of the chunk that begins at step ``start``."""
        steps = self.given or (self.within_memory(self.T - start) if start else min(self.first, self.most))
        steps = steps if self.device.type == "cpu" else -(-steps // 32) * 32
        return min([steps, *(end - start for end in self.ends if end > start)])

    def within_memory(self, left: int) -> int:
        """Steps of the next chunk of those that are left: the most that fit; where few do, chunks are alike."""
        if not self._room:  # asked for once, so that chunks are alike
            free = math.inf if self.device.type == "cpu" else unfused.free_bytes(self.device)
            self._room = max(1.0, min(CHUNK_BYTES, free / unfused.COPIES))
        steps = max(1, int(self._room / max(self.step_bytes, 1)))
        if steps >= self.most:
            return self.most
        return steps // WHOLE * WHOLE if steps >= 2 * WHOLE else -(-left // -(-left // steps))

    def halve(self, steps: int) -> bool:
        """Take half the steps from now on, once, where a GPU's memory was too small for a chunk; whether that is so."""
        half = -(-steps // 32) // 2 * 32  # whole words
        if self._halved or not half:
            return False
        self._halved, self.given, self.step_bytes = True, half, 0.0
        warnings.warn(
            f"{self.device} has no memory for a chunk of {steps} steps, so chunks have {half}: pass chunk={half}, or "
            "fewer samples",
            RuntimeWarning,
            stacklevel=3,
        )
        return True


def _takes_all_steps(net: nn.Module, stop: Stop | None) -> bool:
    """Whether the network has a layer that must have all steps in one call.

    Raises:
        ValueError: it has one, and samples may stop before.
    """
    layer = next((module for module in net.modules() if isinstance(module, OfAllSteps)), None)
    if layer is not None and stop is not None:
        name, remedy = "stop", "leave stop out"
        if isinstance(stop, Lengths):
            name, remedy = "lengths", "run samples of one length together, without lengths"
        raise ValueError(
            f"net has a {type(layer).__name__}, each of whose steps takes all steps, also those behind a sample's "
            f"{name}: {remedy}"
        )
    return layer is not None


def _checked(chunk: int) -> int:
    """The steps of a chunk that a caller wants.

    Raises:
        TypeError, ValueError: it is no number of steps.
    """
    try:
        return checks.steps(chunk)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("T must", "chunk must")) from None


def samples(x: Spikes | Tensor, index: Tensor) -> Spikes | Tensor:
    """The samples ``index`` [n] of a sequence (T, N, ...)."""
    if isinstance(x, Spikes):
        handle = spike_autograd.Chosen.apply(x._handle, 1, index) if x._differentiable else None
        return x._like(storage.samples(x._words, index), (x.T, len(index), *x.shape[2:]), handle)
    return checks.repeated(x[0][index], len(x)) if checks.is_repeated(x) else x[:, index]


class Batch:
    """The samples that are simulated: all at first, fewer after ``stop`` has decided some."""

    def __init__(self, N: int, T: int, stop: Stop | None, device: torch.device):
        self.N, self.stop, self.holds = N, stop, True
        self._last: Tensor | None = None
        self.lengths = stop.of_batch(N, device) if isinstance(stop, Lengths) else None
        self.T, self.device = T, device
        self.counts: Tensor | int = 0

    @cached_property
    def index(self) -> Tensor:
        """The samples that are still simulated; without ``stop`` nobody asks for it."""
        return torch.arange(self.N, dtype=torch.int64, device=self.device)

    @cached_property
    def steps(self) -> Tensor:
        """After how many steps each sample was stopped."""
        return torch.full((self.N,), self.T, dtype=torch.int64, device=self.device)

    @property
    def is_whole(self) -> bool:
        """Whether all samples are simulated still."""
        return self.stop is None or len(self.index) == self.N

    def active(self, x: Spikes | Tensor) -> Spikes | Tensor:
        """The samples of x (T, N, ...) that are still simulated."""
        return x if self.is_whole else samples(x, self.index)

    def whole(self, y: Spikes | Tensor) -> Spikes | Tensor:
        """The output of all samples, silent where they are not simulated any more; of a readout what it was."""
        if isinstance(y, Tensor):
            return self._held(y)
        if self.is_whole:
            return y
        return y._like(storage.spread(y._words, self.index, self.N), (y.T, self.N, *y.shape[2:]))

    def _held(self, y: Tensor) -> Tensor:
        """Potentials of all samples; or 0 after their ends, where neurons give integers, ``holds`` False."""
        if not self.is_whole:
            assert self._last is not None
            y = self._last.repeat(len(y), *[1] * (y.ndim - 1)).index_copy_(1, self.index, y)
        self._last = y[-1:] if self.holds else torch.zeros_like(y[-1:])
        return y

    def after_the_end(self, y: Spikes | Tensor, steps: int) -> Spikes | Tensor:
        """The output of some steps after the last one of all samples; ``y``: that before."""
        if isinstance(y, Tensor):
            assert self._last is not None
            return self._last.repeat(steps, *[1] * (y.ndim - 1))
        return pack(torch.zeros(steps, *y.shape[1:], dtype=torch.bool, device=y.device))

    def retire(self, y: Spikes, t: int, states: Iterable[States], logits: Callable[[Tensor, int], Tensor]) -> None:
        """Stop the samples that are decided after step ``t``. ``logits``: of counts [n, ...] after that many steps."""
        if self.stop is None:
            return
        if self.lengths is not None:
            self._end(self.lengths[self.index] <= t, t, states)
            return
        self.counts = self.counts + y.count()
        seen = self.counts.clone()  # which the rule may change
        if isinstance(self.stop, LogitMargin):
            if t not in self.stop.at:
                return
            seen = logits(seen, t)
        decided = decided_by(self.stop, seen, t, len(self.index))
        self.counts = self.counts[~decided]
        self._end(decided, t, states)

    def _end(self, decided: Tensor, t: int, states: Iterable[States]) -> None:
        if not decided.any():
            return
        self.steps[self.index[decided]] = t
        for state in states:
            state.retire(decided, self.index)
        self.index = self.index[~decided]
