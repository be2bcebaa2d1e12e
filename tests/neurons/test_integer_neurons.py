"""Neurons that fire several times in a step: by hand, against the definition, as D binary steps, in layers, back."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, dyadic, spikes, thresholds
from equality import equal
from neuron_cases import INTEGER_TRACES
from torch import nn

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference
from proxykernels.kernels.neuron_models import Neuron
from proxykernels.kernels.reference_gradients import surrogate_scan
from proxykernels.neurons import IFNeuron, IntegerLIFNeuron


def channelwise(C: int, generator: torch.Generator, rounds: bool) -> IntegerLIFNeuron:
    decay = torch.rand(C, generator=generator)
    return IntegerLIFNeuron(v_threshold=thresholds(C, generator), decay=decay, max_spike_count=3, rounds=rounds)


def close(actual, expected, tolerance):
    assert expected.any()
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())


def dyadic_neuron(C: int, generator: torch.Generator) -> IntegerLIFNeuron:
    """Whose potentials are exact for a few steps."""
    return IntegerLIFNeuron(v_threshold=2.0 ** torch.randint(-2, 1, (C,), generator=generator), max_spike_count=5)


@pytest.mark.parametrize("neuron, current, counts, potentials", INTEGER_TRACES)
def test_hand_traces(instruction_set, neuron, current, counts, potentials):
    current = torch.tensor(current).view(-1, 1, 1)
    for t in range(1, len(current) + 1):
        s, v = neuron_ops.scan(current[:t], None, neuron)
        assert s.dtype == torch.float32 and s.flatten().tolist() == counts[:t]
        assert v.item() == potentials[t - 1]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("shape", [(2, 37, 3, 2), (3, 64), (1, 5, 7), (4, 1), (2, 9, 6, 6)], ids=str)
def test_scan(instruction_set, generator, shape, rounds):
    neuron = channelwise(shape[1], generator, rounds)
    current, v0 = 2 * torch.randn(40, *shape, generator=generator), dyadic(*shape, generator=generator)
    expected, v_expected = reference.scan(current, v0, neuron.on(shape[1], current.device))
    actual, v = neuron_ops.scan(current, v0, neuron)
    assert set(expected.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert equal(actual, expected) and equal(v, v_expected)
    current = 2 + current.abs()
    expected, v_expected = reference.hold(current[0], 9, v0, neuron.on(shape[1], current.device))
    actual, v = neuron_ops.hold(current[0], 9, v0, neuron)
    assert expected.max() > 1 and equal(actual, expected) and equal(v, v_expected)


@pytest.mark.parametrize("rounds", [False, True])
def test_at_the_threshold_and_beside_it(instruction_set, rounds):
    theta, edges = 0.75, torch.arange(-1.0, 7.0, 0.5)
    h = (theta * edges).repeat(3, 1)
    h[1], h[2] = h[0].nextafter(torch.tensor(9.0)), h[0].nextafter(torch.tensor(-9.0))
    neuron = IntegerLIFNeuron(v_threshold=theta, max_spike_count=4, rounds=rounds)
    s, v = neuron_ops.scan(h.view(1, 1, -1), None, neuron)
    expected = (h / theta).clamp(0, 4)
    expected = expected.round() if rounds else expected.floor()
    assert equal(s.view(3, -1), expected) and equal(v.view(3, -1), h - theta * expected)
    assert not torch.equal(expected[0], expected[2])


def test_binary_steps_give_the_same_sums(generator):
    """Currents that come in the first of D steps of binary neurons."""
    D, theta = 3, thresholds(5, generator)
    current = dyadic(12, 3, 5, generator=generator, span=64)
    apart = torch.cat([current.unsqueeze(1), torch.zeros(12, D - 1, 3, 5)], 1).flatten(0, 1)
    binary, v_binary = neuron_ops.scan(apart, None, IFNeuron(v_threshold=theta, v_reset=None))
    counts, v = neuron_ops.scan(current, None, IntegerLIFNeuron(v_threshold=theta, max_spike_count=D))
    assert counts.max() == D and equal(counts, binary.dense().unflatten(0, (12, D)).sum(1))
    assert equal(v, v_binary)


@pytest.mark.parametrize("given", ["spikes", "values", "counts", "held"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(instruction_set, generator, case, given):
    C_in, H, W, C_out, kernel_size, *window = case
    neuron, T = dyadic_neuron(C_out, generator), 5
    x = spikes(T, 2, C_in, H, W, generator=generator)
    if given == "values":
        x = dyadic(T, 2, C_in, H, W, generator=generator)
    if given == "counts":
        x = x * torch.randint(0, 4, x.shape, generator=generator)
    if given == "held":
        x = dyadic(1, 2, C_in, H, W, generator=generator).expand(T, -1, -1, -1, -1)
    weight = dyadic(C_out, C_in // window[-1], *kernel_size, generator=generator)
    bias, on = dyadic(C_out, generator=generator, span=4), neuron.on(C_out, x.device)
    v0 = dyadic(*reference.conv2d(x[:1], weight, None, None, on, *window)[0].shape[1:], generator=generator)
    expected, v_expected = reference.conv2d(x, weight, bias, v0, on, *window)
    layer = pk.pack(x) if given == "spikes" else x
    actual, v = neuron_ops.conv2d(layer, weight, bias, v0, neuron, *window)
    assert expected.max() > 1
    assert equal(actual, expected) and equal(v, v_expected)


def test_layers(generator):
    """A network of all layers, by its layers and by the definition; a state, and steps in two calls."""
    D = IntegerLIFNeuron(v_threshold=0.5, max_spike_count=4)
    net = nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, neuron=D, batch_norm=True),
        pk.AvgPool2d(2),
        pk.Population(IntegerLIFNeuron(v_threshold=0.25)),
        pk.Flatten(),
        pk.FusedLinear(128, 6, neuron=D),
    ).eval()
    conv, pool, more, _, linear = net
    conv.bn.eps = 0.0  # whose gain is then 1
    for weight in (conv.weight, conv.bias, linear.weight, linear.bias):
        weight.data = dyadic(*weight.shape, generator=generator) / (8 if weight is linear.weight else 1)
    x = spikes(6, 3, 2, 8, 8, generator=generator)
    expected, _ = reference.conv2d(x, conv.weight, conv.bias, None, D.on(8, x.device), padding=1)
    expected = reference.avg_pool2d(expected, 2)
    expected, _ = reference.scan(expected, None, more.neuron.on(8, x.device))
    wanted, v_wanted = reference.linear(expected.flatten(2), linear.weight, linear.bias, None, D.on(6, x.device))
    assert wanted.max() == 4 and len(wanted.unique()) > 3
    for given in (x, pk.pack(x)):
        assert equal(net(given), wanted)
    assert equal(pk.simulate(net, x, 6).output, wanted)
    half, v = linear(expected.flatten(2)[:2], torch.zeros(3, 6))
    rest, v = linear(expected.flatten(2)[2:], v)
    assert equal(torch.cat([half, rest]), wanted) and equal(v, v_wanted)


def test_sums_of_counts_and_spikes(generator):
    D = IntegerLIFNeuron(v_threshold=0.5, max_spike_count=6)
    layer = pk.FusedSum(nn.Conv2d(4, 4, 3, padding=1), nn.Identity(), neuron=D).eval()
    conv = layer.synapses[0]
    conv.weight.data, conv.bias.data = dyadic(4, 4, 3, 3, generator=generator), dyadic(4, generator=generator)
    a, b = spikes(5, 2, 4, 6, 6, generator=generator), spikes(5, 2, 4, 6, 6, generator=generator) * 3
    for first, second in ((a, a), (b, a), (a, b), (pk.pack(a), pk.pack(a)), (b, pk.pack(a))):
        dense = [part.dense() if isinstance(part, pk.Spikes) else part for part in (first, second)]
        current = F.conv2d(dense[0].flatten(0, 1), conv.weight, conv.bias, padding=1).unflatten(0, (5, 2)) + dense[1]
        expected, _ = reference.scan(current, None, D.on(4, a.device))
        assert expected.max() > 2 and equal(layer((first, second)), expected)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
def test_backward_is_the_definition(instruction_set, generator, rounds, detach):
    """Thresholds are powers of two, so that all is exact."""
    C, T = 37, 4
    channels = torch.stack([2.0 ** (torch.arange(C) % 3 - 1), torch.full((C,), 0.5)])
    neuron = Neuron("IntegerSoftReset", channels.requires_grad_(), (3.0, float(rounds)))
    current = dyadic(T, 2, C, 3, generator=generator, span=40).requires_grad_()
    v0 = dyadic(2, C, 3, generator=generator).requires_grad_()
    surrogate = pk.ATan(detach_reset=detach).kernel
    s, v = surrogate_scan(current, v0, neuron, surrogate)
    outer = [dyadic(*x.shape, generator=generator) for x in (s, v)]
    expected = torch.autograd.grad((s, v), (current, v0, channels), outer)
    layer = pk.Population(
        IntegerLIFNeuron(v_threshold=channels[0].detach(), decay=0.5, max_spike_count=3, rounds=rounds)
    )
    pk.use_surrogate(layer, pk.ATan(detach_reset=detach))
    pk.learn_neurons(layer, "v_threshold")
    ours = [x.detach().clone().requires_grad_() for x in (current, v0)]
    actual, after = layer(*ours)
    assert equal(actual, s.detach()) and len(s.unique()) == 4
    found = torch.autograd.grad((actual, after), ours, outer, retain_graph=True)
    assert close(found[0], expected[0], 1e-6) and close(found[1], expected[1], 1e-6)
    held = layer(torch.ones(5, 2, C, 3) * ours[0][:1], None)
    assert held.requires_grad


def test_gradients_of_a_convolution(generator):
    """Against torch's autograd through the definition's steps: weights, bias, input, thresholds."""
    D = IntegerLIFNeuron(v_threshold=0.5, decay=0.75, max_spike_count=4, rounds=True)
    layer = pk.use_surrogate(pk.FusedConv2d(3, 5, 3, padding=1, neuron=D), pk.ATan())
    x = dyadic(6, 2, 3, 5, 5, generator=generator).requires_grad_()
    outer = torch.randn(6, 2, 5, 5, 5, generator=generator)
    for given in (x, spikes(6, 2, 3, 5, 5, generator=generator).requires_grad_(), x[:1].expand(6, -1, -1, -1, -1)):
        wanted = [layer.weight, layer.bias, x if given is not x and not given.is_leaf else given]
        found = torch.autograd.grad(layer(given), wanted, outer)
        current = F.conv2d(given.flatten(0, 1), layer.weight, layer.bias, padding=1).unflatten(0, (6, 2))
        v, steps = torch.zeros(2, 5, 5, 5), []
        for step in current:
            h = 0.75 * v + step
            level = (h / 0.5).clamp(0, 4)
            s = level + (level.round() - level).detach()
            v = h - 0.5 * s
            steps.append(s)
        expected = torch.autograd.grad(torch.stack(steps), wanted, outer)
        for actual, theirs in zip(found, expected, strict=True):
            assert close(actual, theirs, 1e-5)


def test_a_gradient_of_the_gradient(generator):
    layer = pk.use_surrogate(pk.FusedLinear(4, 3, neuron=IntegerLIFNeuron(max_spike_count=4)), pk.ATan())
    x = (9 * torch.randn(5, 2, 4, generator=generator)).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), layer.weight, create_graph=True)
    gradient.square().sum().backward()
    assert y.max() > 0 and x.grad.abs().sum() > 0


def test_training_by_surrogate_net(generator):
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedLinear(8, 16, neuron=IntegerLIFNeuron(v_threshold=0.25)),
        pk.FusedLinear(16, 2, neuron=IntegerLIFNeuron(v_threshold=0.25)),
    )
    model = pk.SurrogateNet(net, T=2)
    x, labels = torch.rand(32, 8, generator=generator), torch.arange(32) % 2
    x[labels == 1, :4] += 1
    optimizer, losses = torch.optim.Adam(net.parameters(), 0.02), []
    for _ in range(60):
        loss = F.cross_entropy(model(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0] and model.rates["0"] > 0.1
    assert equal(model.eval()(x), net(x.expand(2, *x.shape)).sum(0))


def test_saved(generator, tmp_path):
    D = IntegerLIFNeuron(v_threshold=torch.tensor([0.5, 1.0]), decay=0.5, max_spike_count=7, rounds=True)
    layer = pk.FusedLinear(3, 2, neuron=D).eval()
    other = pk.FusedLinear(3, 2, neuron=IntegerLIFNeuron()).eval()
    other.load_state_dict(layer.state_dict())
    assert (other.max_spike_count, other.rounds, other.decay) == (7, True, 0.5)
    assert type(other.max_spike_count) is int and type(other.rounds) is bool
    x = 3 * torch.randn(9, 2, 3, generator=generator)
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert equal(same(x), layer(x)) and layer(x).max() > 1
    assert "max_spike_count=7, rounds=True" in repr(layer)


def test_refused():
    for options, wrong in (
        ({"max_spike_count": 0}, "max_spike_count must be from 1 to 255 spikes, got 0"),
        ({"max_spike_count": 256}, "max_spike_count must be from 1 to 255 spikes, got 256"),
        ({"decay": 1.5}, "decay must be from 0 to 1"),
        ({"v_threshold": 0.0}, "v_threshold must be positive"),
    ):
        with pytest.raises(ValueError, match=wrong):
            pk.Population(IntegerLIFNeuron(**options))
    for options, wrong in (({"max_spike_count": 2.0}, "integer number"), ({"rounds": 1}, "rounds must be True")):
        with pytest.raises(TypeError, match=wrong):
            pk.Population(IntegerLIFNeuron(**options))
    with pytest.raises(TypeError, match="once at most in a step, for its spikes come back to it; got IntegerLIFNeuron"):
        pk.FusedRecurrentLinear(3, 2, neuron=IntegerLIFNeuron())
    with pytest.raises(TypeError, match="IntegerLIFNeurons, whose activation in a ReLU twin is not known"):
        pk.ProxyNet(nn.Sequential(pk.FusedLinear(3, 2, neuron=IntegerLIFNeuron())), T=2)(torch.rand(1, 3))
