"""The backward passes of convolutions and pooling on packed spikes, against autograd through torch's operations."""

import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, dyadic, spikes
from equality import equal

from proxykernels.kernels import ops, unfused
from proxykernels.kernels.neuron_models import if_neuron


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
