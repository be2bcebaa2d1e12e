"""Thresholds and decays that are learned: their gradients, and that they stay valid."""

import pytest
import torch
from cases import spikes
from equality import equal
from gradient_cases import close
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference_gradients


@pytest.mark.parametrize("channelwise", [False, True], ids=["number", "channels"])
def test_gradients_are_the_oracles(generator, channelwise):
    decay = torch.tensor([0.5, 0.25, 0.75, 0.875]) if channelwise else 0.5
    torch.manual_seed(0)
    layer = pk.FusedLIFLinear(12, 4, decay=decay, v_threshold=0.75)
    with torch.no_grad():
        layer.weight.mul_(3)
    x = spikes(8, 3, 12, generator=generator, rate=0.4)
    before = layer.eval()(pk.pack(x)).dense()
    layer.surrogate = pk.ATan()
    assert pk.learn_neurons(layer, "decay", "v_threshold") is layer
    learned = {name: p for name, p in layer.named_parameters() if "original" in name}
    assert len(learned) == 2 and all(
        p.numel() == (4 if "decay" in n and channelwise else 1) for n, p in learned.items()
    )
    y = layer(pk.pack(x)).dense()
    assert equal(y, before) and y.any()
    neuron = layer.neuron.on(4, torch.device("cpu"))
    currents = torch.nn.functional.linear(x, layer.weight, layer.bias)
    expected, _ = reference_gradients.surrogate_scan(currents, None, neuron, pk.ATan().kernel)
    grad = torch.randn(y.shape, generator=generator)
    leaves = [*learned.values(), layer.weight]
    theirs = torch.autograd.grad(expected, leaves, grad)
    assert all(map(close, torch.autograd.grad(y, leaves, grad), theirs))


def test_they_stay_valid_and_learn(generator):
    net = nn.Sequential(pk.FusedLIFLinear(12, 8), pk.FusedIFLinear(8, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    pk.learn_neurons(net, "v_threshold", "decay")
    model = pk.SurrogateNet(net, 10, surrogate=pk.ATan(), readout="rate")
    x = torch.rand(16, 12, generator=generator)
    start = net[0].decay.item(), net[1].v_threshold.item()
    optimizer = torch.optim.SGD(net.parameters(), 50.0)  # far too much
    for _ in range(5):
        optimizer.zero_grad()
        (1 - model(x)).sum().backward()
        optimizer.step()
    assert net[0].decay.item() != start[0] and net[1].v_threshold.item() != start[1]
    assert 0 <= net[0].decay <= 1 and net[1].v_threshold > 0
    assert torch.isfinite(model(x)).all()
    count = pk.simulate(net, x, 10).count()
    again = nn.Sequential(pk.FusedLIFLinear(12, 8), pk.FusedIFLinear(8, 3))
    pk.learn_neurons(again, "v_threshold", "decay").load_state_dict(net.state_dict())
    assert equal(pk.simulate(again, x, 10).count(), count)


def test_bad_input_is_named():
    net = nn.Sequential(pk.FusedIFLinear(3, 3))
    with pytest.raises(ValueError, match=r"of \['v_threshold'\] here, got 'decay'"):
        pk.learn_neurons(net, "decay")
    pk.learn_neurons(net, "v_threshold")
    with pytest.raises(ValueError, match="v_threshold is learned already"):
        pk.learn_neurons(net, "v_threshold")
