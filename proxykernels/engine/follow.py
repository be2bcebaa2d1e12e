"""A network's modules, followed from the input to the output: what makes a plan of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import layers
from ..checks import window_checks
from ..layers import Flatten, Neurons
from ..layers.parametrized import has_forward_hooks, with_plain_weights
from ..layers.synapses import Convolution, Product, Synapse
from ..network import Network
from ..neurons import IFNeuron
from ..simulation.quantize import Rounded, RoundedSum, quantized
from .plan import (
    AVERAGE_POOL,
    FIRE,
    FLATTEN,
    MAX_POOL,
    MAX_RATE_POOL,
    MOVE,
    RUNNING_MAX_POOL,
    UNFLATTEN,
    Operation,
    Plan,
    Population,
    Shape,
    Window,
    image_of,
)  # fmt: skip

MOST_WINDOWS = 8  # of one operation: kernels/cpu/src/engine/fire.h
MOST_INPUTS = 1 << 24  # of a neuron


class CannotFollowError(TypeError):
    """The engine does not take a network, and the message says which module, and why."""


@dataclass(frozen=True)
class Value:
    """What flows between modules: a slot, the shape of its samples, and whether it holds values.

    ``flat``: its pixels are to be read as features, in torch's order, and still lie as images.
    """

    slot: int
    shape: Shape
    real: bool
    flat: bool = False


@torch.no_grad()
def follow(net: nn.Module, shape: Shape, real: bool, precision: str | None = None) -> Plan:
    """The plan of a network for samples of ``shape``, which are values if ``real``, else spikes.

    ``precision``: what weights are rounded to, as by simulate.

    Raises:
        CannotFollowError: it has a module that the engine does not take.
    """
    follower = _Follower(Plan(shape, real, precision))
    value = follower.flattened(follower.module("", net, Value(0, shape, real)), "")
    plan = follower.plan
    if not plan.operations or value.slot != len(plan.operations):
        refuse("", net, "its output is not what its last layer gives")
    if not any(op.neurons for op in plan.operations):
        refuse("", net, "it has no layer of neurons")
    if value.real and not (plan.last.neurons and not plan.last.neurons.fires):
        refuse("", net, "it must end in spikes, or in a readout")
    return plan


def refuse(path: str, module: nn.Module, why: str) -> NoReturn:
    where = f"module {path} ({type(module).__name__})" if path else f"net ({type(module).__name__})"
    raise CannotFollowError(f"the engine does not take {where}: {why}; proxykernels.simulate may take it")


class _Follower:
    def __init__(self, plan: Plan):
        self.plan = plan
        self._flattened: dict[int, Value] = {}

    def module(self, path: str, module: nn.Module, x: Value | tuple[Value, ...]) -> Value:
        """What a module gives for what it is called with."""
        if has_forward_hooks(module):
            refuse(path, module, "it has hooks, which run in Python")
        if isinstance(x, tuple) and not isinstance(module, layers.FusedSum | layers.Concatenate):
            refuse(path, module, "it takes several inputs")
        if isinstance(module, Neurons):
            return self._neurons(path or type(module).__name__, module, x if isinstance(x, tuple) else (x,))
        for kind, method in self._KINDS.items():
            if isinstance(module, kind) and type(module).forward is kind.forward:
                return method(self, path, module, x)  # type: ignore[arg-type]
        refuse(path, module, "it knows no such module")

    def _sequential(self, path: str, module: nn.Sequential, x: Value) -> Value:
        for name, child in module._modules.items():
            x = self.module(f"{path}.{name}" if path else name, child, x)  # type: ignore[arg-type]
        return x

    def _network(self, path: str, module: Network, x: Value) -> Value:
        values = {Network.INPUT: x}
        name = Network.INPUT
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
        """The same with its values in the order of its shape."""
        if not x.flat:
            return x
        if x.slot not in self._flattened:
            self._flattened[x.slot] = self._append(Operation(FLATTEN, path, (Window(x.slot),), x.shape, x.real))
        return self._flattened[x.slot]

    def _append(self, operation: Operation) -> Value:
        self.plan.operations.append(operation)
        return Value(len(self.plan.operations), operation.shape, operation.real)

    # -- pooling -----------------------------------------------------------------------------------------------------

    def _pool(self, path: str, module: Any, x: Value) -> Value:
        maximum = isinstance(module, layers.MaxPool2d | layers.MaxPool1d)
        window, shape = self._pooling(path, module, x)
        operation = Operation(
            MAX_POOL if maximum else AVERAGE_POOL, path, (window,), shape, x.real or not maximum,
            divisor=getattr(module, "divisor_override", None) or 0,
            count_padding=getattr(module, "count_include_pad", True),
        )  # fmt: skip
        return self._append(operation)

    def _pooling(self, path: str, module: Any, x: Value) -> tuple[Window, Shape]:
        """The window of a pooling, and the shape of what it gives."""
        one_axis = isinstance(module, _POOLS_1D)
        if len(x.shape) != (2 if one_axis else 3):
            refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        given = [module.kernel_size, module.kernel_size if module.stride is None else module.stride, module.padding]
        kernel, stride, padding = (
            _pair(v, default) if one_axis else window_checks.pair("window", v, 0)
            for v, default in zip(given, (1, 1, 0), strict=True)
        )
        C, *size = image_of(x.shape)
        out = [_outputs(*axis, module.ceil_mode) for axis in zip(size, kernel, stride, padding, strict=True)]
        return Window(x.slot, kernel, stride, padding), (C, out[1]) if one_axis else (C, *out)

    def _sum_pool(self, path: str, module: Any, x: Value) -> Value:
        rates = isinstance(module, layers.MaxRatePool2d | layers.MaxRatePool1d)
        if rates and x.real:
            refuse(path, module, "its input holds values, and not spikes")
        if self.plan.precision is not None:
            quantized(path, module, self.plan.precision)  # refuses what simulate refuses
        window, shape = self._pooling(path, module, x)
        return self._append(Operation(MAX_RATE_POOL if rates else RUNNING_MAX_POOL, path, (window,), shape, not rates))

    def _adaptive_pool(self, path: str, module: Any, x: Value) -> Value:
        one_axis = isinstance(module, layers.AdaptiveAvgPool1d)
        if len(x.shape) != (2 if one_axis else 3):
            refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        wanted = module.output_size
        out = (1, wanted if isinstance(wanted, int) else wanted[0]) if one_axis else _output_size(wanted, x.shape)
        C, *size = image_of(x.shape)
        if tuple(out) == tuple(size) and not x.real:
            return x
        shape = (C, out[1]) if one_axis else (C, *out)
        return self._append(Operation(AVERAGE_POOL, path, (Window(x.slot),), shape, True, adaptive=True))

    def _voting(self, path: str, module: Any, x: Value) -> Value:
        """The mean of neighbouring features: of an image of one channel and one row."""
        x = self.flattened(x, path)
        if len(x.shape) != 1 or x.shape[0] % module.voters:
            refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        classes, voters = x.shape[0] // module.voters, (1, module.voters)
        row = self._append(Operation(UNFLATTEN, path, (Window(x.slot),), (1, *x.shape), x.real))
        mean = self._append(Operation(AVERAGE_POOL, path, (Window(row.slot, voters, voters),), (1, classes), True))
        return self._append(Operation(FLATTEN, path, (Window(mean.slot),), (classes,), True))

    # -- moves -------------------------------------------------------------------------------------------------------

    def _unflatten(self, path: str, module: Any, x: Value) -> Value:
        size, image = module.size, self.plan.operations[x.slot - 1].image if x.slot else self.plan.image
        if len(x.shape) != 1 or prod(size) != x.shape[0]:
            refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        if image == image_of(size):  # as it lies
            return replace(x, shape=size, flat=False)
        x = self.flattened(x, path)
        return self._append(Operation(UNFLATTEN, path, (Window(x.slot),), size, x.real))

    def _concatenate(self, path: str, module: Any, x: Value | tuple[Value, ...]) -> Value:
        parts = [self.flattened(part, path) for part in (x if isinstance(x, tuple) else (x,))]
        shapes = [part.shape for part in parts]
        if len({shape[1:] for shape in shapes}) > 1:
            refuse(path, module, f"its inputs have the shapes {shapes}")
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        windows = tuple(Window(part.slot) for part in parts)
        return self._append(Operation(MOVE, path, windows, shape, any(part.real for part in parts)))

    def _channels(self, path: str, module: Any, x: Value) -> Value:
        x = self.flattened(x, path)
        if x.shape[0] < module.needed:
            refuse(path, module, f"it needs {module.needed} channels, and its input has {x.shape[0]}")
        shape = (len(module.index), *x.shape[1:])
        return self._append(
            Operation(MOVE, path, (Window(x.slot),), shape, x.real, channels=module.index.cpu().clone())
        )

    def _moved_pixels(self, path: str, module: Any, x: Value) -> Value:
        """Zeros around and between pixels, and larger images."""
        if len(x.shape) != 3:
            refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        C, height, width = x.shape
        places = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
        if isinstance(module, layers.ZeroPad2d):
            moved = module._pad(places)
        elif module.mode.startswith("nearest"):
            moved = nn.Upsample.forward(module, places)
        else:
            refuse(path, module, f"mode {module.mode!r}, which interpolates")
        pixels = moved.long().flatten() - 1
        return self._append(Operation(MOVE, path, (Window(x.slot),), (C, *moved.shape[2:]), x.real, pixels=pixels))

    # -- neurons -----------------------------------------------------------------------------------------------------

    def _neurons(self, path: str, layer: Neurons, inputs: tuple[Value, ...]) -> Value:
        layer = with_plain_weights(layer)
        if type(layer)._fire not in _FIRES:
            refuse(path, layer, "it computes in a way of its own")
        count = len(layer.synapses) if isinstance(layer, layers.FusedSum) else 1
        if count != len(inputs) or count > MOST_WINDOWS:
            refuse(path, layer, f"{count} synapses and {len(inputs)} inputs; at most {MOST_WINDOWS} are taken")
        rounded = quantized(path, layer, self.plan.precision) if self.plan.precision is not None else None
        if isinstance(rounded, RoundedSum):
            layer = rounded.layer
        terms = layer.terms(inputs if isinstance(layer, layers.FusedSum) else inputs[0])  # type: ignore[arg-type]
        windows: list[Window] = []
        shape: Shape = ()
        bias: Tensor | None = None
        for synapse, x in terms:
            weight, its_bias = rounded.rounded if isinstance(rounded, Rounded) else synapse.parameters()
            window, its_shape = self._window(path, layer, synapse, x, weight)  # type: ignore[arg-type]
            if shape and its_shape != shape:
                refuse(path, layer, f"its synapses give {shape} and {its_shape}")
            shape = its_shape
            windows.append(window)
            if its_bias is not None:
                bias = its_bias.float() if bias is None else bias + its_bias.float()
        C = shape[0]
        neurons = _population(path, layer, C, bias)
        return self._append(Operation(FIRE, path, tuple(windows), shape, not neurons.fires, neurons))

    def _window(self, path, layer, synapse: Synapse, x: Value, weight: Tensor | None) -> tuple[Window, Shape]:
        if weight is None:
            x = self.flattened(x, path)
            return Window(x.slot), x.shape
        weight = weight.detach().float().cpu().clone()  # a later change of the network is none of the plan
        if not bool(weight.isfinite().all()):
            raise ValueError(f"layer {path}: weight must be finite in float32, and holds NaN or infinite values")
        if isinstance(synapse, Product):
            if len(x.shape) != 1 or weight.shape[1] != x.shape[0]:
                refuse(path, layer, f"{weight.shape[1]} features, and its input has the shape {x.shape}")
            image = self.plan.operations[x.slot - 1].image if x.slot else self.plan.image
            kernel = image[1:] if x.flat else (1, 1)
            return Window(x.slot, kernel, weight=weight.view(len(weight), -1, *kernel)), (len(weight),)
        assert isinstance(synapse, Convolution)
        x, module = self.flattened(x, path), synapse.module
        weight, padding, dilation = synapse.window(weight)
        if len(x.shape) != (2 if module.weight.ndim == 3 else 3):
            refuse(path, layer, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        groups = module.groups
        if weight.shape[1] * groups != x.shape[0]:
            refuse(path, layer, f"{weight.shape[1] * groups} channels, and its input has {x.shape[0]}")
        if prod(weight.shape[1:]) > MOST_INPUTS:
            refuse(path, layer, f"{prod(weight.shape[1:])} inputs a neuron; at most {MOST_INPUTS} are taken")
        window_checks.fits(image_of(x.shape)[1:], weight.shape[2:], padding, dilation)
        shape = synapse.output_shape((1, 1, *x.shape))[2:]
        kernel = (weight.shape[2], weight.shape[3])
        return Window(x.slot, kernel, synapse.stride, padding, dilation, weight, groups), shape

    _KINDS: dict[type[nn.Module], Callable[..., Value]] = {
        nn.Sequential: _sequential,
        Network: _network,
        nn.Identity: _same,
        layers.Dropout: _same,
        Flatten: _flatten,
        layers.MaxPool2d: _pool,
        layers.MaxPool1d: _pool,
        layers.AvgPool2d: _pool,
        layers.AvgPool1d: _pool,
        layers.AdaptiveAvgPool2d: _adaptive_pool,
        layers.AdaptiveAvgPool1d: _adaptive_pool,
        layers.MaxRatePool2d: _sum_pool,
        layers.MaxRatePool1d: _sum_pool,
        layers.RunningMaxPool2d: _sum_pool,
        layers.Voting: _voting,
        layers.Unflatten: _unflatten,
        layers.Concatenate: _concatenate,
        layers.Channels: _channels,
        layers.ZeroPad2d: _moved_pixels,
        layers.Upsample: _moved_pixels,
    }


_POOLS_1D = (layers.MaxPool1d, layers.AvgPool1d, layers.MaxRatePool1d, layers.RunningMaxPool1d)
_FIRES = (layers.Fused._fire, layers.Population._fire, layers.FusedSum._fire)


def _population(path: str, layer: Neurons, C: int, bias: Tensor | None) -> Population:
    neuron = layer.neuron
    neuron.check()
    ready = neuron.on(C, torch.device("cpu"))
    start = torch.zeros(ready.states, C)
    start[0] = torch.as_tensor(layer.v_init, dtype=torch.float32).detach().cpu()
    scale = layer.scale
    if type(neuron) is not IFNeuron or neuron.v_reset is not None:
        scale = None  # logits need a reset that loses no charge
    bias = torch.zeros(C) if bias is None else bias.detach().cpu().clone()
    if not bool(bias.isfinite().all()):
        raise ValueError(f"layer {path}: bias must be finite in float32, and holds NaN or infinite values")
    return Population(
        ready.model, ready.channels.detach().float().contiguous().clone(), tuple(float(s) for s in ready.scalars),
        bias.contiguous(), start, neuron.fires,
        None if scale is None else torch.as_tensor(scale, dtype=torch.float32).detach().cpu().clone(),
    )  # fmt: skip


def _outputs(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Windows of a pooling along one axis."""
    rest = n + 2 * padding - kernel
    windows = (-(-rest // stride) if ceil_mode else rest // stride) + 1
    if ceil_mode and (windows - 1) * stride >= n + padding:  # it would lie in the padding alone
        windows -= 1
    if windows < 1:
        raise ValueError(f"a pooling window of {kernel} is larger than its input of {n} padded by {padding}")
    return windows


def _pair(value: Any, before: int) -> tuple[int, int]:
    """A window along one axis as one of two."""
    return before, value if isinstance(value, int) else value[0]


def _output_size(wanted: Any, shape: Shape) -> tuple[int, int]:
    height, width = wanted if isinstance(wanted, tuple | list) else (wanted, wanted)
    return height or shape[1], width or shape[2]
