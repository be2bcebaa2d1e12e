"""The C++ kernels for CPU tensors, called through ctypes.

Spikes are packed over channels: uint8 ``[N, T, P, ceil(C / 8)]`` for N images, T steps, P pixels and C channels; bit
``c % 8`` of byte ``c // 8`` is channel ``c``. Potentials are float32 ``[N, P, C]``, currents float32 ``[T, N, P, C]``.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

import ctypes
from ctypes import c_float, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from . import packed_reference, reference, stepwise

BLOCK = 32  # channels that the kernels handle at a time: simd.h


class _Neurons(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("theta", "v", "spikes")),
        *((name, c_int64) for name in ("T", "N", "P", "C", "soft_reset")),
        ("v_reset", c_float),
    ]


class _Scan(ctypes.Structure):
    _fields_ = [("neurons", _Neurons), ("current", c_void_p), ("time_stride", c_int64)]


class _ScanBackward(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("theta", "scale", "current", "grad_spikes", "grad_current")),
        *((name, c_int64) for name in ("T", "N", "P", "C", "soft_reset")),
        ("v_reset", c_float),
    ]


class _Conv2d(ctypes.Structure):
    _fields_ = [
        ("neurons", _Neurons),
        *((name, c_void_p) for name in ("x", "weight", "bias")),
        *((name, c_int64) for name in ("C_in", "H", "W", "W_out")),
        *((name, c_int64 * 2) for name in ("kernel_size", "stride", "padding", "dilation")),
    ]


class _Pool2d(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "y")),
        *((name, c_int64) for name in ("M", "H", "W", "bytes", "H_out", "W_out")),
        *((name, c_int64 * 2) for name in ("kernel_size", "stride", "padding")),
    ]


def _function(*arguments, returns=None):
    return ctypes.CFUNCTYPE(returns, *arguments)


class _Kernels(ctypes.Structure):
    _fields_ = [
        ("if_scan", _function(ctypes.POINTER(_Scan))),
        ("if_conv2d", _function(ctypes.POINTER(_Conv2d))),
        ("max_pool2d", _function(ctypes.POINTER(_Pool2d))),
        ("pack_weight", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64)),
        ("pack", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64)),
        ("unpack", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64)),
        ("count", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
        ("flatten", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64)),
        ("total", _function(c_void_p, c_int64, returns=c_int64)),
        ("if_scan_backward", _function(ctypes.POINTER(_ScanBackward))),
    ]


def load(target: str | None = None) -> "CpuKernels | None":
    """The kernels compiled for ``target`` ("avx512", "avx2", "portable"; None: the fastest that this machine runs).

    None if the library was not built, or if this machine cannot run the target.
    """
    libraries = sorted(Path(__file__).parent.glob("_cpu.*"))
    if not libraries:
        return None
    find = ctypes.CDLL(str(libraries[0])).proxykernels_cpu
    find.restype, find.argtypes = ctypes.POINTER(_Kernels), [ctypes.c_char_p]
    table = find(target.encode() if target else None)
    return CpuKernels(table.contents) if table else None


class CpuKernels:
    """Tensors in, tensors out. Arguments are checked by the caller (proxykernels.functional), not here."""

    def __init__(self, table: _Kernels):
        self._table = table

    cut, cat = staticmethod(packed_reference.cut), staticmethod(packed_reference.cat)

    def pack(self, dense: Tensor) -> Tensor:
        """Bool [T, N, C, P] to packed spikes."""
        T, N, C, P = dense.shape
        dense = dense.contiguous()
        words = torch.empty(N, T, P, _bytes(C), dtype=torch.uint8)
        self._table.pack(dense.data_ptr(), words.data_ptr(), T, N, C, P)
        return words

    def unpack(self, words: Tensor, T: int, C: int) -> Tensor:
        """Packed spikes to bool [T, N, C, P]."""
        N, _, P, _ = words.shape
        words = words.contiguous()
        dense = torch.empty(T, N, C, P, dtype=torch.bool)
        self._table.unpack(words.data_ptr(), dense.data_ptr(), T, N, C, P)
        return dense

    def count(self, words: Tensor, C: int, until: int) -> Tensor:
        """Spikes of each neuron before step ``until``: int32 [N, C, P]."""
        N, T, P, _ = words.shape
        words = words.contiguous()
        counts = torch.zeros(N, C, P, dtype=torch.int32)
        self._table.count(words.data_ptr(), counts.data_ptr(), T, until, N, C, P)
        return counts

    def total(self, words: Tensor) -> Tensor:
        """All spikes: int64, no dimensions."""
        words = words.contiguous()
        return torch.tensor(self._table.total(words.data_ptr(), words.numel()))

    def flatten(self, words: Tensor, C: int) -> Tensor:
        """[N, T, P, ceil(C / 8)] to [N, T, 1, ceil(C * P / 8)]; feature c * P + p, the order of torch's flatten."""
        N, T, P, _ = words.shape
        words = words.contiguous()
        flat = torch.zeros(N, T, 1, _bytes(C * P), dtype=torch.uint8)
        self._table.flatten(words.data_ptr(), flat.data_ptr(), N * T, C, P)
        return flat

    def max_pool2d(self, words: Tensor, C: int, size, kernel_size, stride, padding) -> Tensor:
        """The OR over each window of images of ``size`` (H, W)."""
        N, T, _, row = words.shape
        words = words.contiguous()
        out = stepwise.output_size(size, kernel_size, stride, padding, (1, 1))
        pooled = torch.empty(N, T, out[0] * out[1], row, dtype=torch.uint8)
        windows = (_pair(kernel_size), _pair(stride), _pair(padding))
        pool = _Pool2d(words.data_ptr(), pooled.data_ptr(), N * T, *size, row, *out, *windows)
        self._table.max_pool2d(pool)
        return pooled

    def if_scan(self, current: Tensor, v: Tensor, theta: Tensor, v_reset: float | None) -> tuple[Tensor, Tensor]:
        """IF on currents [T, N, P, C]: spikes, and potentials [N, P, C] after the last step."""
        return self._scan(current.float().contiguous(), current.shape[0], v, theta, v_reset)

    def if_hold(self, current: Tensor, T: int, v: Tensor, theta: Tensor, v_reset) -> tuple[Tensor, Tensor]:
        """IF on a current [N, P, C] held for T steps."""
        return self._scan(current.float().contiguous(), T, v, theta, v_reset)

    def _scan(self, current, T, v, theta, v_reset):
        N, P, C = v.shape
        v = v.clone(memory_format=torch.contiguous_format)
        words = torch.empty(N, T, P, _bytes(C), dtype=torch.uint8)
        theta = _padded(theta, float("inf"))
        time_stride = current.stride(0) if current.ndim == 4 else 0
        neurons = _neurons(theta, v, words, T, v_reset)
        self._table.if_scan(_Scan(neurons, current.data_ptr(), time_stride))
        return words, v

    def if_scan_backward(self, grad_spikes: Tensor, current: Tensor, theta: Tensor, v_reset: float | None) -> Tensor:
        """Gradient of currents [T, N, P, C], by the surrogate derivative, for neurons that started at rest."""
        grad_spikes, current = grad_spikes.float().contiguous(), current.float().contiguous()
        theta, scale = theta.contiguous(), reference.surrogate_scale(theta)
        grad_current = torch.empty_like(current)
        pointers = (tensor.data_ptr() for tensor in (theta, scale, current, grad_spikes, grad_current))
        soft = v_reset is None
        self._table.if_scan_backward(_ScanBackward(*pointers, *current.shape, soft, 0.0 if soft else v_reset))
        return grad_current

    def if_conv2d(
        self, words, T, size, weight, bias, v, theta, v_reset, stride, padding, dilation, groups
    ) -> tuple[Tensor, Tensor]:
        """Convolution of spikes on images of ``size`` (H, W) and IF: spikes, and potentials [N, P_out, C_out]."""
        if groups > 1:  # few inputs a neuron: the event kernel, made for many, has little to skip
            return stepwise.if_conv2d(
                self,
                words,
                T,
                size,
                weight,
                bias,
                v,
                theta,
                v_reset,
                stride,
                padding,
                dilation,
                groups,
            )
        N, P, C = v.shape
        words = words.contiguous()
        v = v.clone(memory_format=torch.contiguous_format)
        spikes = torch.empty(N, T, P, _bytes(C), dtype=torch.uint8)
        packed, theta = self._pack_weight(weight), _padded(theta, float("inf"))
        bias = _padded(torch.zeros(C) if bias is None else bias.float(), 0.0)
        W_out = stepwise.output_size(size, weight.shape[2:], stride, padding, dilation)[1]
        self._table.if_conv2d(
            _Conv2d(
                _neurons(theta, v, spikes, T, v_reset),
                *(tensor.data_ptr() for tensor in (words, packed, bias)),
                weight.shape[1], *size, W_out,
                *(_pair(p) for p in (weight.shape[2:], stride, padding, dilation)),
            )
        )  # fmt: skip
        return spikes, v

    def if_linear(self, words, T, weight, bias, v, theta, v_reset) -> tuple[Tensor, Tensor]:
        """A matrix product of spikes [N, T, 1, ceil(K / 8)] and IF: a convolution on an image of one pixel."""
        one, none = (1, 1), (0, 0)
        kernel = weight[:, :, None, None]
        return self.if_conv2d(words, T, one, kernel, bias, v, theta, v_reset, one, none, one, 1)

    def _pack_weight(self, weight: Tensor) -> Tensor:
        weight = weight.float().contiguous()
        C_out, C_in, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
        packed = torch.empty(-(-C_out // BLOCK), taps * C_in + 1, BLOCK)
        self._table.pack_weight(weight.data_ptr(), packed.data_ptr(), C_out, C_in, taps)
        return packed


def _bytes(C: int) -> int:
    return (C + 7) // 8


def _pair(values) -> ctypes.Array:
    return (c_int64 * 2)(*values)


def _padded(values: Tensor, fill: float) -> Tensor:
    """Per-channel values [C], filled up to whole blocks of channels."""
    return torch.nn.functional.pad(values, (0, -len(values) % BLOCK), value=fill).contiguous()


def _neurons(theta: Tensor, v: Tensor, words: Tensor, T: int, v_reset: float | None) -> _Neurons:
    N, P, C = v.shape
    soft = v_reset is None
    pointers = (tensor.data_ptr() for tensor in (theta, v, words))
    return _Neurons(*pointers, T, N, P, C, soft, 0.0 if soft else v_reset)
