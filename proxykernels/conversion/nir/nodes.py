"""Single nodes of NIR: a layer's synapses, pooling or flattening as a node, and a node as a module.

Values are copied in both directions: nothing that is written into a graph changes a network, nor the reverse.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import checks, layers
from ...checks import window_checks
from ...layers.synapses import Convolution, Convolution1d, Product, Synapse

Shape = tuple[int, ...]  # of one sample and step: (C, H, W) or (features,)
MOST_VALUES = 2**28  # of one sample and step: a gigabyte


def output_shape(layer: nn.Module, shapes: Sequence[Shape | None]) -> Shape | None:
    """The shape of a layer's output for one sample and step, by a run on zeros; None if an input's is not known.

    Raises:
        TypeError, ValueError: the layer does not take such inputs, or gives more than fits.
    """
    sizes = [shape for shape in shapes if shape is not None]
    if len(sizes) < len(shapes):
        return None
    device = next((parameter.device for parameter in layer.parameters()), None)
    inputs = tuple(torch.zeros(1, 1, *size, device=device) for size in sizes)
    x: Any = inputs if len(inputs) > 1 else inputs[0]
    if isinstance(layer, layers.Neurons):
        for taken, part in layer.terms(x):
            check_size(taken.output_shape(tuple(part.shape))[2:])
    try:
        with torch.no_grad():
            y = layer.spike(x)[0] if isinstance(layer, layers.SpikingLayer) else layer(x)  # no statistics are changed
    except RuntimeError as error:  # of torch's pooling
        raise ValueError(f"{type(layer).__name__} cannot take {sizes[0]}: {error}") from error
    return tuple(y.shape[2:])


def check_size(shape: Shape) -> None:
    """Refuse sizes beyond any network, before memory is allocated."""
    total = math.prod(shape)
    if total > MOST_VALUES:
        raise ValueError(f"a sample of the shape {shape} has {total:.3g} values; at most {MOST_VALUES:.3g} are taken")


def check_dt(dt: float) -> None:
    """The length of a step, one for all neurons."""
    if not checks.is_number(dt) or not 0 < checks.as_float32(dt) < math.inf:
        raise ValueError(f"dt must be a positive number in float32, got {dt!r}")


# From layers to nodes


def synapse_node(nir, synapse: Synapse, input_shape: Shape, output_shape: Shape):
    return NODES[type(synapse)](nir, synapse, input_shape, output_shape)


def _linear_node(nir, synapse: Product, input_shape: Shape, output_shape: Shape):
    weight, bias = synapse.parameters()
    array = _array("weight", weight)
    return nir.Linear(array) if bias is None else nir.Affine(array, _array("bias", bias))


def _convolution_node(nir, synapse: Convolution, input_shape: Shape, output_shape: Shape):
    weight, bias = synapse.parameters()
    bias = torch.zeros(len(weight)) if bias is None else bias
    weight, padding, dilation = synapse.window(weight)
    window: tuple = synapse.stride, padding, dilation
    size: int | Shape
    if isinstance(synapse, Convolution1d):
        weight, window = weight.squeeze(2), tuple(along for _, along in window)
        make, size = nir.Conv1d, input_shape[1]
    else:
        make, size = nir.Conv2d, input_shape[1:]
    node = make(size, _array("weight", weight), *window, synapse.module.groups, _array("bias", bias))
    # nir would say itself, were all kernels square and all convolutions of one group.
    node.input_type, node.output_type = {"input": np.array(input_shape)}, {"output": np.array(output_shape)}
    return node


NODES: dict[type[Synapse], Callable] = {
    Product: _linear_node,
    Convolution: _convolution_node,
    Convolution1d: _convolution_node,
}


def shaping_node(nir, layer: nn.Module, input_shape: Shape, dt: float):
    if isinstance(layer, layers.Delay):
        steps = layer.of_channels(input_shape[0]).double().view(-1, *[1] * (len(input_shape) - 1))
        return nir.Delay((steps * dt).expand(input_shape).numpy().copy())
    if isinstance(layer, layers.Flatten):
        return nir.Flatten({"input": np.array(input_shape)}, start_dim=0, end_dim=-1)
    if isinstance(layer, layers.AdaptiveAvgPool2d):
        size = window_checks.pair("output_size", layer.output_size, 1)
        if any(n % k for n, k in zip(input_shape[1:], size, strict=True)):
            raise ValueError(f"NIR has no average pooling of {input_shape[1:]} to {size} pixels")
        fitting = np.array([n // k for n, k in zip(input_shape[1:], size, strict=True)])
        return nir.AvgPool2d(fitting, fitting.copy(), np.zeros(2, int))
    window, stride, padding = (
        window_checks.pair("", value, 0) for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    if isinstance(layer, layers.SumPool2d):
        return nir.SumPool2d(np.array(window), np.array(stride), np.array(padding))
    if layer.ceil_mode or layer.divisor_override or (any(padding) and not layer.count_include_pad):
        raise ValueError("NIR has no ceil_mode, divisor_override or count_include_pad=False")
    return nir.AvgPool2d(np.array(window), np.array(stride), np.array(padding))


def recurrent_node(nir, weight: Tensor):
    """What spikes pass on their way back to their neurons: a matrix [C, C], or one value a neuron [C]."""
    return (nir.Linear if weight.ndim == 2 else nir.Scale)(_array("recurrent_weight", weight))


def _array(name: str, tensor: Tensor) -> np.ndarray:
    checks.finite(name, tensor)
    return tensor.detach().cpu().float().numpy().copy()


# From nodes to modules


def synapse(nir, node) -> nn.Module:
    """A nir.Conv1d, nir.Conv2d, nir.Affine or nir.Linear as a module of torch."""
    axes = 1 if isinstance(node, nir.Conv1d) else 2 if isinstance(node, nir.Conv2d) else 0
    weight = _floats("weight", node.weight)
    kernel = ("kernel_h", "kernel_w") if axes == 2 else ("kernel",)
    dims = ("C_out", "C_in / groups", *kernel) if axes else ("out", "in")
    if weight.ndim != len(dims) or not weight.numel():
        raise ValueError(f"weight must have the shape [{', '.join(dims)}], got {list(weight.shape)}")
    bias = None if isinstance(node, nir.Linear) or node.bias is None else _floats("bias", node.bias)
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have the shape [{len(weight)}], one for each output, got {list(bias.shape)}")
    if axes:
        (groups,) = _integers("groups", node.groups, 1, length=1)
        if len(weight) % groups:
            raise ValueError(f"groups must divide the {len(weight)} outputs, got {groups}")
        make: Any = nn.Conv1d if axes == 1 else nn.Conv2d
        module = make(
            weight.shape[1] * groups, len(weight), tuple(weight.shape[2:]), _integers("stride", node.stride, 1, axes),
            _padding(node.padding, axes), _integers("dilation", node.dilation, 1, axes), groups, device="meta",
        )  # fmt: skip
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    module.weight = nn.Parameter(weight)
    module.bias = None if bias is None else nn.Parameter(bias)
    return module


def shaping(nir, node) -> nn.Module:
    """A nir.AvgPool2d, nir.SumPool2d or nir.Flatten as a layer."""
    if not isinstance(node, nir.Flatten):
        window, stride = _integers("kernel_size", node.kernel_size, 1), _integers("stride", node.stride, 1)
        pool = layers.AvgPool2d if isinstance(node, nir.AvgPool2d) else layers.SumPool2d
        return pool(window, stride, _integers("padding", node.padding, 0))
    (first,), (last,) = (_integers(key, getattr(node, key), -9, length=1) for key in ("start_dim", "end_dim"))
    shape = (node.input_type or {}).get("input")
    dims = 3 if shape is None else len(shape)
    if first != 0 or last not in (-1, dims - 1):
        raise ValueError(f"Flatten must join all dimensions, got {first} to {last} of {dims}")
    return layers.Flatten()


def scale_of(node, shape: Shape | None) -> Tensor:
    """The factors of a nir.Scale, in float32, for samples of ``shape``: one for all, one a channel, or one a value."""
    scale = _floats("scale", node.scale)
    given = tuple(scale.shape)
    if shape is None:
        shape = given
    elif given == shape[:1]:
        scale = scale.view(-1, *[1] * (len(shape) - 1))
    pairs = list(zip(scale.shape[::-1], shape[::-1], strict=False))
    if not shape or scale.ndim > len(shape) or any(a not in (1, b) for a, b in pairs):
        raise ValueError(f"scale must have a value for each of {shape or 'the values it takes'}, got {given}")
    return scale.expand(shape)


def delay_layers(node, shape: Shape | None, dt: float) -> list[nn.Module]:
    """A nir.Delay of whole steps as layers, for samples of ``shape``: one of every value is one of features."""
    delays = numbers_of("delay", node.delay)
    steps = (delays / dt).round()
    if not torch.allclose(steps * dt, delays, rtol=1e-4, atol=1e-4 * dt) or bool((steps < 0).any()):
        raise ValueError(
            f"delay must be whole steps of dt = {dt:g}, at least 0, got {delays.reshape(-1)[:3].tolist()}; "
            "from_nir(graph, dt=...) says how long a step is, in the graph's unit of time"
        )
    steps = steps.long()
    if steps.numel() == 1:
        return [layers.Delay(int(steps))]
    by_channel = steps.flatten(1) if steps.ndim > 1 else steps.view(-1, 1)
    if bool((by_channel == by_channel[:, :1]).all()):
        return [layers.Delay(by_channel[:, 0])]
    if shape is not None and tuple(steps.shape) != shape:
        raise ValueError(f"delay must have the shape of what it takes, {shape}, got {tuple(steps.shape)}")
    return [layers.Flatten(), layers.Delay(steps.flatten()), layers.Unflatten(tuple(steps.shape))]


def numbers_of(name: str, value) -> Tensor:
    """A copy in float64 of real numbers, which are finite in float32."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got {'None' if value is None else array.dtype}")
    tensor = torch.from_numpy(array.astype(np.float64))
    checks.finite(name, tensor)
    return tensor


def _floats(name: str, value) -> Tensor:
    return numbers_of(name, value).float()


def _integers(name: str, value, least: int, length: int = 2) -> tuple[int, ...]:
    """That many integers; one number stands for all of them."""
    values = np.asarray(value).reshape(-1)
    if values.dtype.kind not in "iuf" or len(values) not in (1, length) or (values != np.floor(values)).any():
        raise TypeError(f"{name} must be {'an integer' if length == 1 else 'an integer or two of them'}, got {value!r}")
    if values.min() < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return tuple(int(v) for v in values) * (length // len(values))


def _padding(value, axes: int) -> str | tuple[int, ...]:
    value = value.decode() if isinstance(value, bytes) else value
    if not isinstance(value, str):
        return _integers("padding", value, 0, axes)
    if value not in ("same", "valid"):
        raise ValueError(f"padding must be a number, two of them, 'same' or 'valid', got {value!r}")
    return value
