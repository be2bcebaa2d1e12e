"""What stands between layers of neurons, as operations: poolings, and what puts values elsewhere.

Each function takes the follower of follow.py, a module's path, the module, and what it is called with; the last one,
the whole plan.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import layers
from ..calls import window_checks
from ..kernels import heap
from ..kernels.table import Kind, Most
from ..layers.attention import may_multiply
from .followed_values import Value, refuse, refuse_shape
from .operations import Operation, Shape, Window, image_of
from .plan import Plan
from .quantize import quantized

_POOLS_1D = (layers.MaxPool1d, layers.AvgPool1d, layers.MaxRatePool1d, layers.RunningMaxPool1d)


def pool(follower, path: str, module: Any, x: Value) -> Value:
    maximum = isinstance(module, layers.MaxPool2d | layers.MaxPool1d)
    divisor = window_checks.divisor(getattr(module, "divisor_override", None))
    if abs(divisor) >= Most.SIZE:
        refuse(path, module, f"divisor_override {divisor}; it must be below {Most.SIZE}")
    window, shape = pooling(path, module, x)
    operation = Operation(
        Kind.MAX_POOL if maximum else Kind.AVERAGE_POOL, path, (window,), shape, x.real or not maximum,
        divisor=divisor, count_padding=getattr(module, "count_include_pad", True),
    )  # fmt: skip
    return follower.append(operation)


def sum_pool(follower, path: str, module: Any, x: Value) -> Value:
    rates = isinstance(module, layers.MaxRatePool2d | layers.MaxRatePool1d)
    if rates and x.real:
        refuse(path, module, "its input holds values, and not spikes, which are bool or Spikes")
    if follower.plan.precision is not None:
        quantized(path, module, follower.plan.precision)  # refuses what simulate refuses
    window, shape = pooling(path, module, x)
    kind = Kind.MAX_RATE_POOL if rates else Kind.RUNNING_MAX_POOL
    return follower.append(Operation(kind, path, (window,), shape, not rates))


def adaptive_pool(follower, path: str, module: Any, x: Value) -> Value:
    one_axis = isinstance(module, layers.AdaptiveAvgPool1d)
    if len(x.shape) != (2 if one_axis else 3):
        refuse_shape(path, module, x)
    size = module.output_of(x.shape[1:])
    if size == x.shape[1:]:
        return x
    shape = (x.shape[0], *size)
    return follower.append(Operation(Kind.AVERAGE_POOL, path, (Window(x.slot),), shape, True, adaptive=True))


def voting(follower, path: str, module: Any, x: Value) -> Value:
    """The mean of neighbouring features: of an image of one channel and one row."""
    x = follower.flattened(x, path)
    voters = window_checks.single("voters", module.voters, 1)
    if len(x.shape) != 1 or x.shape[0] % voters:
        refuse_shape(path, module, x)
    classes, window = x.shape[0] // voters, (1, voters)
    row = follower.append(Operation(Kind.UNFLATTEN, path, (Window(x.slot),), (1, *x.shape), x.real))
    mean = follower.append(Operation(Kind.AVERAGE_POOL, path, (Window(row.slot, window, window),), (1, classes), True))
    return follower.append(Operation(Kind.FLATTEN, path, (Window(mean.slot),), (classes,), True))


def check_unflatten(path: str, module: Any, x: Value) -> None:
    """Refuse features that are not as many as an image has values."""
    if len(x.shape) != 1 or prod(module.size) != x.shape[0]:
        refuse_shape(path, module, x)


def unflatten(follower, path: str, module: Any, x: Value) -> Value:
    size = module.size
    check_unflatten(path, module, x)
    if follower.image(x) == image_of(size):  # as it lies
        return replace(x, shape=size, flat=False)
    x = follower.flattened(x, path)
    return follower.append(Operation(Kind.UNFLATTEN, path, (Window(x.slot),), size, x.real))


def concatenate(follower, path: str, module: Any, x: Value | tuple[Value, ...]) -> Value:
    parts = [follower.flattened(part, path) for part in (x if isinstance(x, tuple) else (x,))]
    shapes = [part.shape for part in parts]
    if len(parts) > Most.MOVED:
        refuse(path, module, f"{len(parts)} inputs; at most {Most.MOVED} are taken")
    if len({shape[1:] for shape in shapes}) > 1:
        refuse(path, module, f"its inputs have the shapes {shapes}")
    shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    windows = tuple(Window(part.slot) for part in parts)
    return follower.append(Operation(Kind.MOVE, path, windows, shape, any(part.real for part in parts)))


def channels(follower, path: str, module: Any, x: Value) -> Value:
    x = follower.flattened(x, path)
    index = module.index.cpu().clamp(min=-1)  # as it is now: somebody may have written to it
    needed = int(index.max()) + 1
    if x.shape[0] < needed:
        refuse(path, module, f"it needs {needed} channels, and its input has {x.shape[0]}")
    shape = (len(index), *x.shape[1:])
    return follower.append(Operation(Kind.MOVE, path, (Window(x.slot),), shape, x.real, channels=index))


def attention(follower, path: str, module: Any, x: Value) -> Value:
    x = follower.flattened(x, path)
    if x.shape[0] % (3 * module.heads):
        refuse_shape(path, module, x)
    shape = (x.shape[0] // 3, *x.shape[1:])
    return follower.append(Operation(Kind.ATTENTION, path, (Window(x.slot),), shape, True, heads=module.heads))


def multiply(follower, path: str, module: Any, x: Value | tuple[Value, ...]) -> Value:
    if not isinstance(x, tuple) or len(x) != 2:
        refuse(path, module, "it takes two inputs")
    first, second = (follower.flattened(part, path) for part in x)
    if not may_multiply(first.shape, second.shape):
        refuse(path, module, f"its inputs have the shapes {first.shape} and {second.shape}")
    windows = Window(first.slot), Window(second.slot)
    return follower.append(Operation(Kind.MULTIPLY, path, windows, first.shape, first.real or second.real))


def pixels(follower, path: str, module: Any, x: Value) -> Value:
    x = follower.flattened(x, path)
    count, known = prod(x.shape[1:]), prod(n for n in module.size if n != -1)
    if len(x.shape) < 2 or count % known or (-1 not in module.size and count != known):
        refuse_shape(path, module, x)
    shape = (x.shape[0], *(count // known if n == -1 else n for n in module.size))
    if image_of(shape) == follower.image(x):
        return replace(x, shape=shape)
    places = torch.arange(count, device=heap.CPU)
    return follower.append(Operation(Kind.MOVE, path, (Window(x.slot),), shape, x.real, pixels=places))


def delay(follower, path: str, module: Any, x: Value) -> Value:
    x = follower.flattened(x, path)
    delays = module.of_channels(x.shape[0])
    if delays.min() < 0:
        refuse(path, module, f"a delay of {int(delays.min())} steps")
    if delays.max() > Most.DELAY:
        refuse(path, module, f"a delay of {int(delays.max())} steps; at most {Most.DELAY} are taken")
    return follower.append(Operation(Kind.DELAY, path, (Window(x.slot),), x.shape, x.real, delays=delays))


def moved_pixels(follower, path: str, module: Any, x: Value) -> Value:
    """Zeros around and between pixels, and larger images."""
    if len(x.shape) != 3:
        refuse_shape(path, module, x)
    C, height, width = x.shape
    places = torch.arange(1, height * width + 1, dtype=torch.float64, device=heap.CPU).view(1, 1, height, width)
    if isinstance(module, layers.ZeroPad2d):
        moved = module._pad(places)
    elif module.mode.startswith("nearest"):
        moved = nn.Upsample.forward(module, places)
    else:
        refuse(path, module, f"mode {module.mode!r}, which interpolates")
    pixels = moved.long().flatten() - 1
    shape = (C, *moved.shape[2:])
    return follower.append(Operation(Kind.MOVE, path, (Window(x.slot),), shape, x.real, pixels=pixels))


def pooling(path: str, module: Any, x: Value) -> tuple[Window, Shape]:
    """The window of a pooling, and the shape of what it gives."""
    one_axis = isinstance(module, _POOLS_1D)
    if len(x.shape) != (2 if one_axis else 3):
        refuse_shape(path, module, x)
    size, step, pad = module.kernel_size, module.kernel_size if module.stride is None else module.stride, module.padding
    if one_axis:  # as an image of one row
        size, step = (1, window_checks.single("kernel_size", size, 1)), (1, window_checks.single("stride", step, 1))
        pad = 0, window_checks.single("padding", pad, 0)
    kernel, stride, padding = window_checks.pooling(size, step, pad)
    if prod(kernel) > Most.INPUTS:
        refuse(path, module, f"a window of {prod(kernel)} pixels; at most {Most.INPUTS} are taken")
    C, *image = image_of(x.shape)
    out = [_outputs(*axis, module.ceil_mode) for axis in zip(image, kernel, stride, padding, strict=True)]
    return Window(x.slot, kernel, stride, padding), (C, out[1]) if one_axis else (C, *out)


def _outputs(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Windows of a pooling along one axis."""
    rest = n + 2 * padding - kernel
    windows = (-(-rest // stride) if ceil_mode else rest // stride) + 1
    if ceil_mode and (windows - 1) * stride >= n + padding:  # it would lie only in the padding
        windows -= 1
    if windows < 1:
        raise ValueError(f"a pooling window of {kernel} is larger than its input of {n} padded by {padding}")
    return windows


# Each kind of module -> the function that follows it.
KINDS: dict[type[nn.Module], Callable[..., Value]] = {
    layers.MaxPool2d: pool,
    layers.MaxPool1d: pool,
    layers.AvgPool2d: pool,
    layers.AvgPool1d: pool,
    layers.AdaptiveAvgPool2d: adaptive_pool,
    layers.AdaptiveAvgPool1d: adaptive_pool,
    layers.MaxRatePool2d: sum_pool,
    layers.MaxRatePool1d: sum_pool,
    layers.RunningMaxPool2d: sum_pool,
    layers.Voting: voting,
    layers.Delay: delay,
    layers.Unflatten: unflatten,
    layers.Concatenate: concatenate,
    layers.Channels: channels,
    layers.ZeroPad2d: moved_pixels,
    layers.Upsample: moved_pixels,
    layers.Pixels: pixels,
    layers.Attention: attention,
    layers.Multiply: multiply,
}


# Averages of spikes become part of the weights behind them, where they have no fewer pixels: VGG's, of small images. A
# mean is a product with a matrix of its own. So both are one product with other weights, of the spikes themselves,
# which adds few of them; what takes the averages multiplies all of them, which are real values, at every step. What is
# counted is the network as it is written, with its averages: so a run by layers counts the same.


def without_averages(plan: Plan) -> Plan:
    """A plan that computes the same with such averages left out."""
    readers = Counter(window.slot for op in plan.operations for window in op.windows)
    left_out = {
        window.slot
        for op in plan.operations
        if op.kind == Kind.FIRE and len(op.windows) == 1
        for window in op.windows
        if readers[window.slot] == 1 and _can_be_merged(plan, window)
    }
    slots = [0]  # the new number of each
    for slot in range(1, len(plan.operations) + 1):
        slots.append(slots[-1] + (slot not in left_out))

    def renumbered(window: Window) -> Window:
        window = _merged(plan, window) if window.slot in left_out else window
        return replace(window, slot=slots[window.slot])

    operations = [
        replace(op, windows=tuple(map(renumbered, op.windows)))
        for slot, op in enumerate(plan.operations, 1)
        if slot not in left_out
    ]
    return replace(plan, operations=operations)


def _can_be_merged(plan: Plan, window: Window) -> bool:
    """Whether weights for all pixels of an average of spikes can be weights for the spikes, and no more than before.

    Not those of the input: it may be values in one run, and spikes in another of the same engine.
    """
    if window.weight is None or window.groups != 1 or not window.slot:
        return False
    pool = plan.operations[window.slot - 1]
    whole = (window.kernel, window.padding, window.dilation) == (pool.image[1:], (0, 0), (1, 1))
    if pool.kind != Kind.AVERAGE_POOL or not whole:
        return False
    (of_pool,) = pool.windows
    few = prod(plan.source(of_pool)[1:]) <= prod(pool.image[1:])
    return few and of_pool.slot > 0 and not plan.is_real(of_pool)


def _merged(plan: Plan, window: Window) -> Window:
    """The window that reads the spikes instead of their average."""
    pool = plan.operations[window.slot - 1]
    (of_pool,), weight = pool.windows, window.weight
    height, width = plan.source(of_pool)[1:]
    assert weight is not None
    merged = weight.flatten(2) @ _means(pool, height, width)
    weights = merged.unflatten(2, (height, width))
    return Window(of_pool.slot, (height, width), weight=weights, averages=prod(weight.shape[1:]))


def _means(pool: Operation, height: int, width: int) -> Tensor:
    """What an average computes of an image of one channel, [outputs, inputs]."""
    (window,), size = pool.windows, pool.image[1:]
    pixels = torch.eye(height * width, dtype=torch.float32, device=heap.CPU).view(-1, 1, height, width)
    if pool.adaptive:
        return F.adaptive_avg_pool2d(pixels, size).flatten(1).t()
    means = (
        F.avg_pool2d(
            pixels, window.kernel, window.stride, window.padding, ceil_mode, pool.count_padding, pool.divisor or None
        )
        for ceil_mode in (False, True)
    )
    return next(found for found in means if found.shape[2:] == size).flatten(1).t()
