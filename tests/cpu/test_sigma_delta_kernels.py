"""Sigma-delta neurons and max pooling of counts: properties of the definition, and the C++ kernels bit for bit."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import CONVOLUTIONS, STEPS, dyadic, spikes
from conftest import INSTRUCTION_SETS
from equality import equal
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels import cpu, reference, sigma_delta_codes
from proxykernels.kernels.table import Most


def test_trace_by_hand():
    arrived = torch.tensor([1.7, 0.0, -1.0, 0.0, 0.0, -5.0, 0.0]).view(-1, 1, 1)
    sent = reference.sigma_delta(arrived, exponents=3)
    # z: 1.7, 1.7, 0.7, 0.7, 0.7, -4.3, -4.3; left to send: 1.7, 0.7, -0.8, 0.2, -0.05, -0.75, 0.25
    assert sent.flatten().tolist() == [1.0, 0.5, -1.0, 0.25, 0.0, -1.0, 0.25]


def test_a_trace_of_graded_neurons_by_hand():
    arrived = torch.tensor([1.7, 0.0, -1.0, 0.25, 0.25, -5.0, 0.0]).view(-1, 1, 1)
    state = torch.zeros(1, 1), torch.zeros(1, 1)
    sent = reference.graded(arrived, 0.5, state=state)
    # z: 1.7, 1.7, 0.7, 0.95, 1.2, -3.8, -3.8; a: 1.7, 1.7, 0.7, 0.7, 1.2, 0, 0; 0.5 is sent, 0.25 is not
    assert torch.allclose(sent.flatten(), torch.tensor([1.7, 0.0, -1.0, 0.0, 0.5, -1.2, 0.0]), atol=1e-6)
    assert sent.count_nonzero() == 4 and state[1].item() == 0


def test_a_trace_of_graded_neurons_of_8_bits_by_hand():
    arrived = torch.tensor([1.3, 0.25, -0.5, 0.26, -9.0, 40.0]).view(-1, 1, 1)
    sent = reference.graded(arrived, 0.5, highest=2.0, unit=0.5)
    # z: 1.3, 1.55, 1.05, 1.31, -7.69, 32.31; in units: 1.5, 1.5, 1.0, 1.5, 0, 2.0; half a unit goes to the even one
    assert sent.flatten().tolist() == [1.5, 0.0, -0.5, 0.5, -1.5, 2.0]
    halves = torch.tensor([0.25, 0.75, 1.25]).view(1, 1, 3)
    assert reference.graded(halves, 0.0, unit=0.5).flatten().tolist() == [0.0, 1.0, 1.0]


def test_graded_neurons_are_a_relu_that_cuts_what_is_small(generator):
    value = torch.randn(1, 9, 3, 40, generator=generator)
    theta = torch.tensor([0.0, 0.5, 3.0])
    value[0, 0, 1, 0], value[0, 0, 1, 1] = 0.5, torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    sent = reference.graded(value, theta)
    assert equal(sent, torch.where(value >= theta.view(3, 1), value.relu(), 0.0)) and sent[:, :, 2].any()


def test_three_quarters_of_a_power_are_rounded_up_to_it():
    below = torch.nextafter(torch.tensor(0.75), torch.tensor(0.0))
    x = torch.tensor([0.75, below, -0.75, -below, 3 / 32, 3 / 32 * below, 0.0, -0.0, 9.0, math.inf])
    assert reference.nearest_power(x, 4).tolist() == [1.0, 0.5, -1.0, -0.5, 0.125, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("exponents", [1, 3, 8])
@pytest.mark.parametrize("lowest", [0.0, -math.inf])
@pytest.mark.parametrize("highest", [math.inf, 0.75])
def test_neurons_send_their_activation_and_are_silent_then(exponents, lowest, highest, generator):
    theta = torch.tensor([0.5, 3.0, 1.0])
    value = torch.randn(9, 3, 40, generator=generator)
    arrived = torch.zeros(24, *value.shape)
    arrived[0] = value
    sent = reference.sigma_delta(arrived, exponents, theta, lowest, highest)
    expected = value.clamp(lowest, highest)
    smallest = theta.view(3, 1) * 2.0 ** (1 - exponents)
    assert ((sent.sum(0) - expected).abs() <= 0.75 * smallest * (1 + 1e-5)).all()
    assert sent[:8].any() and not sent[12:].any()
    of_half = (sent != 0).sum(0)  # what is left is at most half as much after each spike that is smaller than theta
    assert (of_half <= exponents + (expected.abs() / theta.view(3, 1)).ceil()).all()


def test_a_change_costs_what_it_is_worth(generator):
    """Where the input goes back to what it was, what was sent is taken back, and no more."""
    arrived = torch.zeros(30, 1, 50)
    arrived[0] = torch.randint(1, 200, (1, 50), generator=generator) / 128
    arrived[10], arrived[20] = -arrived[0], 2 * arrived[0]
    sent = reference.sigma_delta(arrived, 8)
    assert equal(sent[:10].sum(0), arrived[0]) and equal(sent.sum(0), 2 * arrived[0])
    assert equal(sent[:20].sum(0), torch.zeros(1, 50))


@pytest.mark.parametrize("exponents", range(1, Most.EXPONENTS + 1))
def test_codes_are_values(exponents):
    codes = torch.arange(-exponents, exponents + 1, dtype=torch.int8)
    assert equal(sigma_delta_codes.codes_of(sigma_delta_codes.values_of(codes)), codes)
    largest = sigma_delta_codes.values_of(codes).abs().amax()
    assert largest == 1 and sigma_delta_codes.values_of(codes)[0] == -(2.0 ** (1 - exponents))


@pytest.mark.alike
@pytest.mark.parametrize("target", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("given", ["spikes", "values", "one step of values"])
@pytest.mark.parametrize("T", [1, 5])
def test_kernels_equal_the_definition(target, case, given, T, generator):
    C_in, H, W, C_out, kernel, stride, padding, dilation, groups = case
    window = (*(v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation)), groups)
    steps = T if given != "one step of values" else 1
    x = torch.randint(-12, 13, (2, steps, H * W, C_in), generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.6] = 0
    x = x.to(torch.int8) if given == "spikes" else x / 8
    weight, bias = dyadic(C_out, C_in // groups, *kernel, generator=generator), dyadic(C_out, generator=generator)
    highest = torch.where(torch.rand(C_out, generator=generator) < 0.5, math.inf, 1.5)
    lowest = 0.0 if T == 1 else -math.inf
    neuron = sigma_delta_codes.Senders(1 + T, lowest, highest)
    graded = sigma_delta_codes.Senders(1, lowest, highest, threshold=0.25)
    rounded = graded._replace(unit=0.25, lowest=max(lowest, -63 / 4), highest=highest.clamp(max=63 / 4))
    kernels = cpu.load(target)
    for added in (None, dyadic(*sigma_delta_codes.arriving(x[:, :1], (H, W), weight, None, window)[0][:, 0].shape,
                               generator=generator).unsqueeze(1).repeat(1, T, 1, 1)):  # fmt: skip
        for neurons in (neuron, graded, rounded, None):
            operands = x, (H, W), weight, bias, added, T, neurons, window
            expected, counts = sigma_delta_codes.sigma_delta(*operands)
            actual, counted = kernels.sigma_delta(*operands)
            assert expected.count_nonzero() > 0
            assert equal(actual, expected) and actual.dtype == expected.dtype
            assert counted == counts
        for neurons in (neuron, graded, rounded):
            states = [[torch.zeros(expected[:, 0].shape) for _ in range(2)] for _ in range(2)]
            first, last = (x, bias, added, T), (x, None, added, T)
            for x_, bias_, added_, T_ in (first, last):  # neurons go on from where they were
                operands = x_, (H, W), weight, bias_, added_, T_, neurons, window
                expected, _ = sigma_delta_codes.sigma_delta(*operands, tuple(states[0]))
                actual, _ = kernels.sigma_delta(*operands, tuple(states[1]))
                assert equal(actual, expected) and expected.any() and states[0][1].any()
                assert all(map(torch.equal, *states))


@pytest.mark.parametrize("target", INSTRUCTION_SETS)
def test_thresholds_in_the_weights_are_thresholds_of_the_neurons(target, generator):
    """Weights times theta of the sender, over that of the receiver: exact where these are powers of two."""
    x = torch.randint(-8, 9, (2, 4, 1, 40), generator=generator).to(torch.int8)
    weight, bias = dyadic(20, 40, generator=generator), dyadic(20, generator=generator)
    before, after = (2.0 ** torch.randint(-2, 3, (C,), generator=generator) for C in (40, 20))
    window = ((1, 1), (0, 0), (1, 1), 1)
    neuron = sigma_delta_codes.Senders(8, 0.0, torch.full((20,), math.inf))
    folded = (weight * before / after[:, None])[..., None, None]
    codes, _ = cpu.load(target).sigma_delta(x, (1, 1), folded, bias / after, None, 4, neuron, window)
    arrived = (sigma_delta_codes.values_of(x) * before) @ weight.T
    arrived[:, 0] += bias
    expected = reference.sigma_delta(arrived.permute(1, 0, 3, 2), 8, theta=after).permute(1, 0, 3, 2)
    assert codes.any() and equal(sigma_delta_codes.values_of(codes) * after, expected)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"highest": torch.ones(16).double()}, "limit must be a contiguous .* of torch.float32 .* got torch.float64"),
        ({"x": torch.ones(2, 3, 1, 4).half()}, "x must be a contiguous tensor of torch.int8 or torch.float32"),
        ({"added": torch.ones(2, 3, 1, 16).long()}, "added must be"),
        ({"state": (torch.zeros(2, 1, 16).double(), torch.zeros(2, 1, 16))}, "z must be"),
        ({"state": (torch.zeros(2, 1, 16), torch.zeros(2, 1, 32)[..., ::2])}, "a must be .* with strides"),
    ],
)
def test_what_c_would_misread_is_refused(changed, name):
    given = {"x": torch.ones(2, 3, 1, 4), "added": None, "highest": torch.ones(16), "state": None} | changed
    neuron, window = sigma_delta_codes.Senders(4, 0.0, given["highest"]), ((1, 1), (0, 0), (1, 1), 1)
    with pytest.raises(TypeError, match=name):
        cpu.load(None).sigma_delta(
            given["x"], (1, 1), torch.ones(16, 4, 1, 1), None, given["added"], 3, neuron, window, given["state"]
        )


def test_neurons_on_sums_alone_have_no_window(generator):
    """What arrives without a convolution has the size of the neurons, whatever window is named."""
    added, neuron = dyadic(2, 3, 6, 5, generator=generator), sigma_delta_codes.Senders(4, 0.0, torch.ones(5))
    operands = None, (2, 3), None, None, added, 3, neuron, ((1, 1), (1, 0), (1, 1), 1)
    expected, _ = sigma_delta_codes.sigma_delta(*operands)
    assert expected.any() and equal(cpu.load(None).sigma_delta(*operands)[0], expected)


@pytest.mark.parametrize("sizes", [(0, 4, 3), (2, 0, 3), (2, 4, 0)], ids=str)
def test_what_plans_have_no_sizes_for(sizes):
    """No samples, no pixels, or no channels: nothing is sent, and nothing is counted."""
    N, P, C = sizes
    x, neuron, window = (
        torch.ones(N, 3, P, C),
        sigma_delta_codes.Senders(4, 0.0, torch.ones(C)),
        ((1, 1), (0, 0), (1, 1), C),
    )
    state = torch.zeros(N, P, C), torch.zeros(N, P, C)
    codes, counts = cpu.load(None).sigma_delta(x, (1, P), None, None, None, 3, neuron, window, state)
    assert codes.shape == x.shape and counts == (0, 0)


@pytest.mark.parametrize("target", INSTRUCTION_SETS)
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("size", [(1, 1), (9, 5)])
def test_threads_share_images_and_channels(target, threads, size, generator):
    x = torch.randint(-8, 9, (3, 3, math.prod(size), 20), generator=generator).to(torch.int8)
    weight, neuron = torch.randn(200, 20, 1, 1, generator=generator), sigma_delta_codes.Senders(8, 0.0, torch.ones(200))
    operands = x, size, weight, None, None, 3, neuron, ((1, 1), (0, 0), (1, 1), 1)
    kernels, before = cpu.load(target), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, counts = kernels.sigma_delta(*operands)
        torch.set_num_threads(threads)
        together, counted = kernels.sigma_delta(*operands)
    finally:
        torch.set_num_threads(before)
    assert alone.any() and equal(alone, together) and counts == counted


def test_a_trace_behind_a_pooling_by_hand():
    arrived = torch.tensor([[1.0, 0.25], [-0.5, 0.0], [0.0, 1.0], [-2.0, -2.0]]).view(4, 1, 1, 2)
    z, a = torch.zeros(1, 1, 2), torch.zeros(1, 1, 1)
    sent = reference.sigma_delta(arrived, 3, state=(z, a), pool=lambda z: z.amax(-1, keepdim=True))
    # z: (1, .25), (.5, .25), (.5, 1.25), (-1.5, -.75); maxima: 1, .5, 1.25, -.75; left to send: 1, -.5, .75, -1.5
    assert sent.flatten().tolist() == [1.0, -0.5, 1.0, -1.0]
    assert z.tolist() == [[[-1.5, -0.75]]] and a.item() == 0.5


POOLINGS = pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "size_out"),
    [
        ((6, 6), (2, 2), (2, 2), (0, 0), (3, 3)),
        ((7, 5), (3, 2), (2, 1), (1, 1), (4, 6)),
        ((7, 5), (2, 3), (2, 2), (0, 1), (4, 3)),  # ceil_mode: the last windows go beyond the image
        ((1, 9), (1, 3), (1, 3), (0, 0), (1, 3)),
        ((9, 9), (9, 9), (9, 9), (0, 0), (1, 1)),
    ],
)


@pytest.mark.parametrize("target", INSTRUCTION_SETS)
@pytest.mark.parametrize("given", ["spikes", "values", "one step of values"])
@pytest.mark.parametrize("C", [3, 16, 70])
@POOLINGS
def test_neurons_behind_maxima_equal_the_definition(
    target, given, C, size, kernel, stride, padding, size_out, generator
):
    T, steps = 5, 1 if given.startswith("one") else 5
    x = torch.randint(-9, 10, (2, steps, size[0] * size[1], C), generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.5] = 0
    x = x.to(torch.int8) if given == "spikes" else x / 8
    operands, kernels = (size, size_out, kernel, stride, padding), cpu.load(target)
    highest = torch.where(torch.rand(C, generator=generator) < 0.5, math.inf, 0.75)
    for lowest in (0.0, -math.inf):
        neuron = sigma_delta_codes.Senders(4, lowest, highest)
        expected, spikes = sigma_delta_codes.pooled_sigma_delta(x, *operands, T, neuron)
        actual, counted = kernels.pooled_sigma_delta(x, *operands, T, neuron)
        assert equal(actual, expected) and counted == spikes == expected.count_nonzero() > 0
        maxima = sigma_delta_codes.running_maximum(
            sigma_delta_codes.padded(x.float(), T) if given != "spikes" else x, *operands, None
        )
        alone, _ = sigma_delta_codes.sigma_delta(None, size, None, None, maxima, T, neuron, ((1, 1), (0, 0), (1, 1), 1))
        assert equal(expected, alone)  # neurons take the maxima as they take what arrives
        states = [[torch.zeros(2, math.prod(pixels), C) for pixels in (size, size_out)] for _ in range(2)]
        functions = sigma_delta_codes.pooled_sigma_delta, kernels.pooled_sigma_delta
        for function, state in zip(functions, states, strict=True):
            parts = [(x[:, :2], 2), (x[:, 2:3], 1), (x[:, 3:], 2)] if steps == T else [(x, 2), (0 * x, 3)]
            given_parts = [function(part.contiguous(), *operands, t, neuron, tuple(state))[0] for part, t in parts]
            assert equal(torch.cat(given_parts, 1), expected)
        assert all(map(torch.equal, *states)) and states[0][1].any()


@pytest.mark.parametrize("target", INSTRUCTION_SETS)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("C", [3, 16, 70])
@POOLINGS
def test_maxima_equal_the_definition(target, real, C, size, kernel, stride, padding, size_out, generator):
    x = torch.randint(-9, 10, (2, 5, size[0] * size[1], C), generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.5] = 0
    x = x / 8 if real else x.to(torch.int8)
    operands = size, size_out, kernel, stride, padding
    kernels = cpu.load(target)
    whole = sigma_delta_codes.running_maximum(x, *operands, None)
    assert whole.any() and equal(kernels.running_maximum(x, *operands, None), whole)
    values = x if real else sigma_delta_codes.values_of(x)
    sums = values.cumsum(1).view(10, *size, C).permute(0, 3, 1, 2)
    pool = torch.nn.MaxPool2d(kernel, stride, padding, ceil_mode=size_out == (4, 3))
    assert equal(whole.cumsum(1).flatten(0, 1), pool(sums).flatten(2).transpose(1, 2))
    states = [[torch.zeros(2, math.prod(pixels), C) for pixels in (size, size_out)] for _ in range(2)]
    for function, state in zip((sigma_delta_codes.running_maximum, kernels.running_maximum), states, strict=True):
        parts = [function(part.contiguous(), *operands, tuple(state)) for part in x.split((2, 1, 2), 1)]
        assert equal(torch.cat(parts, 1), whole)
    assert all(map(torch.equal, *states)) and states[0][1].any()


WINDOWS = [  # kernel, stride, padding; of 4, 9 and other numbers of inputs, fewer at the edges
    pytest.param((2, 2, 0), id="four"),
    pytest.param((3, 1, 1), id="nine"),
    pytest.param((2, 1, 1), id="padded"),
    pytest.param(((3, 2), (2, 1), (1, 0)), id="uneven"),
    pytest.param(((1, 4), (2, 3), (0, 2)), id="flat"),
    pytest.param(((7, 5), 1, 0), id="the-image"),
]


def definition(x: Tensor, before: Tensor, window) -> tuple[Tensor, Tensor]:
    """Spikes [T, N, C, H_out, W_out] of spikes [T, N, C, H, W], and the counts after all steps."""
    counts = torch.cat([before[None], before + x.cumsum(0)])
    highest = F.max_pool2d(counts.flatten(0, 1), *window).unflatten(0, counts.shape[:2])
    return highest[1:] - highest[:-1], counts[-1]


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("window", WINDOWS)
def test_each_step_and_the_counts_after_all(generator, instruction_set, window, T):
    x = spikes(T, 2, 11, 7, 5, generator=generator, rate=0.4)
    before = torch.randint(0, 3, x.shape[1:], generator=generator).float()
    y, counts = pk.MaxRatePool2d(*window)(pk.pack(x), before)
    expected, after = definition(x, before, window)
    assert expected.any() and equal(y.dense(), expected) and equal(counts, after)


@pytest.mark.parametrize("C", [1, 7, 8, 31, 32, 33, 64, 70])
@pytest.mark.parametrize("window", WINDOWS[:3])
def test_channels_off_a_block(generator, instruction_set, window, C):
    x = spikes(35, 1, C, 7, 5, generator=generator, rate=0.4)
    x[-1] = 1  # what is lost of the last step shows
    y, counts = pk.MaxRatePool2d(*window)(pk.pack(x), torch.zeros(x.shape[1:]))
    expected, after = definition(x, torch.zeros(x.shape[1:]), window)
    assert expected.any() and equal(y.dense(), expected) and equal(counts, after)


@pytest.mark.parametrize("step", [0, 31, 32, 33, 63, 64, 69])
def test_a_single_spike_at_any_step(instruction_set, step):
    """It fires once, and is counted; a second one of another pixel of the window changes nothing."""
    x = torch.zeros(70, 1, 33, 4, 4)
    x[step, 0, 32, 1, 1] = 1
    x[min(step + 1, 69), 0, 32, 0, 1] = 1
    y, counts = pk.MaxRatePool2d(2)(pk.pack(x), torch.zeros(1, 33, 4, 4))
    fired = y.dense()
    assert fired.nonzero().tolist() == [[step, 0, 32, 0, 0]] and equal(counts, x.sum(0))


def test_many_images_and_steps_in_parts(generator, instruction_set):
    """The counts of a call go into the next one, whose steps are not those of a word."""
    x = spikes(70, 5, 9, 7, 5, generator=generator, rate=0.5)
    counts, parts = torch.zeros(x.shape[1:]), []
    for part in x.split([1, 32, 33, 4]):
        y, counts = pk.MaxRatePool2d(3, 2, 1)(pk.pack(part), counts)
        parts.append(y.dense())
    expected, after = definition(x, torch.zeros(x.shape[1:]), (3, 2, 1))
    assert expected.any() and equal(torch.cat(parts), expected) and equal(counts, after)


def test_counts_end_where_float32_does(generator, instruction_set):
    """From 2**24 on nothing is added to one, and the pooling is silent."""
    x = spikes(40, 1, 9, 4, 4, generator=generator, rate=0.4)
    before = torch.full(x.shape[1:], 2.0**24 - 2)
    first = x * (x.cumsum(0) <= 2)  # the spikes that are counted
    expected, after = definition(first, before, (2,))
    y, counts = pk.MaxRatePool2d(2)(pk.pack(x), before)
    assert equal(expected.sum(0), torch.full((1, 9, 2, 2), 2.0)) and equal(y.dense(), expected) and equal(counts, after)
    net = torch.nn.Sequential(pk.IF(), pk.MaxRatePool2d(2)).eval()
    state = {"0": [torch.zeros_like(before)], "1": [before]}
    assert equal(pk.simulate(net, x, 40, state=state).spikes.dense(), expected)


@pytest.mark.parametrize("window", [(2,), (3, 2, 1), ((2, 3), 1), (2, 1, (0, 1))], ids=str)
def test_the_layer(generator, window):
    x = spikes(40, 2, 11, 8, 6, generator=generator)
    layer = pk.MaxRatePool2d(*window)
    expected, after = definition(x, torch.zeros(x.shape[1:]), window)
    assert expected.any() and equal(layer(pk.pack(x)).dense(), expected) and equal(layer(x), expected)
    y, counts = layer(pk.pack(x), torch.zeros(x.shape[1:]))
    assert equal(y.dense(), expected) and equal(counts, after)
    with pytest.raises(ValueError, match="0 and 1"):
        layer(x * 0.5)
