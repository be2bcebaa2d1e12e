"""Calls that put values elsewhere and change none: views, permutations, slices, splits, channel shuffles.

They are followed by carrying out the same call on numbers: of each value the model sees, the place among those that a
layer gave. What layers bring the values there is asked when something else takes them.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from .. import layers

MODULES = (nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)
NAMES = frozenset(
    "view reshape flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis squeeze unsqueeze chunk "
    "split split_with_sizes tensor_split unbind getitem narrow select index_select flip roll rot90 channel_shuffle "
    "pixel_shuffle pixel_unshuffle native_channel_shuffle contiguous".split()
)


def is_move(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether a node only puts values elsewhere."""
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), MODULES)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in NAMES


def moved(node: fx.Node, traced: fx.GraphModule, view: Tensor) -> Any:
    """The result of a node's call on ``view``: a tensor, or a tuple of them."""

    def value(argument: fx.Node) -> Any:
        return view if argument is node.all_input_nodes[0] else argument.meta["value"]

    arguments, options = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    target: Any = node.target
    if node.op == "call_module":
        return traced.get_submodule(target)(*arguments, **options)
    if node.op == "call_method":
        return getattr(arguments[0], target)(*arguments[1:], **options)
    return target(*arguments, **options)


def as_given(shape: tuple[int, ...]) -> Tensor:
    """The view of one sample's values as they are: int64 of ``shape`` [1, ...]."""
    return torch.arange(torch.Size(shape).numel()).view(shape)


def layers_to(view: Tensor, shape: tuple[int, ...]) -> list[nn.Module]:
    """The layers that give what ``view`` [1, ...] shows of values of ``shape`` [1, C, ...]; none if it is the same.

    Raises:
        ValueError: it shows something else than one sample, or has too many axes.
    """
    wanted, size = tuple(view.shape[1:]), tuple(shape[2:])
    if view.shape[:1] != (1,) or len(wanted) not in (1, 2, 3):
        raise ValueError(
            f"gives {list(view.shape)} of one sample [1, ...], where another module takes it; known are [1, C, H, W], "
            "[1, C, L] and [1, C]"
        )
    order, pixels = view.flatten(), torch.Size(size).numel()
    starts = order[::pixels]
    whole = len(order) == len(starts) * pixels and torch.equal(
        order.view(-1, pixels), starts[:, None] + torch.arange(pixels)
    )
    if whole and not (starts % pixels).any():  # images of whole channels
        channels = starts // pixels
        parts: list[nn.Module] = [] if torch.equal(channels, torch.arange(shape[1])) else [layers.Channels(channels)]
        if wanted[1:] == size:
            return parts
        parts += [layers.Flatten()] if size else []
    else:
        parts = [*([layers.Flatten()] if size else []), layers.Channels(order)]
    return [*parts, *([layers.Unflatten(wanted)] if len(wanted) > 1 else [])]
