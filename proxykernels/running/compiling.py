"""Compiles a network: for a CPU (engine.py) or for a GPU (cuda_graph_engine.py)."""

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels.backends import reference_is_asked
from ..plan.follow import follow
from ..plan.follow_sigma_delta import follow_changes
from ..sequences import is_sequence
from ..spikes import Spikes
from .cuda_graph_engine import GraphEngine
from .engine import LOOK_STEPS, Engine
from .prepared_network import check_runnable
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
            are those of simulate with this ``precision``, on every machine.

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
    T = min(len(x), LOOK_STEPS * 4) if sequence else LOOK_STEPS
    samples = x[:T] if sequence else x[:1]
    shape = tuple(x.shape[2 if sequence else 1 :])
    changes = has_sigma_delta(net)
    if changes and (precision is not None or x.device.type != "cpu"):
        name, got = ("x", f"on {x.device}") if precision is None else ("precision", repr(precision))
        raise ValueError(f"an engine of sigma-delta neurons takes float32 weights and a CPU, got {name} {got}")
    if x.device.type == "cuda":
        return GraphEngine(net, samples, T, precision)  # type: ignore[return-value]  # called as one; no files, no streams
    if x.device.type != "cpu":
        raise ValueError(f"x must be on a CPU or a GPU, where an engine can run, got {x.device}")
    real = isinstance(x, Tensor) and x.dtype != torch.bool
    engine = Engine(follow_changes(net, shape) if changes else follow(net, shape, real, precision))
    engine._rates = engine(samples, T).rates
    return engine
