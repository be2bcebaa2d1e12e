"""A GPU that is not there: tensors say that they are on it, work on a CPU, and what a GPU would do is counted.

In :func:`pretend_gpu` the whole library takes its way for a GPU: a tensor made on "cuda", or moved by the card, is an
:class:`OnCard`, PyTorch's operators work on the CPU tensor within, and Triton's kernels on it in Triton's interpreter.
A :class:`Card` counts the operators that start work on a GPU (launches; views and allocations start none) and those
that wait for it (synchronisations: whatever brings values to the CPU). All threads have the card,
also those that start later. With pretend_cuda_guard.cpp autograd has one worker thread for it, as for any card.

There is a second GPU, of another architecture, "cuda:1". A launch of a kernel whose tensors are not on the current
device, or on two, is an error, and so is a race between streams (pretend_streams.py).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretend_streams import Event, Stream, Streams
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CARD, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
ALLOCATIONS = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "alias")
WAITS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "_unique2", "unique_dim")
KERNELS = {  # and the pointers that they write to
    "_if_conv2d_kernel": "spikes pooled currents v_last",
    "_if_scan_kernel": "spikes v_last",
    "_counters_kernel": "counts",
    "_count_kernel": "counts",
    "_float16_parts_kernel": "high low unit",
    "_int8_digits_kernel": "first second third unit",
    "_max_pool_kernel": "pooled",
    "_max_rate_pool_kernel": "pooled after",
    "_pack_kernel": "words found",
    "_recurrent_backward_kernel": "list before grad_current grad_start sums",
    "_recurrent_scan_kernel": "list spikes v_last",
    "_running_sums_kernel": "sums sent",
    "_scan_backward_kernel": "before grad_current grad_start sums",
    "_sigma_delta_kernel": "sent fired z a",
    "_unpack_kernel": "dense",
    "_values_kernel": "values additions",
}
ZEROED = "spikes pooled v_last currents found".split()  # where kernels are not executed


class OnCard(Tensor):
    """A tensor that is on the GPU as far as anyone can tell; ``host`` has its values."""

    host: Tensor
    card: "Card"

    @staticmethod
    def __new__(cls, host: Tensor, card: "Card", device: torch.device = CARD):
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=device,
        )

    def __init__(self, host: Tensor, card: "Card", device: torch.device = CARD):
        self.host, self.card = host, card

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        card = next(a.card for a in torch.utils._pytree.tree_leaves((arguments, options)) if isinstance(a, OnCard))
        return card.run(function, arguments, options or {})

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        if function is Tensor.__getitem__ and "__getitem__" in vars(cls) and isinstance(arguments[0], cls):
            return arguments[0][arguments[1]]
        return torch._C._disabled_torch_function_impl(function, types, arguments, options or {})

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def untyped_storage(self):
        return self.host.untyped_storage()

    def tolist(self):
        self.card.waits["tolist"] += 1
        self.card.streams.of(self.device).synchronize()
        return self.host.tolist()

    # The methods that torch's own bindings ask the driver for.

    def contiguous(self, memory_format=torch.contiguous_format):
        return self if self.is_contiguous(memory_format=memory_format) else self.clone(memory_format=memory_format)

    def copy_(self, other, non_blocking=False):
        self[...] = other
        return self

    def record_stream(self, stream: Stream) -> None:
        self.card.streams.recorded.setdefault(self.host.untyped_storage(), set()).add(stream)

    def __int__(self) -> int:
        return int(self.item())

    def __invert__(self):
        return self.logical_not() if self.dtype == torch.bool else self.bitwise_not()

    def __getitem__(self, index):
        return self.card.index(self, index)

    def __setitem__(self, index, value):
        self.card.write(self, index, value)

    def __repr__(self) -> str:
        return f"OnCard({self.host})"


class Card(TorchDispatchMode):
    """What happens on the GPU. ``launches`` and ``waits`` count by name; ``executes``: whether Triton's kernels run."""

    def __init__(self, executes: bool = True):
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.executes = executes
        self.recording: list[Callable[[], None]] | None = None  # a graph that is being captured
        self._of_thread = threading.local()
        self.streams = Streams()

    def __deepcopy__(self, memo: dict) -> "Card":
        return self

    @property
    def current_device(self) -> torch.device:
        """That of this thread: at first not the one that most tests have their tensors on."""
        return getattr(self._of_thread, "device", SECOND)

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        """torch.cuda.device."""
        before, self._of_thread.device = self.current_device, self.named(device)
        yield
        self._of_thread.device = before

    def device_of(self, tensor: Tensor) -> AbstractContextManager:
        """torch.cuda.device_of."""
        return self.device(tensor.device)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """torch.cuda.stream."""
        with self.device(stream.device), self.streams.on(stream):
            yield

    def named(self, device: Any) -> torch.device:
        """A GPU, by its name or number; None: the current one."""
        if device is None:
            return self.current_device
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        return self.current_device if device.index is None else device

    def clear(self) -> None:
        self.launches.clear()
        self.waits.clear()

    def on_host(self, values: Any) -> Any:
        return tree_map(lambda a: a.host if isinstance(a, OnCard) else a, values)

    def on_card(self, values: Any, device: torch.device = CARD) -> Any:
        new = lambda a: isinstance(a, Tensor) and not isinstance(a, OnCard)  # noqa: E731
        return tree_map(lambda a: OnCard(a, self, device) if new(a) else a, values)

    def place_of(self, name: str, *operands: Any) -> torch.device:
        """The one GPU of all operands, but for single numbers."""
        tensors = [a for a in torch.utils._pytree.tree_leaves(operands) if isinstance(a, OnCard)]
        places = {a.device for a in tensors if a.ndim} or {a.device for a in tensors}
        if len(places) > 1:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found them on {places}")
        return places.pop()

    def touches(self, name: str, device: torch.device, reads: Any, writes: Any) -> None:
        """Notes a launch with the streams."""
        memory = lambda values: [  # noqa: E731
            a.untyped_storage() for a in torch.utils._pytree.tree_leaves(values) if isinstance(a, Tensor)
        ]
        if self.recording is None:
            self.streams.launch(name, device, memory(self.on_host(reads)), memory(self.on_host(writes)))

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        device = options.get("device")
        if any(issubclass(kind, OnCard) for kind in types) or (device and torch.device(device).type == "cuda"):
            return self.run(function, arguments, options)
        return function(*arguments, **options)

    def run(self, function, arguments: tuple, options: dict) -> Any:
        """An operator of tensors on the GPU."""
        space, _, name = function._schema.name.partition("::")
        if space == "proxykernels":  # its own operators are called, not counted
            with self:
                return function.redispatch(CUDA, *arguments, **options)
        device = options.get("device")
        if device is not None:
            options = {**options, "device": "cpu"}
        if device is not None and torch.device(device).type == "cuda":
            place = self.named(device)
        else:
            place = arguments[0].device if name == "copy_" else self.place_of(name, arguments, options)
        operands, named = self.on_host(arguments), self.on_host(options)
        work = lambda: function(*operands, **named)  # noqa: E731
        if self.recording is not None and function._schema.is_mutable:  # a graph that is captured does not run
            self.launches[name] += 1
            self.recording.append(work)
            return arguments[0] if function._schema.returns else None
        results = work()
        if name in WAITS or (name == "_to_copy" and device is not None and torch.device(device).type == "cpu"):
            if self.recording is not None:
                raise RuntimeError("operation not permitted when stream is capturing")
            self.waits[name] += 1
            self.touches(name, place, arguments, ())
            self.streams.of(place).synchronize()
            return results
        if not self._is_view(function, name, arguments, results):
            self.launches[name] += 1
            self.touches(name, place, (arguments, options), (results, _written(function, arguments, options)))
            if name == "_to_copy" and not isinstance(arguments[0], OnCard):  # the driver waits for such a copy
                self.streams.of(place).synchronize()
            self._record(work, results)
        if function._schema.is_mutable and name.endswith("_"):
            return arguments[0] if function._schema.returns else None
        return self.on_card(results, place)

    def index(self, values: OnCard, index: Any) -> OnCard:
        """values[index]: a view, or a gathering by tensors, of which masks are waited for."""
        places = self.on_host(index)
        work = lambda: values.host[places]  # noqa: E731
        result = work()
        tensors = [a for a in torch.utils._pytree.tree_leaves(places) if isinstance(a, Tensor)]
        if tensors:
            self.launches["index"] += 1
            self.waits["nonzero"] += any(a.dtype == torch.bool for a in tensors)
            self.touches("index", values.device, (values, tensors), result)
            self._record(work, result)
        return self.on_card(result, values.device)

    def write(self, values: OnCard, index: Any, value: Any) -> None:
        """values[index] = value."""
        places, given = self.on_host(index), self.on_host(value)

        def work() -> None:
            values.host[places] = given

        self.launches["copy_"] += 1
        self.touches("copy_", values.device, (places, given), values)
        self._now_or_in_graph(work)

    def _is_view(self, function, name: str, arguments: tuple, results: Any) -> bool:
        if name in ALLOCATIONS:
            return True
        if function._schema.is_mutable or not arguments or not isinstance(results, Tensor | list | tuple):
            return False
        first = results if isinstance(results, Tensor) else next(iter(results), None)
        source = self.on_host(arguments[0])
        if not isinstance(source, Tensor) or not isinstance(first, Tensor):
            return False
        return first.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()

    def launch(self, name: str, kernel, grid, options: dict) -> None:
        """A Triton kernel, which runs on the current device, wherever its tensors are."""
        self.launches[name] += 1
        if self.place_of(name, options) != self.current_device:
            raise RuntimeError(f"{name} is launched on {self.current_device}, and its tensors are elsewhere")
        operands = self.on_host(options)
        outputs = [operands.get(output + "_pointer") for output in KERNELS[name].split()]
        self.touches(name, self.current_device, operands, outputs)
        work = lambda: kernel[grid](**operands)  # noqa: E731
        if not self.executes:
            given = (operands.get(output + "_pointer") for output in ZEROED)
            blank = [output for output in given if output is not None]
            work = lambda: [output.zero_() for output in blank]  # noqa: E731
        self._now_or_in_graph(work)

    def _now_or_in_graph(self, work: Callable[[], Any]) -> None:
        """Work that writes to memory that is there."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def _record(self, work: Callable, results: Any) -> None:
        """Into the graph that is captured: the same work, its results to the same memory."""
        if self.recording is None:
            return
        places = [r for r in torch.utils._pytree.tree_leaves(results) if isinstance(r, Tensor)]

        def again() -> None:
            for place, value in zip(places, torch.utils._pytree.tree_leaves(work()), strict=True):
                place.copy_(value)

        self.recording.append(again)

    def moved(self, module: nn.Module, device: torch.device = CARD) -> nn.Module:
        """A module whose parameters and buffers are on the GPU from now on."""
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        there = self.on_card(tensor.detach(), device)
                        tensors[name] = (
                            nn.Parameter(there, tensor.requires_grad) if tensors is part._parameters else there
                        )
        return module

    def capture(self, step: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """What ``step`` returns, and a function that does its work without its Python, as a CUDA graph does."""
        device = self.current_device
        self.recording = recorded = []
        try:
            results = step()
        finally:
            self.recording = None

        def replay() -> None:
            assert self.current_device == device
            self.launches["graph"] += 1
            for work in recorded:
                work()

        return results, replay


@contextmanager
def pretend_gpu(monkeypatch: pytest.MonkeyPatch, executes: bool = True) -> Iterator[Card]:
    """The library believes in a GPU; ``card.on_card`` and ``card.moved`` bring tensors and modules there."""
    import triton
    from triton.runtime import driver

    from proxykernels import checks
    from proxykernels.kernels.gpu import (
        conv2d_launch,
        counters,
        packing,
        pools,
        scans,
        scans_backward,
        sigma_delta,
        weight_parts,
    )
    from proxykernels.kernels.gpu.backend import convolutions
    from proxykernels.kernels.gpu.block_sizes import architecture
    from proxykernels.layers import sigma_delta_neurons, synapses
    from proxykernels.neurons import base
    from proxykernels.running import replay
    from proxykernels.spikes import spike_tensor

    card = Card(executes)
    run_thread = threading.Thread.run

    def run_with_card(thread: threading.Thread) -> None:
        with card:
            run_thread(thread)

    monkeypatch.setattr(threading.Thread, "run", run_with_card)
    major, minor = (9, 0) if triton.knobs.runtime.interpret else divmod(driver.active.get_current_target().arch, 10)
    properties = {
        CARD: SimpleNamespace(total_memory=80 << 30, multi_processor_count=132, major=major, minor=minor),
        SECOND: SimpleNamespace(total_memory=24 << 30, multi_processor_count=82, major=8, minor=0),
    }
    as_tensor = torch.as_tensor

    def as_tensor_there(data, dtype=None, device=None):  # torch's own makes the tensor where no mode of torch looks
        if isinstance(data, OnCard):
            return data.to(dtype or data.dtype)
        there = device is not None and torch.device(device).type == "cuda"
        made = as_tensor(data, dtype=dtype, device=None if there else device)
        return card.on_card(made, card.named(device)) if there else made

    monkeypatch.setattr(torch, "as_tensor", as_tensor_there)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(replay, "capture_graph", lambda step, memory: card.capture(step))
    monkeypatch.setattr(replay.Replay.__init__, "__defaults__", (card.capture,))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: card.recording is not None)
    for name, value in {
        "device_of": card.device_of,
        "device": card.device,
        "stream": card.stream,
        "current_stream": lambda device=None: card.streams.of(card.named(device)),
        "Stream": lambda device=None: Stream(card.streams, card.named(device)),
        "Event": Event,
        "synchronize": lambda device=None: card.streams.of(card.named(device)).synchronize(),
        "get_device_properties": lambda device=None: properties[card.named(device)],
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for check in ("_cuda_graph_capture_health_check", "_accelerator_graph_capture_health_check"):  # they ask a driver
        monkeypatch.setattr(torch.optim.Optimizer, check, lambda optimizer: None, raising=False)
    # Nobody follows but the card.
    monkeypatch.setattr(spike_tensor, "PLAIN", (*spike_tensor.PLAIN, OnCard))
    monkeypatch.setattr(spike_tensor, "nobody_follows", lambda: torch._C._len_torch_dispatch_stack() == 1)
    jitted = conv2d_launch, scans, counters, packing, pools, sigma_delta, weight_parts
    for module in (*jitted, scans_backward):
        for name in KERNELS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _Launched(card, name, getattr(module, name)))
    caches = (checks.memory, architecture, convolutions, synapses._reach_of_pixels, sigma_delta._reach)  # of devices
    caches += (sigma_delta_neurons._same, base._of_numbers_on)
    for cache in caches:
        cache.cache_clear()
    with card:
        yield card
    faults = [*card.streams.faults]
    for cache in caches:
        cache.cache_clear()
    assert not faults, faults


def _written(function, arguments: tuple, options: dict) -> list:
    """The arguments that an operator writes to."""
    given = zip(function._schema.arguments, arguments, strict=False)
    named = ((a, options[a.name]) for a in function._schema.arguments if a.name in options)
    return [value for a, value in (*given, *named) if a.alias_info is not None and a.alias_info.is_write]


class _Launched:
    """A Triton kernel whose launches the card counts."""

    def __init__(self, card: Card, name: str, kernel):
        self.card, self.name, self.kernel = card, name, kernel

    def __getitem__(self, grid):
        return lambda **options: self.card.launch(self.name, self.kernel, grid, options)

    def warmup(self, grid, **options):
        return self.kernel.warmup(grid=grid, **self.card.on_host(options))
