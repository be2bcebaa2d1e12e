"""The Triton kernels take pointers for contiguous rows: arguments of any strides must give what their copies give."""

import pytest
import torch
import torch.nn.functional as F
from equality import equal

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import RESETS, dyadic, fine, spikes, thresholds

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.neuron_models import if_neuron

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]


@pytest.fixture
def generator():
    return torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(0)


def reordered(x, order):
    """The same values, with memory in another order of dimensions: the last of ``order`` lies closest."""
    return x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist())


def sparse(x):
    """The same values, each beside one that nobody may read."""
    return torch.stack([x, torch.full_like(x, 77)], -1)[..., 0]


def transposed(x):
    return reordered(x, (1, 0))


def one_column(x):
    return x[:, :1].expand(-1, x.shape[1])


def assert_spikes(result, expected):
    assert 0 < expected.mean() < 1
    assert equal(result, expected)


# K is a multiple of 16 in some: there nothing is padded, and no copy is made in passing.
@pytest.mark.costly
@pytest.mark.parametrize("C", [16, 32, 33])
@pytest.mark.parametrize("strides", [transposed, sparse, one_column])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_linear_weights(generator, C, strides, dtype):
    x = spikes(7, 3, C, generator=generator)
    weight = strides(fine(21, C, generator=generator).to(dtype))
    assert not weight.is_contiguous()
    expected, _ = reference.if_linear(x, weight.float())
    assert_spikes(pk.if_linear(pk.pack(x), weight)[0].dense(), expected)


ORDERS = [(1, 0, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)]


@pytest.mark.costly
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(
    "C, kernel, groups", [(64, (1, 1), 1), (16, (3, 3), 1), (2, (2, 4), 1), (32, (3, 1), 2), (16, (3, 3), 16)], ids=str
)
def test_convolution_weights(generator, order, C, kernel, groups):
    x = spikes(7, 2, C, 4, 3, generator=generator)
    weight = reordered(fine(16, C // groups, *kernel, generator=generator), order)
    expected, _ = reference.if_conv2d(x, weight, padding=1, groups=groups)
    assert_spikes(pk.if_conv2d(pk.pack(x), weight, padding=1, groups=groups)[0].dense(), expected)


def test_channels_last_layer(generator):
    x = spikes(7, 2, 16, 4, 5, generator=generator)
    layer = pk.FusedIFConv2d(16, 32, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.weight.copy_(fine(32, 16, 3, 3, generator=generator))
        layer.bias.zero_()
        expected, _ = reference.if_conv2d(x, layer.weight)
        assert_spikes(layer(pk.pack(x)).dense(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("v_reset", RESETS)
def test_everything_else_of_a_convolution(generator, v_reset):
    """Words, bias, thresholds, potentials: of the kernel itself, where the public function might copy."""
    x, weight = spikes(33, 2, 16, 2, 2, generator=generator), fine(10, 16, 3, 3, generator=generator)
    bias, v, theta = dyadic(10, generator=generator), dyadic(2, 4, 10, generator=generator), thresholds(10, generator)
    words = gpu.pack(x.flatten(3).bool())
    window = (1, 1), (1, 1), (1, 1), 1
    for kernel in (gpu.if_conv2d, gpu.if_conv2d_pooled):
        expected = kernel(words, 33, (2, 2), weight, bias, v, if_neuron(theta, v_reset), *window)
        assert expected[0].any()
        parameters = sparse(weight), sparse(bias), reordered(v, (2, 0, 1)), if_neuron(sparse(theta), v_reset)
        strided = kernel(reordered(words, (3, 2, 1, 0)), 33, (2, 2), *parameters, *window)
        assert all(torch.equal(a, b) for a, b in zip(strided, expected, strict=True))
        assert all(part.is_contiguous() for part in strided)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("order", [(0, 1, 3, 2), (1, 0, 2, 3), (3, 2, 1, 0)], ids=str)
def test_scan(generator, order, v_reset):
    current, v = dyadic(33, 2, 5, 16, generator=generator), dyadic(2, 5, 16, generator=generator)
    theta, grad = thresholds(16, generator), dyadic(33, 2, 5, 16, generator=generator)
    strided = reordered(current, order), reordered(v, (2, 1, 0)), if_neuron(sparse(theta), v_reset)
    for function in (gpu.if_scan, lambda current, *rest: gpu.if_scan(current[3], *rest, 33)):
        expected = function(current, v, if_neuron(theta, v_reset))
        assert expected[0].any()
        for arguments in (strided, (sparse(current), sparse(v), if_neuron(theta, v_reset))):
            result = function(*arguments)
            assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
            assert all(part.is_contiguous() for part in result)
    surrogate = pk.Triangle().kernel
    expected = gpu.scan_backward(grad, v, current, v, if_neuron(theta, v_reset), surrogate)
    assert all(part.any() for part in expected)
    for arguments in (
        (reordered(grad, order), strided[0]),
        (grad, sparse(current)),
        (grad[:, :1].expand_as(grad), current),
    ):
        states = sparse(v), arguments[1], reordered(v, (2, 1, 0))
        result = gpu.scan_backward(arguments[0], *states, if_neuron(sparse(theta), v_reset), surrogate)
        whole = (part.contiguous() for part in (arguments[0], v, arguments[1], v))
        same = gpu.scan_backward(*whole, if_neuron(theta, v_reset), surrogate)
        assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(result, same, strict=True))


def test_thresholds_shared_by_all_channels(generator):
    """A scalar that was expanded has a stride of 0."""
    x, weight = spikes(33, 2, 16, 4, 4, generator=generator), fine(32, 16, 3, 3, generator=generator)
    theta = torch.full((1,), 1.25, device=x.device).expand(32)
    expected, _ = reference.if_conv2d(x, weight, v_threshold=theta)
    assert 0 < expected.mean() < 1
    current = F.conv2d(x.flatten(0, 1), weight).unflatten(0, (33, 2)).flatten(3).transpose(2, 3)
    words, _ = gpu.if_scan(current, torch.zeros_like(current[0]), if_neuron(theta, 0.0))
    assert equal(gpu.unpack(words, 33, 32).float(), expected.flatten(3))
