"""What an engine of sigma-delta neurons takes and keeps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import heap
from ..kernels.table import Kind
from ..layers.layer_graph import LayerGraph
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons
from ..plan.library import Session
from ..plan.operations import Shape
from ..plan.plan import Plan


def has_sigma_delta(net: nn.Module) -> bool:
    return any(isinstance(module, SigmaDeltaNeurons) for module in net.modules())


State = dict[
    str, list[Tensor]
]  # as simulate has it: of neurons z and a [N, P, C], under "" the last frame and the outputs


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
    """Of the outputs alone, [N, ...]: what the state has last of Network.INPUT."""
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
        if not isinstance(of_name, list | tuple) or [list(getattr(part, "shape", ())) for part in of_name] != shapes:
            raise ValueError(f"state of {name!r} must be two tensors {shapes}, as a stream or a result has them")
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
