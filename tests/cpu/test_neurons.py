"""Every neuron model: traces written out by hand, and every way a CPU can take against the oracle.

Currents are exact in any order of their sums; from there on a step rounds as IEEE has it, whatever the decays.
"""

from dataclasses import replace

import pytest
import torch
from cases import CONVOLUTIONS, dyadic, spikes, thresholds
from equality import equal
from neuron_cases import NAMES, TRACES, channelwise, state

import proxykernels as pk
from proxykernels import neurons
from proxykernels.kernels import reference
from proxykernels.spikes.storage import Periods, Words


@pytest.mark.parametrize("neuron, current, spikes, states", TRACES)
def test_hand_traces(instruction_set, neuron, current, spikes, states):
    current = torch.tensor(current).view(-1, 1, 1)
    for t in range(1, len(current) + 1):
        s, v = pk.calls.neuron_ops.scan(current[:t], None, neuron)
        assert s.dense().flatten().tolist() == spikes[:t]
        expected = states[t - 1] if isinstance(states[t - 1], tuple) else (states[t - 1],)
        assert v.flatten().tolist() == list(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 37, 3, 2), (3, 64), (1, 5, 7)], ids=str)
def test_scan(instruction_set, generator, shape, name):
    neuron = channelwise(shape[1], generator)[name]
    current = torch.randn(40, *shape, generator=generator)
    v0 = state(neuron, shape, generator)
    expected, v_expected = reference.scan(current, v0, neuron.on(shape[1], current.device))
    actual, v = pk.calls.neuron_ops.scan(current, v0, neuron)
    assert expected.any() and v.shape == v0.shape
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(backend, generator, case, name):
    C_in, H, W, C_out, kernel_size, *window = case
    neuron = channelwise(C_out, generator)[name]
    x = spikes(33, 2, C_in, H, W, generator=generator)
    weight = dyadic(C_out, C_in // window[-1], *kernel_size, generator=generator)
    bias = dyadic(C_out, generator=generator, span=4)
    on = neuron.on(C_out, x.device)
    shape = reference.conv2d(x[:1], weight, None, None, on, *window)[0].shape[1:]
    v0 = state(neuron, shape, generator)
    expected, v_expected = reference.conv2d(x, weight, bias, v0, on, *window)
    actual, v = pk.calls.neuron_ops.conv2d(pk.pack(x), weight, bias, v0, neuron, *window)
    assert expected.any()
    assert equal(actual.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("chunks", [[33], [1, 32], [16, 17]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_time_may_be_cut_anywhere(backend, generator, chunks, name):
    neuron, x = channelwise(9, generator)[name], spikes(33, 2, 20, generator=generator)
    weight = dyadic(9, 20, generator=generator)
    whole, v_whole = pk.calls.neuron_ops.linear(pk.pack(x), weight, None, None, neuron)
    v, parts, start = None, [], 0
    for steps in chunks:
        part, v = pk.calls.neuron_ops.linear(pk.pack(x)[start : start + steps], weight, None, v, neuron)
        parts.append(part.dense())
        start += steps
    assert whole.rate() > 0
    assert equal(torch.cat(parts), whole.dense()) and equal(v, v_whole)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Loihi"])
def test_scaled_neurons_fire_alike(generator, name):
    """A factor of 2 is exact; one for each channel goes with a reset and a rest at 0."""
    neuron, current = channelwise(5, generator)[name], torch.randn(40, 3, 5, generator=generator)
    at_zero = replace(neuron, v_reset=neuron.v_reset and 0.0, v_rest=0.0)
    for scaled, plain in (neuron.scaled(2.0), neuron), (at_zero.scaled(torch.full((5,), 2.0)), at_zero):
        expected, v_expected = pk.calls.neuron_ops.scan(current, None, plain)
        spikes, v = pk.calls.neuron_ops.scan(2 * current, None, scaled)
        assert expected.count().any() and equal(spikes.dense(), expected.dense())
        if plain.states == 1:
            assert equal(v, 2 * v_expected)


@pytest.mark.parametrize("T", [1, 33, 300])
@pytest.mark.parametrize("v_rest", [0.0, -0.5])
def test_leaky_neurons_that_reset_to_rest_repeat_themselves(backend, generator, T, v_rest):
    current = torch.randn(2, 9, 5, 3, generator=generator).abs()
    neuron = neurons.LIFNeuron(
        v_threshold=thresholds(9, generator), v_reset=v_rest, decay=torch.rand(9, generator=generator), v_rest=v_rest
    )
    expected, v_expected = reference.hold(current, T, torch.full_like(current, v_rest), neuron.on(9, current.device))
    actual, v = pk.calls.neuron_ops.hold(current, T, None, neuron)
    assert isinstance(actual._kept, Periods if current.device.type == "cpu" and T > 1 else Words)
    assert equal(v, v_expected)
    weight = dyadic(12, 9, 3, 3, generator=generator)
    y_expected, u_expected = reference.conv2d(expected, weight, None, None, pk.IF().neuron.on(12, current.device))
    y, u = pk.calls.neuron_ops.conv2d(actual, weight, None, None, pk.IF().neuron)
    assert expected.any() and equal(actual.dense(), expected)
    assert equal(y.dense(), y_expected) and equal(u, u_expected)


def test_a_decay_of_one_integrates_and_fires(generator):
    current = torch.randn(50, 3, 7, generator=generator)
    for v_reset in (0.0, None):
        leaky = pk.calls.neuron_ops.scan(current, None, neurons.LIFNeuron(v_threshold=1.0, v_reset=v_reset, decay=1.0))
        plain = pk.if_scan(current, v_reset=v_reset)
        assert leaky[0].rate() > 0.05
        assert equal(leaky[0].dense(), plain[0].dense()) and equal(leaky[1], plain[1])


def test_neurons_that_never_adapt_or_rest_are_leaky(generator):
    current = torch.randn(50, 3, 7, generator=generator) + 0.3
    expected = pk.calls.neuron_ops.scan(current, None, neurons.LIFNeuron(decay=0.9))[0].dense()
    same = [
        neurons.CubaLIFNeuron(decay=0.9, current_decay=0.0),
        neurons.ALIFNeuron(decay=0.9, adaptation=0.0),
        neurons.RefractoryLIFNeuron(decay=0.9, refractory=0),
    ]
    for neuron in same:
        assert expected.mean() > 0.05 and equal(pk.calls.neuron_ops.scan(current, None, neuron)[0].dense(), expected)
