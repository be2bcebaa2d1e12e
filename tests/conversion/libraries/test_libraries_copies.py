"""What importers take of a network, what they leave as it is, and what they say and show."""

import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from cases import dyadic
from equality import equal
from exchange import make_dyadic, snntorch_fires
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import proxykernels as pk
from proxykernels.conversion.libraries import port_proof

pytestmark = pytest.mark.usefixtures("short_proof")

T = 12


@pytest.fixture
def leaky():
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    return lambda: snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True)


def vectors() -> torch.Tensor:
    return torch.rand(4, 8, generator=torch.Generator().manual_seed(0))


class Stepped(nn.Module):
    """Two layers, and a forward pass of one step that is given."""

    def __init__(self, leaky, forward):
        super().__init__()
        self.a, self.la, self.b, self.lb = nn.Linear(8, 16), leaky(), nn.Linear(16, 4), leaky()
        self.aux, self.step = nn.Linear(16, 16), forward

    def forward(self, x):
        return self.step(self, x)


def same_spikes(net: nn.Module, ours: pk.Network, x: torch.Tensor) -> bool:
    expected = snntorch_fires(net.eval(), x, T)
    assert 0.02 < expected.mean() < 0.98
    return torch.equal(pk.simulate(ours, x, T).spikes.dense(), expected)


def drop(s, x):
    return s.lb(s.b(F.dropout(s.la(s.a(x)), 0.5, s.training)))


def branch(s, x):
    y = s.a(x)
    return s.lb(s.b(s.la(s.aux(y) if s.training else y)))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("forward", [drop, branch])
def test_a_network_in_training_is_taken_as_in_evaluation(leaky, forward, check):
    net = Stepped(leaky, forward)
    ours = pk.from_snntorch(net, check=check)
    assert net.training and not ours.training and "aux" not in [name for name, *_ in ours.layers()]
    assert same_spikes(net, ours, vectors())


@pytest.mark.parametrize("kind", [weight_norm, nn.utils.weight_norm], ids=["parametrized", "hook"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_normalisation_is_folded_into_computed_weights(leaky, kind):
    norm = nn.BatchNorm1d(16)
    norm.running_var.fill_(0.1), norm.running_mean.uniform_()
    net = nn.Sequential(kind(nn.Linear(8, 16)), norm, leaky(), kind(nn.Linear(16, 5)), leaky())
    ours = pk.from_snntorch(net)
    assert same_spikes(net, ours, vectors()) and ours.get_submodule("0").weight.requires_grad


@pytest.mark.parametrize("kind", [weight_norm, nn.utils.weight_norm], ids=["parametrized", "hook"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_gain_multiplies_computed_weights(kind):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron

    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(8, 6), neuron.IFNode(v_threshold=0.2), kind(layer.Linear(6, 3)), neuron.NonSpikingLIFNode(tau=4.0)
    )
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        expected = torch.stack(net(vectors().expand(T, 4, 8).contiguous()))
    assert expected.abs().mean() > 0.05
    potentials = pk.simulate(pk.from_spikingjelly(net), vectors(), T).potentials
    torch.testing.assert_close(potentials, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "sample, message",
    [
        (torch.rand(2, 8).numpy(), "sample must be a torch.Tensor, got ndarray"),
        ([[0.0] * 8], "sample must be a torch.Tensor, got list"),
        (torch.full((2, 8), torch.nan), "sample must be finite"),
        (torch.rand(0, 8), r"sample must hold at least one sample \[N, ...\], got the shape \[0, 8\]"),
        (torch.tensor(1.0), r"sample must hold at least one sample \[N, ...\], got the shape \[\]"),
    ],
)
def test_samples_are_checked(leaky, sample, message):
    with pytest.raises((TypeError, ValueError), match=message):
        pk.from_snntorch(nn.Sequential(nn.Linear(8, 4), leaky()), sample)


def test_compiled_networks_and_autocast(leaky):
    net = nn.Sequential(nn.Sequential(nn.Linear(8, 300)), leaky(), nn.Linear(300, 5), leaky())
    inner = net[0]
    net[0] = torch.compile(inner, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = pk.from_snntorch(torch.compile(net, backend="eager"))
    assert isinstance(net[0], torch._dynamo.eval_frame.OptimizedModule)
    net[0] = inner
    assert same_spikes(net, ours, vectors()) and [name for name, *_ in ours.layers()] == ["0_0", "2"]


def test_networks_without_weights_yet(leaky):
    with pytest.raises(TypeError, match="net's module '0' is a LazyLinear without weights; run the network once"):
        pk.from_snntorch(nn.Sequential(nn.LazyLinear(8), leaky()))


def test_frozen_parameters_stay_frozen(leaky):
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), leaky(), nn.ConvTranspose2d(2, 2, 2, 2), leaky()
    )  # fmt: skip
    assert all(parameter.requires_grad for parameter in pk.from_snntorch(net).parameters())
    net[1].bias.requires_grad_(False), net[3].weight.requires_grad_(False)
    frozen = {name for name, parameter in pk.from_snntorch(net).named_parameters() if not parameter.requires_grad}
    assert frozen == {"0.bn.bias", "3.weight"}
    assert not any(parameter.requires_grad for parameter in pk.from_snntorch(net.requires_grad_(False)).parameters())


def test_dropout_of_spikes_is_kept(leaky):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ours = pk.from_snntorch(Stepped(leaky, drop).eval())
    (dropout,) = (layer for _, layer, _ in ours.layers() if isinstance(layer, pk.Dropout))
    assert dropout.p == 0.5


DROPPED = {
    "currents": (lambda: [nn.Dropout(0.5)], 1, "module '1' drops currents: put it behind neurons"),
    "in a function": (lambda: [], 1, r"dropout\(\) in module '1' drops currents"),
    "channels": (lambda: [nn.Dropout1d(0.5)], 2, "module '2' drops spikes by Dropout1d: use Dropout"),
    "alpha": (lambda: [nn.AlphaDropout(0.5)], 2, "module '2' drops spikes by AlphaDropout: use Dropout"),
}


class Function(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


@pytest.mark.parametrize("name", DROPPED)
def test_dropout_that_is_left_out_is_named(leaky, name):
    make, place, message = DROPPED[name]
    net = nn.Sequential(nn.Linear(8, 16), leaky(), nn.Linear(16, 5), leaky())
    net.insert(place, *(make() or [Function()]))
    with pytest.warns(UserWarning, match=f"Sequential: {message}.*; the imported network trains without it") as caught:
        ours = pk.from_snntorch(net)
    assert caught[0].filename == __file__ and not any(isinstance(part, pk.Dropout) for part in ours.modules())
    if name == "currents":
        net[place].p = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            pk.from_snntorch(net)


@pytest.mark.parametrize("kind, kept", [("Dropout", True), ("Dropout2d", False)])
def test_dropout_of_spikingjelly(kind, kept):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import neuron

    net = nn.Sequential(
        layer.Conv2d(2, 4, 3), neuron.IFNode(), getattr(layer, kind)(0.4), layer.Conv2d(4, 2, 3), neuron.IFNode()
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        ours = pk.from_spikingjelly(net)
    assert any(isinstance(part, pk.Dropout) for part in ours.modules()) == kept
    assert any("module '2' drops spikes by Dropout2d: use Dropout" in str(one.message) for one in caught) != kept


@pytest.mark.parametrize(
    "modules, message",
    [
        ([nn.ReLU6()], "module '1' is a ReLU6, .*; take it out, or put neurons in its place"),
        ([nn.GELU()], "module '1' is a GELU, .*; take it out, or put neurons in its place"),
        ([nn.CELU()], "module '1' is a CELU, .*; take it out, or put neurons in its place"),
        (
            [nn.PixelShuffle(1)],
            "module '1' is a PixelShuffle, .* Supported: Conv2d, .*Leaky, .*RLeaky, RSynaptic, Alpha$",
        ),
    ],
)
def test_importers_name_what_they_support(leaky, modules, message):
    with pytest.raises(TypeError, match=message):
        pk.from_snntorch(nn.Sequential(nn.Linear(8, 16), *modules, leaky()))


def linear_net(forward, **modules) -> nn.Module:
    """A network of SpikingJelly whose forward pass is ``forward(net, x)``."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    net = type("Net", (nn.Module,), {"forward": forward})()
    for name, module in {"fc": nn.Linear(8, 4), "sn": neuron.IFNode(), **modules}.items():
        setattr(net, name, module)
    return net


def in_autocast(net, x):
    with torch.autocast(x.device.type):
        return net.sn(net.fc(x))


def assigning(net, x):
    y = net.fc(x)
    y[:, 0] = 0
    return net.sn(y)


UNCLEAR = {
    "offset": (lambda net, x: net.sn(net.fc(x + net.offset)), "adds a tensor that is no layer's, such as a pos"),
    "autocast": (in_autocast, "Net asks for autocast by x.device.type in its forward pass.*import it without autocast"),
    "assignment": (assigning, "set_part.. has .*it assigns to a part of a tensor, .*: set the weights"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_sentences_of_spikingjelly(name):
    forward, message = UNCLEAR[name]
    with pytest.raises(TypeError, match=message):
        pk.from_spikingjelly(linear_net(forward, offset=nn.Parameter(torch.rand(1, 8))))


def test_recurrent_neurons_behind_a_sum():
    snn = pytest.importorskip("snntorch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 4)
            self.back = snn.RLeaky(0.9, linear_features=12, init_hidden=True)
            self.last = snn.Leaky(0.9, init_hidden=True)

        def forward(self, x):
            return self.last(self.c(self.back(self.a(x) + self.b(x))))

    with pytest.raises(TypeError, match="Net: module 'back': RLeaky takes a sum of 2 inputs.*torch.cat.*in front of"):
        pk.from_snntorch(Net())


def test_forwards_that_were_assigned():
    net = linear_net(lambda net, x: net.sn(net.fc(x)))
    net.forward = types.MethodType(lambda net, x: net.sn(net.fc(x) * 2), net)
    with pytest.raises(TypeError, match="Net has a forward that was assigned to it.*write a subclass of Net"):
        pk.from_spikingjelly(net)
    net = linear_net(lambda net, x: net.sn(net.fc(x)))
    net.fc.forward = lambda x: x[:, :4]
    with pytest.raises(ValueError, match="module 'fc' is a Linear, whose forward .* another one was assigned to it"):
        pk.from_spikingjelly(net)


def test_networks_that_run_for_few_steps_only():
    """Where the original fails, nothing is proved."""

    def forward(net, x):
        assert len(x) < 30, "thirty steps at most"
        return torch.stack([net.sn(net.fc(x[t])) for t in range(len(x))])

    with pytest.raises(ValueError, match="Net cannot be compared .* does not run for 32 steps of 1 sample: thirty"):
        pk.from_spikingjelly(linear_net(forward))


def test_the_comparison_shows_its_progress(monkeypatch):
    """Of all samples and steps of all layers, once it takes two seconds; and it calls the original a few times."""
    import tqdm

    bars, called = [], []

    class Bar:
        def __init__(self, **options):
            self.options, self.done = options, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, number):
            self.done += number

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    linear = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda module, x: called.append(len(x)) or linear(module, x))
    pk.from_spikingjelly(linear_net(lambda net, x: net.sn(net.fc(x))))
    (bar,) = bars
    steps = port_proof.SHORT * port_proof.BATCH + port_proof.LONG
    assert bar.options["delay"] == 2 and bar.done == bar.options["total"] == steps
    assert steps <= sum(called) <= 2.5 * steps


@torch.no_grad()
@pytest.mark.parametrize("behind", [[], [nn.Linear(5, 5)]])
def test_currents_behind_a_relu(generator, behind):
    """In front of neurons, and in front of another layer."""
    pytest.importorskip("snntorch")
    import snntorch
    from snntorch import utils

    neurons = [snntorch.Leaky(beta=0.5, reset_mechanism="zero", init_hidden=True) for _ in range(2)]
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), *behind, neurons[0], nn.Linear(5, 3), neurons[1])
    make_dyadic(net, generator, 1 / 8)
    x = dyadic(10, 3, 4, generator=generator)
    utils.reset(net)
    expected = torch.stack([net(step) for step in x])
    result = pk.simulate(pk.from_snntorch(net, x[0]), x, 10)
    assert equal(result.spikes.dense(), expected) and all(0.02 < rate < 0.98 for rate in result.rates.values())
