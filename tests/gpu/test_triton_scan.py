"""The Triton scan of every neuron model, recurrent ones too, against the oracle, bit for bit."""

import pytest
import torch
from cases import RESETS, dyadic, fine, spikes, thresholds
from equality import equal
from neuron_cases import NAMES, TRACES, channelwise, state

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference
from proxykernels.neurons import IFNeuron

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import words_over_time

from proxykernels.kernels.gpu import scans
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.neuron_models import if_neuron

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = (1, 7, 31, 32, 33, 64, 100)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def sixteenths(generator, low, high, *shape):
    """Random multiples of 1/16 in [low, high], float32."""
    integers = torch.randint(16 * low, 16 * high + 1, shape, generator=generator)
    return (integers / 16).to(DEVICE)


def thetas(generator, kind, C):
    """float32 [C]: the same for all channels, or one of each channel's own, at least 1/2."""
    if kind == "scalar":
        return torch.full((C,), 1.25, device=DEVICE)
    return 0.5 + sixteenths(generator, 0, 2, C)


def oracle(current, v, theta, v_reset):
    """The reference on pixels before channels: spikes [T, N, C, P] and potentials [N, P, C]."""
    spikes, v = reference.if_scan(current.transpose(2, 3), v.transpose(1, 2), v_threshold=theta, v_reset=v_reset)
    return spikes, v.transpose(1, 2)


def assert_scan_is_exact(result, current, v, theta, v_reset, some_fire=True):
    """Words and potentials equal the oracle's, and the case is not one where nothing happens."""
    words, v_last = result
    spikes, v_expected = oracle(current, v, theta, v_reset)
    if some_fire:
        assert 0 < spikes.mean() < 1
    assert words.dtype == torch.int32 and words.is_contiguous()
    assert v_last.dtype == torch.float32 and v_last.is_contiguous()
    assert equal(words, words_over_time(spikes))
    assert equal(v_last, v_expected)


# ---- the scan


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("theta_kind", ["scalar", "per-channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scan(generator, T, v_reset, theta_kind, dtype):
    current = sixteenths(generator, -1, 2, T, 2, 5, 7).to(dtype)
    v = sixteenths(generator, -1, 1, 2, 5, 7)
    theta = thetas(generator, theta_kind, 7)
    before = v.clone()
    assert_scan_is_exact(scans.if_scan(current, v, if_neuron(theta, v_reset)), current, v, theta, v_reset)
    assert equal(v, before)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 1), id="one-neuron"),
        pytest.param((2, 700, 1), id="one-channel"),
        pytest.param((1, 1, 1153), id="linear-3-blocks"),
        pytest.param((3, 35, 13), id="3-blocks-across-samples"),
        pytest.param((2, 16, 16), id="exactly-one-block"),
    ],
)
@pytest.mark.parametrize("v_reset", RESETS)
def test_scan_sizes(generator, shape, v_reset):
    current = sixteenths(generator, -1, 2, 33, *shape)
    v = torch.zeros(shape, device=DEVICE)
    theta = thetas(generator, "per-channel", shape[-1])
    assert_scan_is_exact(scans.if_scan(current, v, if_neuron(theta, v_reset)), current, v, theta, v_reset)


@pytest.mark.parametrize("v_reset", RESETS)
def test_scan_of_any_floats(generator, v_reset):
    """An addition and a subtraction a step leave no freedom: all float32 data give equal bits."""
    current = torch.randn(64, 2, 5, 7, generator=generator).to(DEVICE)
    v = torch.randn(2, 5, 7, generator=generator).to(DEVICE)
    theta = 0.1 + torch.rand(7, generator=generator).to(DEVICE)
    assert_scan_is_exact(scans.if_scan(current, v, if_neuron(theta, v_reset)), current, v, theta, v_reset)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("parts", [(32, 13), (13, 32), (1, 43, 1)], ids=str)
def test_scan_carries_its_state(generator, parts, v_reset):
    current = sixteenths(generator, -1, 2, 45, 2, 5, 7)
    theta = thetas(generator, "per-channel", 7)
    rest = torch.zeros(2, 5, 7, device=DEVICE)
    words, v_expected = scans.if_scan(current, rest, if_neuron(theta, v_reset))
    v, dense = rest, []
    for part in current.split(parts):
        part_words, v = scans.if_scan(part, v, if_neuron(theta, v_reset))
        dense.append(gpu.unpack(part_words, part.shape[0], 7))
    assert equal(torch.cat(dense), gpu.unpack(words, 45, 7))
    assert equal(v, v_expected)


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("v_reset", RESETS)
def test_hold(generator, T, v_reset):
    current = sixteenths(generator, -1, 3, 2, 5, 7)
    v = torch.zeros(2, 5, 7, device=DEVICE)
    theta = thetas(generator, "per-channel", 7)
    result = scans.if_scan(current, v, if_neuron(theta, v_reset), T)
    assert_scan_is_exact(result, current.expand(T, 2, 5, 7), v, theta, v_reset)


@pytest.mark.parametrize("theta", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("v_reset", RESETS)
def test_scan_on_the_edge(theta, v_reset):
    """h one ulp below the threshold, on it and one ulp above: from the current, from the state."""
    theta = torch.tensor([theta], device=DEVICE)
    h = torch.cat([theta.nextafter(theta - 1), theta, theta.nextafter(theta + 1)]).view(1, 3, 1)
    fires = torch.tensor([0, 1, 1], device=DEVICE, dtype=torch.int32).view(1, 1, 3, 1)
    after_spike = h - theta if v_reset is None else torch.full_like(h, v_reset)
    v_expected = torch.where(fires[0] == 1, after_spike, h)
    nothing = torch.zeros_like(h)
    for current, v in ((h, nothing), (nothing, h)):
        words, v_last = scans.if_scan(current[None], v, if_neuron(theta, v_reset))
        assert equal(words, fires)
        assert equal(v_last, v_expected)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((5, 0, 4, 3), id="no-samples"),
        pytest.param((5, 2, 0, 3), id="no-pixels"),
        pytest.param((0, 2, 4, 3), id="no-steps"),
    ],
)
def test_scan_of_nothing(shape):
    v = torch.full(shape[1:], 0.25, device=DEVICE)
    theta = torch.ones(3, device=DEVICE)
    for result in (
        scans.if_scan(torch.ones(shape, device=DEVICE), v, if_neuron(theta, 0.0)),
        scans.if_scan(torch.ones_like(v), v, if_neuron(theta, 0.0), shape[0]),
    ):
        spikes, v_last = result
        assert spikes.shape == (-(-shape[0] // 32), *shape[1:])
        assert spikes.dtype == torch.int32
        assert not spikes.any()
        assert equal(v_last, v)
        assert v_last is not v


@pytest.mark.parametrize(
    "make, stride, copies_one_step",
    [
        pytest.param(lambda x: x[0].expand(x.shape), 0, False, id="held"),
        pytest.param(lambda x: x[:1].mT.contiguous().mT.expand(x.shape), 0, True, id="held-view"),
        pytest.param(lambda x: x, 105, False, id="contiguous"),
        pytest.param(lambda x: x[::2], 210, False, id="every-second-step"),
    ],
)
def test_scan_copies_no_more_than_it_must(monkeypatch, generator, make, stride, copies_one_step):
    """The tensor that reaches the kernel is the caller's, or a copy of as few steps as possible."""

    class Launches(list):
        def __getitem__(self, grid):
            return lambda **arguments: self.append(arguments)

    launches = Launches()
    monkeypatch.setattr(scans, "_if_scan_kernel", launches)
    current = make(sixteenths(generator, -1, 2, 6, 3, 5, 7))
    scans.if_scan(current, current[0], if_neuron(torch.ones(7, device=DEVICE), 0.0))
    (arguments,) = launches
    read = arguments["current_pointer"]
    assert arguments["current_stride"] == read.stride(0) == stride
    if copies_one_step:
        assert read.untyped_storage().nbytes() == current[0].numel() * current.element_size()
    else:
        assert read.data_ptr() == current.data_ptr()


@pytest.mark.parametrize("neuron, current, spikes, states", TRACES)
def test_hand_traces(neuron, current, spikes, states):
    s, v = pk.calls.neuron_ops.scan(torch.tensor(current).view(-1, 1, 1), None, neuron)
    assert s.dense().flatten().tolist() == spikes
    assert v.flatten().tolist() == list(states[-1] if isinstance(states[-1], tuple) else (states[-1],))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [1, 33])
def test_scan_of_every_model(generator, T, name):
    neuron, shape = channelwise(7, generator)[name], (2, 7, 3)
    current, v0 = 2 * torch.randn(T, *shape, generator=generator), state(neuron, shape, generator)
    expected, v_expected = reference.scan(current, v0, neuron.on(7, current.device))
    actual, v = pk.calls.neuron_ops.scan(current, v0, neuron)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


def check_convolution(generator, T, pool, name):
    neuron = channelwise(5, generator)[name]
    x, weight = spikes(T, 2, 3, 4, 2, generator=generator), fine(5, 3, 3, 3, generator=generator)
    v0 = state(neuron, (2, 5, 4, 2), generator)
    expected, v_expected = reference.conv2d(x, weight, None, v0, neuron.on(5, x.device), 1, 1)
    actual, v = pk.calls.neuron_ops.conv2d(pk.pack(x), weight, None, v0, neuron, 1, 1, pool_follows=pool)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)
    pooled = reference.max_pool2d(expected, 2)
    assert equal(pk.max_pool2d(actual, 2).dense(), pooled)


@pytest.mark.costly
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pool", [False, True], ids=["plain", "pooled"])
@pytest.mark.parametrize("T", [3, 12, 34])
def test_convolution(generator, T, pool, name):
    check_convolution(generator, T, pool, name)


@pytest.mark.parametrize("name", ["Loihi", "ALIF-soft"])
def test_second_states_of_few_steps(generator, name):
    """They are read behind the main loop."""
    check_convolution(generator, 3, False, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_in_chunks(generator, name):
    neuron = channelwise(6, generator)[name]
    net = torch.nn.Sequential(
        pk.FusedConv2d(1, 6, 3, neuron=neuron), pk.Flatten(), pk.FusedLinear(24, 6, neuron=neuron)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(2, 1, 4, 4, generator=generator).abs() * 2
    whole = pk.simulate(net, x, 70)
    first = pk.simulate(net, x, 32)
    rest = pk.simulate(net, x, 38, chunk=32, state=first.state)
    assert whole.spikes.rate() > 0
    assert equal(torch.cat([first.spikes.dense(), rest.spikes.dense()]), whole.spikes.dense())
    assert all(torch.equal(a, b) for key in whole.state for a, b in zip(whole.state[key], rest.state[key], strict=True))


RECURRENCES = ["full", "elementwise"]


def check(x, neuron, C: int, recurrence: str, generator, v0, held: bool = False) -> None:
    weight, bias = dyadic(C, x.shape[2], generator=generator) + 0.25, dyadic(C, generator=generator, span=4) + 0.25
    recurrent = dyadic(*((C, C) if recurrence == "full" else (C,)), generator=generator, span=8)
    current = torch.nn.functional.linear(x, weight, bias)
    wanted, v_wanted = reference.recurrent_scan(current, v0, neuron.on(C, x.device), recurrent)
    found, v = neuron_ops.recurrent_linear(x if held else pk.pack(x), weight, bias, recurrent, v0, neuron)
    assert wanted.any() and equal(found.dense(), wanted) and equal(v, v_wanted)


def start(neuron, N: int, C: int, generator) -> torch.Tensor:
    v = state(neuron, (N, C), generator).view(N, neuron.states, C)
    return torch.cat([v, spikes(N, 1, C, generator=generator, rate=0.3)], 1)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 7, 33), (3, 5, 40), (2, 130, 34)], ids=str)  # N, C, T
def test_spikes_come_back(generator, size, recurrence, v_reset):
    N, C, T = size
    neuron = IFNeuron(v_threshold=thresholds(C, generator), v_reset=v_reset)
    v0 = start(neuron, N, C, generator)
    v0[:, 0] += 1.5
    check(spikes(T, N, 6, generator=generator), neuron, C, recurrence, generator, v0)


@pytest.mark.costly
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("name", NAMES)
def test_neurons_of_every_model(generator, name, recurrence):
    neuron = channelwise(20, generator)[name]
    v0 = start(neuron, 2, 20, generator)
    v0[:, 0] *= 0
    check(spikes(12, 2, 5, generator=generator), neuron, 20, recurrence, generator, v0)


def test_constant_currents_and_no_samples(generator):
    neuron = IFNeuron(v_threshold=2.0)
    x = dyadic(1, 2, 6, generator=generator).abs().expand(33, 2, 6)
    check(x, neuron, 9, "full", generator, torch.zeros(2, 2, 9), held=True)
    weight = torch.ones(5, 6)
    found, v = neuron_ops.recurrent_linear(pk.pack(torch.zeros(4, 0, 6)), weight, None, torch.ones(5), None, neuron)
    assert found.shape == (4, 0, 5) and v.shape == (0, 2, 5)


def test_a_layer_in_chunks(generator):
    net = pk.FusedRecurrentLinear(6, 24, neuron=IFNeuron(v_threshold=2.0, v_reset=None)).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    x = spikes(70, 2, 6, generator=generator)
    whole = pk.simulate(net, x, 70, chunk=70)
    parts = pk.simulate(net, x, 70, chunk=32)
    assert whole.spikes.rate() > 0.01 and equal(parts.spikes.dense(), whole.spikes.dense())
    (key,) = whole.state
    assert equal(parts.state[key][0], whole.state[key][0])
