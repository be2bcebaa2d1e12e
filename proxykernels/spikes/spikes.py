"""Packed spikes: one bit per spike."""

import math
import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..kernels import ops
from . import spike_autograd, storage
from .storage import Periods, Words, pack_words

_unsafe_view = torch.ops.aten._unsafe_view.default
FUNCTIONS: dict[Callable, Callable] = {}  # torch function -> what it does with Spikes (calls/spike_functions.py)
METHODS = "flatten", "reshape", "view"  # of a tensor, which are Spikes of Spikes
_COPY_STEPS = 256  # steps unpacked at a time when spikes move between devices of different layouts


class Spikes:
    """Spikes of T steps and N samples, one bit per spike.

    Made by :func:`pack`, by layers and by the functions of this package. The layout of the bits depends on the device.

    A forward pass of a network's own may write ``x + y`` and ``x - y``, which are float32 tensors; ``0.5 * x``, Spikes
    of another ``scale``; ``torch.cat([x, y], 2)``; ``x.flatten(2)``, and ``x.reshape(T, N, ...)`` or ``x.view``.

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
        if until is None:
            until = self.T
        elif not isinstance(until, numbers.Integral) or isinstance(until, bool):
            raise TypeError(f"until must be an integer number of steps, got {until!r}")
        if not 0 <= until <= self.T:
            raise ValueError(f"until must be within 0 .. T = {self.T}, got {until}")
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

    def __add__(self, other):
        return torch.add(self, other)

    def __radd__(self, other):
        return torch.add(self, other)

    def __sub__(self, other):
        return torch.sub(self, other)

    def __rsub__(self, other):
        return torch.rsub(self, other)

    def __mul__(self, factor):
        return torch.mul(self, factor)

    def __rmul__(self, factor):
        return torch.mul(self, factor)

    def __truediv__(self, divisor):
        return torch.div(self, divisor)

    def __neg__(self):
        return torch.mul(self, -1)

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


class _NoTensorError(AttributeError, TypeError):
    """An AttributeError, so that hasattr works; and a TypeError, for code that passes Spikes to a torch module."""


def no_tensor(name: str) -> str:
    """The error for a torch function that does not take spikes; it names what does."""
    use = COUNTERPARTS.get(name, "a layer of this package, or .dense(), which is a tensor of 0 and 1")
    return f"torch's {name} takes tensors, and got Spikes; use {use}"


COUNTERPARTS = {  # torch function -> its counterpart for spikes
    "conv2d": "FusedIFConv2d",
    "conv1d": "FusedIFConv1d",
    "linear": "FusedIFLinear",
    "flatten": "proxykernels.Flatten",
    "max_pool2d": "proxykernels.MaxPool2d",
    "max_pool1d": "proxykernels.layers.MaxPool1d",
    "avg_pool1d": "proxykernels.layers.AvgPool1d",
    "adaptive_avg_pool1d": "proxykernels.layers.AdaptiveAvgPool1d",
    "avg_pool2d": "proxykernels.AvgPool2d",
    "adaptive_avg_pool2d": "proxykernels.AdaptiveAvgPool2d",
    "relu": "no ReLU at all: neurons stand in its place, and convert makes a spiking network of a ReLU network",
    "dim": "len(spikes.shape), or the layer of this package in place of the module that asks: FusedIFConv2d(..., "
    "batch_norm=True) of an nn.BatchNorm2d, MaxPool2d of another library's",
    "batch_norm": "FusedIFConv2d(..., batch_norm=True)",
    "dropout": "proxykernels.Dropout, which drops the same units at every step",
}
