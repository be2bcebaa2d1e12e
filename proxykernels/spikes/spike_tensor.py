"""A tensor of spikes that stays packed until its values are read. Layers return it when their input is a tensor.

It has the shape, dtype and device of the dense tensor. This package's layers, pooling and flattening use its bits, and
so do the torch functions in WITHOUT_A_LOOK, at the end. Every other function is called with the dense
tensor, which is made at the first such call. The bits are dropped then, so that a write to the dense tensor, through a
view, numpy or a pointer, is never missed: the next layer packs it again.

Views, such as ``y[a:b]``, share one :class:`Memory`. Once one of them has been read, all are views of its dense tensor.

On a GPU a program that uses a tensor on several streams waits for the stream that made it, once. So the dense tensor is
made on that stream, however late, and other streams wait for it; they never use the bits.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.utils import swap_tensors
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from ..kernels import backends, heap
from ..kernels.cpu.words import PACKABLE
from ..kernels.value_checks_cache import is_fake_mode, nobody_follows
from .packing import pack_if_binary
from .spikes import Spikes, cat_channels, cat_steps, flatten

FEWEST = 1 << 12  # neurons times steps that are worth the overhead; smaller tensors are dense at once

METADATA = {
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_cpu", "is_cuda", "is_meta", "nbytes",
        "itemsize", "is_nested", "is_quantized",
    )),
    *(getattr(Tensor, name) for name in (
        "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex",
        "element_size", "__len__", "get_device",
    )),
    torch.numel, torch.is_floating_point, torch.is_complex,
}  # fmt: skip
CHANGES = {  # functions that change the tensor itself, not only its values
    Tensor.requires_grad.__set__, Tensor.data.__set__,  # type: ignore[attr-defined]
    *(getattr(Tensor, name + "_") for name in (
        "requires_grad", "unsqueeze", "squeeze", "t", "transpose", "swapaxes", "swapdims", "resize", "resize_as", "set",
        "as_strided", "share_memory",
    )),
}  # fmt: skip
CONTAINERS = tuple, list, dict  # of arguments


class SpikeTensor(Tensor):
    """A tensor of spikes that stays packed until its values are read; see above. Made by :func:`dense_like`."""

    _memory: "Memory"
    _spikes: Spikes
    _view: Callable[[Tensor], Tensor] | None
    _seen: Tensor | None
    _source: Tensor | None  # the tensor that this was detached from

    @staticmethod
    def __new__(cls, spikes: Spikes, memory: "Memory", view: Callable[[Tensor], Tensor] | None = None):
        """``view``: a function that makes this tensor from the memory's dense tensor; None: they are the same."""
        self = _without_storage(spikes.shape, dtype=memory.dtype, device=spikes._kept.tensor.device)
        self._memory, self._spikes, self._view, self._seen, self._source = memory, spikes, view, None, None
        return self

    def packed(self) -> Spikes | None:
        """The bits; None once the dense tensor has been read, and on other streams than that which made them."""
        memory = self._memory
        return self._spikes if memory.dense is None and (memory.stream is None or memory.is_of_this_stream()) else None

    def dense(self) -> Tensor:
        """An ordinary tensor, made at the first call; the bits are dropped then."""
        if self._seen is None:
            whole = self._memory.look()
            self._seen = whole if self._view is None else self._view(whole)
        if self._memory.stream is not None:
            self._memory.wait()
        return self._seen

    def detached(self) -> "SpikeTensor":
        """A view without a gradient. It has this class even if there are no bits, as nn.Parameter requires."""
        view = view_of(self, self._spikes, Tensor.detach)
        view._source = self
        return view

    def _become_dense(self) -> bool:
        """Turn into an ordinary tensor, if only Python refers to this one; return whether that was possible."""
        with suppress(RuntimeError), torch._C.DisableTorchFunctionSubclass():
            swap_tensors(self, self.dense().detach())
            return True
        return False

    def _become_learnable(self) -> None:
        """Turn into an ordinary tensor before requires_grad_, together with the tensor that this was detached from:
        nn.Parameter requires that a detached tensor has the class of its source."""
        source = self._source
        if not isinstance(source, SpikeTensor) or source._become_dense():
            self._become_dense()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.compiler.is_compiling() or _is_traced() or (func is Tensor.untyped_storage and _is_described()):
            # The graph holds the dense tensor, by the functions below; the storage of this one is empty.
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in METADATA and args and isinstance(args[0], SpikeTensor) and args[0]._memory.dense is None:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in CHANGES and args and isinstance(args[0], SpikeTensor):
            args[0]._become_learnable() if func is Tensor.requires_grad_ else args[0]._become_dense()
        if args and func in WITHOUT_A_LOOK:  # names of the first argument: input, x, a, self
            result = WITHOUT_A_LOOK[func](*args, **kwargs)
            if result is not NotImplemented:
                return result
        return _with_dense(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _with_dense(func, args, kwargs or {})  # for callers in C++, which bypass __torch_function__

    def __repr__(self, *, tensor_contents=None):
        if torch.compiler.is_compiling() or is_fake_mode():
            return f"SpikeTensor(shape={tuple(self.shape)})"
        return repr(self.dense())

    def __tensor_flatten__(self):
        self.dense()
        return ["_seen"], None

    @staticmethod
    def __tensor_unflatten__(inner, _, size, stride):
        dense = inner["_seen"]
        self = _without_storage(size, strides=stride, dtype=dense.dtype, device=dense.device)
        self._memory, self._view, self._seen, self._source = Memory(None, dense.dtype, dense), None, dense, None
        return self

    def _stable_hash_for_caching(self) -> str:
        return type(self).__name__


def _without_storage(size: Sequence[int], **about: Any) -> SpikeTensor:
    """A tensor without storage. Compiled code that takes its address, as torch.utils.dlpack.to_dlpack does, gets
    torch's RuntimeError instead of a null pointer."""
    made = Tensor._make_wrapper_subclass(SpikeTensor, size, **about)
    torch._C._set_throw_on_mutable_data_ptr(made)
    return made


class Memory:
    """The memory that several SpikeTensors share: bits, or a dense tensor once values have been read.

    Attributes:
        stream: that of a GPU on which the bits were made, and the dense tensor will be; None: on a CPU.
    """

    __slots__ = ("_in_inference", "_lock", "_made", "_spikes", "dense", "dtype", "stream")

    def __init__(self, spikes: Spikes | None, dtype: torch.dtype, dense: Tensor | None = None):
        self._spikes, self.dense = spikes, dense
        self.dtype, self._lock, self._in_inference = dtype, Lock(), torch.is_inference_mode_enabled()
        device = heap.CPU if spikes is None else spikes.device
        self.stream: Any = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._made: torch.cuda.Event | None = None

    def is_of_this_stream(self) -> bool:
        """Whether the current stream may use the bits: that which made them, or one that is captured, for which a
        program waits before."""
        return torch.cuda.is_current_stream_capturing() or torch.cuda.current_stream(self.stream.device) == self.stream

    def look(self) -> Tensor:
        """The dense tensor, for reading."""
        with self._lock:
            if self.dense is None:
                spikes: Any = self._spikes  # not None before the first look
                here = self.stream is None or self.is_of_this_stream()
                with (
                    torch.inference_mode(self._in_inference), torch._C.DisableTorchFunction(), _without_modes(),
                    nullcontext() if here else torch.cuda.stream(self.stream),
                ):  # fmt: skip
                    self.dense = spikes.dense(self.dtype)
                    if self.stream is not None and not torch.cuda.is_current_stream_capturing():
                        self._made = self.stream.record_event()
                self._spikes = None
        return self.dense

    def wait(self) -> None:
        """Let the current stream wait until the dense tensor is made, and keep its memory until it has been read."""
        if self._made is not None and self.dense is not None and not self.is_of_this_stream():
            stream = torch.cuda.current_stream(self.stream.device)
            stream.wait_event(self._made)
            self.dense.record_stream(stream)


class InputMemory(Memory):
    """The memory of spikes that a simulation got as a tensor. Its layers use the bits, however few; other code sees a
    tensor. The same holds for the tensors that layers make from this one."""

    __slots__ = ()


def _is_traced() -> bool:
    """Whether torch.jit.trace or make_fx is recording; it would store a tensor that it was not given as a constant."""
    return torch._C._is_tracing() or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _is_described() -> bool:
    """Whether torch.compile is making a fake of this tensor; torch 2.10 asks for its storage outside the fake mode."""
    return is_fake_mode() or torch._guards.TracingContext.try_get() is not None


def _without_modes() -> AbstractContextManager:
    """Turn off torch's dispatch modes, so that the dense tensor is as if it had been made together with the bits."""
    modes = torch._C._len_torch_dispatch_stack() or _len_torch_dispatch_stack_pre_dispatch()
    return _disable_current_modes() if modes else nullcontext()  # the former imports for a second


def dense_like(spikes: Spikes, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Spikes as a tensor, packed until its values are read if possible. ``dtype``: default that of ``x``; spikes that
    carry a gradient are float32 instead of bool or integers."""
    dtype = x.dtype if dtype is None else dtype
    if spikes._handle is not None and spikes.requires_grad:
        return spikes.dense(dtype if dtype.is_floating_point else torch.float32)
    if not _is_alone(x):
        return spikes.dense(dtype)
    if isinstance(x, SpikeTensor) and isinstance(x._memory, InputMemory):
        return SpikeTensor(spikes, InputMemory(spikes, dtype))
    if x.device.type == "cpu":
        if backends.reference_is_asked():
            return spikes.dense(dtype)
        if math.prod(spikes.shape) < FEWEST:
            return spikes._dense(dtype, backends.cpu_backend())
        heap.keep_freed()  # reuse the memory of earlier dense tensors, or the system would clear pages for each
    return SpikeTensor(spikes, Memory(spikes, dtype))


def view_of(x: SpikeTensor, spikes: Spikes, view: Callable[[Tensor], Tensor]) -> SpikeTensor:
    """A view of x that shares its memory. ``view`` makes it from a dense x; ``spikes``: its bits, while x has any."""
    before = x._view
    return SpikeTensor(spikes, x._memory, view if before is None else lambda dense: view(before(dense)))


def packed(x: Any) -> Any:
    """The Spikes of a SpikeTensor whose values have not been read, otherwise its dense tensor. Any other x is returned
    as it is."""
    if not isinstance(x, SpikeTensor):
        return x
    if torch.compiler.is_exporting() or _is_traced():  # the graph will get other tensors: do not read this one
        return torch.ops.aten.alias(x)
    spikes = x.packed()
    return x.dense() if spikes is None else spikes


def given_bits(x: Any) -> Any:
    """:func:`packed` for spikes that a simulation was given, also within a tuple of inputs; any other x is returned as
    it is."""
    if isinstance(x, tuple | list):
        return tuple(map(given_bits, x))
    return packed(x) if isinstance(x, SpikeTensor) and isinstance(x._memory, InputMemory) else x


def keeps_packed(forward: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Decorate the forward pass of a module that takes Spikes and tensors, so that it uses a SpikeTensor's bits."""

    @wraps(forward)
    def taking_bits(self, x):
        given = packed(x)
        y = forward(self, given)
        if given is x or not isinstance(given, Spikes):
            return y
        if isinstance(y, Spikes):
            return x if y is given else dense_like(y, x)
        return y if y.dtype == x.dtype else forward(self, x.dense())  # values must be computed in the dtype of x

    return taking_bits


def found(x: Tensor) -> Spikes | None:
    """The Spikes of a tensor of 0 and 1 that is worth packing (see :func:`dense_like`); else None."""
    if x.dtype == torch.bool or x.ndim < 2 or x.requires_grad or not _is_alone(x) or math.prod(x.shape) < FEWEST:
        return None
    if isinstance(x, SpikeTensor):
        return x.packed()
    return pack_if_binary(x) if x.device.type == "cpu" else None  # on a GPU this would have to wait


PLAIN: tuple[type[Tensor], ...] = (Tensor, nn.Parameter, SpikeTensor)


def _is_alone(x: Tensor) -> bool:
    """Whether spikes for x may stay packed: nothing that follows operators (a compiler, a tracer, vmap, a mode, the
    capture of a CUDA graph) needs a dense tensor."""
    if type(x) not in PLAIN or x.layout != torch.strided or not nobody_follows():
        return False
    return x.device.type == "cpu" or (x.device.type == "cuda" and not torch.cuda.is_current_stream_capturing())


def _with_dense(func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a function with dense tensors. If it returns an argument, the original SpikeTensor is returned."""
    given: dict[int, SpikeTensor] = {}

    def look(x: SpikeTensor) -> Tensor:
        dense = x.dense()
        given[id(dense)] = x
        return dense

    if kwargs or any(isinstance(arg, CONTAINERS) for arg in args):
        args, kwargs = tree_map_only(SpikeTensor, look, (tuple(args), kwargs))
    else:
        args = [look(arg) if isinstance(arg, SpikeTensor) else arg for arg in args]
    result = func(*args, **kwargs)
    if isinstance(result, Tensor):  # x.add_(1) returns x
        return given.get(id(result), result)
    if isinstance(result, tuple | list):
        return tree_map_only(Tensor, lambda y: given.get(id(y), y), result)
    return result


def _of(x: Any) -> Any:
    """The bits of x, if it has any."""
    return x.packed() if isinstance(x, SpikeTensor) else None


def _new(x: SpikeTensor, spikes: Spikes, dtype: torch.dtype) -> SpikeTensor:
    return SpikeTensor(spikes, type(x._memory)(spikes, dtype))


def _as_it_is(x, *args, **kwargs):
    return x if _of(x) is not None and not args and not kwargs else NotImplemented


def _to_cpu(x, *args, **kwargs):
    return _as_it_is(x, *args, **kwargs) if x.is_cpu else NotImplemented


def _cut(x, index):
    spikes = _of(x)
    if spikes is None or type(index) is not slice or index.step not in (None, 1):
        return NotImplemented
    if not all(end is None or type(end) is int for end in (index.start, index.stop)):
        return NotImplemented
    start, stop, _ = index.indices(spikes.T)
    if stop <= start:
        return NotImplemented
    return view_of(x, spikes[start:stop], lambda dense: dense[start:stop])


def _flatten(x, start_dim=0, end_dim=-1):
    spikes = _of(x)
    if spikes is None or start_dim != 2 or len(spikes.shape) < 4 or end_dim not in (-1, len(spikes.shape) - 1):
        return NotImplemented
    return view_of(x, flatten(spikes), lambda dense: dense.flatten(2))


def _detach(x):
    return x.detached() if isinstance(x, SpikeTensor) else NotImplemented


def _deepcopy(x, memo):
    """Uses the caller's memo, so that tensors that share memory still share it in the copy."""
    return x.dense().__deepcopy__(memo)


def _clone(x, *args, **kwargs):
    spikes = _of(x)
    return NotImplemented if spikes is None or args or kwargs else _new(x, spikes, x._memory.dtype)


def _to_type(dtype: torch.dtype) -> Callable:
    def convert(x, *args, **kwargs):
        spikes = _of(x)
        if spikes is None or args or kwargs:
            return NotImplemented
        if x._memory.dtype == dtype:
            return x
        return _new(x, spikes, dtype) if spikes.scale == 1 else NotImplemented  # which would be rounded

    return convert


def _to(x, *args, **kwargs):
    if kwargs or len(args) != 1 or args[0] not in PACKABLE:
        return NotImplemented
    return _to_type(args[0])(x)


JOINS: dict[int, Callable] = {0: cat_steps, 2: cat_channels}


def _cat(tensors, dim=0, *, axis=None, out=None):
    if not isinstance(tensors, tuple | list) or axis is not None or out is not None:
        return NotImplemented
    parts = [_of(x) for x in tensors]
    if any(part is None for part in parts) or len({x._memory.dtype for x in tensors}) > 1:
        return NotImplemented
    if dim not in JOINS or len(parts[0].shape) < 3:
        return NotImplemented
    if len({(*part.shape[:dim], part.scale, *part.shape[dim + 1 :]) for part in parts}) > 1:
        return NotImplemented
    return _new(tensors[0], JOINS[dim](parts), tensors[0]._memory.dtype)


def _dropout(x, p=0.5, training=True, inplace=False):
    return x if _of(x) is not None and not training else NotImplemented


def _sum_of_steps(x, dim=None, *args, **kwargs):
    spikes = _of(x)
    if spikes is None or dim not in (0, (0,), [0]) or args or kwargs or spikes.scale != 1:
        return NotImplemented
    dtype = x._memory.dtype
    return spikes.count().to(dtype if dtype.is_floating_point else torch.int64)


def _mean_of_steps(x, dim=None, *args, **kwargs):
    if _of(x) is None or x._memory.dtype != torch.float32:
        return NotImplemented
    total = _sum_of_steps(x, dim, *args, **kwargs)
    return total if total is NotImplemented else total.div_(x.shape[0])


# torch function -> one on bits, which returns NotImplemented if it would need the dense tensor
WITHOUT_A_LOOK: dict[Callable, Callable] = {
    Tensor.__getitem__: _cut,
    Tensor.flatten: _flatten, torch.flatten: _flatten,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.detach: _detach, torch.detach: _detach,
    Tensor.clone: _clone, torch.clone: _clone,
    Tensor.contiguous: _as_it_is, Tensor.cpu: _to_cpu,
    Tensor.float: _to_type(torch.float32), Tensor.double: _to_type(torch.float64), Tensor.half: _to_type(torch.float16),
    Tensor.bool: _to_type(torch.bool), Tensor.to: _to,
    torch.cat: _cat, torch.concat: _cat, torch.concatenate: _cat,
    F.dropout: _dropout, F.dropout2d: _dropout,
    Tensor.sum: _sum_of_steps, torch.sum: _sum_of_steps,
    Tensor.mean: _mean_of_steps, torch.mean: _mean_of_steps,
}  # fmt: skip
