"""Products of what layers give, as spiking transformers have them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import checks
from ..calls import window_checks
from ..kernels import reference
from ..spikes import Spikes, pack
from .base import each_step_of_spikes


class Attention(nn.Module):
    """Attention without a softmax, ``(V K^T) Q`` of each head and step, as in Spikformer
    (Zhou et al. 2023, `arXiv:2209.15425 <https://arxiv.org/abs/2209.15425>`_).

    The product of spikes is a whole number. It has no weights; the layers around it have.

    Args:
        heads: the number of heads, each of which has the same number of neighbouring channels.

    Shapes: x (T, N, 3 C, ...), Spikes or a tensor: queries, keys and values side by side, and their tokens;
    y (T, N, C, ...), values.

    Raises:
        TypeError, ValueError: heads is no whole number above 0, or does not divide C; x has another shape.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = window_checks.single("heads", heads, 1)

    def forward(self, x: Spikes | Tensor) -> Tensor:
        checks.steps_of(x, None, "(T, N, 3 C, ...)")
        if x.shape[2] % (3 * self.heads):
            raise ValueError(
                f"x must have a multiple of {3 * self.heads} channels, for queries, keys and values of {self.heads} "
                f"heads; got the shape {list(x.shape)}"
            )
        return each_step_of_spikes(lambda step: reference.attention(step, self.heads), x)

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Multiply(nn.Module):
    """The product of two inputs at each step, value by value: of spikes, where both fire.

    Shapes: the call takes a tuple of x (T, N, C, ...) and y, each of whose channels counts for the same number of
    neighbouring channels of x; y has the tokens of x, or one for all. The product has the shape of x; it is Spikes for
    Spikes without a gradient, else values.

    Raises:
        TypeError, ValueError: the call takes something else.
    """

    def forward(self, inputs: Sequence[Spikes | Tensor]) -> Spikes | Tensor:
        if not isinstance(inputs, tuple | list) or len(inputs) != 2:
            raise TypeError(f"Multiply takes a tuple of two inputs, got {type(inputs).__name__}")
        for part in inputs:
            checks.steps_of(part, None, "(T, N, C, ...)")
        shapes = [tuple(part.shape) for part in inputs]
        if not may_multiply(shapes[0][2:], shapes[1][2:]) or shapes[0][:2] != shapes[1][:2]:
            raise ValueError(
                "the second input must have the steps and samples of the first, channels that divide the first one's, "
                f"and its tokens or a single one; got the shapes {shapes}"
            )
        bits = [part for part in inputs if isinstance(part, Spikes) and part.scale == 1]
        if len(bits) == 2 and not (torch.is_grad_enabled() and any(part.requires_grad for part in bits)):
            return pack(reference.product(*(part.dense(torch.bool) for part in bits)))  # bool needs no look at values
        return reference.product(*(part.dense() if isinstance(part, Spikes) else part for part in inputs))


def may_multiply(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a sample of the second shape multiplies one of the first."""
    tokens = tuple(other[1:]) in (tuple(shape[1:]), (1,) * (len(shape) - 1))
    return len(shape) == len(other) and other[0] > 0 and shape[0] % other[0] == 0 and tokens
