"""The compiled library of the engine, as ctypes sees it; kernels/cpu/src/engine/engine.h has the structs."""

import ctypes
import os
import sys
from collections.abc import Generator, Sequence
from ctypes import c_int64
from threading import get_ident, main_thread
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from ..kernels.cpu import abi, compiled
from ..kernels.cpu.abi import C_NO_MEMORY, Error, load_engine, made_plan
from ..kernels.cpu.declared import Kept, Lead, Piece, Run, Sizes
from ..kernels.cpu.declared import Readout as CReadout
from ..kernels.table import TALLIES, Outcome, Way
from ..stop import STOP_EVERY, STOP_EVERY_CHANGES, LogitMargin, Stop, decided_by
from .description import described
from .plan import Plan, Readout
from .written import Written

PIECE = 1 << 18  # bytes that a thread hashes at a time
STOP, QUESTION = ({name: of for name, of, *_ in Run._fields_}[name] for name in ("stop", "may_go_on"))
_main = [main_thread().ident]
if hasattr(os, "register_at_fork"):  # the thread that forks is the main one of the child
    os.register_at_fork(after_in_child=lambda: _main.__setitem__(0, get_ident()))


class Memory:
    """Some memory, which can be hashed; whoever makes this keeps it alive.

    Args:
        places: address and bytes of each part.

    Attributes:
        is_small: whether one thread hashes it as fast as several.
    """

    def __init__(self, places: Sequence[tuple[int, int]]):
        pieces = [Piece(start + at, min(PIECE, size - at)) for start, size in places for at in range(0, size, PIECE)]
        self._pieces, self._count = (Piece * len(pieces))(*pieces), len(pieces)
        self.is_small = sum(size for _, size in places) <= PIECE
        self._hash = load_engine()[1].hash

    def hashed(self, session: "Session | None" = None, threads: int = 1) -> int:
        """A hash of all bytes, computed by this many threads of a session; None: by the caller's."""
        return self._hash(session and session._session, self._pieces, self._count, threads)


def readout_for(readout: Readout, C: int, pixels: int) -> Any:
    """A readout of ``C`` channels in the library's form; the tensors of ``readout`` must live as long."""
    threshold, start, scale, lowest, highest = readout
    return CReadout(threshold.data_ptr(), start.data_ptr(), scale.data_ptr(), C, pixels, lowest, highest)


def problem_of_file(content: bytes) -> str | None:
    """Why the bytes of a file are no engine's, in a sentence on "the file"; None: they are one's.

    All of it is looked at, by the reader that C programs have.

    Raises:
        MemoryError: there is too little of it.
    """
    load_engine()  # or says why there is no library
    check, error = compiled.opened(abi.LIBRARY).proxykernels_check_file, Error()
    check.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(Error)]
    if check(content, len(content), error) == C_NO_MEMORY:
        raise MemoryError(error.sentence.decode())
    return error.sentence.decode() or None


class Compiled:
    """A plan with its weights packed, which the library owns.

    Attributes:
        target: the instruction set.
    """

    def __init__(self, plan: Plan, target: str | None = None):
        self.target, self.functions = load_engine(target)
        self._plan = _made(plan, self.target)
        count = len(plan.operations)
        self._tally, self.kept = c_int64 * (TALLIES * count), Kept * count

    def tally(self) -> "PlanTally":
        """A new one."""
        return self._tally()

    def __del__(self, is_finalizing=sys.is_finalizing):  # at exit Python may have set the name `sys` to None
        if getattr(self, "_plan", None) and not is_finalizing():
            self.functions.free_plan(self._plan)


def _made(plan: Plan, target: str) -> ctypes.c_void_p:
    """A plan of the library."""
    made = made_plan(*described(plan), target)
    if made is None:
        plain = sum(weight.nbytes for op in plan.operations for weight in op.weights)
        raise MemoryError(
            f"there is no memory to pack the {plain / 2**30:.3g} GiB of the network's weights; free some, or "
            "take a smaller network"
        )
    return made


# int64 [operations][TALLIES]: spikes, additions of a weight for a spike, and those for a value of sigma-delta neurons.
PlanTally = ctypes.Array


class Given(NamedTuple):
    """An input as the library takes it: the tensor, its kind, how many samples it has, and steps; None: constant.

    ``rounds``: whether its values are taken in 24 bits, as :func:`plan.quantize.round_input` does. ``scaled``:
    whether they are spikes that a Dropout has scaled. ``constant``: whether all steps are alike, in whatever kind.
    """

    x: Tensor
    kind: int
    N: int
    T: int | None = None
    rounds: bool = False
    scaled: bool = False
    constant: bool = False


class LogitReadout:
    """What a plan's logits are read from: scale (theta count + v - start) / t.

    Attributes:
        operation: its number. given: as the library takes it.
    """

    def __init__(self, operation: int, image: tuple[int, int, int], readout: Readout):
        """``image``: the shape of the operation's output, C, H, W."""
        C, H, W = image
        self.operation, self._parts, self.given = operation, readout, readout_for(readout, C, H * W)
        self.pointer = ctypes.pointer(self.given)


class Interrupts:
    """Ctrl-C while the library runs: it asks once in a while whether it may go on, in the main thread, where Python
    handles signals.

    Attributes:
        raised: what signal handlers raised; none of it passes through the library.
    """

    def __init__(self) -> None:
        self.raised: list[BaseException] = []
        self._none = QUESTION()
        self._begin()

    def _begin(self) -> None:
        self._answers: Any = _handled(self.raised)
        next(self._answers)
        self._ask = QUESTION(self._answers.send)  # of what it is called with, it takes no notice

    def question(self) -> Any:
        """For a run that begins: none in other threads than the main one."""
        if get_ident() != _main[0]:
            return self._none
        self.raised.clear()
        if self._answers.gi_frame is None:  # closed by a second signal beside the first
            self._begin()
        return self._ask


def _handled(raised: list[BaseException]) -> Generator[int, None, None]:
    """Has Python handle the signals that came, whenever it is asked to go on; 0 if a handler raised something, else 1.

    Python handles them as soon as any code of it runs. A function that the library calls would not have entered its try
    by then; a generator is in it.
    """
    answer = 1
    while True:
        try:
            yield answer
            ctypes.pythonapi.PyErr_CheckSignals()
            answer = 1
        except GeneratorExit:
            return
        except BaseException as error:
            raised.append(error)
            answer = 0


class Session:
    """The states and the memory that runs of a plan work on; of one caller at a time.

    Attributes:
        runs: whether a run is under way; of the caller itself, whose signal handlers Python calls in the middle of it.
        took: int64 of each operation, which runs add the nanoseconds to that it took; None: they are not measured.
    """

    took: Any = None

    def __init__(self, compiled: Compiled):
        self._compiled, self._functions = compiled, compiled.functions
        self._session = self._functions.make_session(compiled._plan)
        self._run = self._functions.run
        self._interrupts, self.runs = Interrupts(), False

    def run(
        self, given: Given, T: int, threads: int, fresh: bool, goes_on: bool, to: Written,
        tally: PlanTally | None = None, readout: LogitReadout | None = None, asked: "Asked | AskedLead | None" = None,
        steps: c_int64 | None = None,
    ) -> bool:  # fmt: skip
        """T steps, as engine.h has it; False: the input is not finite, and nothing ran.

        ``tally``: what to count in instead of ``to``. ``readout``: what logits are read from. ``steps``: those so far,
        to which the library adds T as it adds to all else that goes on: at once, or not at all where a signal handler
        raises something.

        Raises:
            MemoryError: there is too little of it. KeyboardInterrupt, or what a signal handler or the rule raised.
        """
        x, kind, N, _, rounds, scaled, _ = given
        layout, start = to.layout, to.start
        run = Run(x.data_ptr(), kind, rounds, scaled, T, N, threads, fresh, goes_on)
        if layout.real:
            run.values = start + layout.output
        else:
            run.spikes = start + layout.output
        if to.given_counts is not None:
            run.counts = to.given_counts.data_ptr()
        elif layout.counts is not None:
            run.counts = start + layout.counts
        run.tally = start + layout.tally if tally is None else ctypes.addressof(tally)
        if to.kept or layout.state is not None:
            states = run.kept = self._compiled.kept()
            for k, kept in to.kept.items():
                states[k].v = kept.data_ptr()
            if layout.state is not None and readout is not None:
                states[readout.operation].v = start + layout.state
        if to.logits is not None and readout is not None:
            run.logits, run.readout, run.logits_of = to.logits.data_ptr(), readout.pointer, readout.operation
        if asked is not None:
            asked.put(run, self._functions)
        if layout.steps is not None:
            run.steps = start + layout.steps
        if steps is not None:
            run.steps_so_far = ctypes.addressof(steps)
        if self.took is not None:
            run.took = ctypes.addressof(self.took)
        run.may_go_on = self._interrupts.question()
        self.runs = True
        try:
            outcome = self._run(self._session, run)
        finally:
            self.runs = False
        if asked is not None and asked.error is not None:
            raise asked.error
        if outcome == Outcome.INTERRUPTED and self._interrupts.raised:
            raise self._interrupts.raised.pop()
        if outcome in (Outcome.INTERRUPTED, Outcome.NO_ANSWER):  # Python raised it before any try, and then ignored it
            raise KeyboardInterrupt
        if outcome == Outcome.NO_MEMORY:
            self._refuse(N)
        return bool(outcome)

    def read(self, operation: int, to: Tensor) -> None:
        """The states [N, states, P, C] of an operation."""
        if self._functions.states(self._session, operation, to.data_ptr(), None, len(to)) == Outcome.NO_MEMORY:
            self._refuse(len(to))

    def write(self, operation: int, states: Tensor) -> None:
        if self._functions.states(self._session, operation, None, states.data_ptr(), len(states)) == Outcome.NO_MEMORY:
            self._refuse(len(states))

    def way(self, operation: int) -> str:
        """How neurons were run last, a Way."""
        return list(Way)[self._functions.way(self._session, operation)]

    def _refuse(self, N: int) -> NoReturn:
        raise MemoryError(
            f"N = {N} samples need {self.sizes.refused / 2**30:.3g} GiB for the engine to work on, which this machine "
            "does not give; take fewer samples at a time"
        )

    @property
    def sizes(self) -> Any:
        """Bytes of the packed weights, and of what this session works on."""
        sizes = Sizes()
        self._functions.sizes(self._session, sizes)
        return sizes

    def __del__(self, is_finalizing=sys.is_finalizing):  # at exit Python may have set the name `sys` to None
        if getattr(self, "_session", None) and not is_finalizing():
            self._functions.free_session(self._session)


NONE_GIVEN = 2  # instead of an answer, as run.cpp has it


class Asked:
    """A rule as the library asks it, of a network.

    Args:
        every: steps between two looks; None: as many as are usual.

    Attributes:
        runs: the steps of runs from rest; None: there is one of each sample.
        values: float32 [T, N, P, C], what the library writes, if the rule looks at it; None: it looks at counts.
        error: what the rule raised, which is no answer: the run ends, and the error goes on from there.
    """

    runs: tuple[int, ...] | None = None

    def __init__(self, stop: Stop, plan: Plan, every: int | None = None):
        self._stop, self._shape = stop, plan.last.shape
        self._every = every or (STOP_EVERY_CHANGES if plan.changes else STOP_EVERY)
        self.values: Tensor | None = None
        self.error: BaseException | None = None

    def put(self, run: Any, functions: Any) -> None:
        run.stop, run.stop_every = STOP(self), self._every

    def __call__(
        self, context: Any, counts: int | None, v: int | None, samples: int, n: int, t: int, decided: int
    ) -> None:  # fmt: skip
        """As engine.h has it: ``counts``, ``v``, ``samples`` and ``decided`` are addresses."""
        try:
            told = decided_by(self._stop, self._seen(counts, samples, n, t), t, n)
            torch.frombuffer((ctypes.c_uint8 * n).from_address(decided), dtype=torch.uint8).copy_(told)
        except BaseException as error:  # none passes through the library
            ctypes.memset(decided, NONE_GIVEN, n)  # a signal may come once the answer stands there
            self.error = error

    def _seen(self, counts: int | None, samples: int, n: int, t: int) -> Tensor:
        """What the rule looks at: counts [n, ...], or the outputs after each step [t, n, ...]."""
        if self.values is None:
            assert counts is not None
            return _int32(counts, (n, *self._shape))
        return self.values[:t, _int64(samples, n)].transpose(2, 3).reshape(t, n, *self._shape)


class AskedLead:
    """``margin(..., of="logits")``, which the library decides by itself, for up to T steps.

    Attributes: as of :class:`Asked`.
    """

    values: Tensor | None = None
    error: BaseException | None = None

    def __init__(self, stop: LogitMargin, plan: Plan, readout: LogitReadout | None, T: int):
        """Raises:
        ValueError: the network has no logits, or not of at least two classes.
        """
        shape = plan.last.shape
        if readout is None or len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                "margin(of='logits') needs logits [N, classes] of at least 2 classes, of a network of IF neurons that "
                f"convert made, with soft reset; this one gives {['N', *shape]}"
                f"{' and has no logits' if readout is None else ''}; of sigma-delta neurons take pk.stop.settled()"
            )
        self.of, self._readout, self.runs = (stop, T), readout, tuple(stop.runs(T))
        self._lead = Lead(readout.given, stop.lead)
        self._at = (ctypes.c_int64 * len(self.runs))(*self.runs)
        self._places = ctypes.addressof(self._at), len(self._at), ctypes.addressof(self._lead)

    def put(self, run: Any, functions: Any) -> None:
        run.stop, run.stop_reads = functions.leads, self._readout.operation + 1
        run.stop_at, run.stops, run.context = self._places


class AskedLengths(Asked):
    """Samples that end after so many steps each, int64 [N] of at most T."""

    def __init__(self, lengths: Tensor, T: int):
        self._lengths, at = lengths, sorted({*lengths.tolist(), T})
        self._at, self._stops = (ctypes.c_int64 * len(at))(*at), len(at)
        self.values = self.error = None

    def put(self, run: Any, functions: Any) -> None:
        run.stop, run.stop_at, run.stops = STOP(self), ctypes.addressof(self._at), self._stops

    def _seen(self, counts: int | None, samples: int, n: int, t: int) -> Tensor:
        return _int64(samples, n)

    def _stop(self, samples: Tensor, t: int) -> Tensor:  # type: ignore[override]
        return self._lengths[samples] <= t

    def silence(self, values: Tensor) -> None:
        """Set what neurons send after the end to 0, where the library repeats the last values [T, N, ...]."""
        for n, end in enumerate(self._lengths.tolist()):
            values[end:, n] = 0


def _int64(address: int, n: int) -> Tensor:
    return torch.frombuffer((ctypes.c_int64 * n).from_address(address), dtype=torch.int64)


def _int32(address: int, shape: tuple[int, ...]) -> Tensor:
    """A copy of the numbers that lie there."""
    size = torch.Size(shape).numel()
    return torch.frombuffer((ctypes.c_int32 * size).from_address(address), dtype=torch.int32).view(shape).clone()
