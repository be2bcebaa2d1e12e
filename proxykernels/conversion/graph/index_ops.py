"""Calls that put values elsewhere and change none: views, permutations, slices, splits, channel shuffles, padding.

They are followed by carrying out the same call on numbers: of each value the model sees, the place among those that a
layer gave, or that it is a zero of padding. What layers bring the values there is asked when something else takes them.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import layers
from ...kernels import heap
from .sample_runs import constant_of

NOTHING = -1  # the place of a zero
MOST = 1 << 15  # values along an axis that Unflatten makes
PADS = (
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d,
    nn.CircularPad2d,
)  # fmt: skip
MODULES = (nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle, *PADS)
NAMES = frozenset(
    "view view_as reshape reshape_as flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis squeeze "
    "unsqueeze chunk split split_with_sizes tensor_split unbind getitem narrow select index_select flip roll rot90 "
    "channel_shuffle pixel_shuffle pixel_unshuffle native_channel_shuffle contiguous expand expand_as broadcast_to "
    "repeat repeat_interleave tile clone detach".split()
)


def is_move(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether a node only puts values elsewhere, and zeros around them where no layer does."""
    if node.op == "call_module":
        module: Any = traced.get_submodule(str(node.target))
        if isinstance(module, nn.ConstantPad1d | nn.ConstantPad2d):
            return module.value == 0 and not _is_zero_pad2d(node, module.padding)
        if isinstance(module, nn.Flatten):  # others than the usual, for which there is a layer
            return (module.start_dim, module.end_dim) not in ((1, -1), (1, 3))
        if isinstance(module, nn.Upsample):
            return module.mode.startswith("nearest") and len(node.meta.get("shape", ())) != 4
        return isinstance(module, MODULES) or (is_of_einops(module) and type(module).__name__ == "Rearrange")
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "pad":
        pad, mode, value = _given(node, ("pad", "mode", "value"), (None, "constant", None))
        return mode != "constant" or (not value and not _is_zero_pad2d(node, pad))
    if name == "interpolate":
        (mode,) = _given(node, ("mode",), ("nearest",))
        return str(mode).startswith("nearest") and len(node.meta["shape"]) != 4
    return name in NAMES


def is_of_einops(module: nn.Module) -> bool:
    """Whether it is one of einops's layers, whose forward passes torch.fx cannot follow."""
    return type(module).__module__.startswith("einops.")


def _given(node: fx.Node, names: tuple[str, ...], defaults: tuple) -> list[Any]:
    """Arguments of a function behind its first one, by position or by name."""
    by_name = dict(zip(names, defaults, strict=True)) | dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    return [by_name[name] for name in names]


def _is_zero_pad2d(node: fx.Node, pad: Any) -> bool:
    """Whether :class:`ZeroPad2d` puts these zeros around images."""
    numbers = [constant_of(n) for n in pad]
    return len(node.meta.get("shape", ())) == 4 and len(numbers) <= 4 and min(numbers) >= 0


def moved(node: fx.Node, traced: fx.GraphModule, view: Tensor) -> Any:
    """The result of a node's call on ``view``: a tensor, or a tuple of them."""
    first = node.all_input_nodes[0]
    numbers = (view + 1).double()  # padding is 0, which is no value's number; some calls take only floats

    def value(argument: fx.Node) -> Any:
        if argument is first:
            return numbers
        known = constant_of(argument)
        return heap.empty(*argument.meta["shape"]) if known is argument else known  # its shape is asked

    arguments, options = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    target: Any = node.target
    if node.op == "call_module":
        result = traced.get_submodule(target)(*arguments, **options)
    elif node.op == "call_method":
        result = getattr(arguments[0], target)(*arguments[1:], **options)
    else:
        result = target(*arguments, **options)
    return tuple(map(_places, result)) if isinstance(result, tuple | list) else _places(result)


def _places(numbers: Tensor) -> Tensor:
    return numbers.long() - 1


def as_given(shape: tuple[int, ...]) -> Tensor:
    """The identity view: int64 indices of ``shape`` [N, ...]."""
    return torch.arange(torch.Size(shape).numel(), device=heap.CPU).view(shape)


def of_samples(view: Tensor, N: int, features: int) -> Tensor:
    """The view of ``N`` samples of this many values each, from that of the first one, [1, ...]."""
    starts = features * torch.arange(N, device=heap.CPU).view(-1, *[1] * (view.ndim - 1))
    return torch.where(view < 0, NOTHING, view + starts)


def keeps_samples(view: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether ``view`` [N, ...] shows of each sample of values of ``shape`` the same places, and no other sample's."""
    return len(view) == shape[0] and torch.equal(view, of_samples(view[:1], len(view), torch.Size(shape[1:]).numel()))


def layers_to(view: Tensor, shape: tuple[int, ...]) -> list[nn.Module]:
    """The layers that give what ``view`` [N, ...] shows of values of ``shape`` [N, C, ...]; none if it is the same.

    Raises:
        ValueError: a sample is made of others' values, or has too many axes.
    """
    wanted, size = tuple(view.shape[1:]), tuple(shape[2:])
    if len(wanted) not in (1, 2, 3):
        raise ValueError(
            f"gives {named(view.shape)} where another module takes it; known are [N, C, H, W], [N, C, L] and [N, C]"
        )
    if not keeps_samples(view, shape):
        raise ValueError(f"gives {list(view.shape)} of {shape[0]} samples, mixing or dropping some; keep [N, ...]")
    order, pixels = view[0].flatten(), torch.Size(size).numel()
    starts = order[::pixels]
    images = torch.where(starts[:, None] < 0, NOTHING, starts[:, None] + torch.arange(pixels, device=heap.CPU))
    whole = len(order) == len(starts) * pixels and torch.equal(order.view(-1, pixels), images)
    if whole and not (starts % pixels)[starts >= 0].any():  # images of whole channels
        channels = torch.where(starts < 0, NOTHING, starts // pixels)
        parts: list[nn.Module] = (
            [] if torch.equal(channels, torch.arange(shape[1], device=heap.CPU)) else [layers.Channels(channels)]
        )
        if wanted[1:] == size:
            return parts
        parts += [layers.Flatten()] if size else []
    else:
        parts = [*([layers.Flatten()] if size else []), layers.Channels(order)]
    if len(wanted) > 1 and max(wanted) > MOST:
        raise ValueError(f"gives {named(view.shape)}; an axis of rearranged values may have at most {MOST:,}")
    return [*parts, *([layers.Unflatten(wanted)] if len(wanted) > 1 else [])]


def named(shape: tuple[int, ...]) -> str:
    """A shape for messages; its first axis is the samples."""
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"
