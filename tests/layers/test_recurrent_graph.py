"""RecurrentGraph: the equations of its layers step by step, in whole runs and in parts, and what it refuses."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import FusedSum, RecurrentGraph

T, N = 7, 2


def graph(generator, neuron):
    """Two layers of neurons, with what the second gives behind a delay, and a readout."""
    rec = RecurrentGraph()
    join = FusedSum(nn.Linear(8, 16), nn.Linear(4, 16, bias=False), nn.Identity(), neuron=neuron)
    rec.append("first", join, (rec.INPUT, rec.before("late"), rec.before("first")))
    rec.append("second", pk.FusedLinear(16, 4, neuron=neuron), ("first",))
    rec.append("late", pk.Delay(1), ("second",))
    return make_dyadic(rec, generator, 1 / 16)


def by_hand(rec, x):
    """Hard reset to 0, decay 0.5, threshold 0.5."""
    join, second = rec.first, nn.functional.linear
    v1, v2 = torch.zeros(x.shape[1], 16), torch.zeros(x.shape[1], 4)
    s1, s2, late, steps = torch.zeros_like(v1), torch.zeros_like(v2), torch.zeros_like(v2), []
    for step in x:
        h = 0.5 * v1 + join.synapses[0](step) + join.synapses[1](late) + s1
        s1, late = (h >= 0.5).float(), s2
        v1 = torch.where(s1 > 0, 0.0, h)
        h = 0.5 * v2 + second(s1, rec.second.weight, rec.second.bias)
        s2 = (h >= 0.5).float()
        v2 = torch.where(s2 > 0, 0.0, h)
        steps.append(late)
    return torch.stack(steps)


@torch.no_grad()
@pytest.mark.parametrize("of_spikes", [False, True])
def test_definition(generator, of_spikes):
    rec = graph(generator, pk.neurons.LIFNeuron(v_threshold=0.5))
    x = spikes(T, N, 8, generator=generator, rate=0.5) if of_spikes else dyadic(T, N, 8, generator=generator)
    expected = by_hand(rec, x)
    assert equal(rec(x), expected) and 0.05 < expected.mean() < 0.95
    assert equal(rec(pk.pack(x)).dense(), expected) if of_spikes else True
    net = nn.Sequential(rec, pk.FusedLILinear(4, 3, decay=0.5))
    whole, parts, state = pk.simulate(net, x, T), [], None
    for part in x.split(3):
        result = pk.simulate(net, part, len(part), state=state)
        state = result.state
        parts.append(result.potentials)
    assert equal(torch.cat(parts), whole.potentials) and whole.potentials.any()
    assert list(whole.rates) == ["0"] and state["0"][0].shape == (N, 16 + 4 + 4 + 4 + 16)
    alone, v = rec(x[:, 1:2]), None
    assert equal(alone, expected[:, 1:2])  # samples do not mix
    first, v = rec(x[:2], torch.zeros(N, 44))
    second, v = rec(x[2:], v)
    assert equal(torch.cat([first, second]), expected)


@torch.no_grad()
def test_the_same_as_a_recurrent_layer(generator):
    plain = make_dyadic(pk.FusedRecurrentLinear(8, 16, neuron=pk.neurons.LIFNeuron(v_threshold=0.5)), generator, 1 / 16)
    plain.recurrent_weight.copy_(dyadic(16, 16, generator=generator, span=12, unit=1 / 16))
    join = FusedSum(nn.Linear(8, 16), nn.Linear(16, 16, bias=False), neuron=plain.neuron)
    join.synapses[0].load_state_dict({"weight": plain.weight, "bias": plain.bias})
    join.synapses[1].weight.copy_(plain.recurrent_weight)
    rec, x = RecurrentGraph(), dyadic(T, N, 8, generator=generator)
    rec.append("only", join, (rec.INPUT, rec.before("only")))
    expected = plain.eval()(x)
    assert equal(rec.eval()(x), expected) and 0.05 < expected.mean() < 0.95


def test_dropout_keeps_its_units_in_all_steps():
    rec, x = RecurrentGraph(), torch.ones(20, 2, 64)
    rec.append("drop", pk.Dropout(0.5), (rec.INPUT,))
    rec.append("fires", pk.IF(v_threshold=1.0), ("drop",))
    with torch.no_grad():
        y = rec.train()(x)
    assert equal(y, y[:1].expand_as(y)) and 0 < y.mean() < 1


def test_what_is_refused(generator):
    neuron = pk.neurons.LIFNeuron()
    rec = RecurrentGraph()
    with pytest.raises(TypeError, match="layer pair is a Sequential of layers with a state; append these one by one"):
        rec.append("pair", nn.Sequential(pk.IF(), pk.IF()), (rec.INPUT,))
    rec.append("only", FusedSum(nn.Linear(8, 8), neuron=neuron), (rec.before("only"),))
    with pytest.raises(TypeError, match=r"layer only, .*, takes 'only\[t-1\]', and nothing tells the shape of it"):
        rec(torch.rand(T, N, 8))
    rec = RecurrentGraph()
    rec.append("a", FusedSum(nn.Linear(8, 8), nn.Linear(8, 8), neuron=neuron), (rec.INPUT, rec.before("b")))
    with pytest.raises(ValueError, match=r"sources has 'b\[t-1\]', and there is no such layer; there are \['a'\]"):
        rec(torch.rand(T, N, 8))
    rec = graph(generator, neuron)
    with pytest.raises(ValueError, match=r"v must have the shape \[2, 44\]"):
        rec(torch.rand(T, N, 8), torch.zeros(2, 43))
    with pytest.raises(TypeError, match="simulate it with precision=None"):
        pk.simulate(nn.Sequential(rec), torch.rand(T, N, 8), T, precision="int8")
