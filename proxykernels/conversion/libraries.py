"""Networks of other spiking libraries, taken over with their weights, thresholds and resets."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..network import Network
from ..neurons import IFNeuron
from .build_layers import build_layer
from .fx_calls import trace
from .populations import Graph, fold_norms, untie


def from_spikingjelly(net: nn.Module) -> Network:
    """A SpikingJelly network of IF neurons as one of this package: the same spikes, step by step.

    Supported: IFNode behind Conv2d or Linear (with BatchNorm, folded, and residual additions), torch's or
    SpikingJelly's; max and average pooling of spikes, Flatten, Dropout; nn.Sequential, SeqToANNContainer and the like,
    and any module whose forward torch.fx can follow. SpikingJelly fires at h >= v_threshold, as this package does.

    Args:
        net: the network, in single-step or multi-step mode; it is taken in evaluation mode, copied, and not changed.

    Raises:
        TypeError: net holds something else; the message names its path.
        ImportError: spikingjelly is not installed.
    """
    from spikingjelly.activation_based import base, layer, neuron

    checks.module("net", net)

    def describe(module: Any) -> tuple[IFNeuron, float]:
        # A potential at rest is v_reset there, and 0 with soft reset.
        return IFNeuron(module.v_threshold, module.v_reset), module.v_reset or 0.0

    return _take_over(net, neuron.IFNode, describe, (base.StepModule,), (layer.Dropout, layer.Dropout2d))


def from_snntorch(net: nn.Module) -> Network:
    """An snnTorch network of integrate-and-fire neurons (``Leaky`` with beta = 1) as one of this package.

    Supported: Leaky(beta=1, init_hidden=True) with reset_mechanism "zero" or "subtract" behind Conv2d or Linear (with
    BatchNorm, folded), max and average pooling of spikes, Flatten, Dropout, in nn.Sequential or any module whose
    forward computes one step.

    snnTorch fires at h > threshold, this package at h >= threshold. With reset "zero" the threshold is therefore set to
    the next larger float32, which gives the same spikes always. With "subtract" it stays, being subtracted as well:
    there a neuron whose potential equals the threshold exactly fires here, and in snnTorch does not.

    Args:
        net: the network; it is taken in evaluation mode, copied, and not changed.

    Raises:
        TypeError, ValueError: net holds something else, or a Leaky is no integrate-and-fire neuron.
        ImportError: snntorch is not installed.
    """
    from snntorch import Leaky

    checks.module("net", net)
    return _take_over(net, Leaky, _leaky, (Leaky,), ())


def _leaky(leaky: Any) -> tuple[IFNeuron, float]:
    """An snnTorch neuron, and the potential that it starts from."""
    if not bool((leaky.beta == 1).all()):
        raise ValueError(f"only Leaky(beta=1), which integrates and fires, is supported; got beta={leaky.beta}")
    if leaky.inhibition or leaky.state_quant or not bool((torch.as_tensor(leaky.graded_spikes_factor) == 1).all()):
        raise ValueError("Leaky with inhibition, state_quant or graded_spikes_factor is not supported")
    threshold = torch.as_tensor(leaky.threshold).detach().float()
    if leaky.reset_mechanism == "zero":
        threshold, v_reset = torch.nextafter(threshold, torch.full_like(threshold, torch.inf)), 0.0
    elif leaky.reset_mechanism == "subtract" and leaky.reset_delay:
        v_reset = None
    else:
        raise ValueError(
            "Leaky needs reset_mechanism 'zero', or 'subtract' with reset_delay=True; got "
            f"{leaky.reset_mechanism!r} with reset_delay={leaky.reset_delay}"
        )
    return IFNeuron(threshold.item() if threshold.numel() == 1 else threshold, v_reset), 0.0


def _take_over(net, neuron_type, describe, leaves, negligible) -> Network:
    """``describe``: a neuron of the other library to ours, and the potential that it starts from."""
    name, model = type(net).__name__, copy.deepcopy(net, _potentials(net))
    traced = trace(model, leaves)
    graph = Graph(traced, name, lambda module: type(module) is neuron_type, rates=False, negligible=negligible)
    neurons = {key: describe(population.neuron) for key, population in graph.populations.items()}
    untie(graph)
    for population in graph.populations.values():
        fold_norms(population, traced)
    return graph.network(lambda key, population: build_layer(population.modules, *neurons[key]))


def _potentials(net: nn.Module) -> dict[int, Tensor]:
    """For deepcopy: the results of the last run that the neurons hold, which torch does not copy."""
    places = [place for m in net.modules() for place in (vars(m), m._buffers, vars(m).get("_memories", {}))]
    held = [value for place in places for value in place.values() if isinstance(value, Tensor)]
    return {id(value): value.detach() for value in held if not value.is_leaf}
