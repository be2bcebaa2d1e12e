"""A plan of its description in a file, and of the tensors there.

Little is looked at here: the C library's reader, kernels/cpu/c/read_plan.cpp, has looked at nearly all of it before.
"""

import math
from typing import Any

from torch import Tensor

from ..kernels.sigma_delta_codes import Senders
from ..kernels.table import Kind
from .operations import Operation, PlannedNeurons, Window
from .plan import Plan

SIZES = "kernel", "stride", "padding", "dilation"


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

    def named(key: str, *kinds: Kind) -> Tensor | None:
        """A tensor, of operations that have it."""
        return _tensor(tensors, about.get(key)) if not kinds or kind in kinds else None

    return Operation(
        kind, about["name"], tuple(_window(window, tensors) for window in about["windows"]), tuple(about["shape"]),
        about["real"], _neurons(about["neurons"], tensors) if kind in (Kind.FIRE, Kind.RECUR) else None,
        about["divisor"], about["count_padding"], about["adaptive"], named("pixels", Kind.MOVE),
        named("channels", Kind.MOVE), named("recurrent", Kind.RECUR),
        None if senders is None else _senders(senders, tensors), named("scale"), named("delays", Kind.DELAY),
    )  # fmt: skip


def _window(about: Any, tensors: dict[str, Tensor]) -> Window:
    sizes = {name: tuple(about[name]) for name in SIZES}
    weight, bias = (_tensor(tensors, about.get(name)) for name in ("weight", "bias"))
    averages = about.get("averages", 0)
    return Window(about["slot"], **sizes, weight=weight, groups=about["groups"], bias=bias, averages=averages)


def _neurons(about: Any, tensors: dict[str, Tensor]) -> PlannedNeurons:
    channels, bias, start = (tensors[about[name]] for name in ("channels", "bias", "start"))
    return PlannedNeurons(
        about["model"], channels, tuple(map(float, about["scalars"])), bias, start, about["fires"],
        _tensor(tensors, about["scale"]), about["rectifies"], about["limit"],
    )  # fmt: skip


def _senders(about: Any, tensors: dict[str, Tensor]) -> Senders:
    return Senders(about["exponents"], 0.0 if about["rectifies"] else -math.inf, tensors[about["limit"]])


def _tensor(tensors: dict[str, Tensor], name: str | None) -> Tensor | None:
    return None if name is None else tensors[name]
