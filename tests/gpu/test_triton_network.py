"""Whole networks on the Triton kernels: pooling, weights of 16 bits, statistics, names of kernels, reference code."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import RESETS, dyadic, fine, spikes, thresholds, words_over_time
from cases import spikes as random_spikes
from equality import equal
from oracle import make_dyadic, normalises_as_torch, step_loop
from torch import nn

import proxykernels as pk
from proxykernels.kernels.gpu.backend import KERNELS
from proxykernels.kernels.recording import Choice, recording

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from proxykernels.calls import currents as spike_currents
from proxykernels.calls import neuron_ops
from proxykernels.kernels import backends, reference, rounding, weight_layouts
from proxykernels.kernels.cpu.words import Fallback
from proxykernels.kernels.gpu import conv2d_launch
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
@pytest.mark.parametrize("T", [1, 32, 33])
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
    choose = conv2d_launch.choose_blocks
    monkeypatch.setattr(conv2d_launch, "takes_digits", lambda architecture: digits)
    monkeypatch.setattr(conv2d_launch, "choose_blocks", lambda *sizes: taken.add(sizes[4]) or choose(*sizes))
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
    monkeypatch.setattr(conv2d_launch, "LARGEST_IMAGE", 64)
    with pytest.raises(ValueError, match=r"x and .* 2\*\*28 elements .* got 64 and 8; .* \.to\('cpu'\)"):
        pk.if_conv2d(x, weight)
    monkeypatch.setattr(conv2d_launch, "LARGEST_IMAGE", 65)
    pk.if_conv2d(x, weight)
    monkeypatch.setattr(conv2d_launch, "LARGEST_WEIGHTS", 36)
    with pytest.raises(ValueError, match=r"weight .* 2\*\*23 elements .* got 36; .* \.to\('cpu'\)"):
        pk.if_conv2d(x, weight)


@pytest.mark.usefixtures("fused")
def test_unsupported_weights(generator):
    x = pk.pack(spikes(3, 1, 4, generator=generator))
    with pytest.raises(TypeError, match=r"weight must be .* torch\.float8_e4m3fn; convert it by weight\.float\(\)"):
        pk.if_linear(x, torch.ones(2, 4).to(torch.float8_e4m3fn))
    exact, _ = pk.if_linear(x, torch.full((2, 4), 0.5))
    assert equal(pk.if_linear(x, torch.full((2, 4), 0.5).double())[0].dense(), exact.dense())


@dataclass(frozen=True)
class Leaky(pk.neurons.AnyNeuron):
    """A leaky neuron with a state that counts its spikes, which Triton has without it."""

    decay: pk.neurons.Value = 0.75
    states: ClassVar[int] = 2

    def step(self, state, current, fire):
        v, count = state
        spikes, v = fire(self.decay * v + current, 1.0, 0.0)
        return spikes, (v, count + spikes)


def network_of(neuron, generator):
    layers = pk.FusedConv2d(2, 4, 3, padding=1, neuron=neuron), pk.MaxPool2d(2), pk.Flatten()
    net = nn.Sequential(*layers, pk.FusedLinear(16, 3, neuron=neuron)).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return net


@pytest.mark.filterwarnings("ignore:.* is written in Python")
def test_neurons_in_python(generator):
    one = network_of(Leaky(), generator)
    other = network_of(pk.neurons.LIFNeuron(decay=0.75), generator)
    other.load_state_dict(one.state_dict(), strict=False)
    x = random_spikes(9, 2, 2, 4, 4, generator=generator)
    with torch.no_grad():
        y, v = one[0](x, torch.zeros(2, 2, 4, 4, 4))
        assert equal(y, other[0](x)) and equal(v[:, 1], y.sum(0))
        assert equal(one(x), other(x)) and 0.02 < one(x).mean() < 0.98
    results = [pk.simulate(net, x, 9) for net in (one, other)]
    assert equal(results[0].spikes.dense(), results[1].spikes.dense()) and results[0].rates == results[1].rates


@pytest.mark.filterwarnings("ignore:.* is written in Python")
def test_gradients(generator):
    grads = []
    state = generator.get_state()
    for neuron in (Leaky(), pk.neurons.LIFNeuron(decay=0.75)):
        net = pk.use_surrogate(network_of(neuron, generator.set_state(state)), pk.Triangle(1.0)).train()
        x = dyadic(5, 2, 2, 4, 4, generator=generator).requires_grad_()
        net(x).square().sum().backward()
        grads.append([x.grad, *(parameter.grad for parameter in net.parameters())])
    for one, other in zip(*grads, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_use_reference(generator, monkeypatch):
    net = network_of(pk.neurons.LIFNeuron(decay=0.75), generator)
    x = random_spikes(9, 2, 2, 4, 4, generator=generator)
    with torch.no_grad():
        expected, calls, steps = net(x), [], reference.step
        monkeypatch.setattr(reference, "step", lambda *given: calls.append(1) or steps(*given))
        assert equal(net(x), expected) and not calls and expected.any()
        with pk.use_reference():
            assert equal(net(x), expected) and len(calls) == 18
            assert equal(pk.simulate(net, x, 9).spikes.dense(), expected) and len(calls) == 36


@pytest.mark.parametrize("T, groups", [(5, 1), (33, 2)])
def test_moments(generator, T, groups):
    x = spikes(T, 2, 4, 4, 3, generator=generator)
    weight, bias = dyadic(6, 4 // groups, 3, 3, generator=generator), dyadic(6, generator=generator)
    window = (1, 1), (1, 1), (1, 1), groups
    mean, variance, count = spike_currents.batch_moments(pk.pack(x), weight, bias, *window)
    currents = nn.functional.conv2d(x.flatten(0, 1).double(), weight.double(), bias.double(), 1, 1, 1, groups)
    assert count == currents[:, 0].numel() and currents.std() > 0.1
    assert equal(mean, currents.mean((0, 2, 3)))
    assert torch.allclose(variance, currents.var((0, 2, 3), correction=0), rtol=1e-6)


@pytest.mark.slow
def test_operator(generator):
    words = pk.pack(spikes(5, 2, 3, 4, 4, generator=generator))._words
    arguments = words, 5, [4, 4], dyadic(2, 3, 3, 3, generator=generator), torch.zeros(2), [1, 1], [1, 1], [1, 1], 1
    torch.library.opcheck(torch.ops.proxykernels.conv2d_current_sums.default, arguments)


@pytest.mark.costly
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bias", [True, False])
def test_layer(generator, momentum, bias):
    """Spikes, potentials and running statistics are those of torch normalising all currents, but for rounding."""
    x = spikes(9, 3, 4, 5, 4, generator=generator)
    layer = pk.FusedIFConv2d(4, 6, 3, padding=1, bias=bias, batch_norm=True).train()
    layer.bn.momentum, layer.bn.running_mean[:] = momentum, 0.25
    layer.weight.data = dyadic(6, 4, 3, 3, generator=generator)
    norm = nn.BatchNorm2d(6, momentum=momentum)
    normalises_as_torch(layer, norm, pk.pack(x))


def test_no_currents_are_kept_in_training(monkeypatch, generator):
    """ProxyNet's spiking network unpacks no spikes for its second layer, and scans no currents."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 3, 3, batch_norm=True), pk.FusedIFConv2d(3, 4, 3, batch_norm=True), pk.Flatten(),
        pk.FusedIFLinear(16, 2),
    )  # fmt: skip
    kernels = backends.cpu_backend() if DEVICE == "cpu" else backends.gpu_backend()
    scans = []
    monkeypatch.setattr(kernels, "unpack", lambda *_: pytest.fail("spikes were unpacked"))
    scan = kernels.if_scan
    monkeypatch.setattr(kernels, "if_scan", lambda *operands: scans.append(1) or scan(*operands))
    model = pk.ProxyNet(net, T=5).train()
    model(torch.rand(2, 2, 6, 6, generator=generator)).sum().backward()
    assert len(scans) <= 1 and net[1].bn.num_batches_tracked == 1 and net[0].weight.grad.any()


REASON = "the only one on a GPU"


@pytest.fixture
def x(generator):
    return pk.pack(spikes(3, 1, 2, 4, 4, generator=generator))


def taken(function, *arguments, **options) -> list[str]:
    """The names of the kernels that a call took."""
    with recording() as choices:
        y, *_ = function(*arguments, **options)
    assert y.rate() > 0
    assert all(choice.reason == REASON for choice in choices if choice.kernel != "dense")
    return [choice.kernel for choice in choices]


@pytest.mark.usefixtures("fused")
def test_each_kernel_is_named_once(x, generator):
    weight = dyadic(3, 2, 3, 3, generator=generator).abs()
    assert taken(pk.if_conv2d, x, weight, padding=1) == ["Triton convolution"]
    assert taken(pk.calls.neuron_ops.conv2d, x, weight, None, None, pk.IF().neuron, padding=1, pool_follows=True) == [
        "pooled Triton convolution"
    ]
    assert taken(pk.if_linear, pk.spikes.spikes.flatten(x), weight.new_ones(3, 32)) == ["Triton convolution"]
    assert taken(pk.if_scan, x.dense()) == taken(pk.if_hold, x.dense()[0] + 1, 5) == ["Triton scan"]
    assert taken(pk.if_conv2d, x.dense() * 1.5, weight) == ["dense", "Triton scan"]


@pytest.mark.usefixtures("fused")
def test_functions_keep_their_names_and_errors_are_theirs(x):
    assert KERNELS.if_scan.__name__ == "if_scan" and "Run all T steps" in KERNELS.if_scan.__doc__
    with recording() as choices:
        with pytest.raises(TypeError):
            KERNELS.if_conv2d(x._words)
        pk.if_scan(x.dense())
    assert [choice.kernel for choice in choices] == ["Triton convolution", "Triton scan"]
    assert choices[1] == Choice("Triton scan", REASON)


@pytest.mark.usefixtures("fused")
def test_explain_names_them(generator):
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3, padding=1, v_threshold=0.2), pk.FusedIFConv2d(3, 4, 3, v_threshold=0.1)
    )
    table = pk.explain(net.eval(), torch.rand(1, 1, 4, 4, generator=generator), 4)
    assert [row.kernel for row in table.rows] == ["unfused", "Triton convolution"] and table.rows[1].rate > 0
    assert table.rows[1].why == REASON
