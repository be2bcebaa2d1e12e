"""Simulations by the plan of a network: made at the first call, and run until something of the network changes.

A network holds its plans itself: they are freed with it, and a copy of it begins without any.
"""

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import checks
from ..checks import chunked_passes
from ..kernels import backends, locks
from ..kernels.heap import keep_freed
from ..kernels.table import InputKind
from ..kernels.value_checks_cache import nobody_follows
from ..kernels.weight_layouts import is_finite
from ..layers import Neurons
from ..layers.base import SpikingLayer
from ..layers.layer_graph import LayerGraph
from ..layers.parametrized import is_parametrized
from ..plan.follow import followed
from ..plan.follow_sigma_delta import follow_changes
from ..plan.followed_values import CannotFollowError
from ..plan.library import Given
from ..plan.plan import Plan
from ..sequences import constant_dims
from ..spikes import Spikes, pack_if_binary
from ..spikes.spike_tensor import dense_like
from .early_exit import Stop
from .engine import Engine
from .plan_io import input_of, lies_ready
from .result import Result
from .snapshot import KEPT, CannotWatchError, Snapshot
from .stream_state import has_sigma_delta, ready_state

Key = tuple[tuple[int, ...], bool, str | None]  # shape of a sample, whether of values, precision
MOST_ENGINES = 4  # that a network keeps


@dataclass
class _Known:
    """What is known of a network with the modules and attributes that it had when it was last looked at.

    Attributes:
        of: the network; copies of it may hold this as well. snapshot: None: it cannot be watched, and has no plans.
        dims: of its constant inputs. spiking: the layers in it that may have a surrogate derivative.
        trains: whether some module is in training mode. changes: whether its neurons are sigma-delta.
        engines: a hash of all weights and an engine made of them, the one that was used last at the end; None where
            the engine does not take the network.
    """

    of: ReferenceType[nn.Module]
    snapshot: Snapshot | None
    dims: tuple[int, ...] = ()
    spiking: tuple[SpikingLayer, ...] = ()
    trains: bool = False
    changes: bool = False
    engines: OrderedDict[Key, tuple[int, Engine] | None] = field(default_factory=OrderedDict)

    def __deepcopy__(self, memo: dict) -> None:
        """A copy of the network has no plans yet."""

    def __reduce__(self) -> tuple:
        return OrderedDict, ()  # a saved network names no private class


_lock = locks.lock()
_GLOBAL_HOOKS = [hooks for name, hooks in vars(torch_module).items() if name.startswith("_global_forward_")]


def run(
    net: nn.Module, x: Tensor | Spikes, T: int, state: dict | None, stop: Stop | None, precision: str | None,
    every: int | None = None, *, known: _Known | None = None, keeps: bool = True,
) -> Result | None:  # fmt: skip
    """simulate by a plan; None: the layers are to be run, which also say what is wrong with an argument.

    ``every``: steps between two looks of ``stop``; None: as many as are usual. ``known``: of a network that was just
    looked at; None: of others. ``keeps``: whether states are wanted.
    """
    if known is None and isinstance(net, nn.Module) and _may_run(x):
        known = _known_of(net)
    if known is None or known.changes:
        return None
    given: Any = x
    usual = lies_ready(x) and x.ndim in known.dims
    if usual:
        shape, constant, sequence = x.shape[1:], True, False
    else:
        with torch.no_grad():
            given = input_of(net, x, T, None, looks=False)
        shape, constant, sequence = given.shape[2:], isinstance(given, Tensor) and checks.is_repeated(given), True
        if constant:
            given, sequence = given[0], False
    engine = _engine(net, known, (shape, isinstance(given, Tensor) and given.dtype != torch.bool, precision))
    if engine is None or (stop is not None and engine.plan.last.real):
        return None
    if isinstance(given, Spikes) and given.scale != 1 and engine.plan.needs_spikes:
        return None
    start = None if not state else _start(engine.plan, state, given.shape[int(sequence)])
    if start is None and state:
        return None
    keep_freed()
    inputs = engine.inputs
    if usual:
        given = Given(given, InputKind.HELD_VALUES, len(given), T, inputs.rounds, constant=True)
    else:
        given = inputs.as_given(given, T, sequence, constant)
    return engine.simulate(given, T, stop, keep=engine.stateful if keeps else (), start=start, every=every)


def why_by_layers(net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None) -> str | None:
    """Why a simulation of an input, which has run, calls the layers one by one; None: it does not, or is on a GPU."""
    if x.device.type != "cpu":
        return None
    known = _known_of(net) if _may_run(x) else None
    if known is None:
        return (
            "code from outside watches the run, such as global hooks, or a tensor of the network is no plain one on a "
            "CPU, or is computed from others (parametrizations)"
        )
    given = input_of(net, x, T, None, looks=False)
    try:
        if known.changes:
            follow_changes(net, tuple(given.shape[2:]), copies=False)
        else:
            real = isinstance(given, Tensor) and given.dtype != torch.bool
            followed(net, tuple(given.shape[2:]), real, precision, copies=False)
    except CannotFollowError as error:
        return str(error).removesuffix("; proxykernels.simulate may take it")
    return None


def run_changes(
    net: LayerGraph, x: Tensor, sequence: bool, T: int, state: dict | None, stop: Stop | None, every: int | None
) -> Result | None:  # fmt: skip
    """:func:`run` for a network of sigma-delta neurons. ``x``, in float32, and the values of the state are checked."""
    known = _known_of(net) if _may_run(x) else None
    engine = None if known is None else _engine(net, known, (x.shape[1 + sequence :], True, None))
    if engine is None:
        return None
    N = x.shape[int(sequence)]
    start = ready_state(engine.plan, state, N) if state else None
    given = engine.inputs.as_given(x, T, sequence, constant=not sequence)
    return engine.simulate(given, T, stop, keep=() if state is None else engine.stateful, start=start, every=every)


def output(net: LayerGraph, x: Any) -> Spikes | Tensor | None:
    """net(x) by a plan, x (T, N, ...); None: the layers are to be run."""
    if not _may_run(x) or chunked_passes.is_within() or net._forward_hooks or net._forward_pre_hooks:
        return None
    before = _kept(net)
    if net.training or _wants_gradient(x, before):  # without a look: training changes weights at each step
        return None
    known = _known_of(net)
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


def _may_run(x: Any) -> bool:
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


def _known_of(net: nn.Module) -> _Known | None:
    """What is known of a network with the modules and attributes that it has now; None: it cannot have plans."""
    known = _kept(net)
    if known is None or known.snapshot is None or not known.snapshot.holds(net):
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
    weights = memory.hashed() if found is None else found[1].hashed(memory)
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
            (follow_changes(net, tuple(shape), copies=False), [])
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
