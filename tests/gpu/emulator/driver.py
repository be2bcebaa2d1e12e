"""A driver for Triton whose GPU is the emulator: kernels are compiled for a real target, and launched on CPU tensors.

    driver.install("sm_80")          before the first launch; TRITON_INTERPRET must not be set

Compilation, specialisation and launching are Triton's own, so what runs is the PTX that a GPU of that target would get.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from .block import Block
from .memory import Fault, GlobalMemory
from .ptx import Kernel

TARGETS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024}  # and the bytes of shared memory that a block may have
SCALARS = {"i1": "u4", "i8": "i4", "i16": "i4", "i32": "i4", "u32": "u4", "fp32": "f4", "f32": "f4"}
SCALARS |= {"i64": "i8", "u64": "u8"}


class State:
    """How launches are emulated, and what has been run."""

    products = "exact"  # see tensor_core.multiply
    edit: Callable[[str], str] = staticmethod(lambda ptx: ptx)  # what becomes of a kernel's text before it is run
    kernels: dict[str, Kernel] = {}  # by the hash of what was compiled
    launches = blocks = 0
    digit_launches = 0  # of those, with products of int8 digits


class Launcher:
    """What Triton calls for a launch."""

    def __init__(self, source, metadata):
        self._signature, self._shared = source.signature, metadata.shared

    def __call__(self, x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
        if (y, z) != (1, 1):
            raise NotImplementedError("a grid of more than one dimension")
        kernel = State.kernels[function]
        values = [(kind, value) for kind, value in _flat(self._signature.values(), arguments) if kind != "constexpr"]
        spans = {}
        for kind, value in values:
            if kind.startswith("*"):
                spans[value.data_ptr()] = max(_bytes(value), spans.get(value.data_ptr(), 0))
        memory = GlobalMemory(spans)
        parameters = []
        for kind, value in values:
            if kind.startswith("*"):
                parameters.append(np.array([memory.address(value.data_ptr())], "u8"))
            else:
                parameters.append(np.array([value], SCALARS[kind]))
        parameters += [np.zeros(1, "u8")] * (len(kernel.parameter_types) - len(parameters))  # scratch memory: none
        for index in range(x):
            block = Block(kernel, index, x, parameters, memory, self._shared, State.products)
            kernel.run(block)
            if block.has_work_left():
                raise Fault("asynchronous work that nobody waited for")
        memory.copy_back()
        State.launches, State.blocks = State.launches + 1, State.blocks + x
        State.digit_launches += kernel.multiplies_digits


def _flat(kinds, arguments) -> Iterator[tuple[str, object]]:
    """Kinds and arguments; those of a tuple, as a layer's neurons are, one by one."""
    for kind, value in zip(kinds, arguments, strict=True):
        if isinstance(kind, tuple):
            yield from _flat(kind, value)
        else:
            yield kind, value


def _bytes(tensor: torch.Tensor) -> int:
    """From a tensor's first element to behind its last; at least one byte, where there is memory."""
    if not tensor.numel():
        return 1 if tensor.data_ptr() else 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


class _Utilities:
    def __init__(self, target: str):
        self._target = target

    def get_device_properties(self, device):
        return {"max_shared_mem": TARGETS[self._target], "multiprocessor_count": 108, "warpSize": 32}

    def unload_module(self, module):
        pass


class _Driver(DriverBase):
    """What Triton asks of a driver."""

    def __init__(self, target: str):
        self.target, self.utils, self.launcher_cls = target, _Utilities(target), Launcher

    def get_current_target(self):
        return GPUTarget("cuda", int(self.target[3:]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_device_interface(self):
        return torch.cpu

    def get_benchmarker(self):
        raise NotImplementedError("an emulator has no speed")

    get_empty_cache_for_benchmark = get_benchmarker

    def map_python_to_cpp_type(self, kind):
        return kind

    def clear_cache(self, cache):
        pass

    @staticmethod
    def is_active():
        return True


def install(target: str) -> None:
    """Make the emulator Triton's active GPU, of ``target`` ("sm_80" or "sm_90")."""
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise RuntimeError("TRITON_INTERPRET is set: nothing would be compiled")
    triton.runtime.driver.set_active(_Driver(target))

    def init_handles(self):
        """CompiledKernel._init_handles, with the PTX in place of the binary."""
        if self.module is not None:
            return
        if self.metadata.shared > TARGETS[target]:
            raise triton.runtime.errors.OutOfResources(self.metadata.shared, TARGETS[target], "shared memory")
        self._run = Launcher(self.src, self.metadata)
        if self.hash not in State.kernels:
            State.kernels[self.hash] = Kernel(State.edit(self.asm["ptx"]))
        self.module, self._module_pid, self.function = self.hash, os.getpid(), self.hash
        self.n_regs = self.n_spills = 0
        self.n_max_threads = 1024

    triton.compiler.CompiledKernel._init_handles = init_handles
