"""Recurrent neurons: each instruction set bit-equal to the definition, on data whose sums are exact in any order."""

import pytest
import torch
from cases import RESETS, STEPS, dyadic, spikes, thresholds
from equality import equal
from neuron_cases import NAMES, channelwise
from neuron_cases import state as state_of

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference
from proxykernels.neurons import IFNeuron

SIZES = [(6, 7, 1), (3, 5, 7), (2, 16, 32), (1, 40, 33), (5, 9, 64), (2, 3, 200), (9, 4, 130)]  # N, in, out
RECURRENCES = ["full", "elementwise"]


def weights(inputs: int, C: int, recurrence: str, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Weight, bias and recurrent weight."""
    recurrent = dyadic(*((C, C) if recurrence == "full" else (C,)), generator=generator, span=8)
    weight = dyadic(C, inputs, generator=generator) + 0.25  # so that one neuron alone fires, too
    return weight, dyadic(C, generator=generator, span=4) + 0.25, recurrent


def start(neuron, N: int, C: int, generator: torch.Generator) -> torch.Tensor:
    """A state [N, states + 1, C]."""
    v = state_of(neuron, (N, C), generator).view(N, neuron.states, C)
    return torch.cat([v, spikes(N, 1, C, generator=generator, rate=0.3)], 1)


def expected(x, weight, bias, recurrent, v, neuron):
    """By the definition."""
    current = torch.nn.functional.linear(x, weight, bias)
    return reference.recurrent_scan(current, v, neuron.on(len(weight), x.device), recurrent)


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_spikes_come_back(instruction_set, generator, size, recurrence, T, v_reset):
    N, inputs, C = size
    parameters = weights(inputs, C, recurrence, generator)
    neuron = IFNeuron(v_threshold=thresholds(C, generator), v_reset=v_reset)
    x, v0 = spikes(T, N, inputs, generator=generator), start(neuron, N, C, generator)
    v0[:, 0] += 1.5  # so that some fire in one step, too
    wanted, v_wanted = expected(x, *parameters, v0, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, v0, neuron)
    assert wanted.any()
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("name", NAMES)
def test_neurons_of_every_model(instruction_set, generator, name, recurrence):
    T, N, inputs, C = 40, 3, 11, 70
    parameters, neuron = weights(inputs, C, recurrence, generator), channelwise(C, generator)[name]
    x, v0 = spikes(T, N, inputs, generator=generator), start(neuron, N, C, generator)
    v0[:, 0] *= 0  # leaky potentials are no dyadic numbers: their products are rounded, but always in the same way
    wanted, v_wanted = expected(x, *parameters, v0, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, v0, neuron)
    assert 0.01 < wanted.mean() < 0.9
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_any_firing_rate(instruction_set, generator, rate):
    """Of the neurons themselves: the potential starts so far up or down that they fire at this rate at first."""
    N, C = 4, 150
    parameters, neuron = weights(6, C, "full", generator), IFNeuron(v_threshold=2.0, v_reset=None)
    v0 = torch.zeros(N, 2, C)
    v0[:, 0] = 64 * (spikes(N, C, generator=generator, rate=rate) - 0.5)
    v0[:, 1] = v0[:, 0] > 0
    x = spikes(9, N, 6, generator=generator)
    wanted, v_wanted = expected(x, *parameters, v0, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, v0, neuron)
    assert abs(wanted[0].mean() - rate) < 0.1
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


@pytest.mark.parametrize("steps", [1, 8, 33])
def test_any_chunking(instruction_set, generator, steps):
    """The state holds all that the next call needs, the last spikes included."""
    parameters, neuron = weights(6, 50, "full", generator), IFNeuron(v_threshold=2.0, v_reset=None)
    x = spikes(70, 2, 6, generator=generator)
    wanted, v_wanted = neuron_ops.recurrent_linear(pk.pack(x), *parameters, None, neuron)
    parts, v = [], None
    for first in range(0, len(x), steps):
        fired, v = neuron_ops.recurrent_linear(pk.pack(x[first : first + steps]), *parameters, v, neuron)
        parts.append(fired.dense())
    assert wanted.count().any()
    assert equal(torch.cat(parts), wanted.dense()) and equal(v, v_wanted)


def test_real_values_and_constant_ones(instruction_set, generator):
    parameters, neuron = weights(6, 50, "full", generator), IFNeuron(v_threshold=2.0)
    x = dyadic(40, 3, 6, generator=generator)
    for given in (x, x[:1].expand(40, -1, -1)):
        wanted, v_wanted = expected(given, *parameters, None, neuron)
        found, v = neuron_ops.recurrent_linear(given, *parameters, None, neuron)
        assert wanted.any()
        assert equal(found.dense(), wanted) and equal(v, v_wanted)


def test_pieces_of_steps(instruction_set, generator, monkeypatch):
    """Of so many neurons that the currents of all steps are made in several pieces."""
    from proxykernels.calls.gradients import recurrent

    monkeypatch.setattr(recurrent, "PIECE_BYTES", 1 << 12)
    parameters, neuron = weights(6, 50, "full", generator), IFNeuron(v_threshold=2.0)
    x = spikes(100, 2, 6, generator=generator)
    wanted, v_wanted = expected(x, *parameters, None, neuron)
    found, v = neuron_ops.recurrent_linear(pk.pack(x), *parameters, None, neuron)
    assert wanted.any()
    assert equal(found.dense(), wanted) and equal(v, v_wanted)


def test_no_samples(instruction_set, generator):
    parameters = weights(6, 5, "full", generator)
    found, v = neuron_ops.recurrent_linear(pk.pack(torch.zeros(4, 0, 6)), *parameters, None, IFNeuron())
    assert found.shape == (4, 0, 5) and v.shape == (0, 2, 5)
