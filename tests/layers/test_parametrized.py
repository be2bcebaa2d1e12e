"""Weights that are computed from others: everything gives what the same net with plain weights gives."""

import copy
import warnings

import pytest
import torch
from equality import equal
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import proxykernels as pk

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
