"""Exchange with other simulators and with chips through NIR (Pedersen et al., Nature Communications 15:8122, 2024).

A layer becomes a synapse node (nir.Conv2d, nir.Affine, nir.Linear) and a nir.IF. NIR adds up what several nodes send to
one, which is how a :class:`FusedIFSum` is written. Time is in steps: r = 1, dt = 1.

NIR's IF resets to ``v_reset``. It has no word for the soft reset, which is noted in the node's metadata as
``reset = "subtract"``; simulators that do not look there reset to 0. NIR's equations fire at v > v_threshold, and so do
most simulators, where this package (and SpikingJelly) fire at v >= v_threshold: the same spikes unless a potential
equals the threshold exactly.
"""

import graphlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import checks, layers
from ..network import Network
from ..residual import FusedIFSum
from .build_layers import build_layer

RESET, SUBTRACT = "reset", "subtract"  # in the metadata of a nir.IF


def to_nir(net: nn.Module, input_shape: Sequence[int]):
    """A network as a nir.NIRGraph; ``nir.write(path, graph)`` saves it.

    Args:
        net: a :class:`Network` or nn.Sequential of convolutions, fully connected layers, IF, joining layers, average
            pooling and flattening. Normalisations are folded.
        input_shape: of one sample and step, (C, H, W) or (features,); NIR stores every neuron's threshold.

    Raises:
        TypeError: NIR has no node for a layer, max pooling for example.
        ValueError: NIR cannot say it: a potential to start from (``v_init``), some options of average pooling.
        ImportError: nir is not installed, or older than 1.0.6, whose IF has no reset potential.

    What NIR keeps and what other simulators make of it: docs/exchange.md.
    """
    nir = _nir()
    nodes = {"input": nir.Input({"input": np.array(input_shape)})}
    edges: list[tuple[str, str]] = []
    ends, shapes = {Network.INPUT: "input"}, {Network.INPUT: tuple(input_shape)}
    name = Network.INPUT
    for name, layer, sources in _layers_of(net):
        inputs = tuple(torch.zeros(1, 1, *shapes[source]) for source in sources)
        with torch.no_grad():
            shapes[name] = tuple(layer(inputs if len(inputs) > 1 else inputs[0]).shape[2:])
        if isinstance(layer, layers.FusedIFConv2d | layers.FusedIFLinear | layers.IF | FusedIFSum):
            ends[name] = name if isinstance(layer, layers.IF) else f"{name}_if"
            nodes[ends[name]] = _if_node(nir, name, layer, shapes[name])
            for k, ((synapse, _), source) in enumerate(zip(layer.terms(inputs), sources, strict=True)):
                start = ends[source]
                if isinstance(synapse, nn.Conv2d | nn.Linear):
                    key = name if k == 0 else f"{name}_{k}"
                    nodes[key] = _synapse_node(nir, synapse, shapes[source])
                    edges.append((start, key))
                    start = key
                edges.append((start, ends[name]))
        else:
            ends[name] = name
            nodes[name] = _shaping_node(nir, name, layer, shapes[sources[0]])
            edges.append((ends[sources[0]], name))
    nodes["output"] = nir.Output({"output": np.array(shapes[name])})
    edges.append((ends[name], "output"))
    return nir.NIRGraph(nodes, edges)


def from_nir(graph, *, dt: float = 1.0) -> Network:
    """A network from a nir.NIRGraph or a file of one.

    Args:
        graph: nir.NIRGraph or a path. Its nodes: Conv2d, Affine or Linear before an IF (several may send to one IF, and
            so may another IF or pooling directly), AvgPool2d and Flatten.
        dt: length of a step, by which an IF's r is multiplied: the product must be 1. SpikingJelly writes r = 1 / dt.

    Returns:
        A :class:`Network`, its layers named as the synapse nodes, with underscores for dots.

    Raises:
        TypeError: the graph holds another node, or nodes connected in another way.
        ValueError: a cycle, thresholds that differ within a channel, resets that differ, r * dt other than 1.
        ImportError: nir is not installed, or older than 1.0.6.
    """
    nir = _nir()
    graph = nir.read(graph) if isinstance(graph, str | Path) else graph
    senders: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, end in graph.edges:
        senders[end].append(start)
    net = Network()
    given: dict[str, str] = {}  # a node -> the layer whose output it gives
    synapses = (nir.Conv2d, nir.Affine, nir.Linear)
    for name in _in_order(senders):
        node = graph.nodes[name]
        if isinstance(node, synapses + (nir.Output,)):
            continue
        if isinstance(node, nir.Input):
            given[name] = Network.INPUT
            continue
        key, terms = name, []
        for sender in senders[name]:
            if isinstance(graph.nodes[sender], synapses):
                key = sender if key == name else key
                terms.append((_synapse(nir, graph.nodes[sender]), _only(senders, sender)))
            else:
                terms.append((nn.Identity(), sender))
        given[name] = key.replace(".", "_")
        if isinstance(node, nir.IF):
            terms.sort(key=lambda term: isinstance(term[0], nn.Identity))
            layer = build_layer([module for module, _ in terms], _neuron(name, node, dt))
        elif isinstance(node, nir.AvgPool2d | nir.Flatten) and key == name:
            layer = _shaping(nir, name, node)
        else:
            raise TypeError(f"node '{name}': a nir.{type(node).__name__} in this place is not supported")
        for _, sender in terms:
            if sender not in given:
                raise TypeError(f"node '{sender}' must send to an IF, it sends to '{name}'")
        net.append(given[name], layer, tuple(given[sender] for _, sender in terms))
    return net


def _nir():
    import nir

    if "v_reset" not in nir.IF.__dataclass_fields__:
        raise ImportError("this version of nir knows no reset potential; pip install 'nir>=1.0.6'")
    return nir


def _layers_of(net: nn.Module) -> list[tuple[str, nn.Module, tuple[str, ...]]]:
    """(name, layer, the layers it takes) of each layer."""
    if isinstance(net, Network):
        return net.layers()
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"net must be a proxykernels.Network or an nn.Sequential, got {type(net).__name__}")
    flat = [
        (name.replace(".", "_"), module)
        for name, module in net.named_modules()
        if not isinstance(module, nn.Sequential) and not isinstance(module, nn.BatchNorm2d)
    ]
    names = [Network.INPUT, *(name for name, _ in flat)]
    return [(name, module, (before,)) for (name, module), before in zip(flat, names, strict=False)]


def _synapse_node(nir, synapse: nn.Module, input_shape: tuple[int, ...]):
    if isinstance(synapse, nn.Linear):
        weight = _array(synapse.weight)
        return nir.Linear(weight) if synapse.bias is None else nir.Affine(weight, _array(synapse.bias))
    weight, bias = synapse.folded() if isinstance(synapse, layers.FusedIFConv2d) else (synapse.weight, synapse.bias)
    bias = torch.zeros(len(weight)) if bias is None else bias
    geometry = synapse.stride, synapse.padding, synapse.dilation, synapse.groups
    return nir.Conv2d(input_shape[1:], _array(weight), *geometry, _array(bias))


def _if_node(nir, name: str, layer: layers.Neurons, shape: tuple[int, ...]):
    if layer.v_init:
        raise ValueError(f"layer {name} starts at v_init={layer.v_init:g}, which NIR cannot say; set its v_init to 0")
    theta = torch.as_tensor(layer.v_threshold, dtype=torch.float32)
    theta = theta.view(-1, *[1] * (len(shape) - 1)) if theta.ndim else theta
    node = nir.IF(
        r=np.ones(shape, np.float32),
        v_threshold=_array(theta.expand(shape)),
        v_reset=np.full(shape, layer.v_reset or 0.0, np.float32),
    )
    if layer.v_reset is None:
        node.metadata[RESET] = SUBTRACT
    return node


def _shaping_node(nir, name: str, layer: nn.Module, input_shape: tuple[int, ...]):
    if isinstance(layer, layers.Flatten):
        return nir.Flatten({"input": np.array(input_shape)}, start_dim=0, end_dim=-1)
    if isinstance(layer, layers.AdaptiveAvgPool2d):
        size = checks.pair("output_size", layer.output_size, 1)
        if any(n % k for n, k in zip(input_shape[1:], size, strict=True)):
            raise ValueError(f"layer {name}: NIR has no average pooling of {input_shape[1:]} to {size} pixels")
        window = np.array([n // k for n, k in zip(input_shape[1:], size, strict=True)])
        return nir.AvgPool2d(window, window, np.zeros(2, int))
    if not isinstance(layer, layers.AvgPool2d):
        raise TypeError(f"layer {name}: NIR has no node for {type(layer).__name__}")
    window, stride, padding = (checks.pair("", value, 0) for value in (layer.kernel_size, layer.stride, layer.padding))
    if layer.ceil_mode or layer.divisor_override or (any(padding) and not layer.count_include_pad):
        raise ValueError(f"layer {name}: NIR has no ceil_mode, divisor_override or count_include_pad=False")
    return nir.AvgPool2d(np.array(window), np.array(stride), np.array(padding))


def _in_order(senders: dict[str, list[str]]) -> list[str]:
    try:
        return list(graphlib.TopologicalSorter(senders).static_order())
    except graphlib.CycleError as error:
        raise ValueError(
            f"the graph has a cycle, {' -> '.join(error.args[1])}; only feed-forward is supported"
        ) from None


def _only(senders: dict[str, list[str]], name: str) -> str:
    if len(senders[name]) != 1:
        raise TypeError(f"node '{name}' must have one sender, it has {len(senders[name])}")
    return senders[name][0]


def _synapse(nir, node) -> nn.Module:
    weight = torch.as_tensor(np.asarray(node.weight)).float()
    bias = None if isinstance(node, nir.Linear) else torch.as_tensor(np.asarray(node.bias)).float()
    if isinstance(node, nir.Conv2d):
        padding = node.padding if isinstance(node.padding, str) else _pair(node.padding)
        C_out, C_in, *kernel = weight.shape
        groups = int(node.groups)
        module = nn.Conv2d(
            C_in * groups, C_out, tuple(kernel), _pair(node.stride), padding, _pair(node.dilation), groups
        )
    else:
        module = nn.Linear(*reversed(weight.shape))
    module.weight = nn.Parameter(weight)
    module.bias = None if bias is None else nn.Parameter(bias)
    return module


def _neuron(name: str, node, dt: float) -> dict:
    if not np.allclose(np.asarray(node.r) * dt, 1.0):
        raise ValueError(f"node '{name}': r * dt must be 1, r is {np.unique(node.r)} and dt is {dt}")
    theta = torch.as_tensor(np.asarray(node.v_threshold)).float()
    by_channel = theta.flatten(1) if theta.ndim > 1 else theta.view(-1, 1)
    if not bool((by_channel == by_channel[:, :1]).all()):
        raise ValueError(f"node '{name}': v_threshold must be the same for all neurons of a channel")
    theta = by_channel[:, 0]
    resets = np.unique(node.v_reset)
    reset = node.metadata.get(RESET, "")
    subtract = (reset.decode() if isinstance(reset, bytes) else reset) == SUBTRACT
    if len(resets) != 1:
        raise ValueError(f"node '{name}': v_reset must be the same for all neurons, got {resets}")
    same = bool((theta == theta[0]).all())
    return {
        "v_threshold": theta[0].item() if same else theta,
        "v_reset": None if subtract else float(resets[0]),
    }


def _shaping(nir, name: str, node) -> nn.Module:
    if isinstance(node, nir.AvgPool2d):
        return layers.AvgPool2d(_pair(node.kernel_size), _pair(node.stride), _pair(node.padding))
    dims, last = len(node.input_type["input"]), int(node.end_dim)
    if int(node.start_dim) != 0 or last not in (-1, dims - 1):
        raise ValueError(f"node '{name}': Flatten must join all dimensions, got {node.start_dim} to {last} of {dims}")
    return layers.Flatten()


def _pair(value) -> tuple[int, int]:
    values = np.asarray(value).astype(int).reshape(-1).tolist()
    return (values[0], values[0]) if len(values) == 1 else tuple(values)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy().copy()
