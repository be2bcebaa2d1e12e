"""Networks of other spiking libraries, taken over with their weights and neurons."""

import copy
import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from .. import checks
from ..network import Network
from . import snntorch_neurons, spikingjelly_neurons
from .build_layers import CARRIED, build_layer
from .described import Described
from .fx_calls import path_of, trace
from .populations import Graph, Population, fold_norms, untie

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def from_spikingjelly(net: nn.Module) -> Network:
    """A SpikingJelly network as one of this package: the same spikes, step by step, but for rounding.

    Supported: IFNode, LIFNode, ParametricLIFNode and CUBALIFNode behind Conv2d or Linear (with BatchNorm, and
    residual additions), torch's or SpikingJelly's; max and average pooling of spikes, Flatten, Dropout; nn.Sequential,
    SeqToANNContainer and the like, and any module whose forward torch.fx can follow.

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
    spikes, Flatten, Dropout, in nn.Sequential or, with init_hidden=True, any module whose forward computes one step. Of
    a module that loops over time take the layers: ``from_snntorch(nn.Sequential(net.fc1, net.lif1, ...))``.

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
    traced = trace(model, leaves)
    _check_step(traced, name, is_neuron)
    graph = Graph(traced, name, is_neuron, rates=False, negligible=negligible)
    neurons = {}
    for key, population in graph.firing.items():
        with checks.at(f"{name}: {path_of(population.node)}"):
            neurons[key] = described(population.neuron, _axes(population))
            neurons[key].neuron.check()
    untie(graph)
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


def _check_step(traced: fx.GraphModule, name: str, is_neuron: Callable[[nn.Module], bool]) -> None:
    """Neurons that hand their potentials out belong to a loop over time, which is this package's."""
    for node in traced.graph.nodes:
        source = node.args[0] if node.target is operator.getitem else None
        if not isinstance(source, fx.Node) or source.op != "call_module":
            continue
        if is_neuron(traced.get_submodule(str(source.target))):
            raise TypeError(
                f"{name}: {path_of(source)} hands out its potentials; take one step's layers, "
                "nn.Sequential(net.fc1, net.lif1, ...), which need no state"
            )


def _axes(population: Population) -> int | None:
    """The axes behind the channels of what neurons take, where weights say how many: 2 of images, 0 of vectors."""
    weight = getattr(population.modules[0], "weight", None)
    return None if weight is None else weight.ndim - 2


def _potentials(net: nn.Module) -> dict[int, Tensor]:
    """For deepcopy: the results of the last run that the neurons hold, which torch does not copy."""
    places = [place for m in net.modules() for place in (vars(m), m._buffers, vars(m).get("_memories", {}))]
    held = [value for place in places for value in place.values() if isinstance(value, Tensor)]
    return {id(value): value.detach() for value in held if not value.is_leaf}
