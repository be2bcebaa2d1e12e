"""A network compiled once, and run by one function of C++."""

import os
from collections.abc import Mapping, Sequence
from ctypes import c_int64
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import heap
from ..kernels.cpu.words import pixel_bytes
from ..kernels.table import InputKind, Kind
from ..layers.layer_graph import look_at_input
from ..plan import file
from ..plan.library import Asked, AskedLead, AskedLengths, Compiled, Given, LogitReadout, Memory, PlanTally, Session
from ..plan.operations import image_of
from ..plan.own_forward import OwnForward
from ..plan.plan import Plan
from ..plan.written import Layout, Written
from ..spikes import Spikes
from ..stop import Lengths, LogitMargin, Margin, Stop, check_rule
from .inputs import PlanInputs
from .plan_result import ChangesResult, LaterStates, PlanResult
from .result import NO_SPIKES, Result, listen, table
from .stream import Stream
from .stream_state import room_for

LOOK_STEPS = 4  # of a held sample input, for the rates that are printed
MOST_LAYOUTS = 16  # that are kept


class Engine:
    """A network compiled by :func:`compile` or loaded by :func:`load`.

    ``engine(x, T)`` runs it. :meth:`stream` keeps its state between calls. :meth:`save` writes it to a file. ``print``
    shows its layers, their firing rates and its memory. Several threads may call an engine at the same time.

    Attributes:
        target: the instruction set that it runs on: the fastest of this machine, at most that which the environment
            variable PROXYKERNELS_CPU names.

    Raises:
        RuntimeError: the engine's library is not built on this machine, or is damaged.
    """

    def __init__(self, plan: Plan, *, target: str | None = None):
        self.plan = plan
        self.forwards: list[OwnForward] = []  # of the user's own, of which the plan of a simulation was made
        self._compiled = Compiled(plan, target)
        self.target = self._compiled.target
        self._sessions: list[Session] = []
        self.give_back = self._sessions.append  # a session, for the next who asks for one
        self._rates: dict[str, float] = {}
        self._with_logits = () if plan.with_logits is None else (plan.with_logits,)
        readout, k = plan.readout, plan.with_logits
        self.readout = None if readout is None or k is None else LogitReadout(k, plan.operations[k].image, readout)
        self._layouts: dict[tuple, Layout] = {}
        self._result = ChangesResult if plan.changes else PlanResult
        self._lead: AskedLead | None = None  # the last one
        self.inputs = PlanInputs(plan)
        C, H, W = plan.last.image
        self._step_bytes = H * W * (4 * C if plan.last.real else pixel_bytes(C))  # of the output of a sample
        self._fixed_bytes = H * W * 4 * C  # of its counts
        self._room = checks.memory(heap.CPU)
        self.stateful = plan.numbers_with_states()
        self._states_are_read = False  # whether somebody has asked for those after a run

    def __call__(
        self, x: Tensor | Spikes, T: int, *, stop: Stop | None = None, lengths: Sequence[int] | Tensor | None = None
    ) -> Result:
        """Run ``T`` steps from rest.

        Args:
            x: as :func:`proxykernels.simulate` takes it, of samples of the shape that the engine was compiled for; any
                number of samples. Spikes only, if the engine was compiled with Spikes or bool and its input goes to
                something else than neurons.
            T: number of steps.
            stop: a rule by which samples stop early: ``pk.stop.margin(8)``, asked every 8 steps, or
                ``pk.stop.margin(0.5, of="logits")``, asked after 1, 4, 16, 64 steps. Networks of sigma-delta neurons
                take rules such as ``pk.stop.settled()``, asked every 2 steps.
            lengths: steps of each sample, as simulate takes them.

        Returns:
            A :class:`Result`, with the spikes or potentials, counts, rates, logits and steps that simulate's has.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape or value; the message names it.
            MemoryError: there is too little memory to work on.
            KeyboardInterrupt: Ctrl-C, at once; so do other signals whose handlers raise something.
        """
        if stop is not None:
            check_rule(stop)
        T, given = checks.steps(T), self.inputs.given(x)
        if lengths is not None:
            stop = Lengths.of(lengths, T, stop)
        if given.T not in (None, T):
            raise ValueError(f"x is a sequence of {given.T} steps, and T is {T}")
        if stop is not None and self.plan.last.real and not self.plan.changes and not isinstance(stop, Lengths):
            raise ValueError(f"stop counts output spikes, and {NO_SPIKES}; leave stop out")
        listens = look_at_input(self, self.plan.calibrated, x)
        result = self.simulate(given, T, stop, keep=self._with_logits)
        if listens:
            listen(self, self.plan.calibrated, result)
        return result

    def simulate(
        self, given: Given, T: int, stop: Stop | None, *, keep: tuple[int, ...], start: dict[int, Tensor] | None = None,
        every: int | None = None,
    ) -> Result:  # fmt: skip
        """``keep``: the numbers of the operations whose states the result has. ``start``: those at the start, of all
        operations that have some, as the library has them; None: from rest. ``every``: as of :class:`Asked`.

        To write the states of all layers takes a third of a run of one step, and few callers read them. So those after
        a run from rest are left to a second run, until somebody has asked for some.
        """
        if start is not None and isinstance(stop, LogitMargin):
            raise ValueError("margin(of='logits') looks at what has come since rest; leave state out")
        later = keep == self.stateful and start is None and not self._states_are_read
        if later:  # a rule of the caller's own need not decide alike again; sigma-delta neurons keep what is asked for
            later = not self.plan.changes and (stop is None or isinstance(stop, Margin | Lengths))
        asked = None if stop is None else self._asked(stop, T, every, given.N)
        # Packed spikes are never written to; other inputs may be, after this run.
        x = given.x.clone() if later and given.kind != InputKind.PACKED_SPIKES else given.x
        states = self._with_logits if later else keep
        try:
            session = self._sessions.pop()
        except IndexError:
            session = self.new_session()
        try:
            for k, values in (start or {}).items():
                session.write(k, values)
            written = self.advance(session, given, T, fresh=not start, keep=states, goes_on=False, asked=asked)
        finally:
            self.give_back(session)
        if isinstance(asked, AskedLengths):
            neurons = self.plan.shaped.neurons
            if neurons is not None and neurons.counts:
                asked.silence(written.raw)
        kept: Mapping[int, Tensor] = written.kept
        if later:
            kept = LaterStates(keep, partial(self._states_again, x, given[1:], T, stop, every))
        return self._result(self.plan, written, None if asked is None else asked.runs, given, kept, start or {})

    def _states_again(self, x: Tensor, about: tuple, T: int, stop: Stop | None, every: int | None) -> dict[int, Tensor]:
        """The states after a run; ``about``: what a Given has beside x."""
        self._states_are_read = True  # and kept from now on
        result: Any = self.simulate(Given(x, *about), T, stop, keep=self.stateful, every=every)
        return {k: result._states_of(k) for k in self.stateful}

    def _asked(self, stop: Stop, T: int, every: int | None, N: int) -> Asked | AskedLead:
        """A rule as the library asks it, of N samples."""
        if isinstance(stop, Lengths):
            return AskedLengths(stop.of_batch(N, torch.device("cpu")), T)
        if not isinstance(stop, LogitMargin):
            return Asked(stop, self.plan, every)
        lead = self._lead
        if lead is None or lead.of != (stop, T):
            lead = self._lead = AskedLead(stop, self.plan, self.readout, T)
        return lead

    def stream(self, batch: int = 1, *, stop: Stop | None = None) -> "Stream":
        """A :class:`Stream` of this many samples: it goes on from call to call, a step or a few at a time.

        Args:
            batch: number of samples.
            stop: a rule by which samples stop, as of a run: ``pk.stop.margin(8)``, asked after every 8 steps of a
                sample, or ``pk.stop.margin(0.5, of="logits")``. They are silent and stay as they are until
                :meth:`Stream.reset`. Only for networks whose output is spikes.

        Raises:
            TypeError, ValueError: an argument has the wrong type or value; the message names it.
        """
        return Stream(self, batch, stop)

    def __reduce_ex__(self, protocol):
        """Copies and pickles: the plan. Its weights are packed again, for the machine at hand."""
        return type(self)._again, (self.plan, self._rates)

    @classmethod
    def _again(cls, plan: Plan, rates: dict[str, float]) -> "Engine":
        engine = cls(plan)
        engine._rates = rates
        return engine

    def save(self, path: str | os.PathLike) -> None:
        """Write the engine to a file that :func:`load` reads: no code, equal bytes for equal engines."""
        file.save(self.plan, path)

    def new_session(self) -> Session:
        """Memory for one more caller."""
        return Session(self._compiled)

    def session(self) -> Session:
        """A session that is not in use; :meth:`give_back` returns it."""
        try:
            return self._sessions.pop()
        except IndexError:
            return self.new_session()

    def hashed(self, memory: Memory) -> int:
        """A hash of some memory, by all threads."""
        session = self.session()
        try:
            return memory.hashed(session, torch.get_num_threads())
        finally:
            self.give_back(session)

    def tally(self) -> PlanTally:
        """For :meth:`advance` to count in."""
        return self._compiled.tally()

    def advance(
        self, session: Session, given: Given, T: int, tally: PlanTally | None = None, *, fresh: bool,
        counts: Tensor | None = None, keep: tuple[int, ...] = (), goes_on: bool = True,
        asked: Asked | AskedLead | None = None, steps: c_int64 | None = None,
    ) -> Written:  # fmt: skip
        """Run T steps from where the session is. What is written includes the states of the operations ``keep``: each
        sample's after its last step.

        ``tally``, ``counts``: of the operations and of the output's spikes so far, which are added to; None: new ones.
        ``goes_on``: whether the session is needed as it is after them. ``asked``: the rule by which samples stop.
        ``steps``: those so far, which are added to.
        """
        N, readout = given.N, self.readout
        reads = None if readout is None else readout.operation
        needed = N * (T * self._step_bytes + self._fixed_bytes)
        if needed > self._room:
            raise ValueError(
                f"the outputs of T = {T} steps of N = {N} samples take {needed / 2**30:.3g} GiB, and this machine has "
                f"{self._room / 2**30:.3g} GiB; take fewer steps or samples at a time"
            )
        key = N, T, counts is None, reads in keep, fresh, asked is not None  # runs that are alike write alike
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = Layout(self.plan, *key)
        kept = {}
        for k in keep:
            if k != reads:
                kept[k] = self.room_for(k, N)
        written = Written(layout, counts, kept)
        if asked is not None and layout.real:
            asked.values = written.raw
        if layout.gaps:
            written.forbid_gaps(True)
        try:
            threads = torch.get_num_threads()
            finite = session.run(given, T, threads, fresh, goes_on, written, tally, readout, asked, steps)
        finally:  # after an interrupt the memory may be reused
            if layout.gaps:
                written.forbid_gaps(False)
        if not finite:
            checks.finite("x", given.x)
        return written

    def last_state(self, session: Session, N: int) -> Tensor | None:
        """The states that tell logits, if there are such."""
        return next((self.state_of(session, k, N) for k in self._with_logits), None)

    def last_state_in(self, states: dict[int, Tensor]) -> Tensor | None:
        """The states that tell logits, from states that are to be written, by the numbers of operations."""
        return next((self.plan.as_simulated(k, states[k]) for k in self._with_logits), None)

    def state_of(self, session: Session, k: int, N: int) -> Tensor:
        """The states of an operation as simulate has them: [N, ...], of several states [N, states, ...]."""
        states = self.room_for(k, N)
        session.read(k, states)
        return self.plan.as_simulated(k, states)

    def room_for(self, k: int, N: int) -> Tensor:
        """For the states of an operation, as the library has them."""
        if self.plan.changes:
            return room_for(self.plan, k, N)
        op = self.plan.operations[k]
        C, H, W = image_of(self.plan.state_shape(op))
        return heap.empty(N, op.states, H * W, C)

    def __repr__(self) -> str:
        return described(self)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the packed weights, and of what a run works on, as far as runs have asked for it."""
        session = self.session()
        sizes = session.sizes
        self.give_back(session)
        return sizes.weights, sizes.arena

    @property
    def ways(self) -> dict[int, str]:
        """How the last run took the neurons, by the numbers of operations: see docs/engine.md."""
        session = self.session()
        ways = {k: session.way(k) for k, op in enumerate(self.plan.operations) if op.kind == Kind.FIRE}
        self.give_back(session)
        return ways


def load(path: str | os.PathLike) -> Engine:
    """Load an engine that :meth:`Engine.save` wrote. Nothing in the file is executed.

    Args:
        path: of the file.

    Returns:
        The engine, with weights packed for this machine. It takes samples [N, ...] of the shape that it was compiled
        for.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an engine, is of another version, or is damaged.
    """
    return Engine(file.read(path))


def described(engine: Engine) -> str:
    """What print(engine) shows."""
    plan, rows, ways = engine.plan, [("layer", "kind", "kernel", "output", "weights", "rate")], engine.ways
    for k, op in enumerate(plan.operations):
        weights = sum(weight.numel() for weight in op.weights)
        kind = "currents" if k in plan.within else "sum" if op.is_sum else op.neurons.model if op.neurons else op.kind
        rate = None if k in plan.within else engine._rates.get(op.name)
        shown = f"{weights:,}" if weights else "", "" if rate is None else f"{rate:.4f}"
        rows.append((op.name, kind, ways.get(k, ""), "x".join(map(str, op.shape)), *shown))
    weights, arena = engine.sizes
    how = f"{plan.precision or 'float32'}, {engine.target}"
    about = f"Engine of {len(plan.operations)} operations, samples of {plan.shape}, {how}"
    plain = sum(weight.nbytes for op in plan.operations for weight in op.weights)
    memory = (
        f"{weights / 1e6:.1f} MB of packed weights, {plain / 1e6:.1f} MB of weights that save writes, "
        f"{arena / 1e6:.1f} MB that a run works on"
    )
    return "\n".join([about, *table(rows), memory])
