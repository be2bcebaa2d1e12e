"""Compiles a network: for a CPU (engine.py), or for a GPU.

A run of T steps on a GPU is one CUDA graph, captured once and then replayed. A graph does its work again on the memory
that it was captured with. So the input is copied to one place, and what the network gives is copied before the next
run.
"""

import copy
import math
import threading
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import weight_cache
from ..kernels.backends import reference_is_asked
from ..layers import SpikingLayer
from ..layers.parametrized import with_plain_weights
from ..plan.follow import follow
from ..plan.follow_sigma_delta import follow_changes
from ..plan.followed_values import refuse
from ..plan.quantize import check_precision, is_graded, round_input
from ..spikes import Spikes
from ..spikes.spikes import cat_steps
from ..stop import Stop
from . import replay
from .engine import LOOK_STEPS, Engine
from .inputs import input_of, is_sequence
from .prepared_network import PreparedNetwork, check_runnable
from .result import LayerResult, Result, table
from .simulate import Chunks, check_output, simulate
from .stateful_layer import unwatched
from .stream_state import has_sigma_delta


@torch.no_grad()
def compile(net: nn.Module, x: Tensor | Spikes, *, precision: str | None = None) -> Engine:
    """Compile a network, so that each run is one call of a C++ function, or on a GPU one CUDA graph.

    The weights are copied; later changes of ``net`` do not affect the engine. Spikes, or the potentials of sigma-delta
    neurons, equal those of :func:`proxykernels.simulate`, bit for bit if sums of weights are exact in float32.

    Args:
        net: an nn.Sequential, a :class:`proxykernels.Network`, as convert and the importers make them, or any nn.Module
            of this package's layers. A forward pass of your own is followed once: what Python decides in it, stays.
        x: a sample input as for simulate, constant [N, ...] or a sequence (T, N, ...), with any number of samples. It
            is run for a few steps, for the rates that ``print(engine)`` shows. The engine runs where x and ``net`` are.
            Of Spikes or bool, the engine takes spikes only, unless neurons take the input; else spikes, event counts
            and real values.
        precision: None: float32. "int16", "int8": weights rounded to 14 or 7 bits. Sums are then exact, and the spikes
            are those of simulate with this ``precision``, on every machine. Of graded neurons "int8" rounds what they
            send as well.

    Raises:
        TypeError: a module is not supported; the message names its path. Or samples have no values.
        ValueError: an argument has a wrong value, or a weight is not finite or beyond 2**100.
        RuntimeError: it is called within :func:`use_reference`.
    """
    checks.module("net", net)
    check_runnable(net)
    checks.precision(precision)
    if reference_is_asked():
        raise RuntimeError("an engine does not run by the reference code: compile before or after pk.use_reference()")
    if not isinstance(x, Spikes):
        checks.real("x", x)
    sequence = is_sequence(net, x, x.shape[0] if len(x.shape) else 0)
    checks.values("x", x)
    if sequence and not len(x):
        raise ValueError("x must have at least one step")
    changes = has_sigma_delta(net)
    T = min(len(x), LOOK_STEPS * 4) if sequence else 1 if changes and is_graded(net) else LOOK_STEPS
    samples = x[:T] if sequence else x[:1]
    shape = tuple(x.shape[2 if sequence else 1 :])
    if changes:
        check_precision(net, precision)
        if x.device.type != "cpu":
            raise ValueError(f"an engine of sigma-delta neurons runs on a CPU, got x on {x.device}")
    if x.device.type == "cuda":
        return GraphEngine(net, samples, T, precision)  # type: ignore[return-value]  # called as one; no files, no streams
    if x.device.type != "cpu":
        raise ValueError(f"x must be on a CPU or a GPU, where an engine can run, got {x.device}")
    real = isinstance(x, Tensor) and x.dtype != torch.bool
    engine = Engine(follow_changes(net, shape, precision) if changes else follow(net, shape, real, precision))
    engine._rates = engine(samples, T).rates
    return engine


MOST_GRAPHS = 16  # of an engine: those that were used last


class GraphEngine:
    """An engine on a GPU, made by :func:`compile`. It is called and printed as an :class:`Engine` is, and has no more.

    The first run with a number of steps and a shape of inputs captures a graph, which takes longer than a run of
    :func:`proxykernels.simulate`. The graphs of an engine share memory: runs of several threads come one after another.
    """

    def __init__(self, net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None):
        """``x``: a sample input of T steps."""
        net = with_plain_weights(net)
        _check("", net)
        self._net, self._precision, self.device = _copied(net), precision, x.device
        self._graphs: dict[tuple, _Graph] = {}
        self._memory: replay.Memory = {}
        self._lock = threading.Lock()
        self._rates = simulate(self._net, x, T, precision=precision).rates

    @torch.no_grad()
    def __call__(self, x: Tensor | Spikes, T: int, *, stop: Stop | None = None, lengths: Any = None) -> Result:
        """Run ``T`` steps from rest; the arguments are those of an :class:`Engine` on a CPU.

        With ``stop`` the layers are launched one by one, as simulate launches them. So they are where the environment
        variable PROXYKERNELS_CUDA_GRAPHS is 0, and while a graph of the caller's is captured.
        """
        T = checks.steps(T)
        given = input_of(self._net, x, T, None)  # rounded in the graph
        if given.device != self.device:
            raise ValueError(f"x must be on {self.device}, where the engine runs, got {given.device}")
        if stop is not None or lengths is not None or not replay.are_allowed():
            return simulate(self._net, x, T, stop=stop, lengths=lengths, precision=self._precision)
        with self._lock, torch.cuda.device_of(given._words if isinstance(given, Spikes) else given):
            return self._graph(given)(given)

    def _graph(self, x: Tensor | Spikes) -> "_Graph":
        """That of inputs like x."""
        kind = x.scale if isinstance(x, Spikes) else (x.dtype, checks.is_constant(x))
        key = tuple(x.shape), kind
        graph = self._graphs.pop(key, None) or _Graph(self._net, x, self._precision, self._memory)
        self._graphs[key] = graph  # the last of them
        if len(self._graphs) > MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return graph

    def __getattr__(self, name: str) -> NoReturn:
        remedy = ": compile the network on the CPU, with .to('cpu')" if hasattr(Engine, name) else ""
        raise AttributeError(f"an engine on a GPU has no {name!r}{remedy}", name=name, obj=self)

    def __reduce_ex__(self, protocol):
        raise TypeError(
            "an engine on a GPU cannot be copied or pickled: copy or pickle the network, and compile it again"
        )

    def __repr__(self) -> str:
        about = f"Engine of {len(self._rates)} layers of neurons on {self.device}, {self._precision or 'float32'}"
        rows = [("layer", "rate"), *((name, f"{rate:.4f}") for name, rate in self._rates.items())]
        graphs = ", ".join(f"T = {shape[0]} of N = {shape[1]}" for shape, _ in self._graphs)
        return "\n".join([about, *table(rows), f"captured: {graphs or 'nothing yet'}"])


def _check(path: str, module: nn.Module) -> None:
    """Refuse modules whose code may do something else at each run."""
    if not replay.is_plain(module):
        refuse(path, module, "it is not of this package, or has hooks, and may do something else at each run")
    if not isinstance(module, SpikingLayer):  # what is within one is its own
        for name, child in module.named_children():
            _check(f"{path}.{name}" if path else name, child)


def _copied(net: nn.Module) -> nn.Module:
    """A copy with weights of its own, which have no gradient."""
    tensors: dict[int, Any] = {id(p): nn.Parameter(p.detach().clone(), False) for p in net.parameters()}
    return copy.deepcopy(net, tensors | {id(buffer): buffer.detach().clone() for buffer in net.buffers()})


class _Graph:
    """All steps of a network on inputs like ``x``, captured."""

    def __init__(self, net: nn.Module, x: Tensor | Spikes, precision: str | None, memory: replay.Memory):
        self._x: Any = _place(x)
        with weight_cache.unchanging() as self._constants:
            chunks, parts = Chunks(None, None, tuple(x.shape), x.device), list[range]()
            self._prepared = PreparedNetwork(
                net, None, ahead=len(x), record=(), precision=precision, batch_statistics=False, masks=None,
                watch=unwatched, with_synops=True, dtype=None, seen=chunks,
            )  # fmt: skip
            self._prepared.look(x)
            given, start = _rounded(x, precision), 0
            while start < len(x):  # compiles the kernels, and makes what is made of the weights
                part = self._prepared.rehearsed(given[start : start + chunks.steps(start)], start)
                check_output(part, self._prepared.stateful_layers.values(), None)
                parts.append(range(start, start + len(part)))
                start = parts[-1].stop
                checks.room(len(x), part.shape[1:], part.device)
            self._prepared.restart()

            def run() -> tuple[Any, Tensor]:
                given = _rounded(self._x, precision)
                outputs = [self._prepared(given[part.start : part.stop], part.start) for part in parts]
                return cat_steps(outputs), _norm(self._x)

            (self._output, self._end), self._again = replay.capture_graph(run, memory)
        *_, last = self._prepared.stateful_layers.values()
        self._layer = last.firing.layer
        self._last = [] if getattr(self._layer, "scale", None) is None else last.states.now

    def __call__(self, x: Any) -> Result:
        if isinstance(x, Spikes):
            self._x._words.copy_(x._words)
        elif checks.is_constant(x):
            self._x[0].copy_(x[0])
        else:
            self._x.copy_(x)
        self._again()
        last = [v.clone() for v in self._last]
        constant = isinstance(x, Tensor) and checks.is_constant(x)
        output, tallies = replay.copied(self._output), self._prepared.tallies()
        result = LayerResult(output, None, tallies, self._layer, None, (), last, constant)
        # Waited for: then the next run, of whatever thread or stream, may overwrite the memory.
        if not math.isfinite(self._end.item()):
            checks.finite("x", x)
        return result


def _place(x: Tensor | Spikes) -> Spikes | Tensor:
    """Memory for inputs like x."""
    return x[0].clone().expand(x.shape) if isinstance(x, Tensor) and checks.is_constant(x) else replay.copied(x)


def _rounded(x: Any, precision: str | None) -> Any:
    """As simulate rounds an input with ``precision``; it does not change while what is made of weights is kept."""
    if isinstance(x, Spikes):
        return x
    if precision is not None and x.is_floating_point():
        x = round_input(x[0], 0).expand(x.shape) if checks.is_constant(x) else round_input(x, 1)
    weight_cache.hold(x)
    return x


def _norm(x: Tensor | Spikes) -> Tensor:
    """Not finite where some value of x is not; it may also be so where they are large."""
    if isinstance(x, Spikes) or not x.is_floating_point():
        return torch.zeros((), dtype=torch.float32, device=x.device)
    return torch.linalg.vector_norm((x[0] if checks.is_constant(x) else x).float())
