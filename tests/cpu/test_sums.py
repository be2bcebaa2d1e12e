"""Sums of weights: what is left out of them, by matrix tiles, of real values, and how much float32 errs."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import RESETS, dyadic, spikes
from equality import equal
from neuron_cases import NAMES, channelwise, state

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference
from proxykernels.kernels.recording import recording
from proxykernels.neurons import IFNeuron, LINeuron


def with_a_background(x, generator):
    """Images [..., H, W] of which most pixels are like the first, and the right half has pixels of its own."""
    plain = torch.rand(x.shape[-2:], generator=generator) < 0.9
    plain[:, x.shape[-1] // 2 :] &= torch.rand(x.shape[-2], x.shape[-1] - x.shape[-1] // 2, generator=generator) < 0.5
    return torch.where(plain, x[..., :1, :1], x)


@pytest.mark.alike
@pytest.mark.parametrize("start", ["at rest", "a value a channel", "a value a pixel"])
@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 0), (1, (4, 2))], ids=str)
@pytest.mark.parametrize("T", [1, 9, 100])
def test_windows_that_hold_the_same_spikes(backend, generator, T, stride, padding, start):
    """Neurons on equal windows do the same only where they also start from the same potential."""
    x = with_a_background(spikes(T, 3, 20, 9, 12, generator=generator, rate=0.3), generator)
    weight, bias = dyadic(75, 20, 3, 3, generator=generator), dyadic(75, generator=generator, span=4)
    options = {"stride": stride, "padding": padding, "v_reset": None}
    shape = reference.if_conv2d(x[:1], weight, **options)[1].shape
    v0 = {
        "at rest": torch.zeros(1).expand(shape),
        "a value a channel": dyadic(75, 1, 1, generator=generator).expand(shape),
        "a value a pixel": dyadic(*shape, generator=generator),
    }[start]
    expected, v_expected = reference.if_conv2d(x, weight, bias, v0, **options)
    actual, v = pk.if_conv2d(pk.pack(x), weight, bias, v0, **options)
    assert equal(actual.dense(), expected) and equal(v, v_expected)
    assert expected.any() and not expected.all()


def test_windows_of_all_images_that_start_apart(backend, generator):
    """Each pixel from a potential of its own, the same in all images."""
    x = with_a_background(spikes(40, 3, 20, 9, 12, generator=generator, rate=0.3), generator)
    weight = dyadic(75, 20, 3, 3, generator=generator)
    v0 = dyadic(1, 9, 12, 75, generator=generator).movedim(-1, 1).expand(3, 75, 9, 12)
    expected, v_expected = reference.if_conv2d(x, weight, None, v0, padding=1, v_reset=None)
    actual, v = pk.if_conv2d(pk.pack(x), weight, None, v0, padding=1, v_reset=None)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.alike
@pytest.mark.parametrize("T", [30, 300])
def test_windows_that_hold_the_same_periods(backend, generator, T):
    current = with_a_background(dyadic(2, 20, 9, 12, generator=generator), generator)
    weight, bias = dyadic(75, 20, 3, 3, generator=generator), dyadic(75, generator=generator, span=4)
    expected, v_expected = reference.if_conv2d(reference.if_hold(current, T)[0], weight, bias, padding=1)
    actual, v = pk.if_conv2d(pk.if_hold(current, T)[0], weight, bias, padding=1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.alike
@pytest.mark.parametrize("v_reset", RESETS)
def test_windows_of_neurons_with_two_states(backend, generator, v_reset):
    """They are equal in the first segment of time, and in the next only where both states are."""
    x = with_a_background(spikes(150, 2, 20, 9, 12, generator=generator, rate=0.3), generator)
    weight, bias = dyadic(75, 20, 3, 3, generator=generator), dyadic(75, generator=generator, span=4)
    neuron = pk.neurons.RefractoryLIFNeuron(v_threshold=0.75, v_reset=v_reset, decay=1.0, refractory=3)
    expected, v_expected = reference.conv2d(x, weight, bias, None, neuron.on(75, x.device), padding=1)
    actual, v = pk.calls.neuron_ops.conv2d(pk.pack(x), weight, bias, None, neuron, padding=1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


def test_sums_of_bytes_with_weights_taken_off(monkeypatch):
    """All negative weights are taken off at the step at which all positive ones fire: twice what 16 bits hold."""
    kernels = cpu.load()
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    weight = torch.full((128, 128, 3, 3), 56 * 2.0**-9)
    weight[:, :64] *= -1
    weight[:, 0] = -(2.0**-9)  # no coarser unit
    x = torch.ones(32, 2, 128, 5, 5)
    x[:, :, 64:], x[5, :, :64], x[5, :, 64:] = 0.0, 0.0, 1.0
    with recording() as choices:
        _, v = pk.if_conv2d(pk.pack(x), weight, v_threshold=1e6)
    assert [choice.kernel for choice in choices] == ["rows" if not kernels.has_tiles else "tiles"]
    assert v.unique().item() == x.sum(0)[0, :, :3, :3].flatten() @ weight[0].flatten()


def test_weights_that_drown_the_others_are_not_taken_off(backend, generator):
    """They make their neurons fire at all steps but one. There they are silent, and the others' weights alone count."""
    x = spikes(32, 1, 40, 5, 5, generator=generator, rate=0.3)
    x[:, :, :20], x[9, :, :20] = 1.0, 0.0
    weight = dyadic(16, 40, 3, 3, generator=generator)
    weight[:, :20] = 2.0**30
    expected, _ = reference.if_conv2d(x[9:10], weight)
    actual, _ = pk.if_conv2d(pk.pack(x), weight)
    assert 0.2 < expected.mean() < 0.8 and equal(actual.dense()[9], expected[0])


@pytest.fixture
def tiles():
    kernels = cpu.load("amx")
    if kernels is None:
        pytest.skip("no matrix tiles here: python tests/checked_build.py --emulate-tiles emulates them")
    return kernels


def digits(kernels, weight, theta=1.0):
    thresholds = torch.full((len(weight),), theta)
    return kernels._table.count_digits(weight.data_ptr(), thresholds.data_ptr(), *weight.shape)


@pytest.mark.parametrize("bits, expected", [(6, 1), (14, 2), (22, 3)])
@pytest.mark.parametrize("theta", [1e-3, torch.inf])
def test_whole_numbers_take_the_digits_that_hold_them(tiles, generator, theta, bits, expected):
    """Whatever the threshold is. A unit is a normal number: what lies below it would be lost."""
    weight = torch.randint(-(2**bits), 2**bits, (5, 40), generator=generator).float()
    weight[:, 0] = 1.0
    for shift in (-120, 0, 70):
        assert digits(tiles, weight * 2.0**shift, theta) == expected
    assert digits(tiles, weight * 2.0**-130, torch.inf) == 0


@pytest.mark.parametrize("theta, expected", [(64.0, 3), (1.0, 4), (2.0**-10, 0), (torch.inf, 0)])
def test_other_weights_are_rounded_as_the_threshold_allows(tiles, generator, theta, expected):
    """A readout has none, so nothing may be lost."""
    weight = torch.randn(16, 400, generator=generator)
    assert digits(tiles, weight, theta) == expected
    assert digits(tiles, weight * 2.0**20, theta * 2.0**20) == expected


@pytest.mark.parametrize("theta", [4.0, 0.5])
def test_potentials_err_by_little_of_the_threshold(tiles, generator, theta, monkeypatch):
    x, weight = spikes(1, 4, 64, 6, 6, generator=generator, rate=0.5), torch.randn(32, 64, 3, 3, generator=generator)
    monkeypatch.setattr(backends, "cpu_backend", lambda: tiles)
    _, v = pk.if_conv2d(pk.pack(x), weight, v_threshold=theta, v_reset=None)
    exact = torch.nn.functional.conv2d(x[0].double(), weight.double())
    error = v + theta * (exact >= theta).float() - exact
    assert error.pow(2).mean().sqrt() < 2.0**-18 * max(theta, 4.0)  # 4: of the sums themselves, in float32


@pytest.mark.parametrize("largest", [2.0**22, 2.0**30, 2.0**60])
def test_a_large_weight_of_an_input_that_never_fires_takes_nothing_from_the_others(instruction_set, generator, largest):
    """On the way that is chosen, too."""
    x, weight = spikes(64, 8, 64, 6, 6, generator=generator, rate=0.3), torch.randn(32, 64, 3, 3, generator=generator)
    x[:, :, 0], weight[:, 0] = 0.0, largest
    expected = reference.if_conv2d(x, weight, v_threshold=8.0)[0].mean()
    actual = pk.if_conv2d(pk.pack(x), weight, v_threshold=8.0)[0].dense().mean()
    assert expected > 0.05 and abs(actual - expected) < 1e-3


SIZES = [(1, 1, 1, 1), (24, 5, 3, 144), (37, 4, 4, 33), (8, 1, 1, 5)]  # C_in, H, W, C_out


@pytest.mark.parametrize("T", [1, 7, 8, 33])
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_the_oracle(instruction_set, generator, size, v_reset, T):
    C_in, H, W, C_out = size
    x = dyadic(T, 2, C_in, H, W, generator=generator)
    weight = dyadic(C_out, C_in, 1, 1, generator=generator)
    bias, v0 = dyadic(C_out, generator=generator), dyadic(2, C_out, H, W, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight, bias, v0, v_reset=v_reset)
    for images in (x, x.movedim(2, -1).contiguous().movedim(-1, 2)):  # also channels last
        actual, v = pk.if_conv2d(images, weight, bias, v0, v_reset=v_reset)
        assert equal(actual.dense(), expected) and equal(v, v_expected)
    assert expected.any() or C_out == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_neuron(instruction_set, generator, name):
    neuron = channelwise(40, generator)[name]
    x, weight = dyadic(19, 3, 21, generator=generator), dyadic(40, 21, generator=generator)
    v0 = state(neuron, (3, 40), generator)
    expected, v_expected = reference.linear(x, weight, None, v0, neuron.on(40, x.device))
    actual, v = pk.calls.neuron_ops.linear(x, weight, None, v0, neuron)
    assert expected.any()
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize(("chunks", "draw"), [([2, 31], torch.randn), ([16, 17], torch.randn), ([1, 32], dyadic)])
def test_time_may_be_cut_anywhere(generator, chunks, draw):
    """Also where sums are rounded: each step's is the same sum, but for a single step, which counts as a held input."""
    x, weight = draw(33, 2, 300, 3, 3, generator=generator), draw(70, 300, 1, 1, generator=generator)
    whole, v_whole = pk.calls.neuron_ops.conv2d(x, weight, None, None, IFNeuron(v_threshold=4.0, v_reset=None))
    parts, v = [], None
    for part in x.split(chunks):
        spikes, v = pk.calls.neuron_ops.conv2d(part, weight, None, v, IFNeuron(v_threshold=4.0, v_reset=None))
        parts.append(spikes.dense())
    assert equal(torch.cat(parts), whole.dense()) and equal(v, v_whole) and whole.dense().any()


def test_what_takes_it(generator):
    """Torch multiplies in groups, windows of few values, float64, and where there is much to multiply."""
    x, weight = torch.randn(3, 1, 8, 4, 4, generator=generator), torch.randn(5, 8, 1, 1, generator=generator)
    large = torch.zeros(3, 4, 256, 14, 14)
    large[0, 0, 0, 0] = 2.0
    filters = torch.zeros(256, 256, 3, 3)
    kernels = {}
    for name, given, taken, stride, padding, groups in (
        ("one pixel", x, weight, 1, 0, 1), ("stride", x, weight, 2, 0, 1), ("padding", x, weight, 1, 1, 1),
        ("double", x, weight.double(), 1, 0, 1), ("groups", x, torch.ones(4, 4, 1, 1), 1, 0, 2),
        ("few", x[:, :, :3], torch.ones(5, 3, 3, 3), 1, 0, 1), ("zeros", large, filters, 1, 1, 1),
        ("all", large + 3.0, filters, 1, 1, 1),
    ):  # fmt: skip
        with recording() as choices:
            pk.calls.neuron_ops.conv2d(given, taken, None, None, IFNeuron(), stride, padding, 1, groups)
        kernels[name] = choices[0].kernel
    if pk.kernels.cpu.load():
        dense = {"double", "groups", "few", "all"}
        assert kernels == {name: "dense" if name in dense else "values" for name in kernels}
    with pytest.raises(ValueError, match="weight must be finite"):
        pk.if_conv2d(x, weight * float("inf"))


TARGETS = [target for target in cpu.TARGETS if cpu.load(target) and target != "amx"]


@pytest.mark.parametrize("T", [1, 8])
@pytest.mark.parametrize("target", TARGETS)
def test_currents_of_many_inputs(monkeypatch, generator, target, T):
    """Over several steps, the weights of a step are summed before they are added to what came before."""
    kernels = cpu.load(target, "plan")
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(T, 4, 512, 6, 6, generator=generator, rate=0.3)
    x[:-1] = 0.0
    weight = torch.randn(32, 512, 3, 3, generator=generator) / 4608**0.5
    with recording() as choices:
        _, v = pk.if_conv2d(pk.pack(x), weight, v_threshold=1e3)
    exact = F.conv2d(x[-1].double(), weight.double())
    inputs = F.unfold(x[-1], 3).view(4, 1, 512, 9, 16).transpose(2, 3).flatten(2, 3)
    weights = weight.flatten(2).transpose(1, 2).flatten(1).unsqueeze(2)
    one_by_one = torch.from_numpy(np.add.accumulate((weights * inputs).numpy(), axis=2)[:, :, -1])
    error, most = ((y.flatten(2).double() - exact.flatten(2)).pow(2).mean().sqrt() for y in (v, one_by_one))
    (choice,) = choices
    assert choice.kernel in (("patterns",) if T == 1 else ("rows", "tables"))
    assert error <= (1 if T == 1 else 0.25) * most


@pytest.mark.parametrize("T", [1, 7, 70])
@pytest.mark.parametrize("C_out", [5, 40, 130])
def test_an_engine_behind_a_linear_bottleneck(instruction_set, generator, C_out, T):
    """Neurons that never fire and forget give values, each step others: products in an engine, and in simulate."""
    first, second = pk.FusedIFConv2d(6, 9, 3, padding=1), pk.FusedConv2d(9, 20, 1, neuron=LINeuron(decay=0.0))
    net = torch.nn.Sequential(first, second, pk.FusedIFConv2d(20, C_out, 1, bias=True)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator))
        x = spikes(T, 2, 6, 5, 4, generator=generator)
        engine = pk.compile(net, x)
        with pk.use_reference():
            expected = pk.simulate(net, x, T).spikes.dense()
        assert expected.any() and equal(engine(x, T).spikes.dense(), expected)
        assert equal(pk.simulate(net, x, T).spikes.dense(), expected)
    assert "values" in str(engine)
