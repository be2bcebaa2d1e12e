"""The step loop for networks of any shape (pk.Network), in plain torch: what torchvision's networks are compared with.

As fast as we could make it: channels last, nothing allocated by the neurons, and the first layer's currents, which are
those of a constant image, computed once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk


@torch.inference_mode()
def output_counts(net: pk.Network, images: Tensor, T: int) -> Tensor:
    """Output spikes of T steps, float32 [N, classes]; ``images`` [N, C, H, W] are constant inputs."""
    held, layers = held_values(net, images)
    steps = [(name, step_of(layer, sources, sources[0] in held), sources) for name, layer, sources in layers]
    counts = 0
    for _ in range(T):
        values = dict(held)
        for name, step, sources in steps:
            values[name] = step(*(values[source] for source in sources))
        counts = counts + values[name]
    return counts


def held_values(net: pk.Network, images: Tensor) -> tuple[dict[str, Tensor], list[tuple[str, nn.Module, tuple]]]:
    """What layers without neurons make of constant images, by name; the other layers, as ``net.layers()`` has them."""
    held, others = {pk.Network.INPUT: images.contiguous(memory_format=torch.channels_last)}, []
    for name, layer, sources in net.layers():
        if isinstance(layer, pk.layers.SpikingLayer) or not all(source in held for source in sources):
            others.append((name, layer, sources))
        else:
            held[name] = step_of(layer, sources)(*(held[source] for source in sources))
    return held, others


def step_of(layer: nn.Module, sources: tuple[str, ...], held: bool = False):
    """One step of a layer as a function of its inputs [N, ...]; layers of neurons start at ``v_init``.

    ``held``: its input is the same at every step.
    """
    if isinstance(layer, pk.MaxRatePool2d):
        return _MaxRate(layer)
    if isinstance(layer, pk.Concatenate):
        return lambda *inputs: torch.cat(inputs, 1)
    if isinstance(layer, pk.layers.Neurons):
        terms = layer.terms(sources if len(sources) > 1 else sources[0])
        synapses = [synapse.plain().to(memory_format=torch.channels_last) for synapse, _ in terms]
        return _Neurons(layer, synapses, held) if layer.neuron.fires else _LoopState(synapses)
    if isinstance(layer, pk.Flatten):
        return nn.Flatten()
    return lambda x: layer(x.unsqueeze(0)).squeeze(0)


def first_potentials(layer: nn.Module, currents: Tensor) -> Tensor:
    """Where the layer's neurons start, in the shape of one step's currents [N, C, ...]."""
    start = torch.as_tensor(layer.v_init)
    start = start.view(-1, *[1] * (currents.ndim - 2)) if start.ndim else start
    return torch.zeros_like(currents) + start


class _Neurons:
    """IF neurons with soft reset behind the sum of some synapses."""

    def __init__(self, layer: nn.Module, synapses: list, held: bool):
        if layer.v_reset is not None:
            raise ValueError(f"the step loop subtracts the threshold (v_reset=None), got v_reset={layer.v_reset}")
        self.layer, self.synapses = layer, synapses
        self.held = held and len(synapses) == 1
        self.v: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self.v is None or not self.held:
            first, *others = (synapse(x) for synapse, x in zip(self.synapses, inputs, strict=True))
            for other in others:
                first = first.add_(other)
            self.currents = first
        if self.v is None:
            self.v = first_potentials(self.layer, self.currents)
            self.spikes = torch.empty_like(self.currents)
        self.v += self.currents
        torch.ge(self.v, self.layer.v_threshold, out=self.spikes)
        self.v.sub_(self.spikes, alpha=self.layer.v_threshold)
        return self.spikes


class _LoopState:
    """The sum of some synapses, as it is."""

    def __init__(self, synapses: list):
        self.synapses = synapses

    def __call__(self, *inputs: Tensor) -> Tensor:
        first, *others = (synapse(x) for synapse, x in zip(self.synapses, inputs, strict=True))
        for other in others:
            first = first + other
        return first


class _MaxRate:
    """Max pooling of spike counts: fires when the highest count of the window grows."""

    def __init__(self, layer: pk.MaxRatePool2d):
        self.window = layer.kernel_size, layer.stride, layer.padding, 1, layer.ceil_mode
        self.counts: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.counts is None:
            self.counts = torch.zeros_like(x)
            self.highest = F.max_pool2d(self.counts, *self.window)
        self.counts += x
        before, self.highest = self.highest, F.max_pool2d(self.counts, *self.window)
        return self.highest - before
