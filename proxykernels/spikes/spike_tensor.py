"""A tensor of spikes that stays packed until its values are read. Layers return it when their input is a tensor.

It has the shape, dtype and device of the dense tensor. This package's layers, pooling and flattening use its bits, and
so do the torch functions in WITHOUT_A_LOOK (spike_tensor_functions.py). Every other function is called with the dense
tensor, which is made at the first such call. The bits are dropped then, so that a write to the dense tensor, through a
view, numpy or a pointer, is never missed: the next layer packs it again.

Views, such as ``y[a:b]``, share one :class:`Memory`. Once one of them has been read, all are views of its dense tensor.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import _len_torch_dispatch_stack_pre_dispatch
from torch.utils import swap_tensors
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from ..kernels import backends, heap
from ..kernels.value_checks_cache import is_fake_mode, nobody_follows
from .packing import pack_if_binary
from .spikes import Spikes

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
WITHOUT_A_LOOK: dict[Callable, Callable] = {}  # torch function -> one on bits, which may return NotImplemented


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
        self = _without_storage(spikes.shape, dtype=memory.dtype, device=spikes.device)
        self._memory, self._spikes, self._view, self._seen, self._source = memory, spikes, view, None, None
        return self

    def packed(self) -> Spikes | None:
        """The bits; None once the dense tensor has been read."""
        return self._spikes if self._memory.dense is None else None

    def dense(self) -> Tensor:
        """An ordinary tensor, made at the first call; the bits are dropped then."""
        if self._seen is None:
            whole = self._memory.look()
            self._seen = whole if self._view is None else self._view(whole)
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
        if func in METADATA and args and isinstance(args[0], SpikeTensor) and args[0].packed() is not None:
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
    """The memory that several SpikeTensors share: bits, or a dense tensor once values have been read."""

    __slots__ = ("_in_inference", "_lock", "_spikes", "dense", "dtype")

    def __init__(self, spikes: Spikes | None, dtype: torch.dtype, dense: Tensor | None = None):
        self._spikes, self.dense = spikes, dense
        self.dtype, self._lock, self._in_inference = dtype, Lock(), torch.is_inference_mode_enabled()

    def look(self) -> Tensor:
        """The dense tensor, for reading."""
        with self._lock:
            if self.dense is None:
                spikes: Any = self._spikes  # not None before the first look
                with torch.inference_mode(self._in_inference), torch._C.DisableTorchFunction(), _without_modes():
                    self.dense = spikes.dense(self.dtype)
                self._spikes = None
        return self.dense


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
