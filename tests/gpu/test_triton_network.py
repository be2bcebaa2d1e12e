"""Whole networks on the Triton kernels, bit-equal to the oracle: pooling in the launch, weights of 16 bits."""

import pytest
import torch
from cases import RESETS, dyadic, fine, spikes, thresholds, words_over_time
from equality import equal
from oracle import make_dyadic, step_loop
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import backends, reference, rounding, weight_layouts
from proxykernels.kernels.cpu.fallback import Fallback
from proxykernels.kernels.gpu import if_conv2d
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.neurons import IFNeuron
from proxykernels.spikes.storage import PooledWords

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def generator():
    return torch.Generator(DEVICE).manual_seed(0)


# ---- pooling in the launch

# C, H, W, C_out, kernel_size, stride, padding, groups: an even output. Small: the interpreter takes some 50 ms for 4
# pixels, 32 channels and 33 steps, one block.
POOLED = [
    pytest.param((3, 4, 6, 5, 3, 1, 1, 1), id="windows-over-blocks"),
    pytest.param((64, 2, 4, 17, 1, 1, 0, 1), id="whole-blocks-of-K"),
    pytest.param((5, 3, 7, 33, 3, 2, 1, 1), id="stride"),
    pytest.param((6, 4, 2, 6, 3, 1, 1, 6), id="depthwise"),
    pytest.param((2, 2, 2, 35, 3, 1, 1, 1), id="one-window-a-sample"),
]


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", [1, 16, 31, 33, 64])
@pytest.mark.parametrize("case", POOLED)
def test_pooled_words(generator, case, T, v_reset):
    """The words and potentials of the neurons themselves are those without pooling."""
    C, H, W, C_out, kernel_size, stride, padding, groups = case
    x = spikes(T, 3, C, H, W, generator=generator)
    weight, bias = (
        fine(C_out, C // groups, kernel_size, kernel_size, generator=generator),
        dyadic(C_out, generator=generator),
    )
    theta, options = thresholds(C_out, generator), dict(stride=stride, padding=padding, groups=groups)
    v = dyadic(*reference.if_conv2d(x[:1], weight, **options)[1].shape, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight, bias, v, v_threshold=theta, v_reset=v_reset, **options)
    window = (stride,) * 2, (padding,) * 2, (1, 1), groups
    rows = v.flatten(2).transpose(1, 2)
    words = words_over_time(x.flatten(3))
    own, pooled, v_last = gpu.if_conv2d_pooled(words, T, (H, W), weight, bias, rows, if_neuron(theta, v_reset), *window)
    assert 0 < expected.mean() < 1
    assert equal(own, words_over_time(expected.flatten(3)))
    assert equal(pooled, words_over_time(reference.max_pool2d(expected, 2).flatten(3)))
    assert equal(v_last, v_expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("T, N", [(5, 0), (0, 2)], ids=["no-samples", "no-steps"])
def test_pooled_words_of_nothing(generator, T, N):
    words, v = torch.zeros(-(-T // 32), N, 16, 3, dtype=torch.int32), torch.zeros(N, 16, 2)
    window = (1, 1), (1, 1), (1, 1), 1
    weight = fine(2, 3, 3, 3, generator=generator)
    own, pooled, v_last = gpu.if_conv2d_pooled(
        words, T, (4, 4), weight, None, v, if_neuron(torch.ones(2), 0.0), *window
    )
    assert own.shape == (-(-T // 32), N, 16, 2) and pooled.shape == (-(-T // 32), N, 4, 2)
    assert equal(v_last, v)


def test_pooled_operator(generator):
    words = words_over_time(spikes(7, 2, 3, 4, generator=generator))
    weight, v, theta = dyadic(5, 3, 3, 3, generator=generator), torch.zeros(2, 4, 5), torch.ones(5)
    arguments = words, 7, [2, 2], weight, None, v, *if_neuron(theta, 0.0), [1, 1], [1, 1], [1, 1], 1
    torch.library.opcheck(torch.ops.proxykernels.if_conv2d_pooled.default, arguments)


@pytest.mark.parametrize("size, pools", [((6, 4), True), ((7, 4), False), ((6, 5), False)], ids=str)
def test_only_even_outputs_are_pooled_in_the_launch(generator, size, pools):
    x, weight = spikes(7, 2, 3, *size, generator=generator), fine(5, 3, 3, 3, generator=generator)
    y, _ = neuron_ops.conv2d(pk.pack(x), weight, None, None, IFNeuron(), padding=1, pool_follows=True)
    assert isinstance(y._kept, PooledWords) == pools
    expected = reference.if_conv2d(x, weight, padding=1)[0]
    for window in ((2,), (2, 1), (3, 2, 1), (2, 2, 1)):
        assert equal(pk.max_pool2d(y, *window).dense(), reference.max_pool2d(expected, *window))
    assert not isinstance(y[2:5]._kept, PooledWords)  # cut in time, it holds the spikes of other steps


# ---- networks


def make_net(v_reset: float | None) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 6, 3, padding=1, v_reset=v_reset),
        pk.FusedIFConv2d(6, 17, 3, padding=1, v_threshold=0.75, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.FusedIFConv2d(17, 9, 3, v_reset=v_reset),
        pk.MaxPool2d(2, stride=1),
        pk.Flatten(),
        pk.FusedIFLinear(9, 7, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data += 0.05
    return net


def network(net: nn.Sequential) -> pk.Network:
    """The same as a graph, which the step loop of the oracle takes."""
    graph, before = pk.Network(), pk.Network.INPUT
    for name, layer in net.named_children():
        graph.append(f"layer{name}", layer, (before,))
        before = f"layer{name}"
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True], ids=["sequential", "graph"])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_simulate(monkeypatch, generator, v_reset, graph):
    net, image = make_net(v_reset), dyadic(2, 2, 8, 8, generator=generator).abs()
    make_dyadic(net)
    calls = []
    launch = gpu.if_conv2d_pooled
    monkeypatch.setattr(gpu, "if_conv2d_pooled", lambda *a: calls.append(a) or launch(*a))
    expected = step_loop(network(net), image, 33)
    result = pk.simulate(network(net) if graph else net, image, 33)
    assert len(calls) == 1  # of the two pools only the first is by 2 x 2 with stride 2
    assert equal(result.spikes.dense(), expected["layer6"]) and 0 < expected["layer6"].mean() < 1
    rates = {name: spikes.mean().item() for name, spikes in expected.items() if name.removeprefix("layer") in "0136"}
    assert {name: result.rates[name if graph else name.removeprefix("layer")] for name in rates} == pytest.approx(rates)
    assert not any(getattr(layer, "pool_follows", False) for layer in net)  # simulate leaves the net as it was


@pytest.mark.slow
@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("digits", [True, False], ids=["digits", "float16"])
@pytest.mark.parametrize("precision", ["int16", "int8"])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_whole_weights_give_the_spikes_of_a_cpu(monkeypatch, generator, v_reset, precision, digits):
    """Random float weights: rounded, their digits or float16 parts, and all sums of these, are exact."""
    net, image = make_net(v_reset), torch.rand(2, 2, 8, 8, generator=generator)
    taken = set()  # digits of a weight
    choose = if_conv2d.choose_blocks
    monkeypatch.setattr(if_conv2d, "takes_digits", lambda architecture: digits)
    monkeypatch.setattr(if_conv2d, "choose_blocks", lambda *sizes: taken.add(sizes[4]) or choose(*sizes))
    result = pk.simulate(net, image, 33, precision=precision)
    assert taken == {(2 if precision == "int16" else 1) if digits else 0}
    spikes, state = result.spikes.dense().cpu(), result.state["6"][0].cpu()
    with monkeypatch.context() as patches, torch.device("cpu"):
        patches.setattr(backends, "cpu_backend", lambda: Fallback())
        expected = pk.simulate(net.cpu(), image.cpu(), 33, precision=precision)
        assert equal(spikes, expected.spikes.dense()) and equal(state, expected.state["6"][0])
    assert 0.01 < spikes.mean() < 0.9


@pytest.mark.parametrize("inputs", [9, 700, 40_000])
def test_float16_parts_of_rounded_weights_sum_exactly(generator, inputs):
    """Each weight is its two parts, and no sum of parts, in any order, leaves the 24 bits of a float32."""
    weight = torch.randn(4, inputs, generator=generator)
    weight[1] = weight[1].abs() + 1
    weight[2] = 23966  # 700 of it are little less than 2**24, and its high part is 23968
    weight[3, 1:] *= 2.0**-12
    rounded, *_ = rounding.round_weights(weight, None)
    high, low, unit = weight_layouts.float16_parts(rounded.float())
    parts = [2 * unit.double()[:, None] * part.double()[:, :inputs] for part in (high, low)]
    assert equal(parts[0] + parts[1], rounded)
    for row, values in enumerate(rounded):
        finest = next(2.0**e for e in range(20, -60, -1) if (values / 2.0**e % 1 == 0).all())
        assert sum(part[row].abs().sum() for part in parts) / finest < 2**24


# ---- what a GPU cannot do is said


@pytest.mark.usefixtures("fused")
def test_too_large_for_offsets_of_32_bits(monkeypatch, generator):
    x, weight = pk.pack(spikes(3, 1, 4, 4, 4, generator=generator)), torch.ones(2, 4, 3, 3)
    monkeypatch.setattr(if_conv2d, "LARGEST_IMAGE", 64)
    with pytest.raises(ValueError, match=r"x and .* 2\*\*28 elements .* got 64 and 8; .* \.to\('cpu'\)"):
        pk.if_conv2d(x, weight)
    monkeypatch.setattr(if_conv2d, "LARGEST_IMAGE", 65)
    pk.if_conv2d(x, weight)
    monkeypatch.setattr(if_conv2d, "LARGEST_WEIGHTS", 36)
    with pytest.raises(ValueError, match=r"weight .* 2\*\*23 elements .* got 36; .* \.to\('cpu'\)"):
        pk.if_conv2d(x, weight)


@pytest.mark.usefixtures("fused")
def test_unsupported_weights(generator):
    x = pk.pack(spikes(3, 1, 4, generator=generator))
    with pytest.raises(TypeError, match=r"weight must be .* torch\.float8_e4m3fn; convert it by weight\.float\(\)"):
        pk.if_linear(x, torch.ones(2, 4).to(torch.float8_e4m3fn))
    exact, _ = pk.if_linear(x, torch.full((2, 4), 0.5))
    assert equal(pk.if_linear(x, torch.full((2, 4), 0.5).double())[0].dense(), exact.dense())
