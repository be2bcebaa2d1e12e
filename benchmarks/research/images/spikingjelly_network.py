"""Networks of any shape (pk.Network) by SpikingJelly's neurons, a step at a time or several in multi-step mode."""

from functools import reduce

import torch
from torch import Tensor, nn

import proxykernels as pk
from images.network_loop import first_potentials, held_values, step_of


@torch.inference_mode()
def output_counts(net: pk.Network, images: Tensor, T: int, at_once: int = 1) -> Tensor:
    """Output spikes of T steps, float32 [N, classes]; ``images`` [N, C, H, W] are constant inputs.

    ``at_once``: steps that go through the network together, as images of one batch; 1: step mode "s".
    """
    held, layers = held_values(net, images)
    run = [(name, _step_of(layer, sources, sources[0] in held, at_once), sources) for name, layer, sources in layers]
    counts: Tensor | float = 0.0
    for start in range(0, T, at_once):
        steps = min(at_once, T - start)
        values = dict(held)
        for name, step, sources in run:
            values[name] = step(steps, *(values[source] for source in sources))
        counts = counts + values[name].unflatten(0, (steps, len(images))).sum(0)
    return counts


def _step_of(layer: nn.Module, sources: tuple[str, ...], held: bool, at_once: int):
    """Some steps of a layer: a function of their number and of inputs [steps * N, ...], [N, ...] if constant."""
    if isinstance(layer, pk.layers.Neurons) and layer.neuron.fires:
        return _Neurons(layer, sources, held, at_once)
    if isinstance(layer, pk.MaxRatePool2d) and at_once > 1:
        step = step_of(layer, sources)
        return lambda steps, x: torch.cat([step(part) for part in x.chunk(steps)])
    step = step_of(layer, sources)
    return lambda steps, *inputs: step(*inputs)


class _Neurons:
    """SpikingJelly's IFNode with soft reset behind the sum of some synapses."""

    def __init__(self, layer: nn.Module, sources: tuple[str, ...], held: bool, at_once: int):
        from spikingjelly.activation_based.neuron import IFNode

        if layer.v_reset is not None:
            raise ValueError(f"the network must subtract thresholds (v_reset=None), got v_reset={layer.v_reset}")
        terms = layer.terms(sources if len(sources) > 1 else sources[0])
        self.synapses = [synapse.plain().to(memory_format=torch.channels_last) for synapse, _ in terms]
        self.held, self.several = held and len(terms) == 1, at_once > 1
        self.node = IFNode(float(layer.v_threshold), None, step_mode="m" if self.several else "s").eval()
        self.layer = layer
        self.currents: Tensor | None = None
        self.started = False

    def __call__(self, steps: int, *inputs: Tensor) -> Tensor:
        if self.currents is None or not self.held:
            self.currents = reduce(torch.add, (s(x) for s, x in zip(self.synapses, inputs, strict=True)))
        currents = self.currents
        if self.several:
            currents = currents.expand(steps, *currents.shape) if self.held else currents.unflatten(0, (steps, -1))
        if not self.started:
            self.node.v = first_potentials(self.layer, currents[0] if self.several else currents)
            self.started = True
        return self.node(currents).flatten(0, 1) if self.several else self.node(currents)
