"""Simulations by the plan of a network: made at the first call, and run until something of the network changes.

A network holds its plans itself: they are freed with it, and a copy of it begins without any. What modules hold is
compared one by one. The values of tensors are compared by a hash of all their bytes, at each look: NumPy, other
processes and ``tensor.data`` write to memory without any count of it.
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_int64
from dataclasses import dataclass, field
from itertools import chain, repeat
from numbers import Number
from operator import attrgetter, call, is_, itemgetter
from types import FunctionType
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import checks
from ..kernels import backends, forks
from ..kernels.heap import keep_freed
from ..kernels.table import InputKind
from ..kernels.value_checks_cache import nobody_follows
from ..kernels.weight_layouts import is_finite
from ..layers import Neurons
from ..layers.base import SpikingLayer, is_in_chunked_pass
from ..layers.layer_graph import LayerGraph
from ..layers.parametrized import is_parametrized
from ..neurons import AnyNeuron
from ..plan.follow import followed
from ..plan.follow_sigma_delta import follow_changes
from ..plan.followed_values import CannotFollowError
from ..plan.library import Given, Memory, Session
from ..plan.operations import Slot
from ..plan.own_forward import KEPT, has_own_forward
from ..plan.plan import Plan
from ..spikes import Spikes, pack_if_binary
from ..spikes.spike_tensor import dense_like
from ..stop import Lengths, Stop
from .engine import Engine
from .inputs import Features, are_frames, constant_dims, features_of, input_of, lies_ready
from .result import Result
from .stream_state import has_sigma_delta, ready_state

Key = tuple[tuple[int, ...], bool, str | None]  # shape of a sample, whether of values, precision
MOST_ENGINES = 4  # that a network keeps


@dataclass
class _Known:
    """What is known of a network with the modules and attributes that it had when it was last looked at.

    Attributes:
        of: the network; copies of it may hold this as well. snapshot: None: it cannot be watched, and has no plans.
        dims: of its constant inputs; features: of inputs that go to a matrix product.
        spiking: the layers in it that may have a surrogate derivative.
        trains: whether some module is in training mode. changes: whether its neurons are sigma-delta.
        engines: a hash of all weights and an engine made of them, the one that was used last at the end; None where
            the engine does not take the network.
    """

    of: ReferenceType[nn.Module]
    snapshot: "Snapshot | None"
    dims: tuple[int, ...] = ()
    features: Features = Features(None)
    spiking: tuple[SpikingLayer, ...] = ()
    trains: bool = False
    changes: bool = False
    engines: OrderedDict[Key, tuple[int, Engine] | None] = field(default_factory=OrderedDict)

    def __deepcopy__(self, memo: dict) -> None:
        """A copy of the network has no plans yet."""

    def __reduce__(self) -> tuple:
        return OrderedDict, ()  # a saved network names no private class


_lock = forks.lock()
_GLOBAL_HOOKS = [hooks for name, hooks in vars(torch_module).items() if name.startswith("_global_forward_")]


def run(
    net: nn.Module, x: Tensor | Spikes, T: int, state: dict | None, stop: Stop | None, precision: str | None,
    every: int | None = None, *, known: _Known | None = None, keeps: bool = True,
) -> Result | None:  # fmt: skip
    """simulate by a plan; None: the layers are to be run, which also say what is wrong with an argument.

    ``every``: steps between two looks of ``stop``; None: as many as are usual. ``known``: of a network that was just
    looked at; None: of others. ``keeps``: whether states are wanted.
    """
    if known is None and isinstance(net, nn.Module) and may_run(x):
        known = known_of(net)
    if known is None or known.changes:
        return None
    given: Any = x
    usual = lies_ready(x) and x.ndim in known.dims
    if usual and (x.ndim != 4 or known.features.number is None or not are_frames(x, known.features)):
        shape, constant, sequence = x.shape[1:], True, False
    else:
        usual = False
        with torch.no_grad():
            given = input_of(net, x, T, None, looks=False)
        shape, constant, sequence = given.shape[2:], isinstance(given, Tensor) and checks.is_repeated(given), True
        if constant:
            given, sequence = given[0], False
    engine = _engine(net, known, (shape, isinstance(given, Tensor) and given.dtype != torch.bool, precision))
    if engine is None or (stop is not None and engine.plan.last.real and not isinstance(stop, Lengths)):
        return None
    if isinstance(given, Spikes) and given.scale != 1 and engine.plan.needs_spikes:
        return None
    start = None if not state else _start(engine.plan, state, given.shape[int(sequence)])
    if start is None and state:
        return None
    keep_freed()
    inputs = engine.inputs
    if usual:
        given = Given(given, InputKind.HELD_VALUES, x.shape[0], T, inputs.rounds, constant=True)
    else:
        given = inputs.as_given(given, T, sequence, constant)
    return engine.simulate(given, T, stop, keep=engine.stateful if keeps else (), start=start, every=every)


def run_changes(
    net: LayerGraph, x: Tensor, sequence: bool, T: int, state: dict | None, stop: Stop | None, every: int | None,
    precision: str | None,
) -> Result | None:  # fmt: skip
    """:func:`run` for a network of sigma-delta neurons. ``x``, in float32, and the values of the state are checked."""
    known = known_of(net) if may_run(x) else None
    engine = None if known is None else _engine(net, known, (x.shape[1 + sequence :], True, precision))
    if engine is None:
        return None
    N = x.shape[int(sequence)]
    start = ready_state(engine.plan, state, N) if state else None
    given = engine.inputs.as_given(x, T, sequence, constant=not sequence)
    return engine.simulate(given, T, stop, keep=() if state is None else engine.stateful, start=start, every=every)


def timed_plan(
    net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None
) -> tuple[Plan, list[Slot], Session] | None:
    """A run of simulate that measures its operations: the plan, what its slots hold, and the session, whose ``took`` is
    filled; None: not by a plan."""
    known = known_of(net) if may_run(x) else None
    if known is None:
        return None
    with torch.no_grad():
        given = input_of(net, x, T, None, looks=False)
    real = isinstance(given, Tensor) and given.dtype != torch.bool
    engine = _engine(net, known, (tuple(given.shape[2:]), real, precision))
    if engine is None:
        return None
    session = engine.new_session()
    session.took = (c_int64 * len(engine.plan.operations))()
    held = isinstance(given, Tensor) and checks.is_repeated(given)
    first: Any = given[0] if isinstance(given, Tensor) and held else given
    ready = engine.inputs.as_given(first, T, not held, held)
    engine.advance(session, ready, T, fresh=True, goes_on=False)
    return engine.plan, engine.plan.slots(Slot(real, held)), session


def output(net: LayerGraph, x: Any) -> Spikes | Tensor | None:
    """net(x) by a plan, x (T, N, ...); None: the layers are to be run."""
    if not may_run(x) or is_in_chunked_pass() or net._forward_hooks or net._forward_pre_hooks:
        return None
    before = _kept(net)
    if net.training or _wants_gradient(x, before):  # without a look: training changes weights at each step
        return None
    known = known_of(net)
    if known is None or known.trains or len(x.shape) in known.dims or len(x.shape) - 1 not in known.dims or not len(x):
        return None
    if known is not before and _wants_gradient(x, known):
        return None
    result = run(net, _held_or_whole(x), len(x), None, None, None, known=known, keeps=False)
    if result is None:
        return None
    y = result.output
    return dense_like(y, x) if isinstance(x, Tensor) and isinstance(y, Spikes) else y


def _held_or_whole(x: Tensor | Spikes) -> Tensor | Spikes:
    """The one step [N, ...] of real values that x (T, N, ...) has, or x itself; a single step may be spikes."""
    if type(x) is not Tensor or not x.is_floating_point():
        return x
    if len(x) == 1 and (spikes := pack_if_binary(x)) is not None:
        return spikes
    return x[0] if len(x) == 1 or checks.is_repeated(x) else x


def _wants_gradient(x: Tensor | Spikes, known: _Known | None) -> bool:
    """Whether a call may give one, by the layers that the network had when it was last looked at."""
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad or (known is not None and any(layer.surrogate is not None for layer in known.spiking))


def may_run(x: Any) -> bool:
    """Whether nothing but the plan has to see the run."""
    if not nobody_follows() or any(_GLOBAL_HOOKS) or backends.reference_is_asked():
        return False
    if not backends.cpu_backend().runs_plans:
        return False
    return x.is_cpu and not x.is_nested if isinstance(x, Tensor) else isinstance(x, Spikes) and x.device.type == "cpu"


def _kept(net: nn.Module) -> _Known | None:
    """What was known of a network at the last look."""
    known = vars(net).get(KEPT)
    return known if isinstance(known, _Known) and known.of() is net else None


def known_of(net: nn.Module) -> _Known | None:
    """What is known of a network with the modules and attributes that it has now; None: it cannot have plans."""
    known: Any = vars(net).get(KEPT)
    if type(known) is not _Known or known.snapshot is None or not known.snapshot.holds(net):
        with _lock:
            before, known = known, _kept(net)
            by_another = known is not before and known is not None and known.snapshot is not None  # thread, meanwhile
            if known is None or not (by_another and known.snapshot.holds(net)):  # type: ignore[union-attr]
                vars(net)[KEPT] = None  # the snapshot has the names of all attributes
                known = vars(net)[KEPT] = _look_at(net)
    return None if known.snapshot is None else known


def _look_at(net: nn.Module) -> _Known:
    if not is_parametrized(net):
        for layer in net.modules():
            if isinstance(layer, Neurons):
                _ = layer.neuron  # which it keeps from the first time on
        with suppress(CannotWatchError):
            return _Known(
                ref(net),
                Snapshot(net),
                constant_dims(net),
                features_of(net),
                tuple(layer for layer in net.modules() if isinstance(layer, SpikingLayer) and layer is not net),
                any(module.training for module in net.modules()),
                has_sigma_delta(net),
            )
    return _Known(ref(net), None)


def _engine(net: nn.Module, known: _Known, key: Key) -> Engine | None:
    """The engine of a network with the weights that it has now; None: the engine does not take it."""
    assert known.snapshot is not None
    memory, engines = known.snapshot.memory, known.engines
    found = engines.get(key)
    if found is None and key in engines:
        return None
    weights = memory.hashed() if found is None or memory.is_small else found[1].hashed(memory)
    alike = found is None or not found[1].forwards or all(forward.is_as_before() for forward in found[1].forwards)
    with _lock:
        found = engines.get(key)
        if found is None or found[0] != weights or not alike:
            engine = _made(net, known.changes, key)
            if engine is not None and memory.hashed() != weights:
                return engine  # somebody writes to the weights just now: it serves this call only
            if any(other is not None and other[0] != weights for other in engines.values()):
                engines.clear()
            found = None if engine is None else (weights, engine)
        engines[key] = found
        engines.move_to_end(key)
        while len(engines) > MOST_ENGINES:
            engines.popitem(last=False)
    return None if found is None else found[1]


def _made(net: nn.Module, changes: bool, key: Key) -> Engine | None:
    shape, real, precision = key
    try:
        plan, forwards = (
            (follow_changes(net, tuple(shape), precision, copies=False), [])
            if changes
            else followed(net, tuple(shape), real, precision, copies=False)
        )
    except CannotFollowError:  # the layers take it, or say by their names what is wrong
        return None
    engine = Engine(plan)
    engine.plan, engine.forwards = engine.plan.without_weights(), forwards
    return engine


def _start(plan: Plan, state: dict, N: int) -> dict[int, Tensor] | None:
    """A state of all operations that have some, as the library has it; None where there is anything else."""
    operations = plan.stateful()
    if {op.name for _, op in operations} != state.keys():
        return None
    start = {}
    for k, op in operations:
        given = state[op.name]
        several = (op.states,) if op.states > 1 else ()
        if not isinstance(given, list | tuple) or len(given) != 1 or type(given[0]) is not Tensor:
            return None
        (v,) = given
        if v.shape != (N, *several, *plan.state_shape(op)) or v.dtype != torch.float32 or not v.is_cpu:
            return None
        if v.layout != torch.strided or not is_finite(v):
            return None
        plan.check_state(f"layer {op.name}: v", op, v)
        start[k] = plan.as_run(k, v)
    return start


UNREAD = {  # attributes of torch's modules that a run without gradients does not read, or only beside other hooks
    KEPT, "_non_persistent_buffers_set", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
}  # fmt: skip
PLAIN = Number, str, bytes, type(None), torch.dtype, torch.device, type, FunctionType  # NumPy's numbers, too


class CannotWatchError(Exception):
    """A network holds a tensor whose bytes are not its values, or are not on a CPU."""


class Snapshot:
    """The modules, attributes and tensors of a network.

    It holds all of them but the network itself, so that a network that holds its snapshot is freed like any other.

    Attributes:
        memory: the bytes of all tensors.

    Raises:
        CannotWatchError: the network cannot be watched.
    """

    def __init__(self, net: nn.Module):
        self._net = ref(net)
        self._objects: list[Any] = []
        self._dicts: list[dict] = []  # without that of the network, which would hold this snapshot
        self._known: list[Callable[[dict], tuple]] = []  # what gives the values of a dict that are of known kinds
        self._lists: list[tuple[list, tuple]] = []
        self._empty: list[Any] = []
        self._tensors: list[Tensor] = []
        self._seen = {id(net)}
        # Code of the user's own may read attributes of any kind.
        self._all = any(has_own_forward(module) for module in net.modules())
        self._follow_dict(vars(net))
        assert self._dicts.pop(0) is vars(net)
        self._kinds = [type(net), *map(type, self._objects)]
        self._classes = [kind for kind in dict.fromkeys(self._kinds) if issubclass(kind, nn.Module)]
        self._forwards = [*map(_forward, self._classes)]
        dicts = [vars(net), *self._dicts]
        self._keys = [*map(tuple, dicts)]
        self._were = [*chain.from_iterable(map(call, self._known, dicts))]
        self._layout = [*chain.from_iterable(map(map, _LAYOUT, repeat(self._tensors)))]
        self._storages = [t.untyped_storage() for t in self._tensors]  # the memory stays until the next look
        self.memory = Memory([(t.data_ptr(), _extent(t)) for t in self._tensors])

    def holds(self, net: nn.Module) -> bool:
        """Whether this is the network, and all of it but the values of tensors is as it was."""
        if self._net() is not net or any(self._empty):
            return False
        dicts = [vars(net), *self._dicts]
        if [type(net), *map(type, self._objects)] != self._kinds or [*map(tuple, dicts)] != self._keys:
            return False
        if not all(map(is_, chain.from_iterable(map(call, self._known, dicts)), self._were)):
            return False
        for listed, were in self._lists:
            if len(listed) != len(were) or not all(map(is_, listed, were)):
                return False
        layout = [*chain.from_iterable(map(map, _LAYOUT, repeat(self._tensors)))]
        return [*map(_forward, self._classes)] == self._forwards and layout == self._layout

    def _follow(self, thing: Any) -> bool:
        """Whether it is of a kind that is known: others are not what layers compute with."""
        if isinstance(thing, PLAIN):
            return not isinstance(thing, FunctionType) or not thing.__closure__
        if isinstance(thing, AnyNeuron) and not thing.tensors():  # frozen
            return True
        if id(thing) in self._seen:
            return True
        self._seen.add(id(thing))
        if isinstance(thing, Tensor):
            self._follow_tensor(thing)
        elif isinstance(thing, dict):
            self._follow_dict(thing)
        elif isinstance(thing, list | tuple):
            known = [self._follow(part) for part in thing]
            if isinstance(thing, list):
                self._lists.append((thing, tuple(thing)))
            return all(known)
        elif isinstance(thing, set | frozenset) and not thing:
            self._empty.append(thing)
        elif isinstance(thing, nn.Module) or type(thing).__module__.startswith("proxykernels."):
            self._objects.append(thing)
            self._follow_dict(vars(thing))
        else:
            return False
        return True

    def _follow_dict(self, things: dict) -> None:
        if not things:
            self._empty.append(things)
            return
        k = len(self._dicts)
        self._dicts.append(things)
        self._known.append(_no_values)
        known = [key for key, thing in things.items() if key not in UNREAD and (self._follow(thing) or self._all)]
        if known:
            self._known[k] = itemgetter(*known, known[0])  # with one key only it would give no tuple

    def _follow_tensor(self, t: Tensor) -> None:
        plain = type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and t.is_cpu
        if not plain or t.is_neg() or torch._C._functorch.is_functorch_wrapped_tensor(t):
            raise CannotWatchError
        self._tensors.append(t)


def _extent(t: Tensor) -> int:
    """Bytes from a tensor's first value to its last one; values between them, of other tensors, are hashed too."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.element_size() * (last + 1) if t.numel() else 0


def _no_values(things: dict) -> tuple:
    return ()


_forward = attrgetter("forward")
_LAYOUT: tuple[Any, ...] = Tensor.data_ptr, Tensor.stride, attrgetter("shape", "dtype"), Tensor.is_neg  # in memory
