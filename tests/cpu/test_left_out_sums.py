"""What sums of rows leave out: windows like one before them, and inputs that fire at most steps of a span."""

import pytest
import torch
from cases import RESETS, dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference
from proxykernels.kernels.recording import recording


def with_a_background(x, generator):
    """Images [..., H, W] of which most pixels are like the first, and the right half has pixels of its own."""
    plain = torch.rand(x.shape[-2:], generator=generator) < 0.9
    plain[:, x.shape[-1] // 2 :] &= torch.rand(x.shape[-2], x.shape[-1] - x.shape[-1] // 2, generator=generator) < 0.5
    return torch.where(plain, x[..., :1, :1], x)


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


@pytest.mark.parametrize("T", [30, 300])
def test_windows_that_hold_the_same_periods(backend, generator, T):
    current = with_a_background(dyadic(2, 20, 9, 12, generator=generator), generator)
    weight, bias = dyadic(75, 20, 3, 3, generator=generator), dyadic(75, generator=generator, span=4)
    expected, v_expected = reference.if_conv2d(reference.if_hold(current, T)[0], weight, bias, padding=1)
    actual, v = pk.if_conv2d(pk.if_hold(current, T)[0], weight, bias, padding=1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


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
    weight = torch.full((70, 128, 3, 3), 56 * 2.0**-9)
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
