"""What a file holds of networks of sigma-delta neurons, beside what it holds of others (file.py): only they have it.

an operation   {"senders": null | {"exponents", "rectifies", "limit": name of a tensor}, "scale": name | null}
a window       {"bias": name of a tensor | null}
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..kernels.sigma_delta import MOST_EXPONENTS
from .operations import Kind, Operation, Senders
from .plan import Plan

ENDS = Kind.CHANGES, Kind.SUM
KINDS = *ENDS, Kind.SEND, Kind.SEND_MAXIMA, Kind.AVERAGE_POOL, Kind.FLATTEN, Kind.UNFLATTEN, Kind.MOVE
Put = Callable[[str, Tensor | None], str | None]


def of_operation(k: int, op: Operation, put: Put) -> dict[str, Any]:
    """What is written of operation k."""
    senders = op.senders and {
        "exponents": op.senders.exponents, "rectifies": op.senders.lowest == 0,
        "limit": put(f"{k}.limit", op.senders.limit),
    }  # fmt: skip
    return {"senders": senders, "scale": put(f"{k}.scale", op.scale)}


def senders_of(about: Any, C: int, reader: Any) -> Senders | None:
    """Those of an operation of C channels; ``reader`` reads tensors and refuses what is wrong."""
    if about is None:
        return None
    exponents, limit = about["exponents"], reader.tensor(about["limit"], lambda values: not bool(values.isnan().any()))
    whole = isinstance(exponents, int) and not isinstance(exponents, bool)
    reader.need(whole and 1 <= exponents <= MOST_EXPONENTS, f"exponents {exponents!r} are not 1 to {MOST_EXPONENTS}")
    reader.need(isinstance(about["rectifies"], bool), "rectifies is neither true nor false")
    reader.need(limit.shape == (C,), "a limit has another size")
    return Senders(exponents, 0.0 if about["rectifies"] else -math.inf, limit)


def problem(plan: Plan) -> str | None:
    """Why a plan whose operations are sound by themselves is no such network; None: it is one, or has none of it."""
    if not any(op.kind in (*ENDS, Kind.SEND, Kind.SEND_MAXIMA) for op in plan.operations):
        return None
    if plan.precision is not None or not plan.real:
        return "a network of sigma-delta neurons has no precision, and takes values"
    for k, op in enumerate(plan.operations):
        if op.kind not in KINDS:
            return f"operation {op.kind!r} is none of sigma-delta neurons"
        if (op.kind == Kind.CHANGES) != (k == 0) or (op.kind == Kind.SUM) != (op is plan.last):
            return "it does not begin with what its input changes by, and end in what its outputs add up to"
        if any((window.slot == 0) != (k == 0) for window in op.windows):
            return "an operation reads the input"
        if why := _problem_of(plan, op):
            return why
    if not any(op.kind == Kind.SEND for op in plan.operations):
        return "it has no neurons"
    return None


def _problem_of(plan: Plan, op: Operation) -> str | None:
    if op.kind in ENDS and op.image != plan.source(op.windows[0]):
        return "what changes has another size"
    if (op.kind == Kind.SUM) != (op.scale is not None) or (op.scale is not None and len(op.scale) != op.image[0]):
        return "a scale is missing, or has another size"
    if op.senders is not None and op.kind not in (Kind.SEND, Kind.SEND_MAXIMA):
        return f"operation {op.kind!r} has neurons"
    if op.kind == Kind.SEND_MAXIMA and op.windows[0].dilation != (1, 1):
        return "a pooling is dilated"
    if any(window.bias is not None and (op.kind != Kind.SEND or window.weight is None) for window in op.windows):
        return "a bias has no weights"
    reads_values = any(plan.is_real(window) for window in op.windows)
    if op.kind in (Kind.SEND, Kind.SEND_MAXIMA):
        gives_values = op.senders is None
    elif op.kind in (Kind.MOVE, Kind.UNFLATTEN):
        gives_values = op.real or reads_values  # codes may become values
    else:
        gives_values = op.kind != Kind.FLATTEN or reads_values
    return None if op.real == gives_values else f"operation {op.name!r} gives other values than it says"
