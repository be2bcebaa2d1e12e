"""A plan of its description in a file, and of the tensors there.

Little is looked at here: the C library's reader, kernels/cpu/c/read_plan.cpp, has looked at nearly all of it before.
"""

import math
from typing import Any

from torch import Tensor

from ..kernels.sigma_delta_codes import Senders
from ..kernels.table import NEURONS, OPERATION, SENDERS, WINDOW, Field, Kind
from .description import TENSORS
from .operations import Operation, PlannedNeurons, Window
from .plan import Plan


def plan_of(about: Any, tensors: dict[str, Tensor]) -> Plan:
    operations = [_operation(operation, tensors) for operation in about["operations"]]
    return Plan(tuple(about["shape"]), about["real"], about["precision"], operations, _range(about.get("calibrated")))


def _range(given: Any) -> tuple[float, float] | None:
    """The range of the calibration data, which the C library does not look at."""
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or not all(type(n) in (int, float) for n in given):
        raise ValueError("it is damaged: its calibration data have no range")
    return float(given[0]), float(given[1])


def _operation(about: Any, tensors: dict[str, Tensor]) -> Operation:
    kind, senders = Kind(about["kind"]), about.get("senders")
    windows = tuple(Window(**_fields(window, tensors, WINDOW)) for window in about["windows"])
    return Operation(
        kind, about["name"], windows, tuple(about["shape"]), **_fields(about, tensors, OPERATION, kind),
        neurons=_neurons(about["neurons"], tensors) if kind in (Kind.FIRE, Kind.RECUR) else None,
        senders=None if senders is None else _senders(**_fields(senders, tensors, SENDERS)),
    )  # fmt: skip


def _fields(
    about: Any, tensors: dict[str, Tensor], listed: tuple[Field, ...], kind: Kind | None = None
) -> dict[str, Any]:
    """The fields that are there; ``kind``: of the operation."""
    found = {}
    for field in listed:
        value = about.get(field.name)
        if value is None or (field.kinds and kind not in field.kinds):
            continue
        if field.type in TENSORS:
            value = tensors[value]
        found[field.name] = tuple(value) if field.type == "pair" else value
    return found


def _neurons(about: Any, tensors: dict[str, Tensor]) -> PlannedNeurons:
    return PlannedNeurons(
        about["model"], scalars=tuple(map(float, about["scalars"])), **_fields(about, tensors, NEURONS)
    )


def _senders(exponents: int, rectifies: bool, limit: Tensor) -> Senders:
    return Senders(exponents, 0.0 if rectifies else -math.inf, limit)
