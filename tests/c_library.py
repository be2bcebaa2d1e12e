"""The C interface as ctypes calls it, from the compiled library: networks and streams whose errors are raised.

Functions are declared by what proxykernels.h declares: numbers, pointers and sizes are told apart by their types there.
"""

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from proxykernels.kernels.cpu import sources
from proxykernels.kernels.cpu.abi import LIBRARY

HEADER = sources.LIBRARY / "include" / "proxykernels.h"
STATUSES = "OK BAD_ARGUMENT NO_FILE BAD_FILE NO_MEMORY NOT_FINITE NOT_HERE BUSY".split()
INPUTS = IMAGE, FRAMES, SPIKES, BYTE_IMAGE, BYTE_FRAMES = range(5)
SPIKES_OUT, VALUES_OUT, EITHER_OUT, SIGNED_OUT = range(4)  # pk_gives
NUMBERS = {"int64_t": ctypes.c_int64, "int32_t": ctypes.c_int32, "size_t": ctypes.c_size_t, "char": ctypes.c_char}


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32), ("sentence", ctypes.c_char * 512)]


class CError(Exception):
    """A status and its sentence."""

    def __init__(self, status: str, sentence: str):
        super().__init__(f"{status}: {sentence}")
        self.status, self.sentence = status, sentence


def _without_comments() -> str:
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def struct(name: str) -> type[ctypes.Structure]:
    """A struct of the header."""
    (body,) = re.findall(rf"typedef struct {name} {{(.*?)}} {name};", _without_comments(), re.DOTALL)
    fields = []
    for declaration in filter(str.strip, body.split(";")):
        kind, names = declaration.split(maxsplit=1)
        for field in names.split(","):
            found = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", field.strip())
            assert found, declaration
            of = NUMBERS[kind]
            fields.append((found[1], of * int(found[2]) if found[2] else of))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Info, Layer, Work = map(struct, ("pk_info", "pk_layer", "pk_work"))


@cache
def functions() -> dict[str, tuple]:
    """Name -> result and arguments, as the header has them: "pointer", or the name of a number."""
    found = re.findall(r"PK_API ([\w ]+?)\s*(\*?)\s*(pk_\w+)\((.*?)\);", _without_comments(), re.DOTALL)
    return {name: (result + star, [_kind(part) for part in given.split(",")]) for result, star, name, given in found}


def _kind(argument: str) -> str:
    return "pointer" if "*" in argument else argument.split()[-2] if len(argument.split()) > 1 else "void"


@cache
def library(path: Path = LIBRARY) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name, (result, arguments) in functions().items():
        function = loaded[name]
        kinds = [ctypes.c_void_p if kind == "pointer" else NUMBERS[kind] for kind in arguments if kind != "void"]
        function.argtypes = kinds
        function.restype = {"const char*": ctypes.c_char_p, "void": None}.get(result, ctypes.c_int32)
        setattr(loaded, name, function)
    return loaded


def call(name: str, *arguments) -> None:
    """A function that returns a status.

    Raises:
        CError: it is not PK_OK.
    """
    error = Error()
    status = getattr(library(), name)(*arguments, ctypes.byref(error))
    assert status == error.status and bool(status) == bool(error.sentence)
    if status:
        sentence = error.sentence.decode()
        assert "\n" not in sentence and len(sentence) > 10
        raise CError(STATUSES[status], sentence)


class Network:
    def __init__(self, given, target: str | None = None):
        """``given``: a path, or the bytes of a file."""
        self.handle = ctypes.c_void_p()
        to, named = ctypes.byref(self.handle), target and target.encode()
        if isinstance(given, bytes):
            call("pk_network_read", given, len(given), named, to)
        else:
            call("pk_network_open", str(given).encode(), named, to)

    def close(self) -> None:
        library().pk_network_close(ctypes.byref(self.handle))

    def __del__(self):
        self.close()

    @property
    def info(self):
        info = Info()
        call("pk_network_info", self.handle, ctypes.byref(info))
        return info

    def layer(self, k: int):
        layer = Layer()
        call("pk_layer_info", self.handle, k, ctypes.byref(layer))
        return layer

    def layers(self) -> list:
        return [self.layer(k) for k in range(self.info.layers)]

    def stream(self, N: int = 1, threads: int = 1) -> "Stream":
        return Stream(self, N, threads)


class Stream:
    def __init__(self, network: Network, N: int, threads: int):
        self.handle, self.network, self.N = ctypes.c_void_p(), network, N
        call("pk_stream_open", network.handle, N, threads, ctypes.byref(self.handle))
        info = network.info
        self.out, self.layers = (info.out_C, info.out_H, info.out_W), network.layers()

    def close(self) -> None:
        library().pk_stream_close(ctypes.byref(self.handle))

    def __del__(self):
        self.close()

    def go(self, name: str, x: Tensor, kind: int, T: int) -> None:
        x = x.contiguous()
        call(name, self.handle, kind, x.data_ptr(), x.numel(), T)
        self.T = T

    def run(self, x: Tensor, T: int, kind: int = IMAGE) -> None:
        self.go("pk_run", x, kind, T)

    def run_lengths(self, x: Tensor, T: int, lengths: Sequence[int], kind: int = IMAGE) -> None:
        x, steps = x.contiguous(), torch.tensor(lengths, dtype=torch.int64)
        call("pk_run_lengths", self.handle, kind, x.data_ptr(), x.numel(), T, steps.data_ptr(), len(steps))
        self.T = T

    def advance(self, x: Tensor, T: int = 1, kind: int = IMAGE) -> None:
        self.go("pk_advance", x, kind, T)

    def watch(self) -> None:
        for k in range(len(self.layers)):
            call("pk_watch", self.handle, k, 1)

    def reset(self) -> None:
        call("pk_reset", self.handle)

    @property
    def steps(self) -> int:
        steps = ctypes.c_int64()
        call("pk_steps", self.handle, ctypes.byref(steps))
        return steps.value

    def counts(self) -> Tensor:
        return self._read("pk_counts", torch.empty(self.N, *self.out, dtype=torch.int32))

    def logits(self) -> Tensor:
        return self._read("pk_logits", torch.empty(self.N, *self.out))

    def spikes(self, k: int) -> Tensor:
        return self._read("pk_layer_spikes", torch.full(self._shape(k), 77, dtype=torch.int8), k)

    def values(self, k: int) -> Tensor:
        return self._read("pk_layer_values", torch.full(self._shape(k), torch.nan), k)

    def work(self, k: int = -1):
        work = Work()
        call("pk_layer_work", self.handle, k, ctypes.byref(work))
        return work

    def state(self, k: int) -> Tensor:
        return self._read("pk_state_read", torch.empty(self.N * self.layers[k].state_size), k)

    def set_state(self, k: int, state: Tensor) -> None:
        call("pk_state_write", self.handle, k, state.data_ptr(), state.numel())

    def reset_sample(self, sample: int) -> None:
        call("pk_reset_sample", self.handle, sample)

    @property
    def sample_steps(self) -> list[int]:
        return self._read("pk_sample_steps", torch.empty(self.N, dtype=torch.int64)).tolist()

    def save(self) -> Tensor:
        """The whole state, uint8."""
        size = ctypes.c_size_t()
        call("pk_state_size", self.handle, ctypes.byref(size))
        return self._read("pk_state_save", torch.full((size.value,), 77, dtype=torch.uint8))

    def restore(self, state: Tensor) -> None:
        self._read("pk_state_restore", state)

    def _shape(self, k: int) -> tuple[int, ...]:
        layer = self.layers[k]
        return self.T, self.N, layer.C, layer.H, layer.W

    def _read(self, name: str, to: Tensor, *which: int) -> Tensor:
        call(name, self.handle, *which, to.data_ptr(), to.numel())
        return to


def pack(spikes: Tensor) -> Tensor:
    """Dense spikes [T, N, ...] as PK_SPIKES."""
    T, N, C, *size = spikes.shape
    H, W = (*(1,) * (2 - len(size)), *size)
    packed = torch.empty(N, T, H * W, (C + 7) // 8, dtype=torch.uint8)
    dense = spikes.to(torch.uint8).contiguous()
    call("pk_pack_spikes", dense.data_ptr(), T, N, C, H, W, packed.data_ptr(), packed.numel())
    return packed


def pack_events(t, x, y, p, size, *, begin: int, span: int, T: int) -> Tensor:
    """Events as PK_SPIKES."""
    H, W = size
    packed = torch.empty(T, H * W, dtype=torch.uint8)
    types = torch.int64, torch.int32, torch.int32, torch.int8
    fields = [torch.as_tensor(values).to(type_) for values, type_ in zip((t, x, y, p), types, strict=True)]
    pointers = [field.data_ptr() for field in fields]
    call("pk_pack_events", *pointers, len(fields[0]), begin, span, T, H, W, packed.data_ptr(), packed.numel())
    return packed
