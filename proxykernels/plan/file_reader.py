"""Takes the description of a plan in a file apart, and looks at all of it: the library looks at nothing."""

from collections.abc import Callable
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor

from ..kernels.neurons import MODELS
from ..kernels.rounding import PRECISIONS
from ..kernels.weight_layouts import is_finite as can_be_summed
from . import change_file
from .followed_values import MOST, MOST_DELAY, MOST_INPUTS, MOST_MOVED, MOST_WINDOWS
from .operations import Kind, Operation, PlannedNeurons, Window, image_of
from .plan import MOST_GROWTH, Plan


class Damaged(Exception):
    """What is in a file is no plan's."""


class Reader:
    """Of a file with these tensors."""

    def __init__(self, tensors: dict[str, Tensor]):
        self._tensors, self._unread = tensors, set(tensors)

    def plan(self, about: Any) -> Plan:
        precision = about["precision"]
        _need(precision is None or precision in PRECISIONS, f"precision {precision!r} is not known")
        plan = Plan(self._shape(about["shape"]), _bool(about["real"]), precision)
        _need(isinstance(about["operations"], list) and about["operations"], "it has no operations")
        for k, operation in enumerate(about["operations"]):
            plan.operations.append(self._operation(plan, k, operation))
        _need(plan.is_moderate, f"its layers give more than {MOST_GROWTH} times the values that they are made of")
        if problem := change_file.problem(plan):
            raise Damaged(problem)
        last = plan.last
        if not plan.changes:
            _need(any(op.neurons for op in plan.operations), "it has no neurons")
            _need(not last.real or (last.neurons is not None and not last.neurons.fires), "it ends in values")
        _need(not self._unread, f"tensors that nothing uses: {sorted(self._unread)[:3]}")
        return plan

    def _shape(self, values: Any) -> tuple[int, ...]:
        _need(isinstance(values, list) and 1 <= len(values) <= 3, f"shape {values} has no one to three sizes")
        shape = tuple(_int("size", v, 1) for v in values)
        _need(prod(shape) < MOST, f"shape {values} is too large")
        return shape

    def _operation(self, plan: Plan, k: int, about: Any) -> Operation:
        name = about["name"]
        _need(about["kind"] in list(Kind), f"operation {about['kind']!r} is not known")
        kind = Kind(about["kind"])
        _need(isinstance(name, str), "an operation has no name")
        windows = about["windows"]
        most = {Kind.FIRE: MOST_WINDOWS, Kind.SEND: MOST_WINDOWS, Kind.MOVE: MOST_MOVED}.get(kind, 1)
        _need(isinstance(windows, list) and 1 <= len(windows) <= most, "too many windows, or none")
        shape = self._shape(about["shape"])
        adaptive = _bool(about["adaptive"])
        _need(not adaptive or kind == Kind.AVERAGE_POOL, "only an average is adaptive")
        made = tuple(self._window(plan, k, kind, image_of(shape), adaptive, window) for window in windows)
        neurons = self._neurons(about["neurons"], shape[0], kind) if kind in (Kind.FIRE, Kind.RECUR) else None
        moved = self._moves(plan, about, made, image_of(shape)) if kind == Kind.MOVE else {}
        recurs = kind == Kind.RECUR
        recurrent = self._recurrent(plan, about["recurrent"], made[0], shape, neurons) if recurs else None
        op = Operation(
            kind, name, made, shape, _bool(about["real"]), neurons, _int("divisor", about["divisor"], 1 - MOST),
            _bool(about["count_padding"]), adaptive, **moved, recurrent=recurrent,
            senders=change_file.senders_of(about.get("senders"), shape[0], self),
            scale=None if about.get("scale") is None else self.tensor(about["scale"], _is_finite),
            delays=self._delays(about["delays"], shape[0]) if kind == Kind.DELAY else None,
        )  # fmt: skip
        if kind in change_file.KINDS and (kind == Kind.CHANGES or (plan.operations and plan.changes)):
            return op  # change_file.problem looks at it
        reads_values = any(map(plan.is_real, made))
        expected = {
            Kind.FIRE: neurons is not None and not neurons.fires, Kind.AVERAGE_POOL: True, Kind.MAX_RATE_POOL: False,
            Kind.RUNNING_MAX_POOL: True, Kind.RECUR: False,
        }.get(kind, reads_values)  # fmt: skip
        _need(op.real == expected, f"operation {name!r} gives other values than it says")
        _need(kind != Kind.MAX_RATE_POOL or not reads_values, f"operation {name!r} reads values, and not spikes")
        return op

    def _recurrent(self, plan: Plan, name: Any, window: Window, shape: tuple[int, ...], neurons: Any) -> Tensor:
        weight, C = self.tensor(name), shape[0]
        _need(shape == (C,) and neurons.fires, "recurrent neurons are images, or never fire")
        _need(weight.shape in ((C, C), (C,)), f"a recurrent weight has the shape {list(weight.shape)}")
        source = plan.operations[window.slot - 1] if window.slot else None
        _need(source and source.neurons and source.neurons.forgets, "recurrent neurons read no currents")
        return weight

    def _moves(self, plan: Plan, about: Any, windows: tuple[Window, ...], out: tuple[int, int, int]) -> dict:
        images = [plan.source(window) for window in windows]
        _need(len({image[1:] for image in images}) == 1, "inputs differ in size")
        moved: dict[str, Tensor | None] = {}
        for name, there, here in (
            ("pixels", images[0][1] * images[0][2], out[1] * out[2]),
            ("channels", sum(image[0] for image in images), out[0]),
        ):
            moved[name] = tensor = self._index(about[name], here) if about[name] is not None else None
            if tensor is None:
                _need(there == here and (name == "channels" or images[0][1:] == out[1:]), f"{name} change their number")
            else:
                _need(-1 <= int(tensor.min()) and int(tensor.max()) < there, f"{name} lie outside of what is read")
        return moved

    def _window(
        self, plan: Plan, k: int, kind: Kind, out: tuple[int, int, int], adaptive: bool, about: Any
    ) -> Window:  # fmt: skip
        slot = _int("slot", about["slot"], 0)
        _need(slot <= k, "an operation reads what comes later")
        sizes = {}
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            values = about[name]
            _need(isinstance(values, list) and len(values) == 2, f"{name} {values} is no pair")
            sizes[name] = tuple(_int(name, v, least) for v in values)
        weight = self.tensor(about["weight"]) if about["weight"] is not None else None
        bias = None if about.get("bias") is None else self.tensor(about["bias"])
        _need(bias is None or bias.shape == (out[0],), "a bias has another size")
        window = Window(slot, **sizes, weight=weight, groups=_int("groups", about["groups"], 1), bias=bias)  # type: ignore[arg-type]
        C, *size = plan.source(window)
        if kind == Kind.FLATTEN:
            _need(out == (C * size[0] * size[1], 1, 1) and weight is None, "a flattening changes the size")
            return window
        if kind == Kind.UNFLATTEN:
            _need((C, *size) == (prod(out), 1, 1) and weight is None, "an unflattening changes the size")
            return window
        if kind in (*change_file.ENDS, Kind.DELAY):
            _need(window == Window(slot) and out == (C, *size), f"a {kind.value} has a window, or another size")
            return window
        if kind == Kind.RECUR:
            _need(window == Window(slot) and out == (C, *size), "recurrent neurons have a window, or another size")
            return window
        if kind == Kind.MOVE or adaptive:
            _need(window == Window(slot), "a move, or an adaptive average, has a window")
            _need(kind == Kind.MOVE or out[0] == C, "a pooling changes the channels")
            return window
        adds = kind in (Kind.FIRE, Kind.SEND)
        if adds and weight is None:
            _need(out == (C, *size) and window == Window(slot), "an input has another size than what it adds to")
            return window
        if weight is not None:
            _need(adds, "a pooling has weights")
            groups = window.groups
            _need(C % groups == 0 and out[0] % groups == 0, f"{groups} groups do not divide the channels")
            shape = out[0], C // groups, *window.kernel
            _need(weight.shape == shape, f"a weight has the shape {list(weight.shape)}")
            _need(prod(weight.shape[1:]) <= MOST_INPUTS, "a neuron has too many inputs")
        else:
            _need(out[0] == C and window.groups == 1, "a pooling changes the channels")
            _need(window.kernel[0] * window.kernel[1] <= MOST_INPUTS, "a window is too large")
        for axis in (0, 1):
            span = (window.kernel[axis] - 1) * window.dilation[axis] + 1
            n, padding, stride = size[axis], window.padding[axis], window.stride[axis]
            first_of_last = (out[1 + axis] - 1) * stride
            if adds:  # of zeros alone, if it lies in the padding
                uneven = int(stride == 1)  # padding "same" may have one pixel more at the end
                _need(-uneven <= n + 2 * padding - first_of_last - span < stride, "an image has another size")
            else:
                _need(first_of_last < n + padding, "a window lies outside of what it reads")
        return window

    def _neurons(self, about: Any, C: int, operation: Kind) -> PlannedNeurons:
        model = about["model"]
        _need(model in MODELS, f"neurons {model!r} are not known")
        kind, scalars = MODELS[model], about["scalars"]
        _need(isinstance(scalars, list) and len(scalars) == len(kind.scalars), f"{model} has other parameters")
        _need(all(map(_is_number, scalars)), "a parameter is no number")
        channels = self.tensor(about["channels"], _has_no_nan)
        bias, start = self.tensor(about["bias"]), self.tensor(about["start"], _is_finite)
        _need(channels.shape == (len(kind.channels), C), f"{model} has other parameters")
        _need(_is_finite(channels[1:]), "a parameter is no number")
        states = kind.states + int(operation == Kind.RECUR)  # its spikes
        _need(bias.shape == (C,) and start.shape == (states, C), "a bias or a state has another size")
        scale = self.tensor(about["scale"], _is_finite) if about["scale"] is not None else None
        integrates = model in ("SoftReset", "HardReset") and about["fires"] is True
        _need(scale is None or integrates, f"scale needs integrate-and-fire neurons, which fire; got {model}")
        _need(scale is None or scale.shape in ((), (C,)), "a scale has another size")
        limit = about["limit"]
        _need(limit is None or (_is_number(limit) and limit >= 0), f"limit {limit!r} is no number of at least 0")
        return PlannedNeurons(
            model, channels, tuple(map(float, scalars)), bias, start, _bool(about["fires"]), scale,
            _bool(about["rectifies"]), limit,
        )  # fmt: skip

    def _delays(self, name: Any, C: int) -> Tensor:
        delays = self._index(name, C)
        _need(0 <= int(delays.min()) and int(delays.max()) <= MOST_DELAY, "a delay is out of range")
        return delays

    def _index(self, name: Any, size: int) -> Tensor:
        tensor = self._named(name)
        _need(tensor.dtype == torch.int64 and tensor.shape == (size,), f"tensor {name} has another type or size")
        return tensor

    def need(self, true: Any, problem: str) -> None:
        _need(true, problem)

    def _named(self, name: Any) -> Tensor:
        _need(isinstance(name, str) and name in self._tensors, f"tensor {name!r} is missing")
        self._unread.discard(name)
        return self._tensors[name]

    def tensor(self, name: Any, is_sound: Callable[[Tensor], bool] = can_be_summed) -> Tensor:
        tensor = self._named(name)
        _need(tensor.dtype == torch.float32, f"tensor {name} is of {tensor.dtype}")
        _need(is_sound(tensor), f"tensor {name} holds NaN, infinite or too large values")
        return tensor


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _has_no_nan(tensor: Tensor) -> bool:
    return not bool(tensor.isnan().any())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _need(true: Any, problem: str) -> None:
    if not true:
        raise Damaged(problem)


def _int(name: str, value: Any, least: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    _need(whole and least <= value < MOST, f"{name} {value!r} is out of range")
    return value


def _bool(value: Any) -> bool:
    _need(isinstance(value, bool), f"{value!r} is neither true nor false")
    return value
