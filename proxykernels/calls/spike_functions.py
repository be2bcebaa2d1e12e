"""The functions of torch that take Spikes: what a network's own forward pass computes between its layers.

Sums and differences are float32 tensors. A product with a positive number, a concatenation of channels and another
shape of each sample stay packed.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..spikes import Spikes
from ..spikes.spikes import FUNCTIONS, no_tensor
from . import spike_ops


def dense(x: Any) -> Any:
    return x.dense() if isinstance(x, Spikes) else x


def _on_values(function: Callable) -> Callable:
    """A function of torch on the values of spikes."""

    def on_values(*given, **options):
        return function(*map(dense, given), **options)

    return on_values


def _times(x: Any, factor: Any) -> Spikes | Tensor:
    if not isinstance(x, Spikes):
        x, factor = factor, x
    return _scaled(x, factor) if _is_factor(factor) else torch.mul(dense(x), dense(factor))


def _over(x: Any, divisor: Any) -> Spikes | Tensor:
    if isinstance(x, Spikes) and _is_factor(divisor):
        return _scaled(x, 1 / divisor)
    return torch.div(dense(x), dense(divisor))


def _is_factor(factor: Any) -> bool:
    """Whether spikes times that are spikes of another value."""
    return isinstance(factor, numbers.Real) and 0 < float(factor) < math.inf


def _scaled(x: Spikes, factor: float) -> Spikes:
    return Spikes(x._kept, x.shape, x.scale * float(factor), x._handle)


def _sum_of(x: Any, other: Any, *, alpha: float = 1) -> Spikes | Tensor:
    if isinstance(x, Spikes) and isinstance(other, numbers.Real) and other == 0:  # as sum([x, y]) begins
        return x
    return _with_terms(torch.add(dense(x), dense(other), alpha=alpha), x, other)


def _difference_of(x: Any, other: Any, *, alpha: float = 1) -> Tensor:
    return _with_terms(torch.sub(dense(x), dense(other), alpha=alpha), x, other)


def _with_terms(y: Tensor, *terms: Any) -> Tensor:
    """A sum that knows its terms if all of them are spikes of one shape."""
    spikes = [part for term in terms for part in terms_of(term)]
    if all(isinstance(part, Spikes) and part.shape == y.shape for part in spikes) and not y.is_inference():
        y._terms = y._version, spikes  # type: ignore[attr-defined]
    return y


def terms_of(x: Any) -> list:
    """The spikes that a tensor is the sum of, where that is known and nothing was written to it since; else itself."""
    version, spikes = getattr(x, "_terms", (None, [])) if isinstance(x, Tensor) else (None, [])
    return spikes if spikes and x._version == version else [x]


def cat(tensors: Sequence[Spikes | Tensor], dim: int = 0) -> Spikes | Tensor:
    """torch.cat: of Spikes that count the same, and along their channels, Spikes."""
    shapes = [tuple(part.shape) for part in tensors]
    rank = len(shapes[0])
    if dim not in (2, 2 - rank) or any(len(shape) != rank for shape in shapes):
        raise TypeError(
            f"torch's cat joins Spikes along their channels, dim=2, got dim={dim}; .dense() is a tensor that it joins "
            "along any"
        )
    if len({(*shape[:2], *shape[3:]) for shape in shapes}) > 1:
        raise ValueError(f"the inputs of torch.cat must have the same shape except for their channels, got {shapes}")
    return side_by_side(tensors)


def side_by_side(parts: Sequence[Spikes | Tensor]) -> Spikes | Tensor:
    """Concatenates inputs along their channels. Spikes become float32 tensors if mixed with tensors or other scales."""
    if len(parts) == 1:
        return parts[0]
    spikes = [part for part in parts if isinstance(part, Spikes)]
    if len(spikes) == len(parts) and len({part.scale for part in spikes}) == 1:
        return spike_ops.cat_channels(spikes)
    values = [part.dense() if isinstance(part, Spikes) else part for part in parts]
    if all(map(checks.is_repeated, values)):
        return checks.repeated(torch.cat([part[0] for part in values], 1), len(values[0]))
    return torch.cat(values, 2)


def _flatten(x: Spikes, start_dim: int = 0, end_dim: int = -1) -> Spikes:
    if start_dim not in (2, 2 - len(x.shape)) or end_dim not in (-1, len(x.shape) - 1):
        raise TypeError(no_tensor("flatten"))  # of which a module that knows no steps is the reason, mostly
    return spike_ops.flatten(x)


def _reshape(x: Spikes, *shape: Any) -> Spikes:
    """Spikes of samples of another shape."""
    wanted = [*shape[0]] if len(shape) == 1 and isinstance(shape[0], tuple | list | torch.Size) else [*shape]
    size = reshaped(tuple(x.shape), wanted)
    if size is None:
        raise TypeError(
            f"Spikes {x.shape} keep their steps and samples and cannot have the shape {wanted}; .dense() is a tensor "
            "that can"
        )
    if size == tuple(x.shape[2:]):
        return x
    flat = spike_ops.flatten(x)
    return flat if len(size) == 1 else spike_ops.rearrange(flat, lambda y: y.unflatten(2, size), (*x.shape[:2], *size))


def reshaped(shape: tuple[int, ...], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of a sample after a reshape of (T, N, ...) to ``wanted``; None: that mixes steps or samples."""
    T, N, *size = shape
    if len(wanted) < 3 or wanted[0] != T or wanted[1] != N:
        return None
    given = [n for n in wanted[2:] if n != -1]
    missing = len(wanted) - 2 - len(given)
    values, known = math.prod(size), math.prod(given)
    if missing > 1 or min(given, default=1) < 1 or values % known or (not missing and values != known):
        return None
    return tuple(values // known if n == -1 else n for n in wanted[2:])


FUNCTIONS |= {
    torch.add: _sum_of, Tensor.add: _sum_of, Tensor.__add__: _sum_of, Tensor.__radd__: _sum_of,
    Tensor.__iadd__: _on_values(Tensor.__iadd__), Tensor.__isub__: _on_values(Tensor.__isub__),
    torch.sub: _difference_of, Tensor.sub: _difference_of, Tensor.__sub__: _difference_of,
    torch.rsub: _on_values(torch.rsub), Tensor.__rsub__: _on_values(torch.rsub),
    torch.mul: _times, Tensor.mul: _times, Tensor.__mul__: _times, Tensor.__rmul__: _times,
    torch.div: _over, Tensor.div: _over, Tensor.__truediv__: _over,
    torch.cat: cat, torch.concat: cat, torch.concatenate: cat,
    torch.flatten: _flatten, Tensor.flatten: _flatten,
    torch.reshape: _reshape, Tensor.reshape: _reshape, Tensor.view: _reshape,
}  # fmt: skip
