"""Networks of other spiking libraries, taken over with their weights and neurons."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ... import checks
from ...layers import RecurrentGraph, StepAffine
from ...layers.all_steps import OfAllSteps
from ...network import Network
from ...neurons import LINeuron
from ..graph.compare import Difference, Layer
from ..graph.fx_calls import path_of
from ..graph.graph_values import ModelPopulation, fold_gains, fold_inputs, fold_norms, untie
from ..graph.groups import grouped
from ..graph.prepared import check_model, in_evaluation, let_go, prepared, without_autocast
from ..graph.rewrites import CARRIED, build_layer, build_recurrent, multiply
from ..graph.sample_runs import LOOPED
from ..graph.state_between_calls import naming_what_is_kept
from . import snntorch_neurons, spikingjelly_neurons
from .all_steps import steps_of_module
from .channel_parameters import into_weights
from .library_neurons import Described, Find, constants, gain
from .neurons_of_steps import OfSteps
from .port_graph import Gate, PortGraph
from .port_proof import Proof, check_recurrence, check_sample, neuron_paths
from .step_by_step import STANDARDISED, Original, takes_all_steps
from .summed_groups import as_weights
from .time_loops import ONE_STEP, Loop, TimeAxes, followed, one_step, steps_first
from .unequal_steps import LISTS

UNCLEAR = {  # what torch says of a trace, and what it means
    "non-empty TensorList": f"returns none of the {LOOPED} steps for which its loop is followed; return all steps, "
    "torch.stack(out), and take those that you need from the imported network's result",
    "Expected `device_type`": "asks for autocast by x.device.type in its forward pass, which torch.fx cannot follow; "
    "import it without autocast, and call the original in it: with torch.autocast(device): net(x)",
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def from_spikingjelly(net: nn.Module, sample: Tensor | None = None, *, check: bool = True) -> Network:
    """Import a SpikingJelly network. The spikes are the same, step by step, except for rounding.

    Supported: IFNode, LIFNode, ParametricLIFNode, CUBALIFNode, ILIFNode, HalfThresholdIFNode, ActivationAwareIFNode,
    and by steps in Python KLIFNode, QIFNode, EIFNode, IzhikevichNode, ComplementaryLIFNode, RAFNode, MPBNLIFNode,
    GatedLIFNode, PSN, MaskedPSN, SlidingPSN, DSR and ILC nodes, nodes that hand on values
    (:class:`layers.ValuedNeurons`, few-spike nodes), Noisy nodes with is_training=False,
    behind Conv2d or Linear (with BatchNorm or ThresholdDependentBatchNorm,
    and residual additions), torch's or SpikingJelly's; max and average pooling, products x * y and x * (1 - y) of
    spikes, products with numbers, Flatten, Dropout, VotingLayer, Delay, SynapseFilter behind neurons, ReLU of currents;
    MultiDimensionalAttention and TemporalWiseAttention, for runs of all steps in one call (layers.StepAttention);
    LinearRecurrentContainer and ElementWiseRecurrentContainer around such neurons; nn.Sequential, SeqToANNContainer and
    the like, and any module whose forward torch.fx can trace, such as SpikingJelly's model zoo. With a sample, in
    multi-step mode, a forward may ask for sizes; attention, products, sums over tokens and views become layers, and
    other operations that do not mix steps or samples a :class:`layers.Formula`. If the last layer has no neurons,
    ``simulate(...).potentials`` are its values at each step. Also the package of 0.0.0.0.12, spikingjelly.clock_driven.

    Time is the caller's: left out are a repetition of the input, a loop over equal steps, a mean or sum over time at
    the end, and the exchange of the first two axes of an input [N, T, ...]. Normalisations, gains and offsets of each
    step become a :class:`layers.StepAffine`, and the network runs for as many steps as it has these. Linear layers
    behind a mean over time are computed in front of it, at each step: ``potentials.mean(0)`` is what they gave.

    With ``decay_input`` SpikingJelly divides currents by tau. Here threshold, reset and potentials are multiplied by
    tau instead (:meth:`LIFNeuron.from_tau`); weights stay the same. The surrogate functions ATan, Sigmoid,
    PiecewiseQuadratic, SoftSign and SuperSpike and ``detach_reset`` are kept, so training can continue. A batch
    normalisation behind a convolution stays learnable, and ParametricLIFNode's time constant except with
    ``decay_input`` behind no weights or beside an identity.

    Original and imported network run side by side: for 40 steps of four samples, and for 128 steps of one, whose
    input and spikes are one, 16 or 100 times what they are; a network that is called with all steps is also called 16
    times. Inputs change from step to step. The original's neurons hand on spikes at random, and some are given currents
    on which they fire, so each layer is compared at each step, also in a network that is silent. A difference beyond
    rounding, in currents, spikes, the number of steps, or the output and its shape, raises an error that names the
    first step and module, and so does a state of the network's own code that shows within these steps. A bar shows
    progress after two seconds. Warnings name dropout that is left out, all but that of spikes, and learnable parameters
    of neurons that are constants here.

    Args:
        net: the network, in single-step or multi-step mode. It is copied, in evaluation mode, and not changed.
        sample: input [N, ...] of one step, which tells sizes, and for the comparison, of which each step has some
            values, and 0 for the others; None: random values from 0 to 1. If no shape is found that fits, a warning
            asks for a sample.
        check: whether to compare.

    Returns:
        The network, in evaluation mode.

    Raises:
        TypeError, ValueError: a module is not supported, or the imported one computes something else, as for a
            subclass with its own forward. The message names the module's path and a remedy.
        ImportError: spikingjelly is not installed.
    """

    def is_neuron(module: nn.Module) -> bool:
        return any(map(spikingjelly_neurons.is_kind, type(module).__mro__))

    of_package = spikingjelly_neurons.modules()
    described = spikingjelly_neurons.described
    kinds = (
        *spikingjelly_neurons.KINDS,
        *spikingjelly_neurons.VALUED,
        "VotingLayer",
        "Delay",
        "SynapseFilter",
        "products of spikes",
    )
    library = _Library("from_spikingjelly", is_neuron, described, kinds, *of_package, spikingjelly_neurons.recurrence)
    return _take_over(net, library, sample, check)


def from_snntorch(net: nn.Module, sample: Tensor | None = None, *, check: bool = True) -> Network:
    """Import an snnTorch network. The spikes are the same, step by step, except for rounding.

    Supported: Leaky, Lapicque, Synaptic and Alpha behind Conv2d or Linear (with BatchNorm), RLeaky and RSynaptic behind
    these, whose spikes come back through a Linear, a convolution or one value a neuron, max and average pooling of
    spikes, Flatten, Dropout. In a loop, spikes may also come back to earlier layers (:class:`layers.RecurrentGraph`).
    The network is an nn.Sequential, a module whose forward computes one step, or a module whose forward loops over
    equal steps and returns ``torch.stack(spikes)`` of its last neurons, alone or first, from potentials of
    ``init_leaky()`` or ``torch.zeros(x.size(1), 16)``.
    Rewrite other modules as one step that calls each layer once, and neurons without their potentials.

    beta, alpha and threshold are one number, or one value per channel. The resets (``reset_mechanism``):

    - "zero": the same spikes always. snnTorch fires at mem > threshold, so the threshold becomes the next larger
      float32.
    - "subtract", with reset_delay=True: snnTorch subtracts the threshold one step after the spike. Shifted potentials,
      v = mem + v_rest, fire in the same steps here, for one beta and one threshold per layer. A neuron whose potential
      equals the threshold exactly fires here, but not in snnTorch.
    - "none": the same spikes always.

    Alpha, inhibition behind Linear, "subtract" with reset_delay=False, Synaptic's "none", its "zero" with
    reset_delay=True and RSynaptic's "zero" and "none" are steps in Python, which are slow; parameters are constants.

    ``graded_spikes_factor`` is one positive number, which the next weights are multiplied by; behind the last neurons
    ``simulate(...).potentials`` are the spikes times the factor.

    ``spike_grad`` is kept if it is snntorch.surrogate.atan, sigmoid or fast_sigmoid, so training can continue; batch
    normalisation then uses the statistics of all steps. Parameters of learn_beta, learn_alpha and learn_threshold stay
    learnable, except of Lapicque, and with "subtract", where only the threshold does, and only if beta is 1. A warning
    names those that become constants.

    Args:
        net: the network. It is copied, in evaluation mode, and not changed.
        sample, check: comparison with the original, as in :func:`from_spikingjelly`.

    Returns:
        The network, in evaluation mode.

    Raises:
        TypeError, ValueError: a module is not supported, such as SLSTM, or the imported one computes
            something else. The message names the module's path and a remedy.
        ImportError: snntorch is not installed.
    """
    import snntorch

    neurons = (snntorch.SpikingNeuron, snntorch.LeakyParallel)
    described = snntorch_neurons.described
    kinds = tuple(snntorch_neurons.KINDS)
    options: dict = {"recurrence": snntorch_neurons.recurrence}
    library = _Library(
        "from_snntorch", lambda module: isinstance(module, neurons), described, kinds, neurons, **options
    )
    return _take_over(net, library, sample, check)


@dataclass
class _Library:
    """The differences between the libraries.

    Attributes:
        caller: the name of the importing function.
        is_neuron: whether a module is one of the library's neurons.
        described: describes such a neuron, given the number of axes behind its channels.
        kinds: names of its neurons and other modules that have a counterpart, for messages.
        leaves: types of modules that are not traced into. dropouts, norms: the library's own.
        recurrence: finds the recurrent connection of a module.
    """

    caller: str
    is_neuron: Callable[[nn.Module], bool]
    described: Callable[[Any, int | None], Described]
    kinds: tuple[str, ...]
    leaves: tuple[type, ...]
    dropouts: tuple[type, ...] = ()
    norms: tuple[type, ...] = ()
    recurrence: Find = lambda _: None


@without_autocast()
def _take_over(net: nn.Module, library: _Library, sample: Tensor | None, check: bool) -> Network:
    checks.module("net", net)
    check_model("net", net, "imported")
    check_sample(sample)
    with in_evaluation(net):
        return _translated(net, library, sample, check)


def _translated(net: nn.Module, library: _Library, sample: Tensor | None, check: bool) -> Network:
    is_neuron = library.is_neuron
    model = prepared(net)
    name = type(model).__name__
    _compute_weights(model)
    _refuse_patches(model, is_neuron)

    def is_recurrent(module: nn.Module) -> bool:
        return spikingjelly_neurons.is_container(module) or (is_neuron(module) and hasattr(module, "recurrent"))

    firing = (module for module in model.modules() if is_neuron(module) or is_recurrent(module))
    multi_step = any(map(takes_all_steps, firing))
    try:
        traced, axes, loop = _of_one_step(model, library, multi_step, sample)
        traced = into_weights(traced if multi_step else as_weights(traced, is_neuron))
    except TypeError as error:
        for sign, why in UNCLEAR.items():
            if sign in str(error):
                raise TypeError(f"{name} {why}") from error
        raise TypeError(f"{error}{'' if ONE_STEP in str(error) else f'; {ONE_STEP}'}") from error
    with naming_what_is_kept(model):
        kinds = ", ".join(library.kinds)
        graph = PortGraph(
            traced, name, is_neuron, library.dropouts, steps_first=multi_step, neurons=kinds, norms=library.norms,
            recurrence=library.recurrence,
        )  # fmt: skip
    if graph.dropped:
        warnings.warn(
            f"{name}: {', '.join(graph.dropped)}; the imported network trains without it", UserWarning, stacklevel=5
        )
    neurons = {}
    for key, population in graph.firing.items():
        with checks.at(f"{name}: {path_of(population.node)}"):
            neurons[key] = _described(population, library.described)
            neurons[key].neuron.check()
    untie(graph.populations)
    norms = {key: _kept_norm(graph.firing[key]) for key, described in neurons.items() if described.neuron.fires}
    for key, population in graph.populations.items():
        fold_inputs(population)
        if norms.get(key) is None:
            fold_norms(population, traced)
            fold_gains(population)

    constant: list[str] = []  # what is learnable there

    def layer(key: str, population: ModelPopulation) -> nn.Module:
        if not population.fires:
            if graph.adds_up and key == graph.order[-1]:
                return _adding_up(population, constant)
            return build_layer(population.modules, CARRIED)
        with checks.at(f"{name}: {path_of(population.node)}"):
            multiply(population.modules, neurons[key].gain)
            _shift(population.modules[0], norms.get(key), neurons[key].shift)
            layer: Any = _built(population, neurons[key])
        layer.surrogate = neurons[key].surrogate
        if norms.get(key) is not None:
            layer.bn = norms[key]
        learn = neurons[key].learn
        neuron: Any = population.neuron  # it has one, where it fires
        names = constants(neuron, [*(learn(layer) if learn else []), *["V"] * bool(population.recurrence)])
        constant.extend(f"{name} of {path_of(population.node)}" for name in names)
        return layer

    built = graph.network(layer).eval()
    if constant:
        warnings.warn(
            f"{name}: learnable there, and constant in the imported network: {', '.join(constant)}",
            UserWarning,
            stacklevel=5,
        )
    if check:
        try:
            for key, population in graph.firing.items():
                if population.recurrence is not None and not population.recurrence.is_own:
                    place, here = f"{name}: {path_of(population.node)}", built.get_submodule(key)
                    check_recurrence(place, here, population.recurrence, neurons[key].shift)
        except Difference as difference:
            raise ValueError(f"{difference.layer} is not what was made of it: {difference.what}") from difference
        layers = {
            key: Layer(
                path,
                neurons[key].gain * gain(built.get_submodule(key)),
                neurons[key].shift,
                key in graph.viewed,
                *graph.mixed.get(key, ()),
            )
            for key, path in neuron_paths(model, graph.firing).items()
        }
        for key, (path, taken) in graph.valued.items():
            layers[key] = Layer(path, viewed=key in graph.viewed, takes=taken, gives_values=True)
        is_loop = loop.steps > 1 or loop.sequence
        sequence = loop.sequence if is_loop else not graph.repeats_input
        axes = TimeAxes(axes.input, axes.output or loop.stacked_last)
        original = Original(net, multi_step or is_loop, sequence, loop.states, axes)
        own_steps = loop.steps if is_loop and loop.steps != LOOPED else None
        fixed = (T for T in map(steps_of_module, net.modules()) if T is not None)
        own_steps = min([*_steps_of(built), *fixed], default=own_steps)
        Proof(name, library.caller, original, graph.populations, layers, own_steps, is_loop).check(built, sample)
    let_go(model, built)
    return grouped(built).eval() if isinstance(built, RecurrentGraph) else built


def _steps_of(net: nn.Module) -> Iterator[int]:
    """For how many steps the layers of a network have parameters, where they have some for each step."""
    for layer in net.modules():
        neuron = getattr(layer, "neuron", None)
        if isinstance(layer, StepAffine | OfAllSteps) and layer.steps is not None:
            yield layer.steps
        elif isinstance(neuron, OfSteps):
            yield neuron.T


def _of_one_step(
    model: nn.Module, library: _Library, multi_step: bool, sample: Tensor | None
) -> tuple[fx.GraphModule, TimeAxes, Loop]:
    """The graph of one step. A loop over the input's steps is followed for as many as the model has parameters of."""
    name, modules = type(model).__name__, list(model.named_modules())
    steps, number = 0, LOOPED
    while steps != number:
        steps = number
        try:
            traced = followed(model, library.leaves, multi_step, sample, steps)
            traced.meta[LISTS] = {path: len(part) for path, part in modules if isinstance(part, nn.ModuleList)}
            axes = steps_first(traced, name)
            traced, loop = one_step(traced, name, library.is_neuron, axes.input)
        except IndexError:  # it may have parameters of fewer steps
            if steps == 1:
                raise
            number -= 1
            continue
        number = loop.length if loop.length and loop.steps == steps else steps
    return traced, axes, loop


def _refuse_patches(model: nn.Module, is_neuron: Callable[[nn.Module], bool]) -> None:
    """Refuse a forward that was replaced on an instance, which cannot be followed."""
    for path, module in model.named_modules():
        if "forward" in vars(module) and (is_neuron(module) or not path):
            place = f": module '{path}'" if path else ""
            kind = type(module)
            base = f"{kind.__module__.split('.')[0]}'s {kind.__name__}" if path else kind.__name__
            raise TypeError(
                f"{type(model).__name__}{place} has a forward that was assigned to it, which the imported network "
                f"would not have; write a subclass of {base} with this forward, or remove it: del module.forward"
            )


@torch.no_grad()
def _compute_weights(model: nn.Module) -> None:
    """SpikingJelly's WSConv2d and WSLinear standardise their weights at each call."""
    for module in model.modules():
        if type(module).__name__ in STANDARDISED:
            standardised: Any = module
            standardised.weight.copy_(standardised.get_weight())


def _built(population: ModelPopulation, described: Described) -> nn.Module:
    back = population.recurrence
    if back is None or back.convolution is not None:
        return build_layer(population.modules, described.neuron, described.v_init)
    if len(population.modules) > 1:
        kind = type(back.module).__name__
        raise TypeError(
            f"{kind} takes a sum of {len(population.modules)} inputs, where recurrent neurons take the output of one "
            "Linear; concatenate what the sum's layers take, torch.cat([a, b], 1), in front of a single Linear whose "
            "weight is torch.cat([fc1.weight, fc2.weight], 1), or use neurons that are not recurrent"
        )
    layer: Any = build_recurrent(population.modules[0], described.neuron, back.weight, back.bias, described.v_init)
    layer.recurrent_weight.requires_grad_(back.learnt)
    return layer


def _adding_up(population: ModelPopulation, constant: list[str]) -> nn.Module:
    """A last layer behind the sum over time: its potentials begin at its bias and add up what it makes of each step."""
    module: Any = population.modules[0]
    bias, module.bias = module.bias, None
    if bias.requires_grad:
        constant.append(f"bias of {path_of(population.node)}")
    return build_layer(population.modules, LINeuron(decay=1.0), bias.detach())


def _described(population: ModelPopulation, described: Callable[[Any, int | None], Described]) -> Described:
    """``described`` takes the axes behind the channels, if weights tell them: 2 for images, 0 for vectors."""
    neuron, weight = population.neuron, getattr(population.modules[0], "weight", None)
    axes = None if weight is None else weight.ndim - 2
    return Described(neuron.neuron) if isinstance(neuron, Gate) else described(neuron, axes)


def _shift(module: Any, norm: Any, shift: Tensor | None) -> None:
    """Add a constant to the currents of a layer's synapses, or to what its own normalisation gives."""
    if shift is None:
        return
    biased = module if norm is None else norm
    if isinstance(biased, nn.Identity):
        raise ValueError("neurons that differ by channel in what they rest at need weights in front of them")
    bias = shift if biased.bias is None else biased.bias.detach() + shift
    learnt = biased.weight.requires_grad if biased.bias is None else biased.bias.requires_grad
    biased.bias = nn.Parameter(bias.to(biased.weight), learnt)


def _kept_norm(population: ModelPopulation) -> nn.Module | None:
    """The normalisation that a layer of its own keeps, to be trained; None: there is none, or it must be folded."""
    projection = population.current.projections[0]
    norm = projection.norm
    if (
        len(population.modules) > 1
        or norm is None
        or not norm.affine
        or projection.gain != 1
        or not isinstance(projection.module, CONVOLUTIONS)
    ):
        return None
    kind = nn.BatchNorm1d if isinstance(projection.module, nn.Conv1d) else nn.BatchNorm2d  # not another library's
    options = {"device": norm.weight.device, "dtype": norm.weight.dtype}
    kept = kind(norm.num_features, norm.eps, norm.momentum, **options)
    kept.load_state_dict(norm.state_dict())
    for name, parameter in kept.named_parameters():
        parameter.requires_grad_(getattr(norm, name).requires_grad)
    return kept
