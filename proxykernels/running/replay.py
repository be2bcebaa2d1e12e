"""A chunk of a simulation as a CUDA graph: captured once, then replayed without Python and single launches.

A graph does its work again on the memory that it was captured with: the input lies in one place, potentials are written
back to where they were read, counters go on, and what the network gives is copied before the next chunk.

The environment variable PROXYKERNELS_CUDA_GRAPHS=0 turns graphs off.
"""

import os
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import weight_cache
from ..kernels.backends import reference_is_asked
from ..layers import Neurons
from ..layers.parametrized import has_forward_hooks
from ..plan.plain_modules import is_replaced
from ..spikes import Spikes
from .prepared_network import PreparedNetwork

FEWEST = 4  # chunks still to come that are worth a capture
PLAIN = (nn.Sequential, nn.Identity)  # containers and modules of torch that do the same at every call

Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]  # a step, to what it gives and its replay


# By the stream on which graphs are replayed: where they are captured, and what memory they have.
Memory = dict[Any, tuple["torch.cuda.Stream", "torch.cuda.MemPool"]]


class _Memory(threading.local):
    """The memory of a thread's graphs. A simulation reuses that of the one before, which has ended on the stream by
    then."""

    def __init__(self):
        self.of: Memory = {}


_memory = _Memory()


def are_allowed() -> bool:
    """Whether anything may be captured now."""
    if os.environ.get("PROXYKERNELS_CUDA_GRAPHS") == "0" or reference_is_asked():
        return False
    return not torch.cuda.is_current_stream_capturing()


def capture_graph(step: Callable[[], Any], memory: Memory | None = None) -> tuple[Any, Callable[[], None]]:
    """What ``step`` returns, and a function that does its work again, as a CUDA graph on the current device and stream;
    it is not done yet.

    torch.cuda.graph would empty the allocator's cache and wait for the device. A pool for each graph would keep its
    memory until somebody empties that cache.

    Args:
        memory: that graphs share which run one at a time; None: the thread's.
    """
    memory = _memory.of if memory is None else memory
    current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    if current not in memory:
        memory[current] = torch.cuda.Stream(), torch.cuda.MemPool()
    stream, pool = memory[current]
    handle: Any = pool.id  # torch keeps the name of its type to itself
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=handle, capture_error_mode="thread_local")
        try:
            given = step()
            graph.capture_end()
        except BaseException:
            with suppress(RuntimeError):
                graph.capture_end()
            del memory[current]
            _end_failed_capture(handle)
            raise
    current.wait_stream(stream)
    return given, graph.replay


def _end_failed_capture(pool: Any) -> None:
    """End what torch (to 2.13 at least: pytorch/pytorch#190308) leaves open where a capture fails.

    It goes on to allocate from the graph's pool; and it holds the generator of random numbers for the capture, so that
    torch.rand would raise from then on. A capture that succeeds, of nothing, lets the generator go.
    """
    with suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)  # type: ignore[attr-defined]
    with suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is empty
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        graph.capture_end()


class Replay:
    """The chunks of a simulation, replayed where they repeat: those of as many steps as one that has run before.

    Only networks of this package's layers do the same at every chunk for certain; modules of others, hooks, records and
    statistics of the batch are run as they are.
    """

    def __init__(self, prepared: PreparedNetwork, capture: Capture = capture_graph):
        self.prepared, self.capture = prepared, capture
        self._warm: tuple | None = None  # shape of the last chunk that was run as it is
        self._x: Any = None  # where the graph reads its input
        self._given: Any = None  # and what it gives
        self._again: Callable[[], None] | None = None
        self._counted: list[tuple[int, int]] = []  # by each tally, a chunk

    def __call__(self, x: Spikes | Tensor, start: int, to_come: int) -> Any:
        """What the network gives for the chunk x from step ``start``, the first of ``to_come`` as long ones.

        A graph is captured on the current device, which need not be the input's own.
        """
        with torch.cuda.device_of(x._words if isinstance(x, Spikes) else x):
            return self._chunk(x, start, to_come)

    def _chunk(self, x: Spikes | Tensor, start: int, to_come: int) -> Any:
        shape = tuple(x.shape)
        if self._again is not None and shape == tuple(self._x.shape):
            self._read(x)
            for stateful, (places, products) in zip(self.prepared.stateful_layers.values(), self._counted, strict=True):
                stateful.tally.places += places
                stateful.tally.multiply_accumulates += products
        elif self._warm != shape or to_come < FEWEST or not self._is_safe(x) or not self._captured(x, start):
            is_new, self._warm = self._warm != shape, shape
            may_compile = is_new and x.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
            if may_compile and self.may_run_again():
                return self.prepared.rehearsed(x, start)
            return self.prepared(x, start)
        self._again()  # type: ignore[misc]  # it is there now
        return copied(self._given)

    def _is_safe(self, x: Spikes | Tensor) -> bool:
        """Whether a chunk may be captured, and does the same every time."""
        if x.device.type != "cuda" or not are_allowed() or not weight_cache.are_looked_at():
            return False
        return self.may_run_again()

    def may_run_again(self) -> bool:
        """Whether a chunk changes nothing but states and counts, and nothing else looks into it."""
        return self.prepared.repeats and all(map(is_plain, self.prepared.modules()))

    def _captured(self, x: Spikes | Tensor, start: int) -> bool:
        states = [stateful.states for stateful in self.prepared.stateful_layers.values()]
        tallies = [stateful.tally for stateful in self.prepared.stateful_layers.values()]
        before = [(tally.places, tally.multiply_accumulates) for tally in tallies]
        lasting = [[torch.empty_like(v) for v in state.now] for state in states]
        flat = [v for mine in lasting for v in mine]

        def write_back() -> None:
            torch._foreach_copy_(flat, [v for state in states for v in state.now])
            for state, mine in zip(states, lasting, strict=True):
                state.now = list(mine)

        def step() -> Any:
            y = self.prepared(self._x, start)
            write_back()
            return y

        write_back()
        self._x = x if isinstance(x, Tensor) and weight_cache.include(x) and x.stride(0) == 0 else copied(x)
        try:
            self._given, self._again = self.capture(step)
        except RuntimeError as error:
            warnings.warn(f"a chunk of steps is not replayed as a CUDA graph: {error}", RuntimeWarning, stacklevel=2)
            for state, mine in zip(states, lasting, strict=True):
                state.now = list(mine)
            for tally, counted in zip(tallies, before, strict=True):
                tally.places, tally.multiply_accumulates = counted
            self.prepared.forget_chunk()
            self.prepared.repeats = False
            return False
        self._counted = [
            (tally.places - places, tally.multiply_accumulates - products)
            for tally, (places, products) in zip(tallies, before, strict=True)
        ]
        return True

    def _read(self, x: Spikes | Tensor) -> None:
        """The next chunk of the input, to where the graph reads it."""
        if isinstance(x, Spikes):
            self._x._words.copy_(x._words)
        elif x.data_ptr() != self._x.data_ptr():
            self._x.copy_(x)


def copied(y: Any) -> Any:
    """Spikes or a tensor with memory of their own."""
    return Spikes(y._words.clone(), y.shape, y.scale) if isinstance(y, Spikes) else y.clone()


def is_plain(module: nn.Module) -> bool:
    """Whether nothing but this package's code runs in a module."""
    ours = type(module).__module__.startswith("proxykernels.") or type(module) in PLAIN
    if isinstance(module, Neurons) and module.neuron.in_python:
        return False
    return ours and not has_forward_hooks(module) and not is_replaced(module)
