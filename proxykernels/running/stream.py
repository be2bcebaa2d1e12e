"""An engine that goes on from call to call: for what comes step by step, such as the events of a camera."""

import math
from collections.abc import Iterable
from ctypes import c_int64
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import forks, heap
from ..kernels.cpu.words import pixel_bytes
from ..kernels.table import TALLIES, InputKind
from ..layers.layer_graph import STEPS, has_fired, look_at_input, warn_of_silence
from ..plan.library import AskedLead, Given, Session
from ..plan.plan import Plan
from ..spikes import Spikes
from ..spikes.spikes import cat_steps
from ..stop import STOP_EVERY, LogitMargin, Stop, check_rule, decided_by
from .plan_result import logits_of
from .result import NO_SPIKES
from .stream_state import Past, StreamState, check_whole, read_state, read_sums, ready_layers, samples_of


def _sample_bytes(plan: Plan) -> int:
    """Bytes of a sample's states, its counts, and the largest output of a step."""
    states = sum(4 * op.states * math.prod(plan.state_shape(op)) for _, op in plan.stateful())
    if plan.changes:
        states = sum(4 * P * C for op in plan.operations for P, C in plan.change_states(op))
    steps = [
        math.prod(op.image[1:]) * (4 * op.image[0] if op.real else pixel_bytes(op.image[0])) for op in plan.operations
    ]
    return states + 4 * math.prod(plan.last.shape) + max(steps)


class Stream:
    """An engine with a state that is kept between calls; made by :meth:`Engine.stream`.

    Calls from several threads come one after another, in any order. It cannot be copied or pickled: its ``state`` can.
    After Ctrl-C it is as it was before the call, or as it is after it: ``steps`` tells which. A call that a rule or a
    reset of single samples cuts into parts may end between two of them.

    Attributes:
        batch: number of samples.

    Raises:
        TypeError, ValueError: ``batch`` is no integer of at least 1, or more samples than memory holds the states of;
            or ``stop`` is no rule that the network's outputs can be asked by.
    """

    def __init__(self, engine, batch: int = 1, stop: Stop | None = None):
        if not checks.is_integer(batch) or batch < 1:
            raise ValueError(f"batch must be an integer of at least 1, got {batch!r}")
        needed, there = batch * _sample_bytes(engine.plan), checks.memory(heap.CPU)
        if needed > there:
            raise ValueError(
                f"batch = {batch} samples take {needed / 2**30:.3g} GiB for their states and a step, and this machine "
                f"has {there / 2**30:.3g} GiB; take a smaller batch"
            )
        check_rule(stop)
        if stop is not None and engine.plan.last.real:
            raise ValueError(
                "stop counts the output spikes of a stream, and this network gives values; leave stop out, and look at "
                "what each call returns"
            )
        if isinstance(stop, LogitMargin):
            AskedLead(stop, engine.plan, engine.readout, 1)  # refuses networks without logits
        self.engine, self.batch = engine, batch
        self._stop, self._session, self._lock = stop, engine.new_session(), forks.lock()
        self.reset()

    @property
    def steps(self) -> int:
        """Number of steps since it was made or reset: of the sample that has taken most."""
        return int(self._past.steps.max())

    @property
    def sample_steps(self) -> Tensor:
        """Steps of each sample since it was reset, and until it was stopped: int64 [N]."""
        return self._past.steps

    @property
    def stopped(self) -> Tensor:
        """Samples that the rule has stopped, bool [N]. They are silent, and stay as they are until they are reset."""
        return self._past.stopped.clone()

    def reset(self, samples: Iterable[int] | None = None) -> None:
        """Start again from rest: states, counts, logits and steps.

        Args:
            samples: numbers of the samples that do, such as [2], a list or a tensor; the others go on. Default: all.
                This takes a copy of all states.

        Raises:
            TypeError, ValueError: ``samples`` has something else than numbers of samples.
        """
        if samples is None:
            with self._lock:
                self._past, self._steps_heard = self._rest(), 0
            return
        index = samples_of(samples, self.batch)
        with self._lock:
            past, rest = self._settled(), self._rest()
            if past.fresh:
                return
            states = self._read(self._session, self.batch)
            for k, parts in states.items():
                self._put_rest(k, parts, index)
            start = past.start
            if start is not None:
                start = start.index_copy(0, index, self._resting_start().expand_as(start)[index])
            self._past = replace(
                rest, counts=None if past.counts is None else past.counts.index_fill(0, index, 0), tally=past.tally,
                before=past.steps.index_fill(0, index, 0), rested=past.at_rest.index_fill(0, index, True),
                stopped=past.stopped.index_fill(0, index, False), start=start, given=_joined(states),
            )  # fmt: skip
            self._settled()

    def _rest(self) -> Past:
        N, op = self.batch, self.engine.plan.last
        counts = None if op.real else heap.zeros(N, *op.shape, dtype=torch.int32)
        no, none = heap.zeros(N, dtype=torch.int64), heap.zeros(N, dtype=torch.bool)
        return Past(counts, self.engine.tally(), no, ~none, none)

    def __call__(self, x: Tensor | Spikes) -> Spikes | Tensor:
        """Go on for a step, or for some.

        Args:
            x: one step [N, ...], of real values or of bool, which are spikes; or some steps, [t, N, ...], also of
                integers, which are counts of events, or Spikes (t, N, ...).

        Returns:
            Spikes (t, N, ...), or of a network that ends in a readout, or of sigma-delta neurons, potentials
            [t, N, ...]; t = 1 for one step. Samples that have stopped are silent.

        Raises:
            TypeError, ValueError: x has another shape or type; the message says which.
        """
        given = self.engine.inputs.given(x if self._is_held(x) else x.unsqueeze(0))
        if given.N != self.batch:
            raise ValueError(f"x must hold {self.batch} samples, the stream's batch, got {given.N}")
        T = given.T or 1
        listens = look_at_input(self.engine, self.engine.plan.calibrated, x)
        y = self._run(given, T)
        if listens:
            self._listen(T)
        return y

    def _run(self, given: Given, T: int) -> Spikes | Tensor:
        with self._lock:
            past = self._settled()
            if self._stop is None and past.is_even:
                return self._go_on(past, given, T)
            parts: list[Any] = []
            start = 0
            while start < T:
                past = self._settled()
                steps = self._before_look(past, T - start)
                part = _steps(given, start, steps)
                parts.append((self._go_on if past.is_even else self._go_on_apart)(past, part, steps))
                start += steps
                self._look()
        return cat_steps(parts)

    def _listen(self, T: int) -> None:
        """Warn where no neuron fires in the first steps, of which these are T more."""
        self._steps_heard += T
        if any(self._past.tally[::TALLIES]):
            has_fired(self.engine)
        elif self._steps_heard >= STEPS:
            warn_of_silence(self.engine, self._steps_heard, self.engine.plan.calibrated, stacklevel=4)

    def _is_held(self, x: Tensor | Spikes) -> bool:
        """Not one step of spikes, which the engine knows only in a sequence."""
        if isinstance(x, Spikes) or self.engine.plan.changes:
            return True
        step = isinstance(x, Tensor) and x.ndim == len(self.engine.plan.shape) + 1
        if step and not (x.is_floating_point() or x.dtype == torch.bool or x.is_complex() or x.is_quantized):
            raise TypeError(
                f"x must be floating point or bool, got one step of {x.dtype}: give an image as x.float(), and counts "
                "of events as a sequence of one step, x.unsqueeze(0)"
            )
        return not step or (x.is_floating_point() and self.engine.inputs.takes_floats)

    def _settled(self) -> Past:
        """The past, once the session has the states that were set; an interrupt leaves them to be taken again."""
        if self._session.runs:
            raise RuntimeError("the stream is in the middle of a call, and a signal handler uses it; wait for its end")
        past = self._past
        for k, v in past.given.items():
            self._session.write(k, v)
        past.given = {}
        return past

    def _go_on(self, past: Past, given: Given, T: int) -> Spikes | Tensor:
        """All samples, in the session."""
        return self.engine.advance(
            self._session, given, T, past.tally, fresh=past.fresh, counts=past.counts, steps=past.clock
        ).tensor()

    def _go_on_apart(self, past: Past, given: Given, T: int) -> Spikes | Tensor:
        """Samples at rest apart from the others, and without those that have stopped, which are silent.

        They run in another session: whatever interrupts this, the stream's has what it had.
        """
        plan, N, at_rest = self.engine.plan, self.batch, past.at_rest
        states = self._read(self._session, N)
        counts = None if past.counts is None else past.counts.clone()
        steps, tally, session = past.steps, self.engine.tally(), self.engine.session()
        C, H, W = plan.last.image
        raw = (
            heap.zeros(T, N, H * W, C) if plan.last.real else heap.zeros(N, T, H * W, pixel_bytes(C), dtype=torch.uint8)
        )
        try:
            for fresh in (True, False):
                index = ((at_rest == fresh) & ~past.stopped).nonzero().flatten()
                if not len(index):
                    continue
                if not fresh:
                    for k, parts in states.items():
                        session.write(k, torch.cat([part[index].flatten() for part in parts]).view(len(index), -1))
                some = None if counts is None else counts[index]
                written = self.engine.advance(session, _samples(given, index), T, tally, fresh=fresh, counts=some)
                raw.index_copy_(1 if plan.last.real else 0, index, written.raw)
                if counts is not None and some is not None:
                    counts[index] = some
                steps[index] += T
                for k, parts in self._read(session, len(index)).items():
                    for whole, part in zip(states[k], parts, strict=True):
                        whole[index] = part
        finally:
            self.engine.give_back(session)
        for number, done in enumerate(past.tally):
            tally[number] += done
        self._past = replace(
            past, counts=counts, tally=tally, before=steps, rested=torch.zeros_like(at_rest), given=_joined(states),
            clock=c_int64(),
        )  # fmt: skip
        self._settled()
        if plan.last.real:
            return raw.transpose(2, 3).reshape(T, N, *plan.last.shape)
        return Spikes(raw, (T, N, *plan.last.shape))

    def _read(self, session: Session, N: int) -> dict[int, list[Tensor]]:
        """The states of N samples by the numbers of operations, each a list of tensors [N, values]."""
        found, plan = {}, self.engine.plan
        for k in self.engine.stateful:
            room = self.engine.room_for(k, N)
            session.read(k, room)
            op = plan.operations[k]
            sizes = [P * C for P, C in plan.change_states(op)] if plan.changes else [room[0].numel()]
            found[k] = [part.view(N, -1) for part in room.flatten().split([N * size for size in sizes])]
        return found

    def _put_rest(self, k: int, parts: list[Tensor], index: Tensor) -> None:
        """Set some samples' states to rest."""
        neurons = self.engine.plan.operations[k].neurons
        for part in parts:
            part[index] = 0
            if neurons is not None and not self.engine.plan.changes:
                states, C = neurons.start.shape
                rest = part.view(self.batch, states, -1, C)
                rest[index] = neurons.start[:, None]

    def _resting_start(self) -> Tensor:
        """What logits count from at rest, of each channel."""
        op = self.engine.plan.operations[self.engine.plan.with_logits]
        return op.neurons.start[0].view(-1, *[1] * (len(op.shape) - 1))

    def _before_look(self, past: Past, most: int) -> int:
        """How many of ``most`` steps go by until the rule looks at a sample."""
        if self._stop is None:
            return most
        steps = set(past.steps[~past.stopped].tolist())
        if isinstance(self._stop, LogitMargin):
            to_come = [at - t for t in steps for at in self._stop.at if at > t]
        else:
            to_come = [STOP_EVERY - t % STOP_EVERY for t in steps]
        return min([most, *to_come])

    def _look(self) -> None:
        """Ask the rule about the samples that it looks at after their last step."""
        past = self._past
        if self._stop is None or past.counts is None:
            return
        steps, stopped = past.steps, past.stopped.clone()
        for t in set(steps[~stopped].tolist()):
            if t not in self._stop.at if isinstance(self._stop, LogitMargin) else t % STOP_EVERY:
                continue
            index = ((steps == t) & ~past.stopped).nonzero().flatten()
            seen = self._logits(past) if isinstance(self._stop, LogitMargin) else past.counts
            stopped[index] = decided_by(self._stop, seen[index], t, len(index))
        if not torch.equal(stopped, past.stopped):
            self._past = replace(
                past, before=steps, rested=torch.zeros_like(stopped), stopped=stopped, clock=c_int64()
            )  # fmt: skip

    def count(self) -> Tensor:
        """Output spikes so far: int32 [N, ...]."""
        with self._lock:
            counts = self._settled().counts
            if counts is None:
                raise AttributeError(f"{NO_SPIKES}: look at what each call returns")
            return counts.clone()

    @property
    def logits(self) -> Tensor:
        """As :attr:`Result.logits`, of the steps of each sample so far. Samples that were reset have 0.

        Raises:
            AttributeError: no sample has taken a step, or the network has no logits.
        """
        with self._lock:
            past = self._settled()
            if not past.steps.any():
                raise AttributeError("logits need at least one step")
            return self._logits(past)

    def _logits(self, past: Past) -> Tensor:
        if self.engine.plan.changes:
            return self._outputs()
        state = self.engine.last_state(self._session, self.batch)
        counts: Any = past.counts
        return logits_of(self.engine.plan, counts, state, past.steps.clamp(min=1), past.start)

    def _outputs(self) -> Tensor:
        """The outputs of a network of sigma-delta neurons after the last step."""
        op = self.engine.plan.last
        sums = read_sums(self.engine.plan, self._session, self.batch)
        return sums * op.scale.view(-1, *[1] * (len(op.shape) - 1))

    @property
    def state(self) -> StreamState:
        """A copy of all that the stream has done: a dictionary, layer name -> its states, [N, ...], of several states
        [N, states, ...], of sigma-delta neurons two tensors; with the attributes ``counts`` (int32 [N, ...], None of
        values), ``steps`` (int64 [N]), ``stopped`` and ``at_rest`` (bool [N]). It may be set, also in another stream of
        the engine or of its file, and takes it to where it was. Logits take no layer that was changed before for input.

        The ``state`` of a result of :func:`proxykernels.simulate`, or any dictionary of the layers' states, may be set
        as well. It has no counts and steps: these begin at 0, and logits count what comes from then on.

        Raises:
            AttributeError: the stream has taken no step. TypeError, ValueError: what is set is of another network or
                another number of samples; the message names what does not fit.
        """
        with self._lock:
            past = self._settled()
            if past.fresh:
                raise AttributeError("a stream has a state after its first step, or once one was set")
            if self.engine.plan.changes:
                layers: dict[str, Any] = read_state(self.engine.plan, self._session, self.batch)
            else:
                numbers = {op.name: k for k, op in self.engine.plan.stateful()}
                layers = {name: self.engine.state_of(self._session, k, self.batch) for name, k in numbers.items()}
            others = {
                "counts": past.counts, "steps": past.steps, "stopped": past.stopped, "at_rest": past.at_rest,
                "start": past.start, "read": self.engine.last_state(self._session, self.batch),
            }  # fmt: skip
            return StreamState(layers, {name: None if part is None else part.clone() for name, part in others.items()})

    @state.setter
    def state(self, given: StreamState | dict[str, Any]) -> None:
        ready = ready_layers(self.engine.plan, given, self.batch)
        if isinstance(given, StreamState):
            check_whole(self.engine.plan, given, self.batch)
        read = None if self.engine.plan.changes else self.engine.last_state_in(ready)
        rest = self._rest()
        if not isinstance(given, StreamState):
            past = replace(rest, rested=torch.zeros_like(rest.rested), start=read, given=ready)
        else:
            start, counts = given.start, given.counts
            # Potentials that the caller has set are no input, so logits count from them.
            if read is not None and given.read is not None and not torch.equal(read, given.read):
                start = (self._resting_start() if start is None else start) + (read - given.read)
            past = replace(
                rest, counts=None if counts is None else counts.clone(), before=given.steps.clone(),
                rested=given.at_rest.clone(), stopped=given.stopped.clone(),
                start=None if start is None else start.clone(), given=ready,
            )  # fmt: skip
        with self._lock:
            self._settled()
            self._past = replace(past, tally=self._past.tally)
            self._settled()

    def __reduce_ex__(self, protocol):
        raise TypeError(
            "a stream cannot be copied or pickled: keep stream.state, and set it in a stream of the same engine "
            "(engine.stream(batch).state = kept)"
        )

    def __repr__(self) -> str:
        return f"Stream(batch={self.batch}, steps={self.steps})"


def _joined(states: dict[int, list[Tensor]]) -> dict[int, Tensor]:
    """States [N, values] as the library takes them, by the numbers of operations."""
    return {k: torch.cat([part.flatten() for part in parts]).view(len(parts[0]), -1) for k, parts in states.items()}


def _steps(given: Given, start: int, steps: int) -> Given:
    """Some steps of an input."""
    if given.T is None or steps == given.T:
        return given
    if given.kind == InputKind.HELD_VALUES:
        return given._replace(T=steps)
    x = given.x.narrow(1 if given.kind == InputKind.PACKED_SPIKES else 0, start, steps)
    return given._replace(x=x.contiguous(), T=steps)


def _samples(given: Given, index: Tensor) -> Given:
    """Some samples of an input."""
    return given._replace(x=given.x.index_select(1 if given.kind == InputKind.VALUES else 0, index), N=len(index))
