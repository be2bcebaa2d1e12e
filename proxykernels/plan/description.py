"""A plan in JSON, beside the tensors that it names: what a file holds, and what the library is handed.

    a plan         {"shape": [...], "real": bool, "precision": null | name, "operations": [...]}; of a converted network
                   also "calibrated": [least, largest value of its calibration data]
    an operation   {"kind", "name", "shape", "windows": [...], "neurons": null | ..., and the fields of OPERATION}; of a
                   function of sums also "parameters": [2]
    a window       the fields of WINDOW
    the neurons    {"model", "scalars", and the fields of NEURONS}
    the senders    the fields of SENDERS; of operations in networks of sigma-delta neurons: "senders": null | ...

kernels/table.py lists the fields. Weights lie in their plain layout. The C library's reader,
kernels/cpu/c/read_plan.cpp, is the only one that checks any of it.
"""

import json
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..kernels.sigma_delta_codes import Senders
from ..kernels.table import NEURONS, OPERATION, SENDERS, WINDOW, Field, Kind, Most
from .operations import Operation, PlannedNeurons, Window
from .plan import Plan

TENSORS = "floats", "integers"  # types of fields
Put = Callable[[str, Tensor | None], str | None]  # names a tensor


def described(plan: Plan) -> tuple[str, dict[str, Tensor]]:
    """The text, and the tensors by their names, contiguous. Equal plans give equal texts."""
    tensors: dict[str, Tensor] = {}

    def put(name: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        tensors[name] = tensor.contiguous()
        return name

    operations = [_operation(plan, k, op, put) for k, op in enumerate(plan.operations)]
    about = {"shape": plan.shape, "real": plan.real, "precision": plan.precision, "operations": operations}
    if plan.calibrated is not None:
        about["calibrated"] = plan.calibrated
    return json.dumps(about, sort_keys=True), tensors


def _operation(plan: Plan, k: int, op: Operation, put: Put) -> dict[str, Any]:
    def fields(of: Any, listed: tuple[Field, ...], within: str = "") -> dict[str, Any]:
        """The fields of ``listed`` that are written; tensors are named after the operation and their place in it."""
        about = {}
        for field in listed:
            value = getattr(of, field.name)
            if field.written == "given" and (value is None or (field.type == "whole" and not value)):
                continue
            if field.written == "changes" and not plan.changes:
                continue
            about[field.name] = put(f"{k}.{within}{field.name}", value) if field.type in TENSORS else value
        return about

    neurons, senders = op.neurons, op.senders and _Senders(op.senders)
    return {
        "kind": op.kind, "name": op.name, "shape": op.shape, **fields(op, OPERATION),
        "windows": [fields(window, WINDOW, f"{i}.") for i, window in enumerate(op.windows)],
        "neurons": neurons and {"model": neurons.model, "scalars": neurons.scalars, **fields(neurons, NEURONS)},
        **({"senders": senders and fields(senders, SENDERS)} if plan.changes else {}),
        **({"parameters": op.parameters} if op.kind == Kind.FUNCTION else {}),
    }  # fmt: skip


class _Senders:
    """Senders by the names of their fields."""

    def __init__(self, senders: Senders):
        self.exponents, self.rectifies, self.limit = senders.exponents, senders.lowest == 0, senders.highest
        self.threshold = senders.threshold


def plan_of(about: Any, tensors: dict[str, Tensor]) -> Plan:
    """The plan of a description. It checks little: the C library's reader has checked nearly all of it before."""
    operations = [_operation_of(operation, tensors) for operation in about["operations"]]
    limits = about.get("calibrated")
    calibrated = None if limits is None else (float(limits[0]), float(limits[1]))
    return Plan(tuple(about["shape"]), about["real"], about["precision"], operations, calibrated)


def _operation_of(about: Any, tensors: dict[str, Tensor]) -> Operation:
    kind, senders = Kind(about["kind"]), about.get("senders")
    windows = tuple(Window(**_fields_of(window, tensors, WINDOW)) for window in about["windows"])
    return Operation(
        kind, about["name"], windows, tuple(about["shape"]), **_fields_of(about, tensors, OPERATION, kind),
        neurons=_neurons_of(about["neurons"], tensors) if kind in (Kind.FIRE, Kind.RECUR) else None,
        senders=None if senders is None else _senders_of(about.get("grid"), **_fields_of(senders, tensors, SENDERS)),
        parameters=tuple(map(float, about["parameters"])) if kind == Kind.FUNCTION else (0.0, 0.0),
    )  # fmt: skip


def _fields_of(
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


def _neurons_of(about: Any, tensors: dict[str, Tensor]) -> PlannedNeurons:
    return PlannedNeurons(
        about["model"], scalars=tuple(map(float, about["scalars"])), **_fields_of(about, tensors, NEURONS)
    )


def _senders_of(
    unit: float | None, exponents: int, rectifies: bool, limit: Tensor, threshold: float | None = None
) -> Senders:
    lowest = 0.0 if rectifies else -math.inf if unit is None else -Most.SIGNED_CODE * unit
    return Senders(exponents, lowest, limit, threshold, unit)
