"""Recurrent neurons in the Triton kernel, against the oracle."""

import pytest
import torch
from cases import RESETS, dyadic, spikes, thresholds
from equality import equal
from neuron_cases import NAMES, channelwise, state

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference
from proxykernels.neurons import IFNeuron

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]
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
