"""SurrogateNet: whatever the parts of samples and steps, its gradient is that of the whole."""

import pytest
import torch
from cases import spikes
from equality import equal
from gradient_cases import close
from torch import nn

import proxykernels as pk
from proxykernels.training import surrogate_net

T = 9


def network(v_reset=0.0, **neuron):
    torch.manual_seed(0)
    kind = {"v_reset": v_reset, **neuron}
    net = nn.Sequential(
        pk.FusedLIFConv2d(2, 8, 3, padding=1, **kind), pk.MaxPool2d(2), pk.FusedIFConv2d(8, 8, 3, padding=1),
        pk.Flatten(), pk.FusedIFLinear(72, 5),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.5)
    return net


def given(kind, generator):
    if kind == "held":
        return torch.rand(4, 2, 6, 6, generator=generator)
    dense = spikes(T, 4, 2, 6, 6, generator=generator, rate=0.4)
    return dense if kind == "dense" else pk.pack(dense)


def gradients(net, output, generator):
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), list(net.parameters()))


@pytest.mark.costly
@pytest.mark.parametrize("memory", [0, 256 << 20], ids=["again", "kept"])
@pytest.mark.parametrize("frames", [1, 4, 18, 1000])
@pytest.mark.parametrize("kind", ["held", "dense", "spikes"])
def test_gradients_are_those_of_the_layers(generator, monkeypatch, kind, frames, memory):
    net, x = network(), given(kind, generator)
    monkeypatch.setitem(surrogate_net.PART_BYTES, "cpu", frames * 4 * 8 * 36)
    model = pk.SurrogateNet(net, T, surrogate=pk.Sigmoid(), memory=memory)
    output = model(x)
    ours = gradients(net, output, generator)
    assert not any(layer.surrogate for layer in net if isinstance(layer, pk.layers.Neurons))  # it is not changed
    pk.use_surrogate(net, pk.Sigmoid())
    y = net(x.expand(T, *x.shape) if kind == "held" else x)
    y = y if isinstance(y, pk.Spikes) else pk.pack(y)  # a tensor for a tensor: count below
    expected = net(pk.pack(x) if kind == "dense" else x.expand(T, *x.shape) if kind == "held" else x)
    expected = expected.count() if isinstance(expected, pk.Spikes) else expected.sum(0)
    assert equal(output, expected) and 0 < output.mean() < T
    assert all(map(close, ours, gradients(net, expected, generator)))
    assert set(model.rates) == {"0", "2", "4"} and 0 < model.rates["0"] < 1
    result = pk.simulate(net, x, T)
    assert equal(output.int(), result.count()) and model.rates == pytest.approx(result.rates)


@pytest.mark.parametrize("memory", [0, 256 << 20], ids=["again", "kept"])
def test_the_gradient_of_packed_spikes_passes_all_parts(generator, monkeypatch, memory):
    front = pk.use_surrogate(pk.IF(), pk.ATan())
    current = torch.rand(T, 4, 2, 6, 6, generator=generator, requires_grad=True)
    found = []
    for frames in (1, 1000):
        monkeypatch.setitem(surrogate_net.PART_BYTES, "cpu", frames * 4 * 8 * 36)
        output = pk.SurrogateNet(network(), T, memory=memory)(front.spike(current)[0])
        found.append(torch.autograd.grad((output * torch.arange(5.0)).sum(), current)[0])
    assert found[1].any() and close(*found)


@pytest.mark.parametrize("readout", ["count", "rate", "potential"])
def test_readouts(generator, readout):
    net, x = network(), given("held", generator)
    model = pk.SurrogateNet(net, T, readout=readout).train()
    output = model(x)
    with torch.no_grad():
        assert equal(model.eval()(x), output)
        proxy = pk.ProxyNet(net, T, readout=readout).snn(x)
    assert equal(output, proxy) and output.any()
    output.sum().backward()
    assert all(p.grad.any() for p in net.parameters())


def test_a_network_that_ends_in_potentials(generator):
    net = nn.Sequential(*network()[:-1], pk.FusedLinear(72, 5, neuron=pk.neurons.LINeuron(decay=0.5)))
    model = pk.SurrogateNet(net, T, readout="potential")
    x = given("spikes", generator)
    output = model(x)
    torch.testing.assert_close(output, pk.simulate(net, x, T).potentials[-1])  # sums of another order
    assert output.any()
    output.sum().backward()
    assert all(p.grad.any() for p in net.parameters())
    with pytest.raises(TypeError, match="readout='potential' takes the potentials"):
        pk.SurrogateNet(net, T)(x)


def test_truncated(generator):
    """Going on from a state: the spikes of one long call, the gradient of the second half alone."""
    net, x = network(), given("spikes", generator)
    whole = pk.SurrogateNet(net, 9)(x)
    model = pk.SurrogateNet(net, 4)
    first, state = model(x[:4], {})
    model.T = 5
    second, _ = model(x[4:], state)
    assert equal(first + second, whole) and second.any()
    assert not any(v.requires_grad for states in state.values() for v in states)
    assert all(p.any() for p in torch.autograd.grad(second.sum(), list(net.parameters())))


def test_dropout_keeps_its_mask(generator, monkeypatch):
    net = network()
    net.insert(2, pk.Dropout(0.5))
    monkeypatch.setitem(surrogate_net.PART_BYTES, "cpu", 8 * 4 * 8 * 36)
    results = []
    for memory in (0, 1 << 28):
        torch.manual_seed(3)
        output = pk.SurrogateNet(net.train(), T, memory=memory)(given("held", torch.Generator().manual_seed(1)))
        results.append((output, *gradients(net, output, generator)))
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("module", [nn.Dropout(0.4), nn.RReLU(0.1, 0.9)], ids=["dropout", "rrelu"])
def test_random_modules_draw_the_same_again(generator, monkeypatch, module):
    """What a module of torch draws in the forward pass, the backward pass draws again."""
    monkeypatch.setitem(surrogate_net.PART_BYTES, "cpu", 18 * 4 * 8 * 36)
    net, x = nn.Sequential(module, *network()), given("held", generator) - 0.2
    found = []
    for memory in (256 << 20, 0):
        torch.manual_seed(1)
        model = pk.SurrogateNet(net, T, memory=memory)
        output = model(x)
        torch.manual_seed(2)
        found.append((output, gradients(net, output, generator)))
    (output, whole), (again, parts) = found
    assert equal(output, again) and output.any() and all(map(close, whole, parts))


@pytest.mark.parametrize("memory", [256 << 20, 0], ids=["kept", "again"])
def test_weights_may_not_change_before_the_backward_pass(generator, monkeypatch, memory):
    monkeypatch.setitem(surrogate_net.PART_BYTES, "cpu", 18 * 4 * 8 * 36)
    net = network()
    output = pk.SurrogateNet(net, T, memory=memory)(given("held", generator))
    with torch.no_grad():
        net[4].weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_batch_statistics_are_those_of_the_call(generator, monkeypatch):
    monkeypatch.setitem(surrogate_net.PART_BYTES, "cpu", 1)
    net = nn.Sequential(pk.FusedIFConv2d(2, 8, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(128, 5))
    with torch.no_grad():
        net[2].weight.mul_(3)
    x, model = given("spikes", generator), pk.SurrogateNet(net.train(), T)
    output = model(x)
    assert output.any() and net[0].bn.num_batches_tracked == 1
    output.sum().backward()
    assert net[0].bn.weight.grad.any() and not model.eval()(x).isnan().any()


def test_it_learns(generator):
    net, x = network(), given("held", generator)
    model, labels = pk.SurrogateNet(net, T, readout="rate").train(), torch.arange(4)
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.02), []
    for _ in range(30):
        loss = nn.functional.cross_entropy(10 * model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_bad_input_is_named(generator):
    net = network()
    with pytest.raises(ValueError, match="readout must be one of count, rate, potential, got 'spikes'"):
        pk.SurrogateNet(net, T, readout="spikes")
    with pytest.raises(ValueError, match="memory must be a number of bytes"):
        pk.SurrogateNet(net, T, memory=-1)
    with pytest.raises(TypeError, match="surrogate must be ATan"):
        pk.SurrogateNet(net, T, surrogate="atan")
    with pytest.raises(ValueError, match="T must be at least 1"):
        pk.SurrogateNet(net, 0)
    with pytest.raises(ValueError, match="sequence of 9 steps, and T is 4"):
        pk.SurrogateNet(net, 4)(given("dense", generator))
