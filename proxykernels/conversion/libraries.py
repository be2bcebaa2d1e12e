"""Networks of other spiking libraries, taken over with their weights and neurons."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..network import Network
from . import snntorch_neurons, spikingjelly_neurons
from .build_layers import CARRIED, build_layer
from .described import Described
from .flow import Population
from .folding import fold_norms, untie
from .fx_calls import path_of, trace
from .port_graph import Gate, PortGraph
from .time_loops import LAYERS, one_step

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def from_spikingjelly(net: nn.Module) -> Network:
    """A SpikingJelly network as one of this package: the same spikes, step by step, but for rounding.

    Supported: IFNode, LIFNode, ParametricLIFNode and CUBALIFNode behind Conv2d or Linear (with BatchNorm, and
    residual additions), torch's or SpikingJelly's; max and average pooling, products x * y and x * (1 - y) of spikes,
    Flatten, Dropout, VotingLayer; nn.Sequential, SeqToANNContainer and the like, and any module whose forward torch.fx
    can follow: SpikingJelly's model zoo. Where it ends without neurons, ``simulate(...).potentials`` are what it gives
    at each step. An input that it repeats over time, and a mean over time at its end, are left to the caller.

    SpikingJelly fires at h >= v_threshold, as this package does. Where it divides currents by tau (``decay_input``),
    potentials are counted in units tau times smaller here, as :meth:`LIFNeuron.from_tau` says; weights stay the same.
    Surrogate functions ATan, Sigmoid, PiecewiseQuadratic, SoftSign and SuperSpike come with their neurons, and
    detach_reset: the network is trained on as it was, a normalisation behind a convolution and ParametricLIFNode's time
    constant too.

    Args:
        net: the network, in single-step or multi-step mode; it is taken in evaluation mode, copied, and not changed.

    Returns:
        The network, in evaluation mode.

    Raises:
        TypeError, ValueError: net holds something else; the message names its path, and what to do.
        ImportError: spikingjelly is not installed.
    """
    from spikingjelly.activation_based import base, layer, neuron

    def is_neuron(module: nn.Module) -> bool:
        return type(module).__module__.startswith(neuron.__name__)

    checks.module("net", net)
    leaves = (base.StepModule,)
    return _take_over(net, is_neuron, spikingjelly_neurons.described, leaves, (layer.Dropout, layer.Dropout2d))


def from_snntorch(net: nn.Module) -> Network:
    """An snnTorch network as one of this package: the same spikes, step by step, but for rounding.

    Supported: Leaky, Lapicque and Synaptic behind Conv2d or Linear (with BatchNorm), max and average pooling of
    spikes, Flatten, Dropout, in nn.Sequential or any module whose forward computes one step, or loops over steps that
    are all alike and returns the spikes of its last neurons, ``torch.stack(spikes)``, alone or first. Of other modules
    take the layers: ``from_snntorch(nn.Sequential(net.fc1, net.lif1, ...))``.

    beta, alpha and threshold are one number or one value a channel; reset_mechanism is

    - "zero": the same spikes always. snnTorch fires at mem > threshold, so the threshold is set to the next larger
      float32. Synaptic needs reset_delay=False.
    - "subtract", with reset_delay=True: snnTorch takes the threshold off a step after the spike. Potentials that are
      shifted, v = mem + v_rest, fire the same here (conversion/snntorch_neurons.py), for one beta and one threshold a
      layer. A neuron whose potential equals the threshold exactly fires here, and in snnTorch does not.
    - "none", but for Synaptic: the same spikes always.

    spike_grad comes too, where it is snntorch.surrogate.atan, sigmoid or fast_sigmoid: the network is trained on as it
    was, but for normalisations, which here take the statistics of all steps. With learn_beta, learn_alpha and
    learn_threshold these are learnt on, unless the reset is "subtract", which leaves the threshold of beta = 1.

    Args:
        net: the network; it is taken in evaluation mode, copied, and not changed.

    Returns:
        The network, in evaluation mode.

    Raises:
        TypeError, ValueError: net holds something else, such as recurrent neurons; the message names its path, and what
            to do.
        ImportError: snntorch is not installed.
    """
    import snntorch

    neurons = (snntorch.SpikingNeuron, snntorch.LeakyParallel)
    checks.module("net", net)
    return _take_over(net, lambda module: isinstance(module, neurons), snntorch_neurons.described, neurons, ())


def _take_over(
    net: nn.Module,
    is_neuron: Callable[[nn.Module], bool],
    described: Callable[[Any, int | None], Described],
    leaves: tuple[type, ...],
    negligible: tuple[type, ...],
) -> Network:
    """``described``: a neuron of the other library, and how many axes are behind its channels, in our words."""
    name, model = type(net).__name__, copy.deepcopy(net, _potentials(net))
    _compute_weights(model)
    try:
        traced = one_step(trace(model, leaves), name, is_neuron)
    except TypeError as error:
        raise TypeError(f"{error}{'' if LAYERS in str(error) else f'; {LAYERS}'}") from error
    multi_step = any(is_neuron(m) and getattr(m, "step_mode", "s") == "m" for m in model.modules())
    graph = PortGraph(traced, name, is_neuron, negligible, steps_first=multi_step)
    neurons = {}
    for key, population in graph.firing.items():
        with checks.at(f"{name}: {path_of(population.node)}"):
            neurons[key] = _described(population, described)
            neurons[key].neuron.check()
    untie(graph.populations)
    norms = {key: _kept_norm(population) for key, population in graph.firing.items()}
    for key, population in graph.populations.items():
        if norms.get(key) is None:
            fold_norms(population, traced)

    def layer(key: str, population: Population) -> nn.Module:
        if not population.fires:
            return build_layer(population.modules, CARRIED)
        layer: Any = build_layer(population.modules, neurons[key].neuron, neurons[key].v_init)
        layer.surrogate = neurons[key].surrogate
        if norms[key] is not None:
            layer.bn = norms[key]
        if (learn := neurons[key].learn) is not None:
            learn(layer)
        return layer

    return graph.network(layer).eval()


@torch.no_grad()
def _compute_weights(model: nn.Module) -> None:
    """SpikingJelly's WSConv2d and WSLinear standardise their weights at each call."""
    for module in model.modules():
        if type(module).__name__ in ("WSConv2d", "WSLinear"):
            standardised: Any = module
            standardised.weight.copy_(standardised.get_weight())


def _described(population: Population, described: Callable[[Any, int | None], Described]) -> Described:
    neuron = population.neuron
    return Described(neuron.neuron) if isinstance(neuron, Gate) else described(neuron, _axes(population))


def _kept_norm(population: Population) -> nn.Module | None:
    """The normalisation that a layer of its own keeps, to be trained; None: there is none, or it must be folded."""
    synapse = population.current.synapses[0]
    norm = synapse.norm
    if len(population.modules) > 1 or norm is None or not norm.affine or not isinstance(synapse.module, CONVOLUTIONS):
        return None
    kind = nn.BatchNorm1d if isinstance(norm, nn.BatchNorm1d) else nn.BatchNorm2d  # not another library's
    options = {"device": norm.weight.device, "dtype": norm.weight.dtype}
    kept = kind(norm.num_features, norm.eps, norm.momentum, **options)
    kept.load_state_dict(norm.state_dict())
    return kept


def _axes(population: Population) -> int | None:
    """The axes behind the channels of what neurons take, where weights say how many: 2 of images, 0 of vectors."""
    weight = getattr(population.modules[0], "weight", None)
    return None if weight is None else weight.ndim - 2


def _potentials(net: nn.Module) -> dict[int, Tensor]:
    """For deepcopy: the results of the last run that the neurons hold, which torch does not copy."""
    places = [place for m in net.modules() for place in (vars(m), m._buffers, vars(m).get("_memories", {}))]
    held = [value for place in places for value in place.values() if isinstance(value, Tensor)]
    return {id(value): value.detach() for value in held if not value.is_leaf}
