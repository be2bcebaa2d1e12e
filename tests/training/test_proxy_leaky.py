"""The twin's rates of leaky neurons, and ProxyNet's two sets of running statistics."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from cases import bright_halves, learned
from equality import equal
from torch import nn
from torch.optim.swa_utils import update_bn

import proxykernels as pk
from proxykernels.neurons import ALIFNeuron, CubaLIFNeuron, LIFNeuron, RefractoryLIFNeuron
from proxykernels.training import fi_curve

NEURONS = [
    LIFNeuron(decay=0.5),
    LIFNeuron(decay=0.5, v_reset=None),
    LIFNeuron(decay=0.9, v_threshold=2.0, v_reset=-0.5),
    LIFNeuron(decay=0.75, v_threshold=3.0, v_reset=0.5, v_rest=1.0),
    LIFNeuron(decay=0.75, v_threshold=3.0, v_reset=None, v_rest=-0.5),
    LIFNeuron.from_tau(16.0),
    RefractoryLIFNeuron(decay=0.75, refractory=3),
]


def steps_to_threshold(neuron, current):
    """The formula of the module, one current at a time."""
    theta = neuron.v_threshold - neuron.v_rest
    start = (0.0 if neuron.v_reset is None else neuron.v_reset) - neuron.v_rest
    end = current / (1 - neuron.decay)
    return math.log((end - start) / (end - theta)) / -math.log(neuron.decay) if end > theta else math.inf


def simulated(neuron, currents, T=240):
    """Rates of neurons on currents that are held, after a time to settle."""
    counts = pk.layers.Population(neuron)(currents.expand(T, 1, *currents.shape)).cumsum(0)
    assert counts[-1].sum() > 0
    return (counts[-1] - counts[T // 2 - 1])[0] / (T - T // 2)


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: repr(neuron)[:60])
def test_the_rate_is_that_of_a_held_current(neuron):
    low, _, high = (float(value) for value in fi_curve._Points.of(neuron))
    currents = torch.linspace(low - 0.5, high + 0.5, 400)
    rates, counted = fi_curve.rate(neuron, currents[None])[0], simulated(neuron, currents)
    resting = getattr(neuron, "refractory", 0)
    for current, rate, seen in zip(currents.tolist(), rates.tolist(), counted.tolist(), strict=True):
        n = steps_to_threshold(neuron, current)
        if neuron.v_reset is not None and 1 < n < 100 and abs(n - round(n)) > 0.02:  # a step fires or does not
            assert seen == pytest.approx(1 / (math.ceil(n) + resting), abs=0.02)
        exact = 1 / (max(n, 1) + resting)
        if n <= 5:
            assert rate == pytest.approx(exact, abs=0.05 if resting else 0.03)
        assert abs(rate - exact) < 0.2  # near the rheobase the curve is steep
    assert rates[0] == 0 and counted[0] == 0
    assert rates[-1].item() == pytest.approx(1 / (1 + resting)) and counted[-1] == pytest.approx(
        1 / (1 + resting), abs=0.01
    )


@pytest.mark.parametrize("decay", [0.5, 0.75, 0.9, 0.999])
def test_points_of_the_line(decay):
    """Four steps, two and one to the threshold, and where it begins, worked out by hand."""
    neuron = LIFNeuron(decay=decay, v_threshold=2.0)
    four, two = 2 / (1 + decay + decay**2 + decay**3), 2 / (1 + decay)
    currents = torch.tensor([[four, two, 2.0, 2 * (1 - decay) / (1 + decay**2), -1.0, 5.0]])
    torch.testing.assert_close(fi_curve.rate(neuron, currents), torch.tensor([[0.25, 0.5, 1.0, 0.0, 0.0, 1.0]]))
    assert simulated(neuron, currents[0] + 1e-4)[:3].tolist() == [0.25, 0.5, 1.0]


def test_without_a_leak_it_is_the_clipped_relu(generator):
    currents = 3 * torch.randn(50, 4, generator=generator)
    theta = torch.tensor([0.5, 1.0, 2.0, 4.0])
    for neuron in (LIFNeuron(v_threshold=theta, decay=1.0), LIFNeuron(v_threshold=theta, v_reset=None, decay=1.0)):
        torch.testing.assert_close(fi_curve.rate(neuron, currents), (currents / theta).clamp(0, 1))


def test_units(generator):
    """Scaled neurons are the same neurons on scaled currents, and a shift of all potentials changes nothing."""
    currents = torch.randn(50, 3, generator=generator)
    plain = LIFNeuron(decay=1 - 1 / 8, v_reset=-0.25, v_rest=0.25)
    shifted = LIFNeuron(v_threshold=-49.0, v_reset=-50.25, decay=plain.decay, v_rest=-49.75)
    expected = fi_curve.rate(plain, currents)
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(fi_curve.rate(plain.scaled(8.0), 8 * currents), expected)
    torch.testing.assert_close(fi_curve.rate(shifted, currents), expected, atol=1e-4, rtol=0)


def test_each_channel_has_its_own(generator):
    decay, theta = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    currents = 2 * torch.rand(4, 3, 5, 5, generator=generator)
    rates = fi_curve.rate(LIFNeuron(v_threshold=theta, decay=decay), currents)
    for c in range(3):
        alone = fi_curve.rate(LIFNeuron(v_threshold=theta[c].item(), decay=decay[c].item()), currents[:, c : c + 1])
        torch.testing.assert_close(rates[:, c : c + 1], alone)
    assert 0 < rates.mean() < 1


def test_the_slope_is_bounded():
    for decay in (0.0, 0.01, 0.25, 0.5, 1.0):
        currents = torch.linspace(-1, 2, 3001)[:, None].requires_grad_()
        (slope,) = torch.autograd.grad(fi_curve.rate(LIFNeuron(decay=decay), currents).sum(), currents)
        assert 0.99 < slope.max() <= 3.34 and slope.min() == 0


def test_a_filtered_current_is_larger():
    neuron = CubaLIFNeuron(decay=0.75, current_decay=0.5)
    currents = torch.linspace(0.0, 1.0, 101)
    rates, counted = fi_curve.rate(neuron, currents[None])[0], simulated(neuron, currents)
    torch.testing.assert_close(rates, fi_curve.rate(LIFNeuron(decay=0.75), 2 * currents[None])[0])
    assert (rates - counted).abs().mean() < 0.1


def net_of(**neuron):
    return nn.Sequential(
        pk.FusedLIFConv2d(1, 6, 3, padding=1, **neuron), pk.MaxPool2d(2), pk.Flatten(),
        pk.FusedLIFLinear(96, 12, **neuron), pk.FusedLIFLinear(12, 4, **neuron),
    )  # fmt: skip


@pytest.mark.parametrize("decay", [0.5, torch.tensor([0.5, 0.75, 0.9, 1.0])])
def test_proxynet_takes_the_rate_of_its_neurons(generator, decay):
    torch.manual_seed(0)
    per_channel = isinstance(decay, torch.Tensor)
    net = net_of(decay=0.5, v_threshold=2.0)
    if per_channel:
        net[-1] = pk.FusedLIFLinear(12, 4, decay=decay, v_threshold=2.0)
    for parameter in net.parameters():
        parameter.data *= 6
    x = torch.rand(5, 1, 8, 8, generator=generator)
    model = pk.ProxyNet(net, T=20, clip=False)
    output = model(x)
    assert equal(output, pk.simulate(net, x, 20).count().float()) and output.sum() > 0
    gradient = torch.rand(5, 4, generator=generator)
    output.backward(gradient)
    ours = [parameter.grad.clone() for parameter in net.parameters()]
    model.zero_grad()

    def line(current, decay=0.5):
        return (1 + decay) * (1 + decay**2) / (4 * decay**2) * (current / 2 - (1 - decay) / (1 + decay**2))

    def rate(current):
        return torch.minimum(line(current), 1 + 1.5 * (current / 2 - 1)).clamp(0, 1)

    y = F.max_pool2d(rate(F.conv2d(x, net[0].weight, net[0].bias, padding=1)), 2)
    assert 0.01 < model.ann_rates["0"] < 0.99
    y = rate(F.linear(y.flatten(1), net[3].weight, net[3].bias))
    torch.testing.assert_close(model.ann_rates["3"], y.mean())
    y = line(F.linear(y, net[4].weight, net[4].bias), decay)
    torch.testing.assert_close(model.ann_output, y)
    y.backward(gradient)
    for mine, parameter in zip(ours, net.parameters(), strict=True):
        assert parameter.grad.abs().max() > 0
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-5 * parameter.grad.abs().max().item())


def test_potentials_come_from_the_current_itself(generator):
    net = net_of(decay=0.75)
    model = pk.ProxyNet(net, T=32, readout="potential")
    x = torch.rand(3, 1, 8, 8, generator=generator)
    features = nn.Sequential(*net[:-1])
    inputs = pk.simulate(features, x, 32)
    current = net[-1].affine(inputs.spikes.dense().flatten(0, 1)).unflatten(0, (32, 3))
    v = torch.zeros(3, 4)
    for step in current:
        v = 0.75 * v + step
    torch.testing.assert_close(model.snn(x), v)
    model.ann(x)
    assert equal(model.ann(x, {"4": torch.zeros(3, 12)}), net[-1].bias.expand(3, 4))


def test_other_models_have_a_twin(generator):
    for neuron in (CubaLIFNeuron(decay=0.5), ALIFNeuron(decay=0.9), RefractoryLIFNeuron(decay=0.9)):
        net = nn.Sequential(pk.FusedLinear(6, 8, neuron=neuron), pk.FusedLinear(8, 3, neuron=neuron))
        net[0].bias.data += 0.5
        model = pk.ProxyNet(net, T=16, clip=False)
        model(torch.rand(4, 6, generator=generator)).sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())


def test_bfloat16_stays(generator):
    currents = torch.randn(4, 3, generator=generator)
    rates = fi_curve.rate(LIFNeuron(), currents.bfloat16())
    assert rates.dtype == torch.bfloat16
    torch.testing.assert_close(rates.float(), fi_curve.rate(LIFNeuron(), currents), atol=0.03, rtol=0)


def test_it_learns(generator):
    """Which half of the image is bright; from biases at the onset, without which nothing fires and nothing learns."""
    torch.manual_seed(0)
    images, labels = bright_halves(256, 0.0, 0.8)
    images += 0.1 * torch.rand(256, 1, 8, 8, generator=generator)
    net = nn.Sequential(pk.FusedLIFConv2d(1, 4, 3, padding=1), pk.MaxPool2d(2), pk.Flatten(), pk.FusedLIFLinear(64, 2))
    for layer in (net[0], net[3]):
        layer.bias.data += fi_curve.onset(layer.neuron)
    model = pk.ProxyNet(net, T=16)
    assert learned(model, images, labels) > 0.95


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        pk.FusedIFConv2d(1, 6, 3, padding=1, batch_norm=True, v_reset=None),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(96, 8, batch_norm=True, v_reset=None),
        pk.FusedIFLinear(8, 4, v_reset=None),
    )


@pytest.fixture
def x(generator):
    return 3 * torch.rand(12, 1, 8, 8, generator=generator)


def changes(model: nn.Module, x: torch.Tensor) -> set[str]:
    """The buffers that a training pass writes to."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(x)
    return {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}


@pytest.mark.parametrize("statistics_of", ["steps", "means"])
def test_the_twin_of_a_trained_network_begins_with_its_statistics(x, statistics_of):
    net = make_net()
    trained = pk.ProxyNet(net, 8, statistics_of=statistics_of)
    for _ in range(20):
        trained(x)
    model = pk.ProxyNet(net, 8)
    for name, bn in (("0", net[0].bn), ("3", net[3].bn)):
        own = model.statistics[name]
        assert equal(own.running_mean, bn.running_mean) and bn.running_mean.abs().min() > 0
        assert equal(own.running_var, bn.running_var) and own.running_var is not bn.running_var


@pytest.mark.parametrize("statistics_of", ["steps", "means"])
def test_passes_without_gradients_teach_both(x, statistics_of):
    model = pk.ProxyNet(make_net(), 8, statistics_of=statistics_of)
    for _ in range(40):
        model(x)
    learnt = copy.deepcopy(model)
    update_bn([x[:6], x[6:]], learnt)
    for name in model.statistics:
        own, before = learnt.statistics[name], model.statistics[name]
        assert own.num_batches_tracked == 2 and (own.running_mean - before.running_mean).abs().max() < 0.3
        assert (own.running_mean != 0).all() and (own.running_var != 1).all()


@pytest.mark.parametrize("statistics_of", ["steps", "means"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_normalisation_in_evaluation_mode_stays_in_both(x, statistics_of, whole):
    model = pk.ProxyNet(make_net(), 8, statistics_of=statistics_of)
    assert {"net.0.bn.running_mean", "statistics.0.running_mean"} <= changes(model, x)
    (model.net[0] if whole else model.net[0].bn).eval()
    changed = changes(model, x)
    assert not any(name.startswith(("net.0.", "statistics.0.")) for name in changed)
    assert {"net.3.bn.running_mean", "statistics.3.running_mean"} <= changed
    model.net[3].bn.eval()
    same = copy.deepcopy(model).eval()
    assert equal(model.snn(x), same.snn(x)) and equal(model.ann(x), same.ann(x)) and same.snn(x).any()


def test_a_single_image_at_the_end_counts_as_one(generator):
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(144, 3))
    model = pk.ProxyNet(net, 4)
    x = torch.cat([torch.zeros(25, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    model.measure_batch_norm(x)
    currents = nn.functional.conv2d(x, net[0].weight, net[0].bias)
    assert torch.allclose(net[0].bn.running_mean, currents.mean((0, 2, 3)), atol=1e-5)
    assert currents.std() > 0.01


def test_what_cannot_be_measured_leaves_all_as_it_was(x):
    model = pk.ProxyNet(make_net(), 4, statistics_of="means")
    model(x)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="at least two values for each channel"):
        model.measure_batch_norm(x[:1])
    bn = model.net[3].bn
    assert bn.momentum == 0.1 and not bn.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_of_a_network_of_another_type(x, dtype):
    model = pk.ProxyNet(make_net().to(dtype), 8)
    model(x.to(dtype)).sum().backward()
    assert model.statistics["0"].running_mean.dtype == dtype and model.net[0].weight.grad.any()


def test_of_a_normalisation_without_parameters(x):
    net = make_net()
    net[0].bn = nn.BatchNorm2d(6, affine=False)
    model = pk.ProxyNet(net, 8)
    model(x).sum().backward()
    assert model.statistics["0"].running_mean.any() and net[0].weight.grad.any()
