"""Layers without neurons that move values: zeros around and between pixels, larger images, channels side by side or in
another order, features as images."""

import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..calls import spike_ops, window_checks
from ..spikes import Spikes
from ..spikes.spike_tensor import SpikeTensor, dense_like, keeps_packed, packed, view_of
from ..spikes.spikes import rearrange, side_by_side
from .base import each_step, each_step_of_spikes
from .keywords import taken_by_position


class ZeroPad2d(nn.ZeroPad2d):
    """Zero padding of every step's images, and zeros between their pixels. Spikes stay packed.

    Args:
        padding: as in nn.ZeroPad2d: a number, or (left, right, top, bottom); none below 0.
        spread: (a, b) puts a - 1 rows and b - 1 columns of zeros behind each pixel (default 1, 1: none). A transposed
            convolution with a stride is a convolution of an image that is spread by the stride.

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y (T, N, C, H_out, W_out), of the same kind.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value; x has another shape.
    """

    @taken_by_position
    def __init__(self, padding, *, spread: tuple[int, int] = (1, 1)):
        super().__init__(padding)
        if len(self.padding) != 4 or min(self.padding) < 0:
            raise ValueError(f"padding must be (left, right, top, bottom) of at least 0 pixels, got {padding}")
        self.spread = window_checks.pair("spread", spread, 1)

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:  # type: ignore[override]  # torch's gives tensors only
        checks.steps_of(x, 5, "(T, N, C, H, W)")
        return spike_ops.zero_pad2d(x, self.padding, self.spread) if isinstance(x, Spikes) else each_step(self._pad, x)

    def _pad(self, images: Tensor) -> Tensor:
        if self.spread != (1, 1):
            height, width = (step * (n - 1) + 1 for step, n in zip(self.spread, images.shape[2:], strict=True))
            spread = images.new_zeros(*images.shape[:2], height, width)
            spread[..., :: self.spread[0], :: self.spread[1]] = images
            images = spread
        return F.pad(images, self.padding)

    def extra_repr(self) -> str:
        return f"padding={self.padding}" + ("" if self.spread == (1, 1) else f", spread={self.spread}")


class Upsample(nn.Upsample):
    """Upsampling of every step's images. Spikes stay packed in the modes "nearest".

    Args: those of nn.Upsample.

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y (T, N, C, H_out, W_out), a float32 tensor for Spikes
    in the other modes.

    Raises:
        TypeError, ValueError: as nn.Upsample.
    """

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:  # type: ignore[override]  # torch's gives tensors only
        checks.steps_of(x, 5, "(T, N, C, H, W)")
        x = checks.frames(x)
        if isinstance(x, Spikes) and self.mode.startswith("nearest"):
            height, width = x.shape[3:]
            places = torch.arange(height * width, dtype=torch.float64, device=x.device).view(1, 1, height, width)
            source = super().forward(places)[0, 0].long()
            return x._at(source.flatten())._sized(*source.shape)
        return each_step_of_spikes(super().forward, x)


class Concatenate(nn.Module):
    """Concatenates several inputs along their channels.

    Shapes: the call takes a tuple of (T, N, C_k, ...), Spikes or tensors; y (T, N, sum of C_k, ...), Spikes if all are
    and count the same, else a tensor of torch.cat's type, for which Spikes are float32.

    Raises:
        TypeError, ValueError: x is no tuple, or its parts differ in more than their channels.
    """

    def forward(self, x: Sequence[Spikes | Tensor]) -> Spikes | Tensor:
        if not isinstance(x, tuple | list) or not x:
            raise TypeError(f"x must be a tuple of inputs (T, N, C, ...), got {type(x).__name__}")
        for part in x:
            checks.steps_of(part, None, "(T, N, C, ...)")
        shapes = [tuple(part.shape) for part in x]
        if len({(*shape[:2], *shape[3:]) for shape in shapes}) > 1:
            raise ValueError(f"the inputs must have the same shape except for their channels, got {shapes}")
        bits, tensor = [packed(part) for part in x], next((part for part in x if isinstance(part, Tensor)), None)
        if tensor is None or not all(isinstance(part, Spikes) for part in bits):
            return side_by_side(x)
        y = side_by_side(bits)
        types = (part.dtype if isinstance(part, Tensor) else torch.float32 for part in x)
        return dense_like(y, tensor, reduce(torch.promote_types, types)) if isinstance(y, Spikes) else side_by_side(x)


class Channels(nn.Module):
    """Selects channels of every step, in any order, also several times. Spikes stay packed.

    Args:
        index: the input channel of each output channel, or -1 for zeros; int64 [C_out]. A buffer that is not in the
            state_dict.

    Shapes: x (T, N, C, ...), Spikes or a tensor; y (T, N, C_out, ...), of the same kind.

    Raises:
        TypeError, ValueError: index is no such tensor, or names channels that x has not.
    """

    index: Tensor

    def __init__(self, index: Tensor):
        super().__init__()
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            raise TypeError(f"index must be a tensor of int64, got {getattr(index, 'dtype', type(index).__name__)}")
        if index.ndim != 1 or not len(index) or index.min() < -1:
            raise ValueError(
                f"index must have the shape [C_out], numbers of at least 0, or -1 for zeros, got {list(index.shape)}"
            )
        self.register_buffer("index", index.clone(), persistent=False)
        self.needed = int(index.max()) + 1
        self.has_zeros = bool((index < 0).any())

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, None, "(T, N, C, ...)")
        if x.shape[2] < self.needed:
            raise ValueError(f"x must have at least {self.needed} channels, which index names; got {list(x.shape)}")
        if isinstance(x, Spikes):
            shape = (*x.shape[:2], len(self.index), *x.shape[3:])
            return rearrange(x, lambda dense: self._select(dense, 2), shape)
        return each_step(lambda step: self._select(step, 1), x)

    def _select(self, x: Tensor, axis: int) -> Tensor:
        if not self.has_zeros:
            return x.index_select(axis, self.index)
        silent = self.index < 0
        shape = [-1 if d == axis else 1 for d in range(x.ndim)]
        selected = x.index_select(axis, self.index.clamp(min=0))
        return torch.where(silent.view(shape), selected.new_zeros(()), selected)  # masked_fill takes no uint16

    def extra_repr(self) -> str:
        return f"{self.needed} -> {len(self.index)}"


class Pixels(nn.Module):
    """Gives the pixels of every step another height and width, or one axis, as tokens have. Spikes stay packed.

    Args:
        size: the sizes behind the channels of the output, (H, W) or (L,); one of them may be -1, which fits.

    Shapes: x (T, N, C, ...), Spikes or a tensor; y (T, N, C, H, W) or (T, N, C, L), of the same kind.

    Raises:
        TypeError, ValueError: size is no such tuple, or x has another number of pixels.
    """

    def __init__(self, size: Sequence[int]):
        super().__init__()
        if not isinstance(size, tuple | list | torch.Size) or len(size) not in (1, 2):
            raise TypeError(f"size must be (H, W) or (L,), got {size!r}")
        self.size = tuple(-1 if n == -1 else window_checks.single("size", n, 1) for n in size)
        if self.size.count(-1) > 1:
            raise ValueError(f"size may be -1 along one axis only, got {size}")

    @keeps_packed
    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, None, "(T, N, C, ...)")
        pixels, known = math.prod(x.shape[3:]), math.prod(n for n in self.size if n != -1)
        if pixels % known or (-1 not in self.size and pixels != known):
            raise ValueError(f"x must have {known} pixels a channel to become {self.size}, got {list(x.shape)}")
        size = [pixels // known if n == -1 else n for n in self.size]
        return x._sized(*size) if isinstance(x, Spikes) else x.reshape(*x.shape[:3], *size)

    def extra_repr(self) -> str:
        return f"size={self.size}"


class Unflatten(nn.Module):
    """Reshapes the features of each sample to an image, the inverse of :class:`Flatten`. Spikes stay packed.

    Args:
        size: the shape of a sample of the output, (C, H, W) or (C, L).

    Shapes: x (T, N, features), Spikes or a tensor; y (T, N, C, H, W) or (T, N, C, L), of the same kind.

    Raises:
        TypeError, ValueError: size is no such tuple, or x has another number of features.
    """

    def __init__(self, size: Sequence[int]):
        super().__init__()
        if not isinstance(size, tuple | list | torch.Size) or len(size) not in (2, 3):
            raise TypeError(f"size must be (C, H, W) or (C, L), got {size!r}")
        self.size = tuple(window_checks.single("size", n, 1) for n in size)

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, 3, "(T, N, features)")
        if x.shape[2] != math.prod(self.size):
            raise ValueError(f"x must have {math.prod(self.size)} features to become {self.size}, got {list(x.shape)}")
        bits = packed(x)
        if isinstance(bits, Spikes):

            def view(dense: Tensor) -> Tensor:
                return dense.unflatten(2, self.size)

            spikes = rearrange(bits, view, (*x.shape[:2], *self.size))
            return view_of(x, spikes, view) if isinstance(x, SpikeTensor) else spikes
        return each_step(lambda step: step.unflatten(1, self.size), bits)

    def extra_repr(self) -> str:
        return f"size={self.size}"
