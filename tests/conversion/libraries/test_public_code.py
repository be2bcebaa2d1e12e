"""Networks as tutorials and model zoos write them: the same spikes bit by bit, where all sums are exact in float32."""

from types import SimpleNamespace

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, many
from equality import equal
from exchange import images, make_dyadic, spikingjelly_fires
from torch import nn

import proxykernels as pk

pytestmark = pytest.mark.usefixtures("short_proof")

T = 8


def zoo(name: str, generator, mode: str, **options) -> nn.Module:
    """A net of its zoo, of IF neurons."""
    models = pytest.importorskip("spikingjelly.activation_based.model")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional

    module, _, function = name.partition(".")
    __import__(f"{models.__name__}.{module}")
    home = getattr(models, module)
    if "layers" in options:
        options["block"] = home.BasicBlock
    net = getattr(home, function)(spiking_neuron=neuron.IFNode, **options)
    functional.set_step_mode(net, mode)
    return make_dyadic(net, generator)


RESNETS = {
    "spiking": ("spiking_resnet.SpikingResNet", {}),
    "added": ("sew_resnet.SEWResNet", {"cnf": "ADD"}),
    "and": ("sew_resnet.SEWResNet", {"cnf": "AND"}),
    "and not": ("sew_resnet.SEWResNet", {"cnf": "IAND"}),
}
BLOCKS = [1, 1, 1, 1]  # of each stage: shortcuts of both kinds, in half the weights of ResNet-18


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.slow
def test_residual_nets_of_spikingjelly(generator, name, mode):
    """They end in a matrix product, whose results are the network's potentials."""
    function, options = RESNETS[name]
    net = zoo(function, generator, mode, layers=BLOCKS, num_classes=10, **options)
    x = dyadic(1, 3, 32, 32, generator=generator).abs()
    expected = spikingjelly_fires(net, x, T, mode)
    result = pk.simulate(pk.from_spikingjelly(net), x, T)
    last = max(rate for rate in result.rates.values() if rate == rate)
    assert last > 0.05 and expected.any() and equal(result.potentials, expected)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.slow
def test_voting_layers_of_spikingjelly(generator, mode):
    net = zoo("parametric_lif_net.CIFAR10Net", generator, mode, channels=4)
    x = dyadic(2, 3, 32, 32, generator=generator).abs()
    expected = spikingjelly_fires(net, x, T, mode)
    result = layerwise.simulate(pk.from_spikingjelly(net), x, T, chunk=3)
    assert expected.shape == (T, 2, 10) and 0.02 < expected.mean() < 0.98
    assert equal(result.potentials, expected)


class Stem(nn.Module):
    """snas_net's cell, searched for by others, between a convolution and neurons as in its SNASNet."""

    def __init__(self, cell: nn.Module, neuron):
        super().__init__()
        self.stem, self.cell = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)), cell
        self.norm, self.sn = nn.BatchNorm2d(8), neuron.LIFNode(tau=2.0)

    def forward(self, x):
        return self.sn(self.norm(self.cell(self.stem(x))))


def searched_cell() -> nn.Module:
    snas_net = pytest.importorskip("spikingjelly.activation_based.model.snas_net")
    from spikingjelly.activation_based import neuron

    connections = torch.tensor([[0, 2, 3, 1], [0, 0, 4, 3], [0, 0, 0, 2], [0, 0, 0, 0]])
    cell = snas_net.Neuronal_Cell(SimpleNamespace(threshold=1.0, tau=2.0), 8, 8, connections)
    return Stem(cell, neuron)


def online_vgg() -> nn.Module:
    ottt = pytest.importorskip("spikingjelly.activation_based.model.spiking_vggws_ottt")
    from spikingjelly.activation_based import neuron

    return ottt.OTTTSpikingVGG([8, "A", 8, "M", 512], True, 10, spiking_neuron=neuron.OTTTLIFNode, tau=2.0)


OTHERS = {"searched cells": searched_cell, "trained online": online_vgg}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.slow
def test_other_families_of_spikingjelly(generator, name):
    torch.manual_seed(0)
    net = OTHERS[name]().eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(1, 3), module.bias.uniform_(0, 0.5)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(3), module.bias is None or module.bias.uniform_(0, 0.5)
    x = torch.rand(2, 3, 16, 16, generator=generator)
    expected = spikingjelly_fires(net, x, T, "s")
    result = pk.simulate(pk.from_spikingjelly(net), x, T)
    assert min(rate for rate in result.rates.values() if rate == rate) > 0.01
    if name == "searched cells":
        assert (result.spikes.dense() != expected).float().mean() < 0.001
    else:
        assert torch.allclose(result.potentials, expected, 1e-3, 1e-3)


@pytest.mark.parametrize("name", ["MSResNet", "MaxResNet"])
@pytest.mark.slow
def test_membrane_shortcuts_of_spikingjelly(generator, name):
    """Real values are added, and the input's dimensions are asked."""
    ms_resnet = pytest.importorskip("spikingjelly.activation_based.model.ms_resnet")
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    net = getattr(ms_resnet, name)(num_classes=10, layers=(1, 1, 1), base_channels=8).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(1, 3)
                module.bias.uniform_(0, 0.5)
            elif isinstance(module, nn.Conv2d):
                module.weight.mul_(3)
    x = torch.rand(2, 3, 32, 32, generator=generator)
    expected = spikingjelly_fires(net, x, T, "m")
    result = pk.simulate(pk.from_spikingjelly(net), x, T)
    assert min(rate for rate in result.rates.values() if rate == rate) > 0.02
    assert torch.allclose(result.potentials.mean(0), expected, 1e-3, 1e-4)
    functional.reset_net(net)
    assert torch.allclose(result.potentials[:6].mean(0), net(x), 1e-3, 1e-4)  # which repeats it six times itself


class Csnn(nn.Module):
    """The net of its tutorial, conv_fashion_mnist.py: repeats its input, and gives the mean."""

    def __init__(self, layer, neuron, channels: int):
        super().__init__()
        self.T = T
        self.conv_fc = nn.Sequential(
            layer.Conv2d(2, channels, 3, padding=1, bias=False), layer.BatchNorm2d(channels), neuron.IFNode(),
            layer.MaxPool2d(2, 2), layer.Flatten(), layer.Linear(channels * 16, 10, bias=False), neuron.IFNode(),
        )  # fmt: skip

    def forward(self, x):
        x_seq = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        return self.conv_fc(x_seq).mean(0)


@pytest.fixture
def csnn(generator):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    return make_dyadic(Csnn(layer, neuron, 6), generator)


def test_a_net_that_repeats_its_input(generator, csnn):
    from spikingjelly.activation_based import functional

    functional.set_step_mode(csnn, "m")
    x = images(generator)
    expected = csnn(x)
    rates = pk.simulate(pk.from_spikingjelly(csnn), x, T).count() / T
    assert 0.02 < expected.mean() < 0.98 and equal(rates, expected)
    functional.set_step_mode(csnn, "s")
    with pytest.raises(TypeError, match=r"Csnn: unsqueeze\(\) has no counterpart .*set_step_mode\(net, 'm'\)"):
        pk.from_spikingjelly(csnn)


class Functions(nn.Module):
    """What torch's functions do between the layers: over one step or over all."""

    def __init__(self, layer, neuron, flatten):
        super().__init__()
        self.conv, self.sn1 = layer.Conv2d(2, 8, 3, padding=1), neuron.IFNode()
        self.fc, self.sn2, self.flatten = layer.Linear(512, 10), neuron.IFNode(), flatten

    def forward(self, x):
        return self.sn2(self.fc(self.flatten(self.sn1(self.conv(x)))))


FLATTENS = {
    "flatten, step": ("s", lambda x: torch.flatten(x, 1)),
    "view, step": ("s", lambda x: x.view(x.shape[0], -1)),
    "reshape, step": ("s", lambda x: x.reshape(-1, 512)),
    "flatten, steps": ("m", lambda x: x.flatten(2)),
    "view, steps": ("m", lambda x: x.view(x.size(0), x.size(1), -1)),
    "module, steps": ("m", nn.Flatten(2)),
}


@pytest.mark.parametrize("name", many(FLATTENS, 2))
def test_views_in_either_mode(generator, name):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    mode, flatten = FLATTENS[name]
    net = make_dyadic(Functions(layer, neuron, flatten), generator)
    x = images(generator)
    expected = spikingjelly_fires(net, x, T, mode)
    actual = pk.simulate(pk.from_spikingjelly(net), x, T).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)


def refused(layer, neuron) -> list:
    class Net(nn.Module):
        def __init__(self, forward):
            super().__init__()
            self.conv, self.sn, self.steps = layer.Conv2d(2, 4, 3), neuron.IFNode(), forward

        def forward(self, x):
            return self.steps(self, x)

    return [
        (Net(lambda m, x: m.sn(m.conv(x)).flatten(2)), r"flatten\(\) must flatten \[N, C, H, W\]"),
        (Net(lambda m, x: m.sn(m.conv(x - 0.5))), r"sub\(\) computes with a number; .* normalise the input"),
        (Net(lambda m, x: 1 - m.sn(m.conv(x))), r"takes 1 - spikes; only products"),
        (Net(lambda m, x: x * m.sn(m.conv(x))), r"mul\(\) multiplies real values; only products"),
        (Net(lambda m, x: m.conv(x)), "must have neurons, it has none"),
        (Net(lambda m, x: (lambda y: y + (1 - y))(m.sn(m.conv(x)))), r"add\(\) takes 1 - spikes"),
    ]


@pytest.mark.parametrize("case", range(6))
def test_what_nets_of_spikingjelly_may_not_do(case):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    net, message = refused(layer, pytest.importorskip("spikingjelly.activation_based.neuron"))[case]
    with pytest.raises(TypeError, match=message):
        pk.from_spikingjelly(net)


def test_standardised_weights_of_spikingjelly(generator):
    """Its WSConv2d and WSLinear compute their weights of others."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.WSConv2d(2, 8, 3), neuron.IFNode(), layer.Flatten(), layer.WSLinear(288, 5), neuron.IFNode()
    )
    x = torch.rand(3, 2, 8, 8, generator=generator) * 2
    expected = spikingjelly_fires(net.eval(), x, 20)
    actual = pk.simulate(pk.from_spikingjelly(net), x, 20).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and (actual != expected).float().mean() < 0.01


class Tutorial(nn.Module):
    """Convolutions whose currents are pooled, and a loop with the potentials in its hands; tutorials 5 and 6."""

    def __init__(self, snn, forward, kind: str = "Leaky", **options):
        super().__init__()
        options = {"beta": 0.5, "reset_mechanism": "zero", **options}
        self.conv1, self.lif1 = nn.Conv2d(2, 6, 3), getattr(snn, kind)(**options)
        self.fc, self.lif2, self.steps = nn.Linear(54, 10), getattr(snn, kind)(**options), forward

    def forward(self, x):
        return self.steps(self, x)


def loop(net, x, steps: int = T, held: bool = True):
    mem1, mem2, spikes, potentials = net.lif1.init_leaky(), net.lif2.init_leaky(), [], []
    for step in range(steps):
        spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(x if held else x[step]), 2), mem1)
        spk2, mem2 = net.lif2(net.fc(spk1.view(spk1.size(0), -1)), mem2)
        spikes.append(spk2)
        potentials.append(mem2)
    return torch.stack(spikes, dim=0), torch.stack(potentials)


def with_two_states(net, x):
    (syn1, mem1), (syn2, mem2), spikes = net.lif1.init_synaptic(), net.lif2.init_synaptic(), []
    for _ in range(T):
        spk1, syn1, mem1 = net.lif1(F.max_pool2d(net.conv1(x), 2), syn1, mem1)
        spk2, syn2, mem2 = net.lif2(net.fc(spk1.flatten(1)), syn2, mem2)
        spikes.append(spk2)
    return torch.stack(spikes)


def with_hidden_states(net, x):
    return torch.stack([net.lif2(net.fc(net.lif1(F.max_pool2d(net.conv1(x), 2)).flatten(1))) for _ in range(T)])


LOOPS = {
    "tutorial": (loop, "Leaky", {}),
    "two states": (with_two_states, "Synaptic", {"alpha": 0.5, "reset_delay": False}),
    "hidden states": (with_hidden_states, "Leaky", {"init_hidden": True}),
}


@pytest.mark.parametrize("name", LOOPS)
def test_loops_of_snntorch(generator, name):
    snn = pytest.importorskip("snntorch")
    forward, kind, options = LOOPS[name]
    net, x = make_dyadic(Tutorial(snn, forward, kind, **options), generator), images(generator)
    expected = net(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    if name == "hidden states":
        from snntorch import utils

        utils.reset(net)
    actual = pk.simulate(pk.from_snntorch(net), x, T).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)


def test_loops_over_sequences_and_means(generator):
    snn = pytest.importorskip("snntorch")
    net = make_dyadic(Tutorial(snn, lambda net, x: loop(net, x, held=False)[0].sum(0)), generator)
    x = dyadic(T, 3, 2, 8, 8, generator=generator).abs()
    expected = net(x)
    count = pk.simulate(pk.from_snntorch(net), x, T).count()
    assert expected.mean() > 0.1 and equal(count.float(), expected)


SPELLINGS = {  # the steps of x, the start potentials, and what is returned of the list of spikes
    "unbind": (lambda x: x.unbind(0), lambda net, n: net.lif1.init_leaky(), torch.stack),
    "unbind of torch": (lambda x: torch.unbind(x, dim=0), lambda net, n: net.lif1.init_leaky(), torch.stack),
    "joined": (iter, lambda net, n: net.lif1.init_leaky(), lambda out: torch.cat([y.unsqueeze(0) for y in out])),
    "joined along 0": (
        iter,
        lambda net, n: net.lif1.init_leaky(),
        lambda out: torch.cat([y.unsqueeze(dim=0) for y in out], dim=0),
    ),
    "reshaped": (iter, lambda net, n: net.lif1.init_leaky(), lambda out: torch.stack(out).view(len(out), -1, 10)),
    "zeros moved": (iter, lambda net, n: torch.zeros(n, 1, 1, 1).to("cpu").float(), torch.stack),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_a_loop(generator, name):
    snn = pytest.importorskip("snntorch")
    steps, start, given = SPELLINGS[name]

    def forward(net, x):
        mem1, mem2, out = start(net, x.size(1)), net.lif2.init_leaky(), []
        for step in steps(x):
            spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(step), 2), mem1)
            spk2, mem2 = net.lif2(net.fc(spk1.flatten(1)), mem2)
            out.append(spk2)
        return given(out)

    net = make_dyadic(Tutorial(snn, forward), generator)
    x = dyadic(T, 3, 2, 8, 8, generator=generator).abs()
    expected = net(x)
    actual = pk.simulate(pk.from_snntorch(net), x, T).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)


def test_a_view_that_joins_steps_and_samples_is_refused(generator):
    net = Tutorial(pytest.importorskip("snntorch"), lambda net, x: loop(net, x, held=False)[0].view(-1, 10))
    net = make_dyadic(net, generator)
    with pytest.raises(ValueError, match="shape"):
        pk.from_snntorch(net)


def test_one_step_with_potentials(generator):
    snn = pytest.importorskip("snntorch")

    def step(net, x):
        spk1, _ = net.lif1(F.max_pool2d(net.conv1(x), 2), net.lif1.init_leaky())
        return net.lif2(net.fc(spk1.flatten(1)), net.lif2.init_leaky())

    net, x = make_dyadic(Tutorial(snn, step), generator), images(generator)
    looped = make_dyadic(Tutorial(snn, loop), torch.Generator().manual_seed(1))
    looped.load_state_dict(net.state_dict())
    expected = looped(x)[0]
    actual = pk.simulate(pk.from_snntorch(net), x, T).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)


def other_steps(net, x):
    spikes, mem1, mem2 = [], net.lif1.init_leaky(), net.lif2.init_leaky()
    for step in range(T):
        spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(x), 2), mem1)
        current = net.fc(spk1.flatten(1))
        spk2, mem2 = net.lif2(current if step % 2 else current + current, mem2)
        spikes.append(spk2)
    return torch.stack(spikes)


def other_potentials(net, x):
    spikes, mem1, mem2 = [], net.lif1.init_leaky(), net.lif2.init_leaky()
    for _ in range(T):
        spk1, mem1 = net.lif1(F.max_pool2d(net.conv1(x), 2), mem1)
        spk2, _ = net.lif2(net.fc(spk1.flatten(1)), mem2)
        spikes.append(spk2)
    return torch.stack(spikes)


def charged(net, x):
    spk1, _ = net.lif1(F.max_pool2d(net.conv1(x), 2), torch.full((1,), 0.5))
    return net.lif2(net.fc(spk1.flatten(1)), net.lif2.init_leaky())[0]


ONE_STEP = r"; (or )?write one step in a module of its own: a forward that calls the layers once, shortcuts too"
REFUSED = {
    "steps that differ": (
        other_steps,
        f"Tutorial: step 1 .* than step 0: it calls 'fc' where step 0 calls add{ONE_STEP}",
    ),
    "potentials that stay": (other_potentials, f"Tutorial: step 1 of its forward .* than step 0{ONE_STEP}"),
    "charged": (charged, "Tutorial: module 'lif1' starts from a potential of its own; .*, or write one step"),
    "potentials alone": (lambda net, x: loop(net, x)[1], f"must return the spikes of its last neurons, .*{ONE_STEP}"),
    "as long as a part of its input": (
        lambda net, x: torch.stack([net.lif2(net.fc(x[step]))[0] for step in range(x.size(0) - 1)]),
        f"torch.fx cannot follow the forward pass of Tutorial.*{ONE_STEP}",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_loops_that_are_refused(name):
    forward, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        pk.from_snntorch(Tutorial(pytest.importorskip("snntorch"), forward))
