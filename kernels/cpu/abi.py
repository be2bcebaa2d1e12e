"""The C interface of the CPU kernels, as ctypes sees it: each struct of src/abi.h, field by field.

The library says what it was built from, interface.cpp; load() compares, and calls nothing of one that differs.

torch is imported before the library is loaded, so that both share the OpenMP runtime that torch brings,
and its threads.
"""

import ctypes
import json
import os
from contextlib import suppress
from ctypes import POINTER, c_double, c_float, c_int64, c_uint64, c_void_p
from functools import cache
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

import torch  # noqa: F401  its OpenMP runtime comes first

from ..neurons import MODELS
from ..surrogates import SHAPES
from . import elf, sources

TARGETS = ("amx", "avx512", "avx2", "portable")  # fastest first, as dispatch.cpp tries them
MOST = "PROXYKERNELS_CPU"  # an environment variable: the fastest of them that may be taken
LIBRARY = Path(__file__).parent / "_cpu.so"  # the same name for every Python: nothing of Python is in it


class Neuron(ctypes.Structure):
    _fields_ = [("channels", c_void_p), ("stride", c_int64), ("model", c_int64), ("scalars", c_float * 4)]


class Neurons(ctypes.Structure):
    _fields_ = [
        ("neuron", Neuron),
        *((name, c_void_p) for name in ("start", "v", "spikes")),
        *((name, c_int64) for name in ("start_image", "start_state", "start_pixel", "T", "N", "P", "C")),
    ]


class Scan(ctypes.Structure):
    _fields_ = [("neurons", Neurons), ("current", c_void_p), ("time_stride", c_int64)]


class Surrogate(ctypes.Structure):
    _fields_ = [("shape", c_int64), ("numbers", c_float * 2), ("detach_reset", c_int64)]


class ScanBackward(ctypes.Structure):
    _fields_ = [
        ("neuron", Neuron),
        ("surrogate", Surrogate),
        *((name, c_void_p) for name in ("v", "current")),
        ("time_stride", c_int64),
        *((name, c_void_p) for name in ("grad_spikes", "grad_v_last", "grad_current", "grad_v", "grad_parameters")),
        *((name, c_int64) for name in ("T", "N", "P", "C")),
    ]


class Conv2d(ctypes.Structure):
    _fields_ = [
        ("neurons", Neurons),
        *((name, c_void_p) for name in ("x", "weight", "bias", "unit", "currents", "shortcut")),
        *(
            (name, c_int64)
            for name in ("digits", "row_channels", "slice_rows", "negated", "groups", "C_in", "H", "W", "W_out")
        ),
        *((name, c_int64) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w")),
        *((name, c_int64) for name in ("padding_h", "padding_w", "dilation_h", "dilation_w")),
    ]


class Product(ctypes.Structure):
    _fields_ = [
        ("neurons", Neurons),
        *((name, c_void_p) for name in ("x", "weight", "bias")),
        ("C_in", c_int64),
    ]


class Rounding(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "rounded", "rounded_bias", "unit")),
        *((name, c_int64) for name in ("C", "inputs")),
        *((name, c_double) for name in ("largest", "room", "half_room")),
    ]


class WeightGradient(ctypes.Structure):
    _fields_ = [("conv", Conv2d), ("grad_current", c_void_p), ("grad_weight", c_void_p)]


class Periods(ctypes.Structure):
    _fields_ = [
        ("current", c_void_p),
        ("neuron", Neuron),
        *((name, c_void_p) for name in ("v", "periods")),
        *((name, c_int64) for name in ("M", "C", "T")),
    ]


class PeriodConv2d(ctypes.Structure):
    _fields_ = [("conv", Conv2d), ("periods", c_void_p), ("start", c_int64), ("longest", c_int64)]


class Pool2d(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "y")),
        *((name, c_int64) for name in ("M", "H", "W", "bytes", "H_out", "W_out")),
        *((name, c_int64) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w")),
    ]


class MaxRatePool(ctypes.Structure):
    _fields_ = [("pool", Pool2d), ("counts", c_void_p), ("T", c_int64), ("C", c_int64)]


class PoolBackward(ctypes.Structure):
    _fields_ = [
        ("pool", Pool2d),
        *((name, c_void_p) for name in ("grad_y", "grad_x")),
        *((name, c_int64) for name in ("T", "N", "C")),
    ]


class DenseSpikes(ctypes.Structure):
    _fields_ = [
        ("dense", c_void_p),
        ("spikes", c_void_p),
        ("size", c_int64),
        ("is_float", c_int64),
        ("one", c_uint64),
        *((name, c_int64) for name in ("T", "N", "C", "H", "W", "step", "image", "channel", "row", "pixel")),
    ]


def _function(*arguments, returns=None):
    return ctypes.CFUNCTYPE(returns, *arguments)


class Kernels(ctypes.Structure):
    """The table of functions for one instruction set; those that it lacks are null, which is false."""

    _fields_ = [
        ("if_scan", _function(POINTER(Scan))),
        ("scan_backward", _function(POINTER(ScanBackward))),
        ("conv2d_weight_gradient", _function(POINTER(WeightGradient))),
        ("max_pool2d_backward", _function(POINTER(PoolBackward))),
        ("event_conv2d", _function(POINTER(Conv2d))),
        ("pattern_conv2d", _function(POINTER(Conv2d))),
        ("period_conv2d", _function(POINTER(PeriodConv2d))),
        ("depthwise_conv2d", _function(POINTER(Conv2d))),
        ("lookup_conv2d", _function(POINTER(Conv2d))),
        ("tile_conv2d", _function(POINTER(Conv2d))),
        ("im2col", _function(POINTER(Conv2d), c_void_p)),
        ("real_product", _function(POINTER(Product))),
        ("round_weights", _function(POINTER(Rounding))),
        ("max_pool2d", _function(POINTER(Pool2d))),
        ("max_rate_pool2d", _function(POINTER(MaxRatePool))),
        ("pack_rows", _function(c_void_p, c_void_p, POINTER(Conv2d))),
        ("rows_size", _function(POINTER(Conv2d), returns=c_int64)),
        ("count_digits", _function(c_void_p, c_void_p, c_int64, c_int64, returns=c_int64)),
        ("pack_tiles", _function(c_void_p, c_void_p, c_void_p, POINTER(Conv2d))),
        ("tiles_size", _function(POINTER(Conv2d), returns=c_int64)),
        ("pack", _function(POINTER(DenseSpikes), returns=c_int64)),
        ("unpack", _function(POINTER(DenseSpikes))),
        ("count", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
        ("flatten", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64)),
        ("total", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64)),
        ("count_rows", _function(c_void_p, *5 * (c_int64,), returns=c_int64)),
        ("find_periods", _function(POINTER(Periods))),
        ("expand_periods", _function(c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)),
        ("total_periods", _function(c_void_p, c_void_p, *5 * (c_int64,))),
        ("fingerprint", _function(c_void_p, c_int64, returns=c_uint64)),
        ("max_threads", _function(returns=c_int64)),
    ]


STRUCTS = (
    Neuron, Neurons, Scan, Surrogate, ScanBackward, Conv2d, Product, Rounding, WeightGradient, Periods,
    PeriodConv2d, Pool2d, MaxRatePool, PoolBackward, DenseSpikes, Kernels,
)  # fmt: skip
_NAMES = {c_void_p: "pointer", c_double: "double", c_float: "float", c_int64: "int64", c_uint64: "uint64", None: "void"}


def load(target: str | None, library: Path | None = None) -> Kernels | None:
    """The functions compiled for an instruction set, or for the fastest one that this machine runs (None).

    ``library``: the file to load, such as a checked build; None: the one built with this package. None if there is
    no such file, or if this machine cannot run the target. The environment variable PROXYKERNELS_CPU names the fastest
    set that counts as this machine's, as ATEN_CPU_CAPABILITY does for torch.

    Raises:
        RuntimeError: the library was built from other sources than those that stand here, or is cut short.
        ValueError: the environment variable names no instruction set.
    """
    library = library or LIBRARY
    if not library.exists():
        older = [file for folder in LIBRARY.parents[:2] for file in folder.glob("_cpu.*")]  # where 0.1.0 had it, too
        if library == LIBRARY and older:
            raise RuntimeError(_refusal(older[0], "it was built by an older version"))
        return None
    find = _open(library).proxykernels_cpu
    find.restype, find.argtypes = POINTER(Kernels), [ctypes.c_char_p]
    tables = (find(name.encode()) for name in _allowed() if target in (name, None))
    return next((table.contents for table in tables if table), None)


def _allowed() -> tuple[str, ...]:
    """The instruction sets that may be taken, fastest first."""
    most = os.environ.get(MOST) or TARGETS[0]
    if most not in TARGETS:
        raise ValueError(f"the environment variable {MOST} must be one of {', '.join(TARGETS)}, got {most!r}")
    return TARGETS[TARGETS.index(most) :]


@cache
def _open(path: Path) -> ctypes.CDLL:
    """The library, if it was built from the sources that stand here."""
    size, needed = path.stat().st_size, elf.needed_bytes(path)
    if size < needed:
        raise RuntimeError(_refusal(path, f"it is cut short: {size:,} bytes of {needed:,}"))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise RuntimeError(_refusal(path, f"the system does not load it: {error}")) from error
    try:
        describe = library.proxykernels_interface
    except AttributeError:
        raise RuntimeError(_refusal(path, "it was built by an older version")) from None
    describe.restype, describe.argtypes = ctypes.c_char_p, []
    if reason := _difference(describe().decode()):
        raise RuntimeError(_refusal(path, reason))
    return library


def _difference(described: str) -> str | None:
    """The first line in which the library's interface, as interface.cpp puts it in words, differs from ours."""
    (built_from, *theirs), ours = described.splitlines(), interface()
    for its, expected in zip_longest(theirs, ours, fillvalue="nothing"):
        if its != expected:
            return f"{its!r} stands in its interface where {expected!r} is expected"
    if sources.paths() and built_from != f"sources: {sources.fingerprint()}":
        return "the C++ sources have changed since it was built"
    return None


def interface() -> list[str]:
    """The structs above, and the neuron models, in interface.cpp's words."""
    lines = []
    for struct in STRUCTS:
        lines.append(f"{struct.__name__}: {ctypes.sizeof(struct)} bytes")
        for name, kind, *_ in struct._fields_:
            lines.append(f"{struct.__name__}.{name}: {_spell(kind)} at {getattr(struct, name).offset}")
    models = [f"model: {name} {m.states} {len(m.channels)} {len(m.scalars)}" for name, m in MODELS.items()]
    return lines + models + [f"surrogate: {name}" for name in SHAPES]


def _spell(kind) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    if hasattr(kind, "_argtypes_"):  # a function
        return f"{_spell(kind._restype_)}({', '.join(map(_spell, kind._argtypes_))})"
    if issubclass(kind, ctypes.Array):
        return f"{_spell(kind._type_)}[{kind._length_}]"
    if issubclass(kind, ctypes._Pointer):
        return f"{kind._type_.__name__}*"
    return kind.__name__


def _refusal(path: Path, reason: str) -> str:
    advice = f"build it again with `{install_command()}`"
    return f"proxykernels' compiled library {path} does not belong to this version ({reason}): {advice}"


def install_command() -> str:
    """The command that builds the library that belongs to these files."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "setup.py").is_file():
        return f"pip install -e {checkout}"
    source = "proxykernels"  # of a package index, unless pip noted another place
    with suppress(metadata.PackageNotFoundError):
        if noted := metadata.distribution(source).read_text("direct_url.json"):
            place = json.loads(noted)
            source = f"{place['vcs_info']['vcs']}+{place['url']}" if "vcs_info" in place else place["url"]
    return f"pip install --force-reinstall --no-cache-dir --no-deps {source}"  # or pip takes the wheel it made before
