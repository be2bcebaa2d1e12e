"""A network's modules, followed from the input to the output: what makes a plan of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import layers, window_checks
from ..layers import Flatten, Neurons
from ..layers.synapses import Convolution, Product, Synapse
from ..network import Network
from ..neurons import IFNeuron
from ..parametrized import has_forward_hooks, with_plain_weights
from .plan import AVERAGE_POOL, FIRE, FLATTEN, MAX_POOL, Operation, Plan, Population, Shape, Window, image_of

MOST_WINDOWS = 8  # of one operation: kernels/cpu/src/engine/fire.h
MOST_GROUPS = 8  # of a convolution, which is computed as one without groups, with zeros
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
def follow(net: nn.Module, shape: Shape, real: bool) -> Plan:
    """The plan of a network for samples of ``shape``, which are values if ``real``, else spikes.

    Raises:
        CannotFollowError: it has a module that the engine does not take.
    """
    follower = _Follower(Plan(shape, real))
    value = follower.flattened(follower.module("", net, Value(0, shape, real)), "")
    plan = follower.plan
    if not plan.operations or value.slot != len(plan.operations):
        _refuse("", net, "its output is not what its last layer gives")
    if not any(op.neurons for op in plan.operations):
        _refuse("", net, "it has no layer of neurons")
    if value.real and not (plan.last.neurons and not plan.last.neurons.fires):
        _refuse("", net, "it must end in spikes, or in a readout")
    return plan


def _refuse(path: str, module: nn.Module, why: str) -> NoReturn:
    where = f"module {path} ({type(module).__name__})" if path else f"net ({type(module).__name__})"
    raise CannotFollowError(f"the engine does not take {where}: {why}; proxykernels.simulate may take it")


class _Follower:
    def __init__(self, plan: Plan):
        self.plan = plan
        self._flattened: dict[int, Value] = {}

    def module(self, path: str, module: nn.Module, x: Value | tuple[Value, ...]) -> Value:
        """What a module gives for what it is called with."""
        if has_forward_hooks(module):
            _refuse(path, module, "it has hooks, which run in Python")
        if isinstance(x, tuple) and not isinstance(module, layers.FusedSum):
            _refuse(path, module, "it takes several inputs")
        if isinstance(module, Neurons):
            return self._neurons(path or type(module).__name__, module, x if isinstance(x, tuple) else (x,))
        for kind, method in self._KINDS.items():
            if isinstance(module, kind) and type(module).forward is kind.forward:
                return method(self, path, module, x)  # type: ignore[arg-type]
        _refuse(path, module, "it knows no such module")

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
        one_axis = isinstance(module, layers.MaxPool1d | layers.AvgPool1d)
        if len(x.shape) != (2 if one_axis else 3):
            _refuse(path, module, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        window = [module.kernel_size, module.kernel_size if module.stride is None else module.stride, module.padding]
        kernel, stride, padding = (
            _pair(v, default) if one_axis else window_checks.pair("window", v, 0)
            for v, default in zip(window, (1, 1, 0), strict=True)
        )
        maximum = isinstance(module, layers.MaxPool2d | layers.MaxPool1d)
        C, *size = image_of(x.shape)
        out = [_outputs(*axis, module.ceil_mode) for axis in zip(size, kernel, stride, padding, strict=True)]
        shape = (C, out[1]) if one_axis else (C, *out)
        operation = Operation(
            MAX_POOL if maximum else AVERAGE_POOL, path, (Window(x.slot, kernel, stride, padding),), shape,
            x.real or not maximum, divisor=getattr(module, "divisor_override", None) or 0,
            count_padding=getattr(module, "count_include_pad", True),
        )  # fmt: skip
        return self._append(operation)

    def _adaptive_pool(self, path: str, module: Any, x: Value) -> Value:
        one_axis = isinstance(module, layers.AdaptiveAvgPool1d)
        wanted = module.output_size
        out = (1, wanted if isinstance(wanted, int) else wanted[0]) if one_axis else _output_size(wanted, x.shape)
        C, *size = image_of(x.shape)
        if tuple(out) == tuple(size) and not x.real:
            return x
        if any(n % m for n, m in zip(size, out, strict=True)):
            _refuse(path, module, f"windows of several sizes, from {tuple(size)} to {tuple(out)}")
        kernel = (size[0] // out[0], size[1] // out[1])
        shape = (C, out[1]) if one_axis else (C, *out)
        return self._append(Operation(AVERAGE_POOL, path, (Window(x.slot, kernel, kernel),), shape, True))

    # -- neurons -----------------------------------------------------------------------------------------------------

    def _neurons(self, path: str, layer: Neurons, inputs: tuple[Value, ...]) -> Value:
        layer = with_plain_weights(layer)
        if type(layer)._fire not in _FIRES:
            _refuse(path, layer, "it computes in a way of its own")
        count = len(layer.synapses) if isinstance(layer, layers.FusedSum) else 1
        if count != len(inputs) or count > MOST_WINDOWS:
            _refuse(path, layer, f"{count} synapses and {len(inputs)} inputs; at most {MOST_WINDOWS} are taken")
        terms = layer.terms(inputs if isinstance(layer, layers.FusedSum) else inputs[0])  # type: ignore[arg-type]
        windows: list[Window] = []
        shape: Shape = ()
        bias: Tensor | None = None
        for synapse, x in terms:
            weight, its_bias = synapse.parameters()
            window, its_shape = self._window(path, layer, synapse, x, weight)  # type: ignore[arg-type]
            if shape and its_shape != shape:
                _refuse(path, layer, f"its synapses give {shape} and {its_shape}")
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
        weight = weight.detach().float()
        if not bool(weight.isfinite().all()):
            raise ValueError(f"layer {path}: weight must be finite in float32, and holds NaN or infinite values")
        if isinstance(synapse, Product):
            if len(x.shape) != 1 or weight.shape[1] != x.shape[0]:
                _refuse(path, layer, f"{weight.shape[1]} features, and its input has the shape {x.shape}")
            image = self.plan.operations[x.slot - 1].image if x.slot else self.plan.image
            kernel = image[1:] if x.flat else (1, 1)
            return Window(x.slot, kernel, weight=weight.view(len(weight), -1, *kernel)), (len(weight),)
        assert isinstance(synapse, Convolution)
        x, module = self.flattened(x, path), synapse.module
        weight, padding, dilation = synapse.window(weight)
        if len(x.shape) != (2 if module.weight.ndim == 3 else 3):
            _refuse(path, layer, f"its input has the shape (T, N, {', '.join(map(str, x.shape))})")
        if module.groups > 1:
            if module.groups > MOST_GROUPS:
                _refuse(path, layer, f"{module.groups} groups; at most {MOST_GROUPS} are taken")
            weight = _without_groups(weight, module.groups)
        if weight.shape[1] != x.shape[0]:
            _refuse(path, layer, f"{weight.shape[1]} channels, and its input has {x.shape[0]}")
        if prod(weight.shape[1:]) > MOST_INPUTS:
            _refuse(path, layer, f"{prod(weight.shape[1:])} inputs a neuron; at most {MOST_INPUTS} are taken")
        window_checks.fits(image_of(x.shape)[1:], weight.shape[2:], padding, dilation)
        shape = synapse.output_shape((1, 1, *x.shape))[2:]
        kernel = (weight.shape[2], weight.shape[3])
        return Window(x.slot, kernel, synapse.stride, padding, dilation, weight), shape

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
    }


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
    bias = torch.zeros(C) if bias is None else bias.detach().cpu()
    if not bool(bias.isfinite().all()):
        raise ValueError(f"layer {path}: bias must be finite in float32, and holds NaN or infinite values")
    return Population(
        ready.model, ready.channels.detach().float().contiguous(), tuple(float(s) for s in ready.scalars),
        bias.contiguous(), start, neuron.fires,
        None if scale is None else torch.as_tensor(scale, dtype=torch.float32).detach().cpu().clone(),
    )  # fmt: skip


def _without_groups(weight: Tensor, groups: int) -> Tensor:
    """[C_out, C_in / groups, ...] as [C_out, C_in, ...]."""
    inputs = weight.shape[1]
    parts = weight.chunk(groups)
    return torch.cat([F.pad(part, (0, 0, 0, 0, k * inputs, (groups - 1 - k) * inputs)) for k, part in enumerate(parts)])


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
