"""The C interface of the CPU kernels, as ctypes sees it: each struct of src/abi.h, field by field.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_uint64, c_void_p
from pathlib import Path

import torch  # noqa: F401  its OpenMP runtime comes first


class Neurons(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("theta", "v", "spikes")),
        *((name, c_int64) for name in ("T", "N", "P", "C", "soft_reset")),
        ("v_reset", c_float),
    ]


class Scan(ctypes.Structure):
    _fields_ = [("neurons", Neurons), ("current", c_void_p), ("time_stride", c_int64)]


class ScanBackward(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("theta", "scale", "current", "grad_spikes", "grad_current")),
        *((name, c_int64) for name in ("T", "N", "P", "C", "soft_reset")),
        ("v_reset", c_float),
    ]


class Conv2d(ctypes.Structure):
    _fields_ = [
        ("neurons", Neurons),
        *((name, c_void_p) for name in ("x", "weight", "bias", "unit")),
        *((name, c_int64) for name in ("digits", "slice_rows", "groups", "C_in", "H", "W", "W_out")),
        *((name, c_int64 * 2) for name in ("kernel_size", "stride", "padding", "dilation")),
    ]


class Periods(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("current", "theta", "v", "periods")),
        *((name, c_int64) for name in ("M", "C", "T")),
    ]


class PeriodConv2d(ctypes.Structure):
    _fields_ = [("conv", Conv2d), ("periods", c_void_p), ("start", c_int64), ("longest", c_int64)]


class Pool2d(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "y")),
        *((name, c_int64) for name in ("M", "H", "W", "bytes", "H_out", "W_out")),
        *((name, c_int64 * 2) for name in ("kernel_size", "stride", "padding")),
    ]


def _function(*arguments, returns=None):
    return ctypes.CFUNCTYPE(returns, *arguments)


class Kernels(ctypes.Structure):
    """The table of functions for one instruction set; those that it lacks are null, which is false."""

    _fields_ = [
        ("if_scan", _function(POINTER(Scan))),
        ("if_scan_backward", _function(POINTER(ScanBackward))),
        ("event_conv2d", _function(POINTER(Conv2d))),
        ("period_conv2d", _function(POINTER(PeriodConv2d))),
        ("depthwise_conv2d", _function(POINTER(Conv2d))),
        ("lookup_conv2d", _function(POINTER(Conv2d))),
        ("tile_conv2d", _function(POINTER(Conv2d))),
        ("max_pool2d", _function(POINTER(Pool2d))),
        ("pack_rows", _function(c_void_p, c_void_p, POINTER(Conv2d))),
        ("rows_size", _function(POINTER(Conv2d), returns=c_int64)),
        ("count_digits", _function(c_void_p, c_int64, c_int64, returns=c_int64)),
        ("pack_tiles", _function(c_void_p, c_void_p, c_void_p, POINTER(Conv2d))),
        ("tiles_size", _function(POINTER(Conv2d), returns=c_int64)),
        ("pack", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64)),
        ("unpack", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64)),
        ("count", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
        ("flatten", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64)),
        ("total", _function(c_void_p, c_int64, returns=c_int64)),
        ("count_rows", _function(c_void_p, c_int64, c_int64, c_int64, returns=c_int64)),
        ("find_periods", _function(POINTER(Periods))),
        ("expand_periods", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
        ("total_periods", _function(c_void_p, c_int64, c_int64, c_int64, returns=c_int64)),
        ("fingerprint", _function(c_void_p, c_int64, returns=c_uint64)),
    ]


def load(target: str | None, library: Path | None = None) -> Kernels | None:
    """The functions compiled for an instruction set, or for the fastest one that this machine runs (None).

    ``library``: the file to load, such as a checked build; None: the one built with this package.
    """
    library = library or next(iter(sorted(Path(__file__).parent.glob("_cpu.*"))), None)
    if library is None:
        return None
    find = ctypes.CDLL(str(library)).proxykernels_cpu
    find.restype, find.argtypes = POINTER(Kernels), [ctypes.c_char_p]
    table = find(target.encode() if target else None)
    return table.contents if table else None
