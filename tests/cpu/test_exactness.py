"""Every operation on every backend of a CPU, of any size and number of threads, bit-equal to the oracle."""

import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, RESETS, STEPS, dyadic, spikes, thresholds
from equality import equal

import proxykernels as pk
from proxykernels.calls import window_checks
from proxykernels.kernels import cpu, reference


def test_the_library_is_built():
    """Without it the other tests would say nothing about the C++ kernels."""
    assert cpu.load() is not None, "the C++ kernels were not built: install a C++ compiler, then pip install -e ."
    assert cpu.load("no such instruction set") is None


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("shape", [(3, 5, 7, 5), (1, 32, 4, 4), (2, 70, 1, 3), (4, 33), (5,), (2, 3, 11)], ids=str)
def test_if_scan(instruction_set, generator, shape, T, v_reset):
    current = dyadic(T, *shape, generator=generator)
    v0 = dyadic(*shape, generator=generator)
    theta = thresholds(shape[1], generator) if len(shape) > 1 else 1.25
    expected, v_expected = reference.if_scan(current, v0, v_threshold=theta, v_reset=v_reset)
    actual, v = pk.if_scan(current, v0, v_threshold=theta, v_reset=v_reset)
    assert actual.shape == tuple(current.shape) and v.shape == v0.shape
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
def test_if_hold(instruction_set, generator, T, v_reset):
    current = dyadic(3, 37, 5, 3, generator=generator)
    expected, v_expected = reference.if_hold(current, T, v_threshold=0.75, v_reset=v_reset)
    actual, v = pk.if_hold(current, T, v_threshold=0.75, v_reset=v_reset)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_currents_of_other_types(instruction_set, generator, dtype):
    current = dyadic(33, 2, 5, 3, 3, generator=generator).to(dtype)
    expected, v_expected = reference.if_scan(current)
    actual, v = pk.if_scan(current)
    assert v.dtype == torch.float32
    assert equal(actual.dense(), expected) and equal(v, v_expected)


def convolution_case(case, T, generator, rate=0.2):
    C_in, H, W, C_out, kernel_size, stride, padding, dilation, groups = case
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x = spikes(T, 2, C_in, H, W, generator=generator, rate=rate)
    weight = dyadic(C_out, C_in // groups, *kernel_size, generator=generator)
    return x, weight, dyadic(C_out, generator=generator, span=4), options


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_if_conv2d(backend, generator, case, T, v_reset):
    x, weight, bias, options = convolution_case(case, T, generator)
    options |= {"v_threshold": thresholds(len(weight), generator), "v_reset": v_reset}
    v0 = dyadic(*reference.if_conv2d(x[:1], weight, **options)[1].shape, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight, bias, v0, **options)
    actual, v = pk.if_conv2d(pk.pack(x), weight, bias, v0, **options)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_if_conv2d_at_any_firing_rate(backend, generator, case, rate):
    x, weight, _, options = convolution_case(case, 9, generator, rate)
    expected, v_expected = reference.if_conv2d(x, weight, **options)
    actual, v = pk.if_conv2d(pk.pack(x), weight, **options)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", [31, 32, 65, 100, 130])
def test_inputs_that_fire_for_long(backend, generator, T, v_reset):
    """Spikes as trained networks have them: at every step, for a while, nearly always, rarely, never."""
    kind = torch.randint(0, 5, (2, 40, 6, 5), generator=generator)
    chance = torch.tensor([1.0, 1.0, 0.9, 0.1, 0.0])[kind]
    until = torch.where(kind == 1, torch.randint(0, T + 1, kind.shape, generator=generator), T)
    early = torch.arange(T)[:, None, None, None, None] < until
    x = (torch.rand(T, *kind.shape, generator=generator) < chance) & early
    weight, bias = dyadic(48, 40, 3, 3, generator=generator), dyadic(48, generator=generator)
    expected, v_expected = reference.if_conv2d(x.float(), weight, bias, v_reset=v_reset, padding=1)
    actual, v = pk.if_conv2d(pk.pack(x), weight, bias, v_reset=v_reset, padding=1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("size", [(1, 1), (9, 10), (64, 32), (130, 97)], ids=str)
def test_if_linear(backend, generator, size, T, v_reset):
    x = spikes(T, 3, size[0], generator=generator)
    weight, bias = dyadic(size[1], size[0], generator=generator), dyadic(size[1], generator=generator, span=4)
    expected, v_expected = reference.if_linear(x, weight, bias, v_threshold=1.5, v_reset=v_reset)
    actual, v = pk.if_linear(pk.pack(x), weight, bias, v_threshold=1.5, v_reset=v_reset)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize(
    "kernel_size, stride, padding", [(2, None, 0), (3, 2, 1), ((2, 3), (1, 2), (0, 1)), (5, 1, 2)], ids=str
)
@pytest.mark.parametrize("C", [1, 8, 64, 77])
@pytest.mark.parametrize("T", [1, 33])
def test_max_pool2d(instruction_set, generator, T, C, kernel_size, stride, padding):
    x = spikes(T, 2, C, 7, 5, generator=generator)
    expected = reference.max_pool2d(x, kernel_size, stride, padding)
    actual = pk.max_pool2d(pk.pack(x), kernel_size, stride, padding)
    assert actual.shape == tuple(expected.shape)
    assert equal(actual.dense(), expected)


@pytest.mark.parametrize("kernel_size, dilation", [(3, 1), (2, 1), (4, 1), ((2, 3), (3, 2)), ((1, 4), (1, 3))], ids=str)
def test_padding_in_words(backend, generator, kernel_size, dilation):
    x = spikes(5, 2, 3, 9, 11, generator=generator)
    weight = dyadic(6, 3, *(kernel_size if isinstance(kernel_size, tuple) else (kernel_size,) * 2), generator=generator)
    for padding in ("same", "valid"):
        expected, v_expected = reference.if_conv2d(x, weight, padding=padding, dilation=dilation)
        actual, v = pk.if_conv2d(pk.pack(x), weight, padding=padding, dilation=dilation)
        assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("theta", [1.0, 0.1, 3.0, 1e-30, 1e30])
def test_on_the_edge(backend, theta, v_reset):
    """A potential of exactly theta fires; one unit in the last place below does not."""
    edge = torch.tensor(theta)
    below, above = torch.nextafter(edge, torch.tensor(0.0)), torch.nextafter(edge, torch.tensor(torch.inf))
    current = torch.stack([below, edge, above]).view(1, 1, 3)
    v_reset = v_reset if v_reset is None else v_reset * theta
    actual, v = pk.if_scan(current, v_threshold=theta, v_reset=v_reset)
    assert actual.dense().flatten().tolist() == [0, 1, 1]
    assert equal(v, reference.if_scan(current, v_threshold=theta, v_reset=v_reset)[1])
    x, weight = pk.pack(torch.ones(1, 1, 1)), current.view(3, 1)
    assert pk.if_linear(x, weight, v_threshold=theta, v_reset=v_reset)[0].dense().flatten().tolist() == [0, 1, 1]


def test_random_floats_differ_only_on_the_edge(backend, generator):
    """Sums in another order may flip a neuron, but only one that passed within eps of its threshold before."""
    x = spikes(64, 4, 32, 12, 12, generator=generator)
    weight, eps = torch.randn(48, 32, 3, 3, generator=generator) * 0.1, 1e-4
    expected, _ = reference.if_conv2d(x, weight, padding=1)
    actual = pk.if_conv2d(pk.pack(x), weight, padding=1)[0].dense()
    differs = expected != actual
    current = F.conv2d(x.flatten(0, 1), weight, padding=1).unflatten(0, (64, 4))
    v, close = torch.zeros_like(current[0]), torch.zeros(current[0].shape, dtype=torch.bool)
    for t in range(64):
        h = v + current[t]
        close |= (h - 1).abs() < eps
        assert not (differs[t] & ~close).any()
        v = torch.where(h >= 1, 0.0, h)
    assert differs.any(0).float().mean() < 1e-3
    assert close.float().mean() < 0.05  # or the assertion above would mean nothing


@pytest.mark.parametrize("chunks", [[33], [1, 32], [16, 17], [32, 1], [7, 7, 7, 12]], ids=str)
@pytest.mark.parametrize("v_reset", RESETS)
def test_time_may_be_cut_anywhere(backend, generator, chunks, v_reset):
    x, weight, bias, options = convolution_case(CONVOLUTIONS[2].values[0], 33, generator)
    whole, v_whole = pk.if_conv2d(pk.pack(x), weight, bias, v_reset=v_reset, **options)
    v, parts, start = None, [], 0
    for steps in chunks:
        part, v = pk.if_conv2d(pk.pack(x)[start : start + steps], weight, bias, v, v_reset=v_reset, **options)
        parts.append(part.dense())
        start += steps
    assert equal(torch.cat(parts), whole.dense()) and equal(v, v_whole)


def test_batch_may_be_split(backend, generator):
    x, weight, bias, options = convolution_case(CONVOLUTIONS[4].values[0], 20, generator)
    whole, v = pk.if_conv2d(pk.pack(x), weight, bias, **options)
    for n in range(x.shape[1]):
        one, v_one = pk.if_conv2d(pk.pack(x[:, n : n + 1]), weight, bias, **options)
        assert equal(one.dense(), whole.dense()[:, n : n + 1]) and equal(v_one, v[n : n + 1])


@pytest.mark.parametrize("layout", ["sliced", "channels_last", "transposed"])
def test_memory_layout_does_not_matter(backend, generator, layout):
    current = dyadic(10, 3, 16, 6, 6, generator=generator)
    strange = {
        "sliced": lambda: torch.stack([current, -current], -1)[..., 0],
        "channels_last": lambda: current.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
        "transposed": lambda: current.transpose(0, 4).contiguous().transpose(0, 4),
    }[layout]()
    expected, v_expected = reference.if_scan(current)
    actual, v = pk.if_scan(strange, strange[0] - strange[0])
    assert equal(actual.dense(), expected) and equal(v, v_expected)
    x = (strange > 0.5).float()
    weight = dyadic(16, 16, 3, 3, generator=generator)
    flipped = weight.flip(3).contiguous().flip(3).transpose(0, 1).contiguous().transpose(0, 1)
    expected, v_expected = reference.if_conv2d(x, weight)
    actual, v = pk.if_conv2d(pk.pack(x), flipped)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("held", [False, True])
def test_soft_reset_conserves_charge(instruction_set, generator, held):
    """From rest, with soft reset: the sum of the input currents = theta * spikes + the last potential."""
    current, T, theta = dyadic(2, 5, 4, 4, generator=generator), 64, 0.75
    actual, v = (
        pk.if_hold(current, T, v_threshold=theta, v_reset=None)
        if held
        else pk.if_scan(current.expand(T, *current.shape), v_threshold=theta, v_reset=None)
    )
    assert equal(current * T, theta * actual.count() + v)


@pytest.mark.parametrize("T", [1, 33])
def test_empty_batch(backend, T):
    weight = torch.ones(4, 3, 3, 3)
    s, v = pk.if_conv2d(pk.pack(torch.zeros(T, 0, 3, 5, 5)), weight)
    assert s.shape == (T, 0, 4, 3, 3) and v.shape == (0, 4, 3, 3) and s.dense().shape == s.shape
    assert pk.if_conv2d(torch.zeros(T, 0, 3, 5, 5), weight)[0].shape == (T, 0, 4, 3, 3)
    s, v = pk.if_linear(pk.pack(torch.zeros(T, 0, 6)), torch.ones(2, 6))
    assert s.shape == (T, 0, 2) and v.shape == (0, 2) and s.count().shape == (0, 2)
    assert pk.if_scan(torch.zeros(T, 0, 6))[0].shape == (T, 0, 6)
    assert pk.if_hold(torch.zeros(0, 6, 2, 2), T)[1].shape == (0, 6, 2, 2)
    assert pk.max_pool2d(pk.pack(torch.zeros(T, 0, 3, 4, 4)), 2).shape == (T, 0, 3, 2, 2)


def test_long_runs_and_big_windows(backend, generator):
    """More steps than a tile of the event kernel, a window of more rows than its lists hold for many steps."""
    x = spikes(300, 1, 40, 3, 3, generator=generator, rate=0.05)
    weight = dyadic(5, 40, 3, 3, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight, padding=1)
    actual, v = pk.if_conv2d(pk.pack(x), weight, padding=1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)
    x = spikes(3, 1, 600_000, generator=generator, rate=0.01)
    weight = dyadic(2, 600_000, generator=generator, span=2)
    expected, v_expected = reference.if_linear(x, weight)
    actual, v = pk.if_linear(pk.pack(x), weight)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize(
    "size, padding", [((7, 1), (0, 8)), ((2, 1), (5, 7)), ((1, 1), (3, 3)), ((6, 5), (4, 0))], ids=str
)
def test_padding_beyond_the_kernel(backend, generator, size, padding):
    """Windows that lie in the padding alone: oneDNN ends the process in some of these."""
    for real in (False, True):
        x = spikes(3, 1, 24, *size, generator=generator) if not real else dyadic(3, 1, 24, *size, generator=generator)
        weight, bias = dyadic(24, 24, 2, 2, generator=generator), dyadic(24, generator=generator)
        options = {"stride": (1, 3), "padding": padding, "dilation": (1, 3)} if size[0] > 2 else {"padding": padding}
        expected, v_expected = reference.if_conv2d(x, weight, bias, **options)
        actual, v = pk.if_conv2d(x if real else pk.pack(x), weight, bias, **options)
        assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


HUGE = window_checks.LARGEST_WINDOW


@pytest.mark.parametrize("groups", [1, 4, 32], ids=["whole", "groups", "depthwise"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_stride_beyond_the_image(backend, generator, kernel, groups):
    x = spikes(5, 2, 32, 4, 6, generator=generator, rate=0.5)
    weight = dyadic(32, 32 // groups, kernel, kernel, generator=generator)
    actual, v = pk.if_conv2d(pk.pack(x), weight, stride=HUGE, padding=1, groups=groups)
    expected, v_expected = reference.if_conv2d(x, weight, stride=1000, padding=1, groups=groups)
    assert actual.shape == (5, 2, 32, 1, 1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


def test_a_stride_beyond_the_image_for_periods(backend, generator):
    current, weight = dyadic(2, 5, 4, 6, generator=generator), dyadic(9, 5, 3, 3, generator=generator)
    actual, v = pk.if_conv2d(pk.if_hold(current, 40)[0], weight, stride=HUGE)
    expected, v_expected = reference.if_conv2d(reference.if_hold(current, 40)[0], weight, stride=1000)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


def test_pooling_windows_beyond_the_image(backend, generator):
    """Two pixels of each window are in the image at most; the others are not walked."""
    x = spikes(3, 2, 9, 2, 3, generator=generator)
    wide = pk.max_pool2d(pk.pack(x), HUGE, stride=HUGE, padding=HUGE // 2)
    assert x.any() and equal(wide.dense(), torch.nn.functional.max_pool2d(x.flatten(0, 1), (2, 3)).view(3, 2, 9, 1, 1))


@pytest.mark.parametrize("groups", [1, 32], ids=["whole", "depthwise"])
@pytest.mark.parametrize("size", [(0, 3), (3, 0)], ids=["no rows", "no columns"])
def test_images_without_pixels(backend, generator, size, groups):
    """Padding makes pixels of them: only the bias is left."""
    bias = dyadic(32, generator=generator)
    weight = dyadic(32, 32 // groups, 1, 1, generator=generator)
    options = {"padding": 1, "groups": groups}
    actual, v = pk.if_conv2d(pk.pack(torch.zeros(9, 2, 32, *size)), weight, bias, **options)
    padded = torch.zeros(9, 2, 32, size[0] + 2, size[1] + 2)
    expected, v_expected = reference.if_conv2d(padded, weight, bias, groups=groups)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.fixture(params=range(1, 9))
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.alike
@pytest.mark.parametrize("N, size", [(1, 3), (3, 9)], ids=["spans of channels", "bands of rows"])
@pytest.mark.parametrize("groups", [1, 72], ids=["whole", "depthwise"])
def test_convolution(backend, threads, generator, N, size, groups):
    x = spikes(33, N, 72, size, size, generator=generator)
    weight, bias = dyadic(72, 72 // groups, 3, 3, generator=generator), dyadic(72, generator=generator)
    actual, v = pk.if_conv2d(pk.pack(x), weight, bias, padding=1, groups=groups)
    expected, v_expected = reference.if_conv2d(x, weight, bias, padding=1, groups=groups)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.alike
def test_periods_scans_and_words(backend, threads, generator):
    current, weight = dyadic(3, 20, 5, 4, generator=generator), dyadic(40, 20, 3, 3, generator=generator)
    held = pk.if_hold(current, 50)[0]
    dense = reference.if_hold(current, 50)[0]
    actual, v = pk.if_conv2d(held, weight)
    expected, v_expected = reference.if_conv2d(dense, weight)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)
    assert equal(held.dense(), dense) and equal(pk.pack(dense).count(), dense.sum(0).int())
    assert equal(pk.max_pool2d(held, 2).dense(), reference.max_pool2d(dense, 2))


# current, v_reset, threshold, spikes, v after each step: worked out on paper from DESIGN's equations
GOLDEN = [
    pytest.param([0.5, 0.5, 0.5, 0.5], 0.0, 1.0, [0, 1, 0, 1], [0.5, 0.0, 0.5, 0.0], id="fires-at-the-threshold"),
    pytest.param([0.75, 0.75, 0.75, 0.75], 0.0, 1.0, [0, 1, 0, 1], [0.75, 0.0, 0.75, 0.0], id="hard-loses-the-rest"),
    pytest.param([0.75, 0.75, 0.75, 0.75], None, 1.0, [0, 1, 1, 1], [0.75, 0.5, 0.25, 0.0], id="soft-keeps-the-rest"),
    pytest.param([3.0, 0.0, 0.0, -1.0], None, 1.0, [1, 1, 1, 0], [2.0, 1.0, 0.0, -1.0], id="soft-one-spike-a-step"),
    pytest.param([3.0, 0.0, 0.5, 1.0], -0.5, 2.0, [1, 0, 0, 0], [-0.5, -0.5, 0.0, 1.0], id="hard-below-zero"),
    pytest.param([-4.0, 2.0, 2.0, 2.0], 0.0, 2.0, [0, 0, 0, 1], [-4.0, -2.0, 0.0, 0.0], id="no-floor"),
]


@pytest.mark.parametrize("current, v_reset, v_threshold, spikes, potentials", GOLDEN)
def test_golden_traces(current, v_reset, v_threshold, spikes, potentials):
    current = torch.tensor(current).view(-1, 1, 1)
    for t in range(1, len(current) + 1):
        s, v = reference.if_scan(current[:t], v_threshold=v_threshold, v_reset=v_reset)
        assert s.flatten().tolist() == spikes[:t]
        assert v.item() == potentials[t - 1]


def test_state_is_handed_on(generator):
    current = torch.randn(20, 2, 3, 4, generator=generator)
    whole, v = reference.if_scan(current)
    first, middle = reference.if_scan(current[:13])
    second, last = reference.if_scan(current[13:], middle)
    assert equal(torch.cat([first, second]), whole) and equal(last, v)


def test_layers_are_their_currents_fired(generator):
    x = (torch.rand(6, 2, 3, 5, 4, generator=generator) < 0.3).float()
    weight, bias = torch.randn(4, 3, 3, 3, generator=generator), torch.randn(4, generator=generator)
    current = torch.stack([torch.conv2d(step, weight, bias, padding=1) for step in x])
    expected = reference.if_scan(current, v_reset=None)
    actual = reference.if_conv2d(x, weight, bias, padding=1, v_reset=None)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-5)
    assert equal(actual[0], expected[0])
