"""Packed spikes: one bit per spike, and the functions of torch that take them.

Sums and differences are float32 tensors. A product with a positive number, a concatenation of channels and another
shape of each sample stay packed.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..kernels import ops
from . import spike_autograd, storage
from .operators import Arithmetic, by_torch, no_tensor
from .storage import Periods, Words, pack_words

_unsafe_view = torch.ops.aten._unsafe_view.default
METHODS = "flatten", "reshape", "view"  # of a tensor, which are Spikes of Spikes
Output = TypeVar("Output", "Spikes", Tensor)
_COPY_STEPS = 256  # steps unpacked at a time when spikes move between devices of different layouts


class Spikes(Arithmetic):
    """Spikes of T steps and N samples, one bit per spike.

    Made by :func:`pack`, by layers and by the functions of this package. The layout of the bits depends on the device.

    A forward pass of a network's own may write ``x + y`` and ``x - y``, which are float32 tensors that all layers take;
    ``0.5 * x``, Spikes of another ``scale``; ``torch.cat([x, y], 2)``; ``x.flatten(2)``, and ``x.reshape(T, N, ...)``
    or ``x.view``.

    Attributes:
        shape: ``(T, N, C, H, W)``, ``(T, N, features)`` or any other ``(T, N, ...)``.
        scale: the value of a spike: 1, or another one after a :class:`Dropout` in training or a product with a number.
            The next layer multiplies its weights by it.
    """

    __slots__ = ("_handle", "_kept", "scale", "shape")

    def __init__(
        self,
        kept: Tensor | Words | Periods,
        shape: Sequence[int],
        scale: float = 1.0,
        handle: Tensor | None = None,
    ):
        """``handle``: the tensor that carries the gradient of the spikes (spike_autograd.py)."""
        self.shape, self.scale, self._handle = tuple(shape), scale, handle
        self._kept = Words(kept, self.shape[0]) if isinstance(kept, Tensor) else kept

    @property
    def _words(self) -> Tensor:
        return self._kept.words

    @property
    def T(self) -> int:
        """Number of time steps."""
        return self.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the bits are."""
        return self._kept.tensor.device

    @property
    def nbytes(self) -> int:
        """Memory in bytes: about one bit per spike (a CPU rounds the channels up to 8, a GPU T up to 32).

        Periodic spikes are stored as periods, two bytes per neuron, until their bits are needed. On a GPU, a
        convolution before max pooling stores the pooled spikes too.
        """
        return self._kept.nbytes

    @property
    def requires_grad(self) -> bool:
        """Whether the spikes carry a gradient, as those of layers with a surrogate derivative do
        (:func:`use_surrogate`)."""
        return self._handle is not None and self._handle.requires_grad

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The spikes as a tensor of the same shape, with the values 0 and ``scale`` (1 except after a Dropout).

        Differentiable if the spikes carry a gradient and ``dtype`` is floating point.

        Args:
            dtype: any; default float32.
        """
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, such as torch.float32, got {dtype!r}")
        if self._differentiable and dtype.is_floating_point:
            bits = spike_autograd.applied(spike_autograd.Dense, self._handle, self._words, self.shape, dtype)
            return bits.to(dtype) if self.scale == 1 else (bits * self.scale).to(dtype)
        return self._dense(dtype, ops)

    @property
    def values(self) -> Tensor:
        """What each neuron sends at each step, float32 (T, N, ...): :meth:`dense`."""
        return self.dense()

    def _dense(self, dtype: torch.dtype, kernels: Any) -> Tensor:
        """:meth:`dense` without a gradient; ``kernels``: what operators.direct returned, or ``ops``."""
        shape, kept, kind = self.shape, self._kept, dtype if self.scale == 1 else torch.bool
        bits = _unsafe_view(kernels.unpack(kept.words, shape[0], shape[2] if len(shape) > 2 else 1, kind), shape)
        return bits if self.scale == 1 else (bits * self.scale).to(dtype)

    def count(self, until: int | None = None) -> Tensor:
        """Number of spikes per neuron in the first ``until`` steps (default: all T), int32 [N, ...].

        If the spikes carry a gradient, the result is float32 and differentiable.

        Raises:
            TypeError, ValueError: ``until`` is not an integer within 0 .. T.
        """
        until = self.T if until is None else checked_until(until, self.T)
        if self._differentiable:
            return spike_autograd.Count.apply(self._handle, self._words, self.shape, until)
        return ops.count(self._words, self._channels, until).view(self.shape[1:])

    def rate(self) -> float:
        """Firing rate: spikes per neuron and step, from 0 to 1 (nan if there are no neurons)."""
        size = math.prod(self.shape)
        return int(self._total()) / size if size else math.nan

    def to(self, device: torch.device | str) -> "Spikes":
        """The same spikes on another device."""
        if not isinstance(device, torch.device | str | int):
            raise TypeError(
                f"device must be a torch.device or its name, such as 'cuda', got {device!r}; .dense(dtype) gives a "
                "tensor of any dtype"
            )
        device = torch.device(device)
        if self._differentiable and device != self.device:
            raise ValueError(f"spikes that carry a gradient stay on {self.device}; use .dense().to('{device}')")
        if device.type == self.device.type:
            return self._like(self._words.to(device), self.shape, self._handle)
        starts = range(0, self.T, _COPY_STEPS)
        parts = [self[t : t + _COPY_STEPS] for t in starts]
        words = [pack_words(part.dense(torch.bool).to(device)) for part in parts]
        return self._like(storage.cat(words, [part.T for part in parts]), self.shape)

    def __getitem__(self, steps: slice) -> "Spikes":
        """``spikes[a:b]``: the spikes of the steps a .. b - 1."""
        if not isinstance(steps, slice) or steps.step not in (None, 1):
            raise TypeError(
                f"Spikes are cut in time by a slice of step 1, such as spikes[0:16], and not iterated over; .dense() "
                f"is a tensor that takes any index; got {steps!r}"
            )
        start, stop, _ = steps.indices(self.T)
        if stop <= start:
            raise ValueError(f"spikes[{steps.start}:{steps.stop}] holds no step of T = {self.T}")
        handle = self._handle[start:stop] if self._handle is not None else None
        return self._like(self._kept.cut(start, stop), (stop - start, *self.shape[1:]), handle)

    def __len__(self) -> int:
        return self.T

    def __bool__(self) -> bool:
        raise TypeError("Spikes are neither true nor false; ask spikes.rate() > 0, or spikes is not None")

    def __eq__(self, other) -> bool:
        if not isinstance(other, Spikes | Tensor):
            return NotImplemented
        raise TypeError("Spikes are not compared by == or !=; use torch.equal(a.dense(), b.dense()), or a is b")

    __hash__ = object.__hash__

    def __array__(self, dtype=None, copy=None):
        """numpy.asarray(spikes): 0 and 1, float32 unless asked for otherwise."""
        array = self.dense().cpu().numpy()
        return array if dtype is None else array.astype(dtype)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        known = FUNCTIONS.get(function)
        if known is None:
            raise TypeError(no_tensor(getattr(function, "__name__", str(function))))
        return known(*args, **(kwargs or {}))

    def __getattr__(self, name: str):
        if hasattr(Tensor, name) and not name.startswith("_"):
            if name in METHODS:
                return partial(FUNCTIONS[getattr(Tensor, name)], self)
            raise _NoTensorError(no_tensor(name))
        raise AttributeError(f"'Spikes' object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"Spikes(shape={self.shape}, device='{self.device}')"

    def _total(self) -> Tensor:
        """The number of spikes, int64 without dimensions."""
        return self._kept.total()

    def _total_of_pixels(self) -> Tensor:
        """The number of spikes of each pixel, int64 [P]."""
        return self._kept.total_of_pixels()

    def _at(self, pixels: Tensor) -> "Spikes":
        """The spikes (T, N, C, p) of the pixels ``pixels``, int64 [p], with row-major indices."""
        handle = spike_autograd.Chosen.apply(self._handle, 2, pixels) if self._differentiable else None
        return self._like(self._kept.pixels(pixels), (*self.shape[:3], len(pixels)), handle)

    def _sized(self, *size: int) -> "Spikes":
        """The same spikes as images of another height and width with as many pixels."""
        return self._like(self._kept, (*self.shape[:3], *size), self._handle)

    def _of(self, neurons: Tensor, scale: float) -> "Spikes":
        """The spikes of the neurons ``neurons``, bool [N, ...], with their scale multiplied by ``scale``."""
        chosen = neurons.reshape(self.shape[1], self._channels, math.prod(self.shape[3:]))
        handle = spike_autograd.Masked.apply(self._handle, chosen) if self._differentiable else None
        return Spikes(self._kept.of_neurons(chosen), self.shape, self.scale * scale, handle)

    def _like(self, kept: Tensor | Words | Periods, shape: Sequence[int], handle: Tensor | None = None) -> "Spikes":
        """Other spikes with the same scale."""
        return Spikes(kept, shape, self.scale, handle)

    @property
    def _differentiable(self) -> bool:
        return self.requires_grad and torch.is_grad_enabled()

    def _handle_or_new(self) -> Tensor:
        """The handle, or one without a gradient."""
        if self._handle is not None:
            return self._handle
        size = (*self.shape[:2], math.prod(self.shape[3:]), self._channels)
        return spike_autograd.new_handle(size, self.device)

    @property
    def _channels(self) -> int:
        return self.shape[2] if len(self.shape) > 2 else 1


def checked_until(until: int, T: int) -> int:
    """A number of steps of T."""
    if not isinstance(until, numbers.Integral) or isinstance(until, bool):
        raise TypeError(f"until must be an integer number of steps, got {until!r}")
    if not 0 <= until <= T:
        raise ValueError(f"until must be within 0 .. T = {T}, got {until}")
    return int(until)


class _NoTensorError(AttributeError, TypeError):
    """An AttributeError, so that hasattr works; and a TypeError, for code that passes Spikes to a torch module."""


def flatten(x: Spikes) -> Spikes:
    """Spikes (T, N, C, H, W) as (T, N, C * H * W), in the order of torch.flatten."""
    T, N, *sizes = x.shape
    if len(sizes) < 2:
        return x
    words = ops.flatten(x._words, sizes[0])
    handle = spike_autograd.Flatten.apply(x._handle) if x._differentiable else None
    return x._like(words, (T, N, torch.Size(sizes).numel()), handle)


def rearrange(x: Spikes, move: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Spikes:
    """Spikes of ``shape`` (T, N, ...), selected from ``x``. ``move`` makes the selection on a dense tensor."""
    bits = move(ops.unpack(x._words, x.T, x._channels, torch.bool).view(x.shape))
    handle = None
    if x._differentiable:
        handle = spike_autograd.Pack.apply(
            move(spike_autograd.Dense.apply(x._handle, x._words, x.shape, torch.float32))
        )
    return x._like(pack_words(bits), shape, handle)


def cat_channels(parts: Sequence[Spikes]) -> Spikes:
    """Concatenates Spikes (T, N, C, ...) of the same T, N, size and scale along C."""
    T, N, _, *size = parts[0].shape
    C = [part.shape[2] for part in parts]
    words = storage.cat_channels([part._words for part in parts], T, C)
    return parts[0]._like(words, (T, N, sum(C), *size), spike_autograd.joined(3, parts))


def cat_steps(parts: Sequence[Output]) -> Output:
    """Concatenates Spikes (T_1, N, ...), (T_2, N, ...), ..., or potentials, in time."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    words = storage.cat([part._words for part in parts], [part.T for part in parts])
    return parts[0]._like(words, (sum(part.T for part in parts), *parts[0].shape[1:]), spike_autograd.joined(0, parts))


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


def _cat(tensors: Sequence[Spikes | Tensor], dim: int = 0) -> Spikes | Tensor:
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
        return cat_channels(spikes)
    values = [part.dense() if isinstance(part, Spikes) else part for part in parts]
    if all(map(storage.is_repeated, values)):
        return storage.repeated(torch.cat([part[0] for part in values], 1), len(values[0]))
    return torch.cat(values, 2)


def _flatten(x: Spikes, start_dim: int = 0, end_dim: int = -1) -> Spikes:
    if start_dim not in (2, 2 - len(x.shape)) or end_dim not in (-1, len(x.shape) - 1):
        raise TypeError(no_tensor("flatten"))  # of which a module that knows no steps is the reason, mostly
    return flatten(x)


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
    flat = flatten(x)
    return flat if len(size) == 1 else rearrange(flat, lambda y: y.unflatten(2, size), (*x.shape[:2], *size))


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


FUNCTIONS = by_torch(
    add=_sum_of, sub=_difference_of, rsub=_on_values(torch.rsub), mul=_times, div=_over, cat=_cat, flatten=_flatten,
    reshape=_reshape,
) | {function: _on_values(function) for function in (Tensor.__iadd__, Tensor.__isub__)}  # fmt: skip
