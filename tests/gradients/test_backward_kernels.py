"""The backward passes of scans, convolutions and pooling on packed spikes, and learned thresholds, against autograd."""

import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, dyadic, spikes
from equality import equal
from gradient_cases import EXACT, SURROGATES, close, neuron_of, start_of
from torch import nn

import proxykernels as pk
from proxykernels.kernels import ops, reference_gradients, unfused
from proxykernels.kernels.neuron_models import MODELS, if_neuron


def pair(value):
    return (value, value) if isinstance(value, int) else value


def convolution(case, generator, rate, T=3, N=2):
    C_in, H, W, C_out, kernel, *window, groups = case
    window = [pair(w) for w in window]
    x = spikes(T, N, C_in, H, W, generator=generator, rate=rate)
    weight = dyadic(C_out, C_in // groups, *kernel, generator=generator)
    size = unfused.output_size((H, W), kernel, *window)
    grad = dyadic(T, N, size[0] * size[1], C_out, generator=generator)
    return x, weight, grad, window, groups, size


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_weight_gradient(instruction_set, generator, case, rate):
    x, weight, grad, window, groups, size = convolution(case, generator, rate)
    weight.requires_grad_()
    stride, padding, dilation = window
    y = F.conv2d(x.flatten(0, 1), weight, None, stride, padding, dilation, groups)
    (expected,) = torch.autograd.grad(y, weight, grad.flatten(0, 1).unflatten(1, size).movedim(-1, 1))
    words = ops.pack(x.flatten(3).bool())
    actual = ops.conv2d_weight_gradient(words, x.shape[3:], grad, weight.shape, *window, groups)
    assert bool(rate) == bool(expected.any())
    assert equal(actual, expected)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_input_gradient(generator, case):
    x, weight, grad, window, groups, size = convolution(case, generator, 0.5)
    x.requires_grad_()
    stride, padding, dilation = window
    y = F.conv2d(x.flatten(0, 1), weight, None, stride, padding, dilation, groups)
    (expected,) = torch.autograd.grad(y, x, grad.flatten(0, 1).unflatten(1, size).movedim(-1, 1))
    actual = unfused.conv2d_input_gradient(grad, weight, x.shape[3:], *window, groups)
    assert expected.any() and equal(actual, expected.flatten(3).transpose(2, 3))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_currents(backend, generator, case):
    x, weight, grad, window, groups, _ = convolution(case, generator, 0.2)
    bias = dyadic(len(weight), generator=generator)
    stride, padding, dilation = window
    expected = F.conv2d(x.flatten(0, 1), weight, bias, stride, padding, dilation, groups)
    expected = expected.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
    neuron, v = if_neuron(torch.ones(len(weight)), 0.0), torch.zeros_like(grad[0])
    words = ops.pack(x.flatten(3).bool())
    arguments = x.shape[0], x.shape[3:], weight, bias, v, neuron, *window
    assert x.any() and equal(ops.conv2d_currents(words, *arguments, groups), expected)


def test_currents_of_periods(instruction_set, generator):
    weight, bias = dyadic(40, 9, 3, 3, generator=generator), dyadic(40, generator=generator)
    periods = torch.randint(0, 6, (2, 30, 9), generator=generator).short()
    window = (1, 1), (1, 1), (1, 1)
    given = (6, 5), weight, bias, torch.zeros(2, 30, 40), if_neuron(torch.ones(40), 0.0), *window
    words = ops.expand_periods(periods, 3, 7)
    expected = ops.conv2d_currents(words, 7, *given, 1)
    assert expected.any() and equal(ops.period_conv2d_currents(periods, 3, 7, *given), expected)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("C", [3, 33, 64])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 1), (1, 0)), (1, 2, 0)], ids=str)
def test_pool_gradient(instruction_set, generator, window, C, rate):
    """Ties and windows without spikes included: torch gives the first pixel the gradient."""
    kernel, stride, padding = map(pair, window)
    x = spikes(2, 3, C, 7, 6, generator=generator, rate=rate).requires_grad_()
    y = F.max_pool2d(x.flatten(0, 1), kernel, stride, padding)
    grad = dyadic(*y.shape, generator=generator)
    (expected,) = torch.autograd.grad(y, x, grad)
    words = ops.pack(x.detach().flatten(3).bool())
    pixels = grad.flatten(2).transpose(1, 2).unflatten(0, (2, 3))
    actual = ops.max_pool2d_backward(words, pixels, (7, 6), kernel, stride, padding)
    assert expected.any() and equal(actual, expected.flatten(3).transpose(2, 3))


SHAPES = [(3, 2, 5, 13), (1, 2, 3, 4), (2, 1, 17, 64), (1, 3, 1, 10), (4, 1, 1, 700)]  # the last is over a strip


def operands(model, shape, generator, held):
    T, N, P, C = shape
    current = 1.5 * dyadic(*shape, generator=generator)
    current = current[0] if held else current
    grad_spikes = dyadic(*shape, generator=generator, span=4, unit=1 / 4)
    v = start_of(model, (N, P, C), generator)
    grad_v = dyadic(*v.shape, generator=generator, span=4, unit=1 / 4)
    return grad_spikes, grad_v, current, v, neuron_of(model, C)


def oracle(grad_spikes, grad_v, current, v, neuron, surrogate):
    """Autograd through the definition: gradients of currents, state, and a bias and the parameters of a channel."""
    C = current.shape[-1]
    leaves = [x.clone().requires_grad_() for x in (current, v, torch.zeros(C), neuron.channels)]
    currents = leaves[0].expand(grad_spikes.shape) + leaves[2]
    channels_first = currents.transpose(-1, -2), leaves[1].transpose(-1, -2)
    results = reference_gradients.surrogate_scan(*channels_first, neuron._replace(channels=leaves[3]), surrogate.kernel)
    given = grad_spikes.transpose(-1, -2), grad_v.transpose(-1, -2)
    *gradients, bias, channels = torch.autograd.grad(results, leaves, given)
    return *gradients, torch.cat([bias[None], channels]).double()


@pytest.mark.parametrize("held", [False, True], ids=["sequence", "held"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_the_oracles(instruction_set, generator, model, surrogate, shape, held):
    given = operands(model, shape, generator, held)
    expected = oracle(*given, surrogate)
    actual = ops.scan_backward(*given, surrogate.kernel)
    exact = surrogate == EXACT and (model.startswith("Leaky") or MODELS[model].channels == ("theta",))
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs) if exact else close(ours, theirs)


@pytest.mark.parametrize("model", MODELS)
def test_no_gradient_of_the_last_state(instruction_set, generator, model):
    grad_spikes, grad_v, *rest = operands(model, (3, 2, 5, 13), generator, held=False)
    none = ops.scan_backward(grad_spikes, None, *rest, EXACT.kernel)
    zero = ops.scan_backward(grad_spikes, torch.zeros_like(grad_v), *rest, EXACT.kernel)
    assert none[0].any() and all(torch.equal(a, b) for a, b in zip(none, zero, strict=True))


@pytest.mark.triton
@pytest.mark.costly
@pytest.mark.parametrize("held", [False, True], ids=["sequence", "held"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 13), (2, 1, 9, 64)], ids=str)  # the second is over a block
@pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
@pytest.mark.parametrize("model", MODELS)
def test_triton(kernels_can_run, generator, model, surrogate, shape, held):
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    device = "cuda" if torch.cuda.is_available() else "cpu"
    *given, neuron = operands(model, shape, generator, held)
    expected = oracle(*given, neuron, surrogate)
    neuron = neuron._replace(channels=neuron.channels.to(device))
    actual = gpu.scan_backward(*(x.to(device) for x in given), neuron, surrogate.kernel)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape and close(ours.cpu(), theirs)


@pytest.mark.parametrize("channelwise", [False, True], ids=["number", "channels"])
def test_learned_values_have_the_oracles_gradients(generator, channelwise):
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
