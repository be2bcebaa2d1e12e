"""What a stream has done: while it goes on, and as one value that can be kept, copied, saved and set again.

At the end the states of engines of sigma-delta neurons: as simulate has them, and as the library has them.
"""

from collections.abc import Callable, Iterable
from ctypes import c_int64
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import heap
from ..kernels.table import Kind
from ..layers.layer_graph import LayerGraph
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons
from ..plan.library import PlanTally, Session
from ..plan.operations import Shape
from ..plan.plan import Plan

# The state of sigma-delta neurons in simulate: z and a [N, P, C] of each layer; under "" the last frame and outputs.
State = dict[str, list[Tensor]]


@dataclass
class Past:
    """What a stream has done since it was made or reset. The library adds to counts, tally and clock at once, as a run
    ends: whatever interrupts it, they agree with the states. All else changes with the object, which is replaced.

    Attributes:
        counts: int32 [N, ...]; None: of values. tally: of all samples, also of what was undone.
        before: steps of each sample, int64 [N], before the steps of ``clock``, which all samples go.
        rested: whether a sample was at rest when the clock began, bool [N]. stopped: by the rule, bool [N].
        start: the state that logits count from; None: rest.
        given: states that were set, until the session has taken them.
    """

    counts: Tensor | None
    tally: PlanTally
    before: Tensor
    rested: Tensor
    stopped: Tensor
    start: Tensor | None = None
    given: dict[int, Tensor] = field(default_factory=dict)
    clock: c_int64 = field(default_factory=c_int64)

    @property
    def steps(self) -> Tensor:
        """Steps of each sample, int64 [N]."""
        return self.before + self.clock.value

    @cached_property
    def _rests(self) -> tuple[bool, bool]:
        """Whether all samples began at rest, or some."""
        return bool(self.rested.all()), bool(self.rested.any())

    @property
    def fresh(self) -> bool:
        """Whether all samples are at rest."""
        return not self.clock.value and self._rests[0]

    @property
    def at_rest(self) -> Tensor:
        """The samples before their first step, bool [N]."""
        return self.rested if not self.clock.value else torch.zeros_like(self.rested)

    @cached_property
    def _stops(self) -> bool:
        return bool(self.stopped.any())

    @property
    def is_even(self) -> bool:
        """Whether all samples go on, from rest or from where they are."""
        return not self._stops and (self._rests[0] == self._rests[1] or bool(self.clock.value))


class StreamState(dict[str, Any]):
    """``stream.state``: layer name -> its states, float32 [N, ...], of several states [N, states, ...]. For
    sigma-delta neurons it is that of :func:`proxykernels.simulate`, two tensors a layer.

    ``stream.state = kept`` takes the stream back to where it was: outputs, counts, logits and steps too. Layers may be
    changed before: logits take nothing of that for input. :func:`proxykernels.simulate` takes it for its ``state``.

    Attributes:
        counts: output spikes so far, int32 [N, ...]; None: of values.
        steps: steps of each sample, int64 [N].
        stopped: samples that the stream's rule has stopped, bool [N].
        at_rest: samples that were reset and have taken no step, bool [N].
        start: the potentials that logits count from, [N, ...]; None: those at rest.
        read: the potentials of that layer; None: the network has no logits.
    """

    counts: Tensor | None
    steps: Tensor
    stopped: Tensor
    at_rest: Tensor
    start: Tensor | None
    read: Tensor | None

    def __init__(self, layers: dict[str, Any], others: dict[str, Tensor | None]):
        """``others``: the attributes by their names."""
        super().__init__(layers)
        for name in StreamState.__annotations__:
            setattr(self, name, others[name])

    def __reduce__(self):
        """In the parts that ``torch.load`` takes."""
        return StreamState, (dict(self), {name: getattr(self, name) for name in StreamState.__annotations__})

    def of_simulate(self) -> dict[str, list[Tensor]]:
        """The state in the form that simulate takes, without counts and steps.

        Raises:
            ValueError: sigma-delta neurons of some samples are at rest, where their biases are still to come.
        """
        resting = self.at_rest.nonzero().flatten().tolist()
        if resting and any(isinstance(part, list | tuple) for part in self.values()):
            raise ValueError(
                f"state has samples that were reset and have taken no step, which simulate has not: {resting}"
            )
        return {name: list(part) if isinstance(part, list | tuple) else [part] for name, part in self.items()}


def check_whole(plan: Plan, state: StreamState, N: int) -> None:
    """Refuse one of another network, or of another number of samples.

    Raises:
        TypeError, ValueError: it is one; the message names what does not fit.
    """
    counts = None if plan.last.real else (torch.int32, (N, *plan.last.shape))
    wanted = {"counts": counts} | {name: (torch.bool, (N,)) for name in ("stopped", "at_rest")}
    for name, kind in (wanted | {"steps": (torch.int64, (N,))}).items():
        part = getattr(state, name, None)
        got = (part.dtype, tuple(part.shape)) if isinstance(part, Tensor) else part
        if got != kind:
            raise ValueError(f"state.{name} must be {_shown(kind)}, got {_shown(got)}: it is of another stream")
    read = None if plan.with_logits is None else (N, *plan.operations[plan.with_logits].shape)
    for name in ("read", "start"):
        part = getattr(state, name, None)
        if part is None and (read is None or name == "start"):
            continue
        if not isinstance(part, Tensor) or read is None or part.dtype != torch.float32 or tuple(part.shape) != read:
            raise ValueError(f"state.{name} does not fit: it is of another stream")


def _shown(kind: Any) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}" if isinstance(kind, tuple) else str(kind)


def ready_layers(plan: Plan, given: Any, N: int) -> dict[int, Tensor]:
    """States of layers as the library takes them, by the numbers of operations.

    Raises:
        TypeError, ValueError: they are no such states; the message names the layer.
    """
    if plan.changes:
        return ready_state(plan, given, N)
    populations = {op.name: k for k, op in plan.stateful()}
    if not isinstance(given, dict) or set(given) != set(populations):
        got = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"state must hold the layers {sorted(populations)}, got {got}")
    ready = {}
    for name, k in populations.items():
        op = plan.operations[k]
        wanted = (N, *((op.states,) if op.states > 1 else ()), *plan.state_shape(op))
        part = given[name]
        if isinstance(part, list | tuple) and len(part) == 1:  # as simulate has it
            part = part[0]
        checks.floating(f"state of {name}", part)
        checks.same_device(f"state of {name}", part, heap.CPU)
        if tuple(part.shape) != wanted:
            raise ValueError(f"state of {name} must have the shape {list(wanted)}, got {list(part.shape)}")
        checks.finite(f"state of {name}", part)
        plan.check_state(f"state of {name}", op, part)
        ready[k] = plan.as_run(k, part)
    return ready


def samples_of(samples: Iterable[int], N: int) -> Tensor:
    """Numbers of samples, int64, ascending, of an argument.

    Raises:
        TypeError, ValueError: it is something else, or they are not from 0 to N - 1.
    """
    listed = samples.tolist() if isinstance(samples, Tensor) else samples
    listed = list(listed) if isinstance(listed, Iterable) else [None]
    if not all(map(checks.is_integer, listed)):
        raise TypeError(f"samples must be integers, numbers of samples such as [2], got {samples!r}")
    if not all(0 <= n < N for n in listed):
        raise ValueError(f"samples must be from 0 to {N - 1}, in a batch of {N}, got {listed}")
    return torch.tensor(sorted({int(n) for n in listed}), dtype=torch.int64, device=heap.CPU)


def has_sigma_delta(net: nn.Module) -> bool:
    return any(isinstance(module, SigmaDeltaNeurons) for module in net.modules())


def room_for(plan: Plan, k: int, N: int) -> Tensor:
    """For the states of an operation, as the library has them: z of all samples, and behind it a."""
    return heap.empty(N, sum(P * C for P, C in plan.change_states(plan.operations[k])))


def read_state(plan: Plan, session: Session, N: int) -> State:
    """The state of N samples that a session has, as simulate has it."""

    def read(k: int) -> Tensor:
        buffer = room_for(plan, k, N)
        session.read(k, buffer)
        return buffer

    return as_state(plan, read, N)


def read_sums(plan: Plan, session: Session, N: int) -> Tensor:
    """Only the outputs, [N, ...]: what the state has last of Network.INPUT."""
    last, buffer = len(plan.operations) - 1, room_for(plan, len(plan.operations) - 1, N)
    session.read(last, buffer)
    ((P, C),) = plan.change_states(plan.last)
    return buffer.view(N, P, C).transpose(1, 2).reshape(N, *plan.last.shape)


def as_state(plan: Plan, read: Callable[[int], Tensor], N: int) -> State:
    """The state of N samples, of what the library has of each operation."""
    state: State = {LayerGraph.INPUT: []}
    for k, op in enumerate(plan.operations):
        if not (sizes := plan.change_states(op)):
            continue
        buffer = read(k)
        parts = [part.view(N, *size) for part, size in zip(_split(buffer, sizes), sizes, strict=True)]
        if op.kind in (Kind.CHANGES, Kind.SUM):
            state[LayerGraph.INPUT].append(parts[0].transpose(1, 2).reshape(N, *op.shape))
        else:
            state[op.name] = [part.clone() for part in parts]
    return state


def ready_state(plan: Plan, given: Any, N: int) -> dict[int, Tensor]:
    """A state of N samples that is given, as the library takes it, by the numbers of operations.

    Raises:
        ValueError: it is no such state.
    """
    wanted: dict[str, list[tuple[int, Shape, bool]]] = {LayerGraph.INPUT: []}
    for k, op in enumerate(plan.operations):
        ends = op.kind in (Kind.CHANGES, Kind.SUM)
        for size in plan.change_states(op):
            wanted.setdefault(op.name, []).append((k, op.shape if ends else size, ends))
    if not isinstance(given, dict) or set(given) != set(wanted):
        got = sorted(given) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"state must hold the layers {sorted(wanted)}, got {got}")
    ready: dict[int, list[Tensor]] = {}
    for name, parts in wanted.items():
        shapes = [[N, *shape] for _, shape, _ in parts]
        of_name = given[name]
        listed = isinstance(of_name, list | tuple)
        got = [list(getattr(part, "shape", ())) for part in of_name] if listed else type(of_name).__name__
        if got != shapes:
            what = f"{name!r}" if name else "'' (the input and the outputs)"
            raise ValueError(
                f"state of {what} must be two tensors {shapes}, as a stream or a result has them, got {got}"
            )
        for (k, _, ends), part in zip(parts, of_name, strict=True):
            checks.floating(f"state of {name!r}", part)
            checks.same_device(f"state of {name!r}", part, heap.CPU)
            checks.finite(f"state of {name!r}", part)
            part = part.detach().float()
            part = part.flatten(2).transpose(1, 2) if ends and part.ndim > 2 else part
            ready.setdefault(k, []).append(part.resolve_neg().contiguous().flatten())
    return {k: torch.cat(parts).view(N, -1) for k, parts in ready.items()}


def _split(buffer: Tensor, sizes: list[tuple[int, int]]) -> tuple[Tensor, ...]:
    """z of all samples, and behind it a."""
    return buffer.flatten().split([len(buffer) * P * C for P, C in sizes])
