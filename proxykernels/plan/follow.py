"""A network's modules, followed from the input to the output: what makes a plan of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .. import layers
from ..calls import window_checks
from ..checks import at
from ..kernels import heap
from ..kernels.table import Kind, Most
from ..kernels.weight_layouts import require_finite
from ..layers import Flatten, Neurons, SpikingLayer
from ..layers.all_steps import OfAllSteps
from ..layers.layer_graph import LayerGraph, check_sample
from ..layers.of_sums import OfSums
from ..layers.parametrized import has_forward_hooks, with_plain_weights
from ..layers.synapses import Convolution, Product, Synapse
from ..neurons import IFNeuron
from . import pools_and_moves
from .followed_values import CannotFollowError, Sum, Value, parts_of, refuse, refuse_shape, sum_of
from .operations import SUM, Operation, PlannedNeurons, Shape, Window, image_of
from .own_forward import OwnForward, has_own_forward
from .plain_modules import check_forward, is_replaced
from .plan import Plan
from .quantize import Rounded, RoundedSum, quantized


def follow(net: nn.Module, shape: Shape, real: bool, precision: str | None = None, *, copies: bool = True) -> Plan:
    """:func:`followed` without the forward passes."""
    return followed(net, shape, real, precision, copies=copies)[0]


@torch.no_grad()
def followed(
    net: nn.Module, shape: Shape, real: bool, precision: str | None = None, *, copies: bool = True
) -> tuple[Plan, list[OwnForward]]:
    """The plan of a network for samples of ``shape``, which are values if ``real``, else spikes; and the forward passes
    of the user's own that it was made of.

    ``precision``: what weights are rounded to, as by simulate. ``copies``: whether weights are copied, as they must be
    for a plan that outlives the next change of the network.

    Raises:
        CannotFollowError: it has a module that the engine does not take.
    """
    if 0 in shape:
        raise CannotFollowError(f"the engine does not take samples of the shape {shape}, which have no values")
    follower = Follower(Plan(shape, real, precision, calibrated=getattr(net, "calibrated", None)), copies)
    value = follower.module("", net, Value(0, shape, real))
    if not isinstance(value, Value):
        what = (
            "a sum" if isinstance(value, Sum) else "several values" if isinstance(value, tuple | list | dict) else value
        )
        refuse("", net, f"it gives {what}, and not what one layer gives")
    value = follower.flattened(value, "")
    plan = follower.plan
    if plan.operations and value.shape != plan.last.shape:  # one pixel, that was flattened
        value = follower.append(Operation(Kind.FLATTEN, "", (Window(value.slot),), value.shape, value.real))
    if not plan.operations or value.slot != len(plan.operations):
        refuse("", net, "its output is not what its last layer gives")
    if not plan.is_moderate:
        refuse("", net, f"its layers give more than {Most.GROWTH} times the values that they are made of")
    if not any(op.neurons for op in plan.operations):
        refuse("", net, "it has no layer of neurons")
    shaped = plan.shaped
    if value.real and not (shaped.neurons and shaped.neurons.gives_values):
        refuse("", net, "it must end in neurons, or in a readout")
    # Rounded weights are those of the layer as it is.
    return plan if precision is not None else pools_and_moves.without_averages(plan), follower.forwards


_OF_SEVERAL = layers.FusedSum | layers.Concatenate | layers.Multiply | OfSums
Input = Value | Sum | tuple[Value | Sum, ...]


class Follower:
    """Makes a plan's operations of modules.

    Attributes:
        forwards: the forward passes of the user's own that were followed.
    """

    def __init__(self, plan: Plan, copies: bool):
        self.plan, self.copies = plan, copies
        self.forwards: list[OwnForward] = []
        self._flattened: dict[int, Value] = {}
        self._sums: dict[Sum, Value] = {}
        self._called: set[str] = set()  # the paths of layers that keep a state

    def module(self, path: str, module: nn.Module, x: Input) -> Any:
        """What a module gives for what it is called with. Errors name it."""
        try:
            return self._value(path, module, x)
        except CannotFollowError:
            raise
        except (TypeError, ValueError) as error:
            if not path or str(error).startswith("layer "):
                raise
            raise type(error)(f"layer {path}: {error}") from error

    def own(self, path: str, module: nn.Module, args: tuple, options: dict[str, Any]) -> Any:
        """What a module with a forward pass of its own gives: values, also in tuples, lists and dicts."""
        if has_forward_hooks(module):
            refuse(path, module, "it has hooks, which run in Python")
        forward = OwnForward(path, module, args, options)
        given = forward.follow(self)
        self.forwards.append(forward)
        return given

    def _value(self, path: str, module: nn.Module, x: Input) -> Any:
        if has_own_forward(module):
            return self.own(path, module, (x,), {})
        if has_forward_hooks(module):
            refuse(path, module, "it has hooks, which run in Python")
        if isinstance(x, tuple) and not isinstance(module, _OF_SEVERAL):
            refuse(path, module, "it takes several inputs")
        if not all(isinstance(part, Value | Sum) for part in (x if isinstance(x, tuple) else (x,))):
            refuse(path, module, f"it is called with {x}")
        if isinstance(module, SpikingLayer):
            if path in self._called:
                refuse(path, module, "it is called more than once in a step; give each call a layer of its own")
            self._called.add(path)
        if isinstance(module, Neurons):
            check_forward(path, module)
            return self._neurons(path or type(module).__name__, module, x if isinstance(x, tuple) else (x,))
        for kind, method in self._KINDS.items():
            if isinstance(module, kind) and type(module).forward is kind.forward and not is_replaced(module, kind):
                return self._of_parts(partial(method, self, path, module), path, module, x)
        if isinstance(module, OfAllSteps):
            refuse(path, module, "each of its steps takes values of all steps, and an engine runs them one by one")
        refuse(path, module, "it knows no such module")

    def _of_parts(self, method: Callable[[Any], Any], path: str, module: nn.Module, x: Input) -> Any:
        """What a module gives for values that were added up or multiplied."""
        given = x if isinstance(x, tuple) else (x,)
        if isinstance(module, nn.Sequential | LayerGraph) or not any(isinstance(part, Sum) for part in given):
            return method(x)
        parts = [parts_of(part) for part in given]
        factors = {factor for of in parts for _, factor in of}
        if len(factors) == 1 and all(len(of) == 1 for of in parts) and min(factors) > 0:  # it may be multiplied later
            plain = tuple(value for of in parts for value, _ in of)
            return sum_of([(method(plain if isinstance(x, tuple) else plain[0]), *factors)])
        if isinstance(module, _MOVES):
            return sum_of([(method(value), factor) for value, factor in parts[0]])
        computed = tuple(self.computed(path, module, part) for part in given)
        return method(computed if isinstance(x, tuple) else computed[0])

    def computed(self, path: str, module: nn.Module, x: Value | Sum) -> Value:
        """A sum as values, which neurons that forget all at each step give."""
        if not isinstance(x, Sum):
            return x
        if self.plan.precision is not None:
            refuse(path, module, "its input is a sum or a product, which is not followed with weights of few bits")
        if x not in self._sums:
            parts = x.parts
            while len(parts) > Most.WINDOWS:
                parts = ((self.computed(path, module, Sum(parts[: Most.WINDOWS])), 1.0), *parts[Most.WINDOWS :])
            C = x.shape[0]
            windows = tuple(_times(Window(self.flattened(value, path).slot), factor, C) for value, factor in parts)
            neurons = _planned(path, layers.LI(decay=0.0), C, None)
            self._sums[x] = self.append(Operation(Kind.FIRE, path + SUM, windows, x.shape, True, neurons))
        return self._sums[x]

    def _sequential(self, path: str, module: nn.Sequential, x: Input) -> Any:
        for name, child in module._modules.items():
            x = self.module(f"{path}.{name}" if path else name, child, x)  # type: ignore[arg-type]
        return x

    def _network(self, path: str, module: LayerGraph, x: Any) -> Any:
        check_sample(module, x.shape)
        values = {LayerGraph.INPUT: x}
        name = LayerGraph.INPUT
        for name, layer, sources in module.layers():
            given = tuple(values[source] for source in sources)
            values[name] = self.module(f"{path}.{name}" if path else name, layer, given if len(given) > 1 else given[0])
        return values[name]

    def _same(self, path: str, module: nn.Module, x: Value) -> Value:
        return x

    def _flatten(self, path: str, module: nn.Module, x: Value) -> Value:
        if len(x.shape) == 1:
            return x
        return replace(x, shape=(prod(x.shape),), flat=image_of(x.shape)[1:] != (1, 1))

    def flattened(self, x: Value, path: str) -> Value:
        """The value with its pixels in the order of its shape."""
        if not x.flat:
            return x
        if x.slot not in self._flattened:
            self._flattened[x.slot] = self.append(Operation(Kind.FLATTEN, path, (Window(x.slot),), x.shape, x.real))
        return self._flattened[x.slot]

    def append(self, operation: Operation) -> Value:
        if 0 in operation.shape:
            raise CannotFollowError(f"the engine does not take module {operation.name}: it gives {operation.shape}")
        self.plan.operations.append(operation)
        return Value(len(self.plan.operations), operation.shape, operation.real)

    def image(self, x: Value) -> tuple[int, int, int]:
        """C, H, W of what lies in a value's slot."""
        return self.plan.operations[x.slot - 1].image if x.slot else self.plan.image

    def _neurons(self, path: str, layer: Neurons, inputs: tuple[Value | Sum, ...]) -> Value:
        layer = with_plain_weights(layer)
        if type(layer)._fire not in _FIRES:
            refuse(path, layer, "it computes in a way of its own")
        if isinstance(layer, layers.FusedRecurrentLinear):
            return self._recurrent(path, layer, inputs[0])
        count = len(layer.synapses) if isinstance(layer, layers.FusedSum) else 1
        if count != len(inputs):
            refuse(path, layer, f"{count} synapses and {len(inputs)} inputs")
        rounded = quantized(path, layer, self.plan.precision) if self.plan.precision is not None else None
        if isinstance(rounded, RoundedSum):
            layer = rounded.layer
        terms = layer.terms(inputs if isinstance(layer, layers.FusedSum) else inputs[0])  # type: ignore[arg-type]
        windows: list[Window] = []
        shape: Shape = ()
        bias: Tensor | None = None
        for synapse, x in terms:
            weight, its_bias = rounded.rounded if isinstance(rounded, Rounded) else synapse.parameters()
            its_windows, its_shape = self._windows(path, layer, synapse, x, weight)  # type: ignore[arg-type]
            if shape and its_shape != shape:
                refuse(path, layer, f"its synapses give {shape} and {its_shape}")
            shape = its_shape
            windows += its_windows
            check_bias(path, layer, its_bias, shape[0])
            if its_bias is not None:
                bias = its_bias.float() if bias is None else bias + its_bias.float()
        if len(windows) > Most.WINDOWS:
            refuse(path, layer, f"it adds up {len(windows)} values; at most {Most.WINDOWS} are taken")
        C = shape[0]
        neurons = _planned(path, layer, C, bias)
        return self.append(Operation(Kind.FIRE, path, tuple(windows), shape, neurons.gives_values, neurons))

    def _recurrent(self, path: str, layer: layers.FusedRecurrentLinear, x: Value | Sum) -> Value:
        """What makes the currents, and the neurons behind it."""
        weight, bias = layer.synapse(layer).parameters()
        recurrent: Tensor = layer.recurrent_weight
        if self.plan.precision is not None:
            rounded: Any = quantized(path, layer, self.plan.precision)
            weight, bias, recurrent = rounded.rounded
        windows, shape = self._windows(path, layer, layer.synapse(layer), x, weight)
        if len(windows) > Most.WINDOWS:
            refuse(path, layer, f"it adds up {len(windows)} values; at most {Most.WINDOWS} are taken")
        check_bias(path, layer, bias, shape[0])
        if recurrent.shape not in (shape, (*shape, *shape)):
            refuse(path, layer, f"its recurrent_weight has the shape {list(recurrent.shape)} for {shape[0]} neurons")
        currents = _planned(path, layers.LI(decay=0.0), shape[0], bias)
        x = self.append(Operation(Kind.FIRE, path, tuple(windows), shape, True, currents))
        neurons = _planned(path, layer, shape[0], None)
        silent = heap.zeros(1, shape[0])
        neurons = replace(neurons, start=torch.cat([neurons.start, silent]))
        recurrent = recurrent.detach().float().cpu()
        with at(f"layer {path}"):
            require_finite("recurrent_weight", recurrent)
        recurrent = recurrent.clone() if self.copies else recurrent
        return self.append(Operation(Kind.RECUR, path, (Window(x.slot),), shape, False, neurons, recurrent=recurrent))

    def _windows(
        self, path, layer, synapse: Synapse, x: Value | Sum, weight: Tensor | None
    ) -> tuple[list[Window], Shape]:
        """What neurons read of a value, or of each part of a sum of spikes."""
        if self.plan.precision is not None or (isinstance(x, Sum) and any(value.real for value, _ in x.parts)):
            x = self.computed(path, layer, x)
        windows: list[Window] = []
        shape: Shape = ()
        for value, factor in parts_of(x):
            window, shape = self._window(path, layer, synapse, value, weight)
            windows.append(_times(window, factor, shape[0]))
        return windows, shape

    def _window(self, path, layer, synapse: Synapse, x: Value, weight: Tensor | None) -> tuple[Window, Shape]:
        if not isinstance(synapse, Product | Convolution):
            x = self.flattened(x, path)
            return Window(x.slot), x.shape
        dims = (2,) if isinstance(synapse, Product) else (3, 4)
        if weight is None or weight.ndim not in dims or not weight.is_floating_point():
            refuse(path, layer, f"its weight is {None if weight is None else (weight.dtype, list(weight.shape))}")
        weight = weight.detach().float().cpu()
        weight = weight.clone() if self.copies else weight
        with at(f"layer {path}"):
            require_finite("weight", weight)
        if 0 in weight.shape:
            raise ValueError(f"layer {path}: weight must have no size of 0, got {list(weight.shape)}")
        if isinstance(synapse, Product):
            if len(x.shape) != 1 or weight.shape[1] != x.shape[0]:
                refuse(path, layer, f"{weight.shape[1]} features, and its input has the shape {x.shape}")
            image = self.image(x)
            kernel = image[1:] if x.flat else (1, 1)
            return Window(x.slot, kernel, weight=weight.view(len(weight), -1, *kernel)), (len(weight),)
        assert isinstance(synapse, Convolution)
        x, module = self.flattened(x, path), synapse.module
        weight, (left, _, top, _), dilation = synapse.placed(weight)
        if len(x.shape) != (2 if module.weight.ndim == 3 else 3):
            refuse_shape(path, layer, x)
        groups = module.groups
        if weight.shape[1] * groups != x.shape[0]:
            refuse(path, layer, f"{weight.shape[1] * groups} channels, and its input has {x.shape[0]}")
        if prod(weight.shape[1:]) > Most.INPUTS:
            refuse(path, layer, f"{prod(weight.shape[1:])} inputs a neuron; at most {Most.INPUTS} are taken")
        if module.padding != "same":  # of which any window fits
            window_checks.fits(image_of(x.shape)[1:], weight.shape[2:], (top, left), dilation)
        shape = synapse.output_shape((1, 1, *x.shape))[2:]
        kernel = (weight.shape[2], weight.shape[3])
        return Window(x.slot, kernel, synapse.stride, (top, left), dilation, weight, groups), shape

    _KINDS: dict[type[nn.Module], Callable[..., Value]] = {
        nn.Sequential: _sequential,
        LayerGraph: _network,
        nn.Identity: _same,
        layers.Dropout: _same,
        Flatten: _flatten,
        **pools_and_moves.KINDS,
    }


# What they give for a sum is the sum of what they give for its parts.
_MOVES = nn.Identity, layers.Dropout, Flatten, layers.Unflatten, layers.Channels, layers.ZeroPad2d, layers.Upsample
_FIRES = (
    layers.Fused._fire,
    layers.Population._fire,
    layers.FusedSum._fire,
    layers.FusedRecurrentLinear._fire,
)


def _times(window: Window, factor: float, C: int) -> Window:
    """A window whose input counts ``factor`` times."""
    if factor == 1:
        return window
    if window.weight is None:  # an identity, of which each channel has a weight now
        weight = torch.full((C, 1, 1, 1), factor, dtype=torch.float32, device=heap.CPU)
        return replace(window, weight=weight, groups=C)
    return replace(window, weight=window.weight * factor)


def check_bias(path: str, layer: nn.Module, bias: Tensor | None, C: int) -> None:
    """Refuse a bias that somebody has replaced by one of another shape, which layers refuse by name."""
    if bias is not None and bias.shape != (C,):
        refuse(path, layer, f"its bias has the shape {list(bias.shape)} for {C} outputs")


def _planned(path: str, layer: Neurons, C: int, bias: Tensor | None) -> PlannedNeurons:
    neuron = layer.neuron
    if neuron.in_python:
        refuse(path, layer, f"{type(neuron).__name__} is written in Python, and no kernel knows it")
    neuron.check()
    ready = neuron.on(C, heap.CPU)
    start = heap.zeros(ready.states, C)
    if isinstance(layer.v_init, Tensor) and layer.v_init.numel() not in (1, C):
        raise ValueError(
            f"layer {path}: v_init must be a number or one value for each of {C} channels, got {layer.v_init.numel()}"
        )
    start[0] = torch.as_tensor(layer.v_init, dtype=torch.float32, device=heap.CPU).detach()
    scale = None
    if layer.scale is not None and type(neuron) is IFNeuron:  # convert gives it to no others
        scale = torch.as_tensor(layer.scale, dtype=torch.float32, device=heap.CPU).detach().clone()
        scale = scale.reshape(()) if scale.numel() == 1 else scale  # one value of all channels
    bias = heap.zeros(C) if bias is None else bias.detach().float().cpu().clone()
    with at(f"layer {path}"):
        require_finite("bias", bias)
    return PlannedNeurons(
        ready.model, ready.channels.detach().float().contiguous().clone(), tuple(float(s) for s in ready.scalars),
        bias.contiguous(), start, neuron.fires,
        scale, layer.rectifies, None if layer.limit is None else float(layer.limit),
    )  # fmt: skip
