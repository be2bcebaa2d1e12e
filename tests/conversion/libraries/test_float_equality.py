"""Networks of other libraries with normal weights: equal but for rounding; and trained, with the same gradients."""

import copy
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from equality import equal
from exchange import images, make_dyadic, make_normal
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.neurons import CubaLIFNeuron, IFNeuron, LIFNeuron

pytestmark = pytest.mark.usefixtures("short_proof")

T, N = 64, 8
LAYERS = (1, 3, 6)  # of neurons

slow = pytest.mark.slow


def network(neuron: Callable[[], nn.Module], gain: float, generator: torch.Generator) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), neuron(), nn.Conv2d(16, 32, 3, padding=1, stride=2), neuron(), nn.Flatten(),
        nn.Linear(512, 32), neuron(),
    )  # fmt: skip
    return make_normal(net, generator, gain)


def with_neurons(net: nn.Sequential, neuron: IFNeuron) -> nn.Sequential:
    """The same weights, and these neurons."""
    layers = [
        pk.FusedConv2d(2, 16, 3, padding=1, neuron=neuron), pk.FusedConv2d(16, 32, 3, 2, 1, neuron=neuron),
        pk.Flatten(), pk.FusedLinear(512, 32, neuron=neuron),
    ]  # fmt: skip
    for layer, k in zip((layers[0], layers[1], layers[3]), (0, 2, 5), strict=True):
        layer.load_state_dict(net[k].state_dict())
    return nn.Sequential(*layers).eval()


@torch.no_grad()
def fires(net: nn.Module, layers: nn.Sequential, x: Tensor, state: bool = False) -> list[Tensor]:
    """The spikes of each layer of another library's network, a step at a time; ``state``: it is taken and given."""
    spikes: list[list[Tensor]] = [[] for _ in LAYERS]
    now = None
    hooks = [
        layers[k].register_forward_hook(lambda _, __, y, kept=kept: kept.append(y[0] if isinstance(y, tuple) else y))
        for k, kept in zip(LAYERS, spikes, strict=True)
    ]
    for _ in range(T):
        if state:
            _, now = net(x, now)
        else:
            net(x)
    for hook in hooks:
        hook.remove()
    return [torch.stack(kept) for kept in spikes]


def compare(theirs: list[Tensor], net: nn.Module, x: Tensor) -> None:
    names = [name for name, layer in net.named_modules() if isinstance(layer, pk.layers.Neurons)]
    records = pk.simulate(net, x, T, record=[*names, f"{names[0]}.v"]).records
    ours = [records[name].dense() for name in names]
    assert all(0.02 < spikes.mean() < 0.9 for spikes in ours)
    different = [(a != b) for a, b in zip(ours, theirs, strict=True)]
    assert sum(int(d.sum()) for d in different) < 1e-4 * sum(d.numel() for d in different)
    on_the_edge(different[0], ours[0], records[f"{names[0]}.v"], net.get_submodule(names[0]).neuron)


def on_the_edge(different: Tensor, spikes: Tensor, v: Tensor, neuron: IFNeuron) -> None:
    """Where a neuron differs for the first time, its potential was within rounding of the threshold."""
    theta = neuron.v_threshold
    h = v + theta * spikes  # what a soft reset subtracted; a hard one does not say what was
    first = different & (different.cumsum(0) == 1)
    first &= (spikes == 0) | (neuron.v_reset is None)
    h = h if h.ndim == different.ndim else h[:, :, 0]  # of two states
    assert bool(((h[first] - theta).abs() < 1e-5 * theta).all())


@slow
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "tau, decay_input, gain", [(2.0, True, 6), (2.0, False, 3), (16.0, True, 20), (16.0, False, 2)]
)
def test_spikingjelly_lif(generator, tau, decay_input, gain, v_reset):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    net = network(lambda: neuron.LIFNode(tau=tau, decay_input=decay_input, v_reset=v_reset), gain, generator)
    ours = pk.from_spikingjelly(net)
    x = torch.rand(N, 2, 8, 8, generator=generator)
    compare(fires(net, net, x), ours, x)


@slow
@pytest.mark.parametrize(
    "kind, options, gain",
    [
        ("Leaky", {"beta": 0.5, "reset_mechanism": "zero"}, 2),
        ("Leaky", {"beta": 0.9, "reset_mechanism": "zero"}, 2),
        ("Leaky", {"beta": 0.9, "reset_mechanism": "subtract"}, 2),
        ("Leaky", {"beta": 0.9, "reset_mechanism": "none"}, 1),
        ("Lapicque", {"beta": 0.9, "reset_mechanism": "zero"}, 20),
        ("Synaptic", {"alpha": 0.8, "beta": 0.9, "reset_mechanism": "subtract"}, 0.7),
        ("Synaptic", {"alpha": 0.8, "beta": 0.9, "reset_mechanism": "zero", "reset_delay": False}, 0.7),
    ],
)
def test_snntorch(generator, kind, options, gain):
    snn = pytest.importorskip("snntorch")
    net = network(lambda: getattr(snn, kind)(init_hidden=True, **options), gain, generator)
    ours = pk.from_snntorch(net)
    x = torch.rand(N, 2, 8, 8, generator=generator)
    compare(fires(net, net, x), ours, x)


@slow
@pytest.mark.parametrize("kind", ["LIFBox", "LIF"])
def test_norse(generator, kind):
    """Its LIF filters the current, and multiplies what it then adds to the potential alone."""
    norse = pytest.importorskip("norse.torch")
    if kind == "LIFBox":
        p = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(100.0))
        make, neuron, gain = (lambda: norse.LIFBoxCell(p, dt=1e-3)), LIFNeuron.from_tau(10.0), 15
    else:
        p = norse.LIFParameters(tau_mem_inv=torch.tensor(100.0), tau_syn_inv=torch.tensor(200.0))
        make, gain = (lambda: norse.LIFCell(p, dt=1e-3)), 5
        neuron = CubaLIFNeuron.from_tau(10.0, current_decay=0.8)
    net = network(make, gain, generator)
    x = torch.rand(N, 2, 8, 8, generator=generator)
    chain = norse.SequentialState(*net)
    compare(fires(chain, chain, x, state=True), with_neurons(net, neuron), x)


@slow
@pytest.mark.parametrize("norm_input, gain", [(True, 12), (False, 2)])
@pytest.mark.parametrize("reset", ["MembraneSubtract", "MembraneReset"])
def test_sinabs(generator, reset, norm_input, gain):
    """One spike a step, as sinabs fires with SingleSpike."""
    layers, activation = pytest.importorskip("sinabs.layers"), pytest.importorskip("sinabs.activation")
    options = {"spike_fn": activation.SingleSpike, "reset_fn": getattr(activation, reset)(), "norm_input": norm_input}
    net = network(lambda: layers.LIF(tau_mem=10.0, **options), gain, generator)
    x = torch.rand(N, 2, 8, 8, generator=generator)
    y, theirs = x.unsqueeze(1).expand(N, T, 2, 8, 8), []
    with torch.no_grad():
        for k, module in enumerate(net):
            y = module(y) if k in LAYERS else module(y.flatten(0, 1)).unflatten(0, (N, T))
            theirs += [y.transpose(0, 1)] if k in LAYERS else []
    v_reset = None if reset == "MembraneSubtract" else 0.0
    neuron = LIFNeuron.from_tau_mem(10.0, norm_input=norm_input, v_reset=v_reset)
    compare(theirs, with_neurons(net, neuron), x)


TRAINED_T = 8


def gradients(y: torch.Tensor, net: nn.Module, names: list[str], generator) -> dict[str, torch.Tensor]:
    """Of a random sum of the spikes y [T, N, ...], by what names end in."""
    weights = torch.randn(y.shape, generator=generator.manual_seed(1))
    net.zero_grad()
    (y * weights).sum().backward()
    return {name: dict(net.named_parameters())[name].grad for name in names}


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max()) and bool(b.abs().max() > 0)


def same_gradients(y, net, theirs, their_net, pairs: dict[str, str], generator) -> None:
    """``pairs``: parameters here, and there."""
    assert equal(y, theirs) and 0.02 < theirs.mean() < 0.98
    actual = gradients(y, net, list(pairs), generator)
    expected = gradients(theirs, their_net, list(pairs.values()), generator)
    for name, other in pairs.items():
        assert close(actual[name], expected[other].reshape(actual[name].shape)), name


@pytest.mark.parametrize("detach_reset", [True, False], ids=["detached", "through-reset"])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("surrogate", ["ATan", "Sigmoid", "PiecewiseQuadratic", "SoftSign", "SuperSpike"])
@pytest.mark.parametrize("kind", ["IFNode", "LIFNode", "LIFNode, currents whole", "CUBALIFNode"])
@pytest.mark.costly
def test_spikingjelly(generator, kind, surrogate, v_reset, detach_reset):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based import surrogate as surrogates

    options = {
        "LIFNode": {"tau": 2.0},
        "LIFNode, currents whole": {"tau": 2.0, "decay_input": False},
        "CUBALIFNode": {"c_decay": 0.5, "v_decay": 0.5},
    }.get(kind, {})

    def node():
        made = getattr(neuron, kind.split(",")[0])(
            **options, v_threshold=1.25, v_reset=v_reset, surrogate_function=getattr(surrogates, surrogate)(alpha=1.5)
        )
        made.detach_reset = detach_reset
        return made

    theirs = nn.Sequential(layer.Conv2d(2, 6, 3, stride=2), node(), layer.Flatten(), layer.Linear(54, 10), node())
    functional.set_step_mode(make_dyadic(theirs, generator, 1 / 8), "m")
    x = images(generator).expand(TRAINED_T, 3, 2, 8, 8).contiguous()
    ours = pk.from_spikingjelly(theirs)
    pairs = {f"{here}.{part}": f"{there}.{part}" for here, there in (("0", 0), ("3", 3)) for part in ("weight", "bias")}
    same_gradients(ours(x), ours, theirs(x), theirs, pairs, generator)


def test_normalisations_are_trained_too(generator):
    """By the statistics of all samples and steps, as in SpikingJelly's multi-step mode."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = {"tau": 2.0, "v_threshold": 0.4, "surrogate_function": surrogate.ATan(), "detach_reset": True}
    theirs = nn.Sequential(
        layer.Conv2d(2, 6, 3, stride=2, bias=False), layer.BatchNorm2d(6), neuron.LIFNode(**node),
        layer.Flatten(), layer.Linear(54, 10), neuron.LIFNode(**node),
    )  # fmt: skip
    functional.set_step_mode(make_dyadic(theirs, generator, 1 / 8), "m")
    ours = pk.from_spikingjelly(theirs)
    assert not ours.training and type(ours.get_submodule("0").bn) is nn.BatchNorm2d
    x = images(generator).expand(TRAINED_T, 3, 2, 8, 8).contiguous()
    ours.train(), theirs.train()
    pairs = {"0.weight": "0.weight", "0.bn.weight": "1.weight", "0.bn.bias": "1.bias", "4.weight": "4.weight"}
    same_gradients(ours(x), ours, theirs(x), theirs, pairs, generator)
    torch.testing.assert_close(ours.get_submodule("0").bn.running_var, theirs[1].running_var)


@pytest.mark.parametrize(
    "kind, options",
    [
        ("Leaky", {"beta": 0.5, "reset_mechanism": "zero"}),
        ("Leaky", {"beta": 0.5, "reset_mechanism": "subtract", "threshold": 1 + 2**-11}),
        ("Leaky", {"beta": 0.5, "reset_mechanism": "none"}),
        ("Lapicque", {"R": 2.0, "C": 2.0, "reset_mechanism": "subtract", "threshold": 1 + 2**-11}),
        ("Leaky", {"beta": 0.5, "reset_mechanism": "zero", "reset_delay": False}),
        ("Synaptic", {"alpha": 0.5, "beta": 0.5, "reset_mechanism": "zero", "reset_delay": False}),
        ("Synaptic", {"alpha": 0.5, "beta": 0.5, "reset_mechanism": "subtract", "threshold": 1 + 2**-11}),
    ],
)
@pytest.mark.parametrize("surrogate", ["atan", "sigmoid", "fast_sigmoid"])
@pytest.mark.costly
def test_snntorch_is_trained_alike(generator, surrogate, kind, options):
    """Its resets have no gradient where they come a step later."""
    snn = pytest.importorskip("snntorch")
    from snntorch import surrogate as surrogates
    from snntorch import utils

    def node():
        steepness = {"atan": {"alpha": 1.5}, "sigmoid": {"slope": 1}, "fast_sigmoid": {"slope": 5}}[surrogate]
        spike_grad = getattr(surrogates, surrogate)(**steepness)
        return getattr(snn, kind)(spike_grad=spike_grad, init_hidden=True, **options)

    theirs = nn.Sequential(nn.Conv2d(2, 6, 3, stride=2), node(), nn.Flatten(), nn.Linear(54, 10), node())
    make_dyadic(theirs, generator, 1 / 8)
    x = images(generator)
    ours = pk.from_snntorch(theirs)
    utils.reset(theirs)
    expected = torch.stack([theirs(x) for _ in range(TRAINED_T)])
    pairs = {f"{name}.{part}": f"{name}.{part}" for name in ("0", "3") for part in ("weight", "bias")}
    same_gradients(ours(x.expand(TRAINED_T, *x.shape).contiguous()), ours, expected, theirs, pairs, generator)


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None], ids=["hard", "below", "soft"])
@pytest.mark.parametrize("decay_input", [True, False], ids=["divided", "whole"])
@pytest.mark.costly
def test_time_constants_are_learnt(generator, decay_input, v_reset):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron, surrogate

    options = {"init_tau": 2.0, "decay_input": decay_input, "v_reset": v_reset, "surrogate_function": surrogate.ATan()}
    theirs = nn.Sequential(
        layer.Conv2d(2, 6, 3, stride=2), neuron.ParametricLIFNode(**options), layer.Flatten(), layer.Linear(54, 10),
        neuron.ParametricLIFNode(**options),
    )  # fmt: skip
    functional.set_step_mode(make_dyadic(theirs, generator, 1 / 8), "m")
    x = images(generator).expand(TRAINED_T, 3, 2, 8, 8).contiguous()
    ours = pk.from_spikingjelly(theirs)
    w = "parametrizations.decay.0.w"
    weight = "parametrizations.weight.original" if decay_input else "weight"
    pairs = {f"0.{weight}": "0.weight", f"0.{w}": "1.w", f"3.{w}": "4.w"}
    same_gradients(ours(x), ours, theirs(x), theirs, pairs, generator)
    with torch.no_grad():  # and a step of learning is the same step
        for name, other in pairs.items():
            dict(ours.named_parameters())[name] -= 2.0**-7
            dict(theirs.named_parameters())[other] -= 2.0**-7
    functional.reset_net(theirs)
    expected = theirs(x)
    assert (ours(x) != expected).float().mean() < 0.01 and expected.mean() > 0.02
    assert pk.simulate(ours, x, TRAINED_T).spikes.rate() > 0.02


def test_in_a_surrogate_net(generator):
    """In bounded memory, with the surrogates that the layers brought."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = {"init_tau": 2.0, "surrogate_function": surrogate.ATan(alpha=1.5)}
    theirs = nn.Sequential(
        layer.Conv2d(2, 6, 3, stride=2), neuron.ParametricLIFNode(**node), layer.Flatten(), layer.Linear(54, 10),
        neuron.LIFNode(surrogate_function=surrogate.Sigmoid(2.0)),
    )  # fmt: skip
    functional.set_step_mode(make_dyadic(theirs, generator, 1 / 8), "m")
    x = images(generator)
    ours = pk.from_spikingjelly(theirs)
    count = pk.SurrogateNet(ours, TRAINED_T, surrogate=None)(x)
    pairs = {"0.parametrizations.weight.original": "0.weight", "0.parametrizations.decay.0.w": "1.w"}
    expected = theirs(x.expand(TRAINED_T, *x.shape).contiguous()).sum(0)
    assert equal(count, expected) and 0.02 < expected.mean() / TRAINED_T < 0.98
    actual = gradients(count, ours, list(pairs), generator)
    expected = gradients(expected, theirs, list(pairs.values()), generator)
    assert all(close(actual[name], expected[other]) for name, other in pairs.items())


def test_what_is_learnt_is_saved_and_copied():
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import neuron

    first, second = (
        pk.from_spikingjelly(nn.Sequential(layer.Linear(6, 5), neuron.ParametricLIFNode(init_tau=tau)))
        for tau in (2.0, 3.0)
    )
    second.load_state_dict(first.state_dict())
    for net in (second, copy.deepcopy(first)):
        assert net.get_submodule("0").decay == 0.5
        assert equal(net.get_submodule("0").weight, first.get_submodule("0").weight)
    x = 20 * torch.rand(3, 6)
    net = pk.from_nir(pk.to_nir(first, (6,)))
    expected = pk.simulate(first, x, 20).spikes
    assert equal(pk.simulate(net, x, 20).spikes.dense(), expected.dense()) and expected.rate() > 0.02


@pytest.mark.parametrize(
    "kind, options, learnt",
    [
        ("Leaky", {"beta": 0.5, "reset_mechanism": "zero"}, {"beta": "decay"}),
        ("Leaky", {"beta": torch.full((6, 1, 1), 0.5), "reset_mechanism": "zero"}, {"beta": "decay"}),
        ("Leaky", {"beta": 0.5, "reset_mechanism": "none"}, {"beta": "current_decay"}),
        ("Leaky", {"beta": 1.0, "reset_mechanism": "subtract", "threshold": 1 + 2**-11}, {}),
        (
            "Synaptic",
            {"alpha": 0.5, "beta": 0.75, "reset_mechanism": "zero", "reset_delay": False, "learn_alpha": True},
            {"alpha": "current_decay", "beta": "decay"},
        ),
    ],
)
def test_decays_and_thresholds_of_snntorch_are_learnt(generator, kind, options, learnt):
    snn = pytest.importorskip("snntorch")
    from snntorch import surrogate, utils

    options = {"init_hidden": True, "learn_beta": True, "learn_threshold": True, **options}
    theirs = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2), getattr(snn, kind)(spike_grad=surrogate.atan(alpha=1.5), **options),
        nn.Flatten(), nn.Linear(54, 10), snn.Leaky(beta=0.5, init_hidden=True, reset_mechanism="zero"),
    )  # fmt: skip
    make_dyadic(theirs, generator, 1 / 8)
    x = images(generator)
    ours = pk.from_snntorch(theirs)
    utils.reset(theirs)
    expected = torch.stack([theirs(x) for _ in range(TRAINED_T)])
    pairs = {"0.weight": "0.weight", "0.v_threshold": "1.threshold"}
    pairs |= {f"0.parametrizations.{here}.original": f"1.{there}" for there, here in learnt.items()}
    same_gradients(ours(x.expand(TRAINED_T, *x.shape).contiguous()), ours, expected, theirs, pairs, generator)


def test_surrogates_that_are_not_known_here():
    """None is set; the caller sets one."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import neuron, surrogate

    theirs = nn.Sequential(layer.Linear(3, 4), neuron.LIFNode(surrogate_function=surrogate.Erf()))
    assert pk.from_spikingjelly(theirs).get_submodule("0").surrogate is None


SNN_CONSTANTS = {
    "Lapicque": ("Lapicque", {"reset_mechanism": "zero", "learn_threshold": True}, "threshold"),
    "subtract": ("Leaky", {"reset_mechanism": "subtract", "learn_beta": True}, "beta"),
    "graded": ("Leaky", {"reset_mechanism": "zero", "learn_graded_spikes_factor": True}, "graded_spikes_factor"),
    "learnt": ("Leaky", {"reset_mechanism": "zero", "learn_beta": True, "learn_threshold": True}, None),
    "learnt, none": ("Leaky", {"reset_mechanism": "none", "learn_beta": True, "learn_threshold": True}, None),
    "beta of 1": ("Leaky", {"beta": 1.0, "reset_mechanism": "subtract", "learn_threshold": True}, None),
}


@pytest.mark.parametrize("case", SNN_CONSTANTS)
def test_what_is_not_learnt_of_snntorch_is_named(case):
    snn = pytest.importorskip("snntorch")
    kind, options, constant = SNN_CONSTANTS[case]
    net = nn.Sequential(nn.Linear(6, 8), getattr(snn, kind)(**{"beta": 0.5, "init_hidden": True, **options}))
    _names_constants(pk.from_snntorch, net, constant and f"{constant} of module '1'")


class Shortcut(nn.Module):
    """Currents of a convolution and of spikes."""

    def __init__(self, first, convolution, second):
        super().__init__()
        self.first, self.convolution, self.second = first, convolution, second

    def forward(self, x):
        x = self.first(x)
        return self.second(self.convolution(x) + x)


@pytest.mark.parametrize("decay_input", [True, False])
def test_what_is_not_learnt_of_spikingjelly_is_named(decay_input):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import neuron

    def parts():
        node = neuron.ParametricLIFNode(decay_input=decay_input)
        return [neuron.IFNode(), layer.Conv2d(2, 2, 3, padding=1), node]

    first, convolution, second = parts()
    behind_neurons = nn.Sequential(layer.Conv2d(2, 2, 3), first, second)
    for net, name in (Shortcut(*parts()), "second"), (behind_neurons, "2"):
        sample = torch.rand(2, 2, 6, 6)
        constant = f"w of module '{name}'" if decay_input else None
        _names_constants(partial(pk.from_spikingjelly, sample=sample), net, constant)


def _names_constants(importer, net, constant):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        importer(net)
    found = [str(one.message) for one in caught if "constant" in str(one.message)]
    name = type(net).__name__
    wanted = [f"{name}: learnable there, and constant in the imported network: {constant}"] if constant else []
    assert found == wanted
