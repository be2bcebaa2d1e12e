"""Whole networks through torch.load, computed weights, and what a model card says."""

import copy
import io
import os
import warnings

import pytest
import torch
from equality import equal
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import proxykernels as pk


@pytest.fixture(scope="module")
def converted():
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 3)).eval()
    images = torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return pk.convert(ann, images), ann, images


def through_a_file(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_converted_network_is_loaded_without_code(converted):
    net, _, images = converted
    expected = pk.simulate(net, images, 20)
    loaded = through_a_file(net)
    assert equal(pk.simulate(loaded, images, 20).logits, expected.logits) and expected.spikes.rate() > 0.05
    assert not {p.data_ptr() for p in loaded.parameters()} & {p.data_ptr() for p in net.parameters()}


NEURONS = [
    pk.neurons.IFNeuron(v_reset=None),
    pk.neurons.LIFNeuron.from_tau(2.0),
    pk.neurons.CubaLIFNeuron(decay=0.5, current_decay=0.25),
    pk.neurons.ALIFNeuron(),
    pk.neurons.RefractoryLIFNeuron(),
]


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: type(neuron).__name__)
def test_so_is_a_network_of_layers(neuron, generator):
    net = pk.Network()
    layers = pk.FusedConv2d(1, 4, 3, neuron=neuron), pk.AvgPool2d(2), pk.LIF(v_threshold=0.2), pk.Flatten()
    for k, layer in enumerate((*layers, pk.FusedLILinear(100, 3))):
        net.append(f"layer{k}", layer, (f"layer{k - 1}" if k else net.INPUT,))
    pk.use_surrogate(net, pk.ATan())
    x = 3 * torch.rand(6, 2, 1, 12, 12, generator=generator)
    expected = net.eval()(x)
    assert equal(through_a_file(net)(x), expected) and expected.any()


class Residual(nn.Module):
    """Two branches that meet, with norms, as in a ResNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.side = nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.branch(x) + x)
        x = torch.relu(self.branch(x) + self.side(x))
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("neuron", ["if", "sigma-delta"])
@pytest.mark.parametrize("ann", [Residual, "plain"])
def test_networks_with_torchs_modules_are_loaded_by_default(converted, ann, neuron):
    images = converted[2]
    torch.manual_seed(0)
    ann = converted[1] if ann == "plain" else ann().eval()
    net = pk.convert(ann, images, neuron=neuron)
    loaded = through_a_file(nn.Sequential(net))[0]
    expected = pk.simulate(net, images, 4)
    assert equal(pk.simulate(loaded, images, 4).logits, expected.logits) and expected.logits.any()


def test_so_is_a_network_that_was_trained(generator):
    options = {"v_threshold": 0.1, "batch_norm": True}
    layers = pk.FusedIFConv2d(1, 4, 3, **options), pk.Flatten(), pk.FusedIFLinear(400, 3, **options)
    net = nn.Sequential(nn.Sequential(*layers[:1]), *layers[1:])
    x = 4 * torch.rand(6, 2, 1, 12, 12, generator=generator)
    expected = net.eval()(x)
    assert equal(through_a_file(net)(x), expected) and expected.any()


def test_other_modules_are_named():
    with pytest.raises(Exception, match="Unsupported global: GLOBAL torch.nn.modules.activation.Hardtanh"):
        through_a_file(nn.Sequential(pk.FusedIFLinear(8, 3), nn.Hardtanh()))


class Command:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_file_cannot_run_a_command(converted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = through_a_file(converted[0])
    net.harm = Command()
    with pytest.raises(Exception, match=r"unsupported GLOBAL \w+.system"):
        through_a_file(net)
    assert not (tmp_path / "harmed").exists()


def cells(card: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    return {name: values for name, *values in rows}


def test_a_card_is_what_was_measured(converted):
    net, ann, images = converted
    with torch.no_grad():
        labels = ann(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % 3
    result = pk.simulate(net, images, 64)
    found = cells(pk.model_card(net, result, labels, title="A title"))
    right = (result.logits.argmax(1) == labels).float().mean().item()
    assert found["accuracy by the logits, %"] == [f"{100 * right:.2f}"] and 0.5 < right < 1
    strict = pk.plot.accuracy(result.spikes, labels)[-1].item()
    assert found["accuracy by counts (ties and silence are wrong), %"] == [f"{100 * strict:.2f}"]
    assert found["steps T"] == ["64"] and found["images measured"] == ["16"]
    assert found["synaptic operations an image"] == [f"{result.synops.total / 16:,.0f}"]
    for name, rate in result.rates.items():
        assert found[name][0] == f"{100 * rate:.2f}"
    energies = [value[0] for name, value in found.items() if name.endswith("µJ")]
    assert energies == [f"{1e6 * joules / 16:.3g}" for joules in (result.synops.joules, result.relu_joules)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"neurons": "integrate-and-fire, soft reset", "a rate of 1 is": "99.9 % of the activations"}),
        ({"method": "max", "v_reset": -0.5}, {"neurons": "integrate-and-fire, reset to -0.5",
                                              "a rate of 1 is": "the largest activation"}),
        ({"neuron": "sigma-delta"}, {"neurons": "SigmaDelta(exponents=9, signed=False)"}),
    ],
    ids=["default", "max, hard", "sigma-delta"],
)  # fmt: skip
def test_a_card_says_how_convert_made_it(converted, options, expected):
    _, ann, images = converted
    net = pk.convert(ann, images.split(5), **options)
    net = through_a_file(net)
    result = pk.simulate(net, images, 8)
    found = cells(pk.model_card(net, result))
    expected = {"converted from": "Sequential", "calibration samples": "16", **expected, "steps T": "8"}
    assert {name: value for name, (value, *_) in found.items() if name in expected} == expected
    assert "a rate of 1 is" in found or "neuron" in options
    assert not [name for name in found if name.startswith("accuracy")]
    assert not [name for name in cells(pk.model_card(pk.IF(), pk.simulate(pk.IF(), images, 4))) if "convert" in name]


def test_a_card_of_a_readout_and_of_a_stopped_run(converted, generator):
    net, _, images = converted
    labels = torch.arange(16) % 3
    stopped = pk.simulate(net, images, 64, stop=pk.stop.margin(2))
    found = cells(pk.model_card(net, stopped, labels))
    assert found["steps taken, mean"] == [f"{stopped.steps.float().mean():.1f}"] and stopped.steps.min() < 64
    readout = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(144, 8), pk.FusedLILinear(8, 3))
    result = pk.simulate(readout, images, 8)
    found = cells(pk.model_card(readout, result, labels))
    right = (result.potentials[-1].argmax(1) == labels).float().mean().item()
    assert found["accuracy by the last potentials, %"] == [f"{100 * right:.2f}"] and found["2"][0] == ""


def test_what_a_card_refuses(converted):
    net, _, images = converted
    result = pk.simulate(net, images, 4)
    labels = torch.zeros(16, dtype=torch.int64)
    for arguments, error, message in (
        ((3, result, labels), TypeError, "net must be a torch.nn.Module, got int"),
        ((net, net, labels), TypeError, "result must be what simulate returns, got Network"),
        ((net, result, labels[:3]), ValueError, r"labels must be int64 \[16\]"),
        ((net, result, labels + 3), ValueError, "labels must be within 0 .. 2, got 3 to 3"),
        ((net, pk.simulate(pk.IF(), images, 4), labels), ValueError,
         r"labels are of outputs \[N, classes\], and result has \[16, 1, 12, 12\]"),
        ((net, pk.simulate(net, images[:0], 4)), ValueError, "result must have a sample, got none"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            pk.model_card(*arguments)


WAYS = {
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.4),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older ones
        yield request.param


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = pk.FusedIFConv2d(2, 6, 3, padding=1, v_threshold=0.2, batch_norm=True)
        self.pool = pk.MaxPool2d(2)
        self.join = pk.FusedIFSum(nn.Conv2d(6, 6, 3, padding=1), nn.Identity(), v_threshold=0.3)
        self.flatten = pk.Flatten()
        self.last = pk.FusedIFLinear(54, 3, v_threshold=0.1)

    def forward(self, x):
        x = self.pool(self.conv(x))
        return self.last(self.flatten(self.join((x, x))))


@torch.no_grad()
def settle(net: nn.Module, x: torch.Tensor) -> None:
    """Leave the net in evaluation, after calls in which hooks set their weights and power iterations converge."""
    for norm in (module for module in net.train().modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.0
    for _ in range(20):
        net(x)
    net.eval()
    net(x)


def pair(way) -> tuple[nn.Module, nn.Module]:
    """A net with computed weights, and one with the same weights as plain parameters; in evaluation."""
    torch.manual_seed(0)
    plain = Joined()
    net = copy.deepcopy(plain)
    for module in (net.conv, net.join.synapses[0], net.last):
        way(module)
    settle(net, torch.rand(2, 1, 2, 6, 6))
    plain.eval()
    with torch.no_grad():
        for a, b in ((net.conv, plain.conv), (net.join.synapses[0], plain.join.synapses[0]), (net.last, plain.last)):
            b.weight.copy_(a.weight)
    return net, plain


def test_the_same_spikes(way):
    net, plain = pair(way)
    x = torch.rand(4, 2, 6, 6)
    assert equal(net(x.expand(20, *x.shape)), plain(x.expand(20, *x.shape)))
    result, expected = pk.simulate(net, x, 20), pk.simulate(plain, x, 20)
    assert equal(result.spikes.dense(), expected.spikes.dense()) and 0 < expected.spikes.rate() < 1
    assert result.rates == expected.rates


def test_proxy_training(way):
    net, plain = pair(way)
    x = torch.rand(4, 2, 6, 6)
    models = [pk.ProxyNet(n, T=10, clip=True) for n in (net, plain)]
    for model in models:
        model.train()
        for module in model.modules():  # a power iteration changes the weights
            module.training = module is model or not isinstance(module, parametrize.ParametrizationList | nn.Conv2d)
        for module in model.net.modules():
            module.training = False
    outputs = [model(x) for model in models]
    assert equal(*outputs) and outputs[0].any()
    for output in outputs:
        (output - 10).square().sum().backward()
    assert torch.allclose(net.last.bias.grad, plain.last.bias.grad, rtol=1e-4)
    computed = [p for name, p in net.named_parameters() if "original" in name or "_orig" in name or "_g" in name]
    assert computed and all(p.grad is not None and p.grad.abs().sum() > 0 for p in computed)
    before = net.last.weight.clone()
    torch.optim.SGD(net.parameters(), 0.1).step()
    rates = pk.simulate(net, x, 10).rates  # not of the weights that a hook left behind
    net(x.expand(10, *x.shape))
    assert not torch.equal(net.last.weight, before) and rates == pk.simulate(net, x, 10).rates


def test_training_mode(way):
    net, _ = pair(way)
    model = pk.ProxyNet(net, T=10).train()
    model(torch.rand(4, 2, 6, 6)).sum().backward()
    assert net.last.bias.grad is not None


def test_convert(way):
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    torch.nn.init.uniform_(ann[4].weight, 0, 0.1)
    way(ann[0]), way(ann[4])
    x = torch.rand(8, 1, 8, 8)
    settle(ann, x)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        for a, b in ((ann[0], plain[0]), (ann[4], plain[4])):
            b.weight.copy_(a.weight), b.bias.copy_(a.bias)
    counts = [pk.simulate(pk.convert(model, x), x, 30).count() for model in (ann, plain)]
    assert equal(*counts) and counts[0].any()
    with pytest.raises(ValueError, match="share=True"):
        pk.convert(ann, x, share=True)
