"""Real values into kernels of one pixel, as a linear bottleneck carries them on: currents and neurons in one pass."""

import pytest
import torch
from cases import RESETS, dyadic
from equality import equal
from neuron_cases import NAMES, channelwise, state

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.kernels.recording import recording
from proxykernels.neurons import IFNeuron

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
    x, weight = torch.randn(3, 1, 8, 4, 4, generator=generator), torch.randn(5, 8, 1, 1, generator=generator)
    kernels = {}
    for name, stride, padding, taken in (
        ("one pixel", 1, 0, weight), ("stride", 2, 0, weight), ("padding", 1, 1, weight),
        ("double", 1, 0, weight.double()),
    ):  # fmt: skip
        with recording() as choices:
            pk.calls.neuron_ops.conv2d(x, taken, None, None, IFNeuron(), stride, padding)
        kernels[name] = choices[0].kernel
    if pk.kernels.cpu.load():
        assert kernels == {"one pixel": "product", "stride": "dense", "padding": "dense", "double": "dense"}
    with pytest.raises(ValueError, match="weight must be finite"):
        pk.if_conv2d(x, weight * float("inf"))
