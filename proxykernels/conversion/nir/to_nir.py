"""A network as a graph of NIR (Pedersen et al., Nature Communications 15:8122, 2024).

A layer becomes a synapse node (nir.Conv2d, nir.Conv1d, nir.Affine, nir.Linear) and a node of neurons; nodes.py has the
equations. NIR adds up what several nodes send to one, which is how a :class:`FusedSum` is written.

NIR's neurons reset to ``v_reset``, which is 0 where a nir older than 1.0.6 has no such field. It has no word for the
soft reset, which is noted in the node's metadata as ``reset = "subtract"``; others, who do not look there, reset to 0.
NIR's equations fire at v > v_threshold, and so do most simulators, where this package (and SpikingJelly) fire at
v >= v_threshold: the same spikes unless a potential equals the threshold exactly.
"""

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import checks, layers
from ...calls import window_checks
from ...layers.layer_graph import check_sample
from ...layers.recurrent_graph import given_by, is_before
from ...layers.synapses import Convolution, Convolution1d, Product, Synapse
from ...network import Network, free_name
from ...neurons import AnyNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, LINeuron, Value
from ...plan.plain_modules import check_forward
from .nodes import RESET, SUBTRACT, TO_V_RESET, Shape, check_dt, check_size, output_shape

Listed = list[tuple[str, nn.Module, tuple[str, ...]]]  # name, layer, and the names of those whose outputs it takes
SHAPING = (layers.AvgPool2d, layers.AdaptiveAvgPool2d, layers.Flatten, layers.Delay)


def to_nir(net: nn.Module, input_shape: Sequence[int], *, dt: float = 1.0):
    """Export a network as a nir.NIRGraph. ``nir.write(path, graph)`` saves it.

    Args:
        net: a :class:`Network` or nn.Sequential of convolutions, fully connected layers, neurons alone and joining
            layers, all of IF, LIF or CubaLIF neurons or readouts (LI), average and sum pooling, flattening and delays,
            or of a :class:`layers.RecurrentGraph` of these, in which a Delay of a step is written where something comes
            back. Normalisations are folded, and a Dropout is left out.
        input_shape: of one sample and step, (C, H, W), (C, L) or (features,); NIR stores every neuron's threshold.
        dt: length of a step, the unit of the graph's time constants: 1.0 counts them in steps. snnTorch reads graphs
            of dt = 1e-4 only, which is SpikingJelly's default too; Norse's is 1e-3.

    Raises:
        TypeError: NIR has no node for a layer or its neurons, max pooling or ALIF for example; or a layer has a forward
            pass of its own.
        ValueError: NIR cannot say it: a potential to start from (``v_init``), a decay of 1 beside others or a filtered
            current, some options of average pooling, and with a nir older than 1.0.6 a ``v_reset`` other than 0.
            Weights that are not finite, shapes that do not fit or of more than 2**28 values, a dt that is not a
            positive number.
        ImportError: nir is not installed.

    What NIR keeps and what other simulators make of it: docs/exchange.md.
    """
    import nir

    check_dt(dt)
    shapes: dict[str, Any] = {Network.INPUT: _sample_shape(input_shape)}  # Shape: all are known
    check_sample(net, shapes[Network.INPUT])
    listed = _layers_of(net)
    shapes |= _shapes_in_cycles(listed, shapes[Network.INPUT])
    writer = _Writer(nir, [name for name, *_ in listed], dt)
    writer.nodes["input"] = nir.Input({"input": np.array(shapes[Network.INPUT])})
    for name, layer, sources in listed:
        if isinstance(layer, layers.SpikingLayer):
            check_forward(name, layer)
        with checks.at(f"layer {name}"):
            taken = [shapes[source] for source in sources]
            if isinstance(layer, layers.Dropout | nn.Identity):  # which does nothing in evaluation
                shapes[name], writer.last[name] = taken[0], writer.last[sources[0]]
                continue
            shapes[name] = output_shape(layer, taken)
            if isinstance(layer, SHAPING):
                writer.add_shaping(name, layer, sources[0], taken[0])
            else:
                writer.add_neurons(name, layer, sources, taken, shapes[name])
    writer.close_cycles()
    writer.nodes["output"] = nir.Output({"output": np.array(shapes[name])})
    writer.link(writer.last[name], "output")
    return nir.NIRGraph(writer.nodes, writer.edges)


class _Writer:
    """Builds the nodes and edges of a graph, layer by layer.

    Attributes:
        first: a layer -> its first node, which has its name unless that is taken.
        last: a layer -> the node that gives its output.
        returning: pairs of a layer and the nir.Delay that its output comes back through, which is linked at the end.
    """

    def __init__(self, nir, names: list[str], dt: float):
        self.nir, self.dt = nir, dt
        self.nodes: dict = {}
        self.edges: list[tuple[str, str]] = []
        self.last = {Network.INPUT: "input"}
        self.first: dict[str, str] = {}
        self.returning: list[tuple[str, str]] = []
        for name in names:
            self.first[name] = self._free(name)

    def add_shaping(self, name: str, layer: nn.Module, source: str, shape: Shape) -> None:
        key = self.last[name] = self.first[name]
        node = self.nodes[key] = shaping_node(self.nir, layer, shape, self.dt)
        if is_before(source) and isinstance(layer, layers.Delay):  # one Delay for both
            node.delay = node.delay + np.float32(self.dt)
            self.returning.append((given_by(source), key))
        else:
            self.link(self._start(source, shape), key)

    def _start(self, source: str, shape: Shape) -> str:
        """The node that gives what a layer takes; of the step before, a Delay of a step."""
        if not is_before(source):
            return self.last[source]
        giver = given_by(source)
        key = next((key for name, key in self.returning if name == giver and key not in self.first.values()), None)
        if key is None:
            key = self._free(f"{giver}_late")
            self.nodes[key] = self.nir.Delay(np.full(shape, self.dt, np.float32))
            self.returning.append((giver, key))
        return key

    def close_cycles(self) -> None:
        """Link what comes back to its Delays."""
        for giver, key in self.returning:
            self.link(self.last[giver], key)

    def add_neurons(self, name: str, layer: Any, sources, taken: list[Shape], shape: Shape) -> None:
        synapses = [synapse for synapse, _ in layer.terms(sources)]
        weighted = [synapse.fan_in > 0 for synapse in synapses]
        node = neuron_node(self.nir, layer, shape, self.dt)
        self.last[name] = self._free(f"{name}_{type(node).__name__.lower()}") if weighted[0] else self.first[name]
        self.nodes[self.last[name]] = node
        for k, source in enumerate(sources):
            start = self._start(source, taken[k])
            if weighted[k]:
                key = self._free(f"{name}_{k}") if k else self.first[name]
                self.nodes[key] = SYNAPSE_NODES[type(synapses[k])](self.nir, synapses[k], taken[k], shape)
                self.link(start, key)
                start = key
            self.link(start, self.last[name])
        if isinstance(layer, layers.FusedRecurrentLinear):
            key = self._free(f"{name}_recurrent")
            self.nodes[key] = recurrent_node(self.nir, layer.recurrent_weight)
            self.link(self.last[name], key)
            self.link(key, self.last[name])

    def link(self, start: str, end: str) -> None:
        if (start, end) in self.edges:
            raise ValueError(f"takes '{start}' twice without weights, which NIR cannot say")
        self.edges.append((start, end))

    def _free(self, name: str) -> str:
        return free_name(name, ["input", "output", *self.first.values(), *self.nodes])


def _sample_shape(shape: Sequence[int]) -> Shape:
    shape = shape.tolist() if isinstance(shape, np.ndarray) else shape
    if not isinstance(shape, Sequence) or not all(isinstance(n, numbers.Integral) for n in shape):
        raise TypeError(f"input_shape must be (C, H, W), (C, L) or (features,), got {shape!r}")
    if len(shape) not in (1, 2, 3) or min(shape) < 1:
        raise ValueError(f"input_shape must be (C, H, W), (C, L) or (features,) of one sample, got {tuple(shape)}")
    sizes = tuple(int(n) for n in shape)
    check_size(sizes)
    return sizes


def _layers_of(net: nn.Module) -> list[tuple[str, nn.Module, tuple[str, ...]]]:
    """(name, layer, sources) of each layer; refuses layers without a node in NIR."""
    if isinstance(net, Network):
        listed = net.layers()
    elif isinstance(net, nn.Sequential):
        listed, before = [], Network.INPUT
        for path, module in _unnested(net):
            name = free_name(path, [taken for taken, *_ in listed])
            listed.append((name, module, (before,)))
            before = name
    else:
        raise TypeError(f"net must be a proxykernels.Network or an nn.Sequential, got {type(net).__name__}")
    if not listed:
        raise ValueError("net must have at least one layer, it has none")
    listed = list(_unfolded(listed))
    read = {given_by(source) for *_, sources in listed for source in sources}
    for name, layer, _ in listed:
        if not isinstance(layer, (layers.Neurons, layers.Dropout, nn.Identity, *SHAPING)):
            raise TypeError(f"layer {name}: NIR has no node for {type(layer).__name__}")
        if any(parameter.is_meta for parameter in layer.parameters()):
            raise ValueError(f"layer {name} is on the meta device and has no weights; load them first")
        if name not in read and name != listed[-1][0]:
            raise ValueError(f"layer {name} leads to no output; remove it")
    return listed


def _unfolded(listed: Listed) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """The layers of each RecurrentGraph among others, of which the last has its name."""
    names = [name for name, *_ in listed]
    for name, layer, sources in listed:
        if not isinstance(layer, layers.RecurrentGraph):
            yield name, layer, sources
            continue
        inner = layer.layers()
        called = {layer.INPUT: sources[0], inner[-1][0]: name}
        for part, *_ in inner[:-1]:
            called[part] = free_name(part, names)
            names.append(called[part])
        for part, module, taken in inner:
            yield (
                called[part],
                module,
                tuple(
                    layer.before(called[given_by(source)]) if is_before(source) else called[source] for source in taken
                ),
            )


def _shapes_in_cycles(listed: Listed, shape: Shape) -> dict[str, Shape]:
    """The shapes of a sample of all outputs, and of what comes back, if something does."""
    back = {source for *_, sources in listed for source in sources if is_before(source)}
    if not back:
        return {}
    net = layers.RecurrentGraph()
    for name, layer, sources in listed:
        net.append(name, layer, sources)
    device = next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
    return net.sizes(shape, device)[1]


def _unnested(net: nn.Sequential, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested nn.Sequentials in the order of calls; one that is called twice is listed twice."""
    for name, module in net._modules.items():
        if isinstance(module, nn.Sequential):
            yield from _unnested(module, f"{path}{name}.")
        else:
            yield f"{path}{name}", module


def neuron_node(nir, layer: layers.Neurons, shape: Shape, dt: float):
    """The node of a layer's neurons; ``shape``: of one sample and step."""
    neuron = layer.neuron
    if type(neuron) not in (IFNeuron, LIFNeuron, CubaLIFNeuron, LINeuron):
        raise TypeError(f"NIR has no node for {type(neuron).__name__}; IF, LIF, CubaLIF and LI neurons are written")
    if not layer.at_rest:
        start = f"{layer.v_init:g}" if isinstance(layer.v_init, float) else "one value a channel"
        raise ValueError(f"NIR cannot say a potential to start from, v_init={start}; set it to {neuron.rest:g}")
    make, values, per_step = _dynamics(nir, neuron, shape, dt)
    v_reset = getattr(neuron, "v_reset", 0.0)
    potentials = {"v_threshold": getattr(neuron, "v_threshold", 0.0), "v_reset": v_reset or 0.0, "v_leak": neuron.rest}
    if "v_reset" not in make.__dataclass_fields__ and v_reset:
        raise ValueError(
            f"the {make.__name__} of this version of nir has no v_reset, got {v_reset:g}; pip install 'nir>=1.0.6'"
        )
    for name, value in potentials.items():
        if name in make.__dataclass_fields__:
            values[name] = _values(value, shape) * per_step
    node = make(**values)
    if neuron.fires:
        node.metadata[RESET] = SUBTRACT if v_reset is None else TO_V_RESET
    return node


def _dynamics(nir, neuron: AnyNeuron, shape: Shape, dt: float) -> tuple[Any, dict[str, np.ndarray], Any]:
    """The class of a node, its values other than potentials, and the factor of its potentials."""
    one = np.float32(1)
    if isinstance(neuron, CubaLIFNeuron):
        tau_mem = _time_constant("decay", neuron.decay, shape, dt)
        tau_syn = _time_constant("current_decay", neuron.current_decay, shape, dt)
        return nir.CubaLIF, {"tau_mem": tau_mem, "tau_syn": tau_syn, "r": tau_mem / dt, "w_in": tau_syn / dt}, one
    decay = getattr(neuron, "decay", 1.0)
    if neuron.rest or _values(decay, shape).min() < 1:
        tau = _time_constant("decay", decay, shape, dt)
        if isinstance(neuron, LINeuron):
            return nir.LI, {"tau": tau, "r": tau / dt}, one
        return nir.LIF, {"tau": tau, "r": np.ones(shape, np.float32)}, dt / tau
    return nir.IF if neuron.fires else nir.I, {"r": np.full(shape, np.float32(1 / dt))}, one


def _time_constant(name: str, decay: Value, shape: Shape, dt: float) -> np.ndarray:
    """dt / (1 - decay), in float64, from which the float32 decay is recovered exactly."""
    share = _values(decay, shape).astype(np.float64)
    if share.max() == 1:
        raise ValueError(f"NIR cannot say {name} = 1, whose time constant is infinite; only nir.IF and nir.I have none")
    return dt / (1 - share)


def _values(value: Value, shape: Shape) -> np.ndarray:
    """The value of each neuron, float32, from one number or one a channel."""
    tensor = torch.as_tensor(value).detach().cpu().float()
    tensor = tensor.view(-1, *[1] * (len(shape) - 1)) if tensor.ndim else tensor
    return tensor.expand(shape).numpy().copy()


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


SYNAPSE_NODES: dict[type[Synapse], Callable] = {
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
    """The node of recurrent weights: a matrix [C, C], or one value a neuron [C]."""
    return (nir.Linear if weight.ndim == 2 else nir.Scale)(_array("recurrent_weight", weight))


def _array(name: str, tensor: Tensor) -> np.ndarray:
    checks.finite(name, tensor)
    return tensor.detach().cpu().float().numpy().copy()
