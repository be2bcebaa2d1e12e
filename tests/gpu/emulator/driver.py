"""Triton's own driver and C launcher, on a libcuda without a GPU: what they launch is executed by the emulator.

    driver.install("sm_80")          before the first launch; TRITON_INTERPRET must not be set

Compilation, specialisation, assembling and the launcher are Triton's own, so what runs is the PTX that a GPU of that
target would get, with the parameters that it would get. Needs gcc and Python.h, as Triton does on a GPU.
"""

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import triton

from .block import Block
from .memory import Fault, GlobalMemory
from .ptx import Kernel

# And the bytes of shared memory that a block may have.
TARGETS = {"sm_75": 64 * 1024, "sm_80": 163 * 1024, "sm_90": 227 * 1024} | dict.fromkeys(("sm_89", "sm_120"), 99 * 1024)
BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}  # of a parameter, by the end of its type's name
LAUNCH_FAILED = 700  # CUDA's number for it
SOURCE = Path(__file__).with_name("libcuda.c")
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, *[ctypes.c_uint] * 5, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
)  # fmt: skip


class State:
    """How launches are emulated, and what has been run."""

    products = "exact"  # see tensor_core.multiply
    edit: Callable[[str], str] = staticmethod(lambda ptx: ptx)  # what becomes of a kernel's text before it is run
    kernels: dict[str, Kernel] = {}  # by the hash of what was compiled
    launches = blocks = 0
    digit_launches = 0  # of those, with products of int8 digits


class _Loaded(NamedTuple):
    """A kernel as it was loaded: its PTX, and the shared memory that its launches ask for."""

    kernel: Kernel
    shared: int


class _Launches:
    """What the launcher hands to the driver is run here; an error goes past C to whoever launched."""

    def __init__(self):
        self.loaded: dict[int, _Loaded] = {}  # by the driver's function
        self.spans: dict[int, int] = {}  # of the tensors of the launch that is under way
        self.error: BaseException | None = None
        self.callback = CALLBACK(self._launched)

    def _launched(self, grid_x, grid_y, grid_z, threads, shared, function, parameters) -> int:
        try:
            loaded = self.loaded[function]
            if (grid_y, grid_z) != (1, 1):
                raise NotImplementedError("a grid of more than one dimension")
            if (threads, shared) != (loaded.kernel.threads, loaded.shared):
                raise Fault(f"a launch of {threads} threads with {shared} bytes of shared memory")
            self._run(loaded, grid_x, parameters)
        except BaseException as error:
            self.error = error
            return LAUNCH_FAILED
        return 0

    def _run(self, loaded: _Loaded, blocks: int, parameters) -> None:
        kernel, memory = loaded.kernel, GlobalMemory(self.spans)
        values = [_parameter(kind, parameters[i], memory) for i, kind in enumerate(kernel.parameter_types)]
        for index in range(blocks):
            block = Block(kernel, index, blocks, values, memory, loaded.shared, State.products)
            kernel.run(block)
            if block.has_work_left():
                raise Fault("asynchronous work that nobody waited for")
        memory.copy_back()
        State.launches, State.blocks = State.launches + 1, State.blocks + blocks
        State.digit_launches += kernel.multiplies_digits


def _parameter(kind: str, place: int, memory: GlobalMemory) -> np.ndarray:
    """A parameter of the PTX type ``kind`` as the launcher left it at ``place``: 32 or 64 bits."""
    size = BYTES[kind.lstrip("busf")]
    value = int.from_bytes(ctypes.string_at(place, size), "little")
    if size == 8 and value in memory.places:
        value = memory.address(value)
    return np.array([value], "u8" if size == 8 else "u4")


def _tensors(arguments) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            yield argument
        elif isinstance(argument, tuple | list):
            yield from _tensors(argument)


def _bytes(tensor: torch.Tensor) -> int:
    """From a tensor's first element to behind its last; at least one byte, where there is memory."""
    if not tensor.numel():
        return 1 if tensor.data_ptr() else 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def _library() -> Path:
    """The folder of libcuda.so.1, compiled once."""
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    key = hashlib.sha256(SOURCE.read_bytes() + triton.__version__.encode()).hexdigest()[:16]
    folder = Path(triton.knobs.cache.dir) / f"libcuda-{key}"
    if not (folder / "libcuda.so.1").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:  # another process may be at it, too
            made = Path(temporary, "libcuda.so.1")
            options = ["-shared", "-fPIC", "-O1", "-w", "-Wl,-soname,libcuda.so.1", f"-I{include}"]
            subprocess.run([os.environ["CC"], *options, SOURCE, "-o", made], check=True)
            made.replace(folder / "libcuda.so.1")
    return folder


def install(target: str) -> None:
    """Make the emulator Triton's active GPU, of ``target``, one of TARGETS."""
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise RuntimeError("TRITON_INTERPRET is set: nothing would be compiled")
    os.environ["CC"] = os.environ.get("CC", "gcc").split()[-1]  # of "ccache gcc" Triton takes a name with a blank
    launches, folder = _Launches(), _library()
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    library = ctypes.CDLL(str(folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    capability = divmod(int(target[3:]), 10)
    library.pretend(launches.callback, *capability, TARGETS[target])
    triton.runtime.driver.set_active(_driver(capability, launches))
    load = triton.compiler.CompiledKernel._init_handles

    def init_handles(self):
        """Triton's own, which loads the binary; and the PTX that it was made of."""
        if self.module is not None:
            return
        load(self)
        if self.hash not in State.kernels:
            State.kernels[self.hash] = Kernel(State.edit(self.asm["ptx"]))
        launches.loaded[self.function] = _Loaded(State.kernels[self.hash], self.metadata.shared)

    triton.compiler.CompiledKernel._init_handles = init_handles


def _driver(capability: tuple[int, int], launches: _Launches):
    """Triton's driver for NVIDIA, which asks no torch for a GPU, and launches on CPU tensors."""
    from triton.backends.nvidia import driver

    class Launcher(driver.CudaLauncher):
        def __call__(self, *arguments):
            launches.spans, launches.error = {}, None
            for tensor in _tensors(arguments):
                address = tensor.data_ptr()
                launches.spans[address] = max(_bytes(tensor), launches.spans.get(address, 0))
            launches.spans.pop(0, None)
            try:
                return super().__call__(*arguments)
            except RuntimeError:
                if launches.error is not None:
                    raise launches.error from None
                raise

    if not hasattr(torch._C, "_cuda_getCurrentRawStream"):  # a build of torch without CUDA
        torch._C._cuda_getCurrentRawStream = lambda device: 0
    active = driver.CudaDriver()
    active.launcher_cls = Launcher
    active.get_device_capability = lambda *_: capability
    active.get_current_stream = active.get_current_device = lambda *_: 0
    active.set_current_device = lambda device: None
    active.get_active_torch_device = lambda: torch.device("cpu")
    active.get_device_interface = lambda: torch.cpu
    return active
