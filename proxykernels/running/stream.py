"""An engine that goes on from call to call: for what comes step by step, such as the events of a camera."""

import math
from ctypes import c_int64
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..kernels import heap, locks
from ..kernels.cpu.words import pixel_bytes
from ..plan.library import PlanTally
from ..plan.plan import Plan
from ..spikes import Spikes
from .plan_result import logits_of
from .sigma_delta_state import read_state, read_sums, ready_state


def _sample_bytes(plan: Plan) -> int:
    """Of the states of a sample, its counts, and the largest output of a step."""
    states = sum(4 * op.states * math.prod(plan.state_shape(op)) for _, op in plan.stateful())
    if plan.changes:
        states = sum(4 * P * C for op in plan.operations for P, C in plan.change_states(op))
    steps = [
        math.prod(op.image[1:]) * (4 * op.image[0] if op.real else pixel_bytes(op.image[0])) for op in plan.operations
    ]
    return states + 4 * math.prod(plan.last.shape) + max(steps)


@dataclass
class _Past:
    """What a stream has done since it was made or reset. The library adds to counts, tally and steps at once, as a run
    ends: whatever interrupts it, they agree with the states."""

    counts: Tensor | None  # None: of a readout
    tally: PlanTally
    steps: c_int64 = field(default_factory=c_int64)
    at_rest: bool = True  # before the first step
    start: Tensor | None = None  # the last operation's state that logits count from; None: rest
    given: dict[int, Tensor] = field(default_factory=dict)  # states that were set, until the session has taken them

    @property
    def fresh(self) -> bool:
        return self.at_rest and not self.steps.value


class Stream:
    """An engine with a state that is kept between calls; made by :meth:`Engine.stream`.

    Calls from several threads come one after another, in any order. It cannot be copied or pickled: its ``state`` can.
    After Ctrl-C it is as it was before the call, or as it is after it: ``steps`` tells which.

    Attributes:
        batch: number of samples.

    Raises:
        ValueError: ``batch`` is no integer of at least 1, or more samples than memory holds the states of.
    """

    def __init__(self, engine, batch: int = 1):
        if not checks.is_integer(batch) or batch < 1:
            raise ValueError(f"batch must be an integer of at least 1, got {batch!r}")
        needed, there = batch * _sample_bytes(engine.plan), checks.memory(heap.CPU)
        if needed > there:
            raise ValueError(
                f"batch = {batch} samples take {needed / 2**30:.3g} GiB for their states and a step, and this machine "
                f"has {there / 2**30:.3g} GiB; take a smaller batch"
            )
        self.engine, self.batch = engine, batch
        self._session, self._lock = engine.new_session(), locks.lock()
        self.reset()

    @property
    def steps(self) -> int:
        """Number of steps since it was made or reset."""
        return self._past.steps.value

    def reset(self) -> None:
        """Start again from rest."""
        op = self.engine.plan.last
        counts = None if op.real else heap.zeros(self.batch, *op.shape, dtype=torch.int32)
        with self._lock:
            self._past = _Past(counts, self.engine.tally())

    def __call__(self, x: Tensor | Spikes) -> Spikes | Tensor:
        """Go on for a step, or for some.

        Args:
            x: one step [N, ...], of real values, of bool or of integers, which are events; or some steps, [t, N, ...]
                or Spikes (t, N, ...).

        Returns:
            Spikes (t, N, ...), or of a network that ends in a readout, or of sigma-delta neurons, potentials
            [t, N, ...]; t = 1 for one step.

        Raises:
            TypeError, ValueError: x has another shape or type; the message says which.
        """
        given = self.engine.inputs.given(x if self._is_held(x) else x.unsqueeze(0))
        if given.N != self.batch:
            raise ValueError(f"x must hold {self.batch} samples, the stream's batch, got {given.N}")
        with self._lock:
            past = self._settled()
            written = self.engine.advance(
                self._session, given, given.T or 1, past.tally, fresh=past.fresh, counts=past.counts, steps=past.steps
            )
        return written.tensor()

    def _is_held(self, x: Tensor | Spikes) -> bool:
        """Not one step of events, which the engine knows in a sequence alone."""
        if isinstance(x, Spikes) or self.engine.plan.changes:
            return True
        step = isinstance(x, Tensor) and x.ndim == len(self.engine.plan.shape) + 1
        return not step or (x.is_floating_point() and self.engine.inputs.takes_floats)

    def _settled(self) -> _Past:
        """The past, once the session has the states that were set; an interrupt leaves them to be taken again."""
        if self._session.runs:
            raise RuntimeError("the stream is in the middle of a call, and a signal handler uses it; wait for its end")
        past = self._past
        for k, v in past.given.items():
            self._session.write(k, v)
        past.given = {}
        return past

    def count(self) -> Tensor:
        """Output spikes so far: int32 [N, ...]."""
        with self._lock:
            counts = self._settled().counts
            if counts is None:
                raise AttributeError("the network ends in a readout, which does not fire")
            return counts.clone()

    @property
    def logits(self) -> Tensor:
        """As :attr:`Result.logits`, of the steps so far, at least one."""
        with self._lock:
            past = self._settled()
            if not past.steps.value:
                raise AttributeError("logits need at least one step")
            if self.engine.plan.changes:
                return self._outputs()
            state = self.engine.last_state(self._session, self.batch)
            return logits_of(self.engine.plan, self.count(), state, past.steps.value, past.start)

    def _outputs(self) -> Tensor:
        """Of a network of sigma-delta neurons, after the last step."""
        op = self.engine.plan.last
        sums = read_sums(self.engine.plan, self._session, self.batch)
        return sums * op.scale.view(-1, *[1] * (len(op.shape) - 1))

    @property
    def state(self) -> dict[str, Any]:
        """Layer name -> its states, [N, ...], of several states [N, states, ...]: a copy. It may be set. Of sigma-delta
        neurons it is that of :func:`proxykernels.simulate`.

        Raises:
            AttributeError: the stream has taken no step. ValueError: what is set has other names or shapes.
        """
        populations = self._populations()
        with self._lock:
            if self._settled().fresh:
                raise AttributeError("a stream has a state after its first step, or once one was set")
            if self.engine.plan.changes:
                return read_state(self.engine.plan, self._session, self.batch)
            return {name: self.engine.state_of(self._session, k, self.batch) for name, k in populations.items()}

    @state.setter
    def state(self, given: dict[str, Any]) -> None:
        if self.engine.plan.changes:
            ready = ready_state(self.engine.plan, given, self.batch)
            with self._lock:
                self._past = replace(self._settled(), at_rest=False, given=ready)
                self._settled()
            return
        populations = self._populations()
        if not isinstance(given, dict) or set(given) != set(populations):
            got = sorted(given) if isinstance(given, dict) else type(given).__name__
            raise ValueError(f"state must hold the layers {sorted(populations)}, got {got}")
        ready = {}
        for name, k in populations.items():
            op = self.engine.plan.operations[k]
            shape, count = self.engine.plan.state_shape(op), op.states
            wanted = (self.batch, *((count,) if count > 1 else ()), *shape)
            checks.floating(f"state of {name}", given[name])
            checks.same_device(f"state of {name}", given[name], heap.CPU)
            if tuple(given[name].shape) != wanted:
                raise ValueError(f"state of {name} must have the shape {list(wanted)}, got {list(given[name].shape)}")
            checks.finite(f"state of {name}", given[name])
            self.engine.plan.check_state(f"state of {name}", op, given[name])
            ready[k] = self.engine.plan.as_run(k, given[name])
        with self._lock:
            past = self._settled()
            before = None if past.fresh else self.engine.last_state(self._session, self.batch)
            after = self.engine.last_state_in(ready)
            start = self._start_after(past.start, before, after)
            self._past = replace(past, at_rest=False, start=start, given=ready)
            self._settled()

    def _start_after(self, start: Tensor | None, before: Tensor | None, after: Tensor | None) -> Tensor | None:
        """Where logits count from once a state was set: what it adds to the potentials ``before``, no input did."""
        if before is None or after is None:
            return after
        if start is None:  # rest, of each channel
            start = (
                self.engine.plan.operations[self.engine.plan.with_logits]
                .neurons.start[0]
                .view(-1, *[1] * (before.ndim - 2))
            )
        return start + (after - before)

    def __reduce_ex__(self, protocol):
        raise TypeError(
            "a stream cannot be copied or pickled: keep stream.state, and set it in a stream of the same engine "
            "(engine.stream(batch).state = kept)"
        )

    def _populations(self) -> dict[str, int]:
        """Layer name -> number of its operation."""
        return {op.name: k for k, op in self.engine.plan.stateful()}

    def __repr__(self) -> str:
        return f"Stream(batch={self.batch}, steps={self.steps})"
