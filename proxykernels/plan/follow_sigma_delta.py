"""Networks of sigma-delta neurons as plans: what follows their layers.

The first operation tells by what the input changes, the last one adds up the changes of the output. A layer whose
neurons are behind a max pooling is two: what arrives, and the maxima, which its neurons send.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import nn

from .. import layers
from ..checks import at
from ..kernels import heap
from ..kernels.table import Function, Kind, Most
from ..kernels.weight_layouts import require_finite
from ..layers.layer_graph import LayerGraph, check_sample
from ..layers.of_sums import SMOOTH, OfSums
from ..layers.parametrized import has_forward_hooks
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons
from ..layers.synapses import synapse_of
from . import pools_and_moves
from .follow import Follower, check_bias
from .followed_values import CannotFollowError, Value, refuse
from .operations import Operation, Shape, Window
from .own_forward import has_own_forward
from .plain_modules import is_replaced
from .plan import Plan
from .quantize import rounded_network


@torch.no_grad()
def follow_changes(net: nn.Module, shape: Shape, precision: str | None = None, *, copies: bool = True) -> Plan:
    """The plan of a network from ``convert(..., neuron="sigma-delta")`` for samples of ``shape``.

    ``precision``: of graded neurons, see quantize.py. ``copies``: as of :func:`follow`.

    Raises:
        CannotFollowError: it has a module that the engine does not take.
    """
    if not isinstance(net, LayerGraph):
        refuse("", net, "it has sigma-delta neurons, and is not what convert returned")
    if 0 in shape:
        raise CannotFollowError(f"the engine does not take samples of the shape {shape}, which have no values")
    check_sample(net, shape)
    net = net if precision is None else rounded_network(net)
    follower = _Follower(Plan(shape, True, precision, calibrated=net.calibrated), copies)
    first = Operation(Kind.CHANGES, "", (Window(0),), shape, True, grid=net.unit)
    values = {LayerGraph.INPUT: follower.append(first)}
    scales, name = {LayerGraph.INPUT: torch.ones((), dtype=torch.float32, device=heap.CPU)}, LayerGraph.INPUT
    for name, layer, sources in net.layers():
        given = tuple(values[source] for source in sources)
        values[name] = follower.module(name, layer, given if len(given) > 1 else given[0])
        scales[name] = layer.scale if isinstance(layer, SigmaDeltaNeurons) else scales[sources[0]]
    last, scale = values[name], scales[name].detach().float().cpu()
    scale = scale.repeat_interleave(last.shape[0] // scale.numel()) if scale.ndim else scale.expand(last.shape[0])
    follower.append(Operation(Kind.SUM, "", (Window(last.slot),), last.shape, True, scale=scale.clone()))
    if not follower.plan.is_moderate:
        refuse("", net, f"its layers give more than {Most.GROWTH} times the values that they are made of")
    return follower.plan


_FUNCTIONS = dict(zip(SMOOTH, Function, strict=True))


class _Follower(Follower):
    def _value(self, path: str, module: nn.Module, x: Any) -> Value:
        if isinstance(module, SigmaDeltaNeurons):
            return self._layer(path, module, x if isinstance(x, tuple) else (x,))
        if has_own_forward(module):
            refuse(path, module, "it knows no such module")
        return super()._value(path, module, x)

    def _layer(self, path: str, layer: SigmaDeltaNeurons, inputs: tuple[Value, ...]) -> Value:
        if type(layer).run is not SigmaDeltaNeurons.run:
            refuse(path, layer, "it computes in a way of its own")
        if len(layer.synapses) != len(inputs) or len(inputs) > Most.WINDOWS:
            refuse(path, layer, f"{len(layer.synapses)} synapses and {len(inputs)} inputs; at most {Most.WINDOWS}")
        windows: list[Window] = []
        shape: Shape = ()
        for module, x in zip(layer.synapses, inputs, strict=True):
            synapse = synapse_of(module)
            weight, bias = synapse.parameters()
            window, its_shape = self._window(path, layer, synapse, x, weight)
            if shape and its_shape != shape:
                refuse(path, layer, f"its synapses give {shape} and {its_shape}")
            shape = its_shape
            check_bias(path, layer, bias, shape[0])
            if bias is not None:
                bias = bias.detach().float().cpu().clone()
                with at(f"layer {path}"):
                    require_finite("bias", bias)
            windows.append(replace(window, bias=bias))
        senders = layer.neurons(shape[0]) if layer.fires else None
        senders = senders and senders._replace(highest=senders.highest.detach().cpu().clone())
        real = senders is None or senders.threshold is not None
        grid = senders and senders.unit
        if senders is None or layer.pool is None:
            return self.append(Operation(Kind.SEND, path, tuple(windows), shape, real, senders=senders, grid=grid))
        arrived = self.append(Operation(Kind.SEND, path, tuple(windows), shape, True))
        window, shape = pools_and_moves.pooling(path, layer.pool, arrived)
        return self.append(Operation(Kind.SEND_MAXIMA, path, (window,), shape, real, senders=senders, grid=grid))

    def _maxima(self, path: str, module: layers.RunningMaxPool2d, x: Value) -> Value:
        window, shape = pools_and_moves.pooling(path, module, x)
        return self.append(Operation(Kind.SEND_MAXIMA, path, (window,), shape, True))

    def _flatten(self, path: str, module: nn.Module, x: Value) -> Value:
        if len(x.shape) == 1:
            return x
        return self.append(Operation(Kind.FLATTEN, path, (Window(x.slot),), (prod(x.shape),), x.real))

    def _unflatten(self, path: str, module: layers.Unflatten, x: Value) -> Value:
        pools_and_moves.check_unflatten(path, module, x)
        return self.append(Operation(Kind.UNFLATTEN, path, (Window(x.slot),), module.size, True))

    def _of_sums(self, path: str, module: OfSums, x: Value | tuple[Value, ...]) -> Value:
        """A function, or the product of two values along whose axes there is a single one for all, or as many."""
        function, inputs = module.function, x if isinstance(x, tuple) else (x,)
        if type(module).run is not OfSums.run or len(inputs) != (2 if function is None else 1):
            refuse(path, module, "it computes in a way of its own")
        windows = tuple(Window(part.slot) for part in inputs)
        if function is None:
            first, second = (part.shape for part in inputs)
            if len(first) != len(second) or any(1 != n != m != 1 for n, m in zip(first, second, strict=True)):
                refuse(path, module, f"its inputs have the shapes {first} and {second}")
            return self.append(Operation(Kind.MULTIPLY, path, windows, tuple(map(max, first, second)), True))
        if type(function) not in _FUNCTIONS or is_replaced(function) or has_forward_hooks(function):
            refuse(path, module, f"it knows no function {type(function).__name__}")
        number = _FUNCTIONS[type(function)]
        options = [float(getattr(function, name)) for name in ("alpha", "beta", "threshold") if hasattr(function, name)]
        parameters = tuple([*options, 0.0, 0.0][:2])
        return self.append(
            Operation(Kind.FUNCTION, path, windows, inputs[0].shape, True, function=number, parameters=parameters)
        )

    def _moved(self, path: str, module: Any, x: Value) -> Value:
        """Codes become values, but between zeros."""
        moved = (pools_and_moves.channels if isinstance(module, layers.Channels) else pools_and_moves.moved_pixels)(
            self, path, module, x
        )
        if isinstance(module, layers.ZeroPad2d) and module.spread == (1, 1):
            return moved
        self.plan.operations[-1] = replace(self.plan.last, real=True)
        return replace(moved, real=True)

    _KINDS: dict[type[nn.Module], Callable[..., Value]] = {
        nn.Identity: Follower._same,
        layers.Flatten: _flatten,
        layers.AvgPool2d: pools_and_moves.pool,
        layers.AvgPool1d: pools_and_moves.pool,
        layers.AdaptiveAvgPool2d: pools_and_moves.adaptive_pool,
        layers.AdaptiveAvgPool1d: pools_and_moves.adaptive_pool,
        layers.RunningMaxPool2d: _maxima,
        layers.Unflatten: _unflatten,
        layers.Concatenate: pools_and_moves.concatenate,
        layers.Channels: _moved,
        layers.ZeroPad2d: _moved,
        layers.Upsample: _moved,
        OfSums: _of_sums,
    }
