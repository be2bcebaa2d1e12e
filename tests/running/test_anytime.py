"""Early exit, records and synaptic operations of simulate."""

import layerwise
import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, spikes
from equality import equal
from test_simulate import Twice, make_net, oracle
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference


@pytest.fixture
def case(generator):
    """A network, images of which some are brighter, and the outputs of the oracle for 40 steps."""
    net = make_net(generator)
    x = dyadic(9, 1, 8, 7, generator=generator).abs() * torch.arange(1, 10).view(-1, 1, 1, 1) / 8
    return net, x, oracle(net, x.expand(40, *x.shape), 0.0)


def stopping_steps(out: torch.Tensor, lead: int, chunk: int) -> torch.Tensor:
    """When each sample of out [T, N, classes] is decided, looked at every ``chunk`` steps."""
    T, N, _ = out.shape
    steps = torch.full((N,), T)
    for t in reversed([*range(chunk, T, chunk), T]):
        first, second = out[:t].sum(0).topk(2, 1).values.unbind(1)
        steps[first - second >= lead] = t
    return steps


@pytest.mark.parametrize("kind", ["held", "sequence", "spikes"])
@pytest.mark.parametrize("chunk", [1, 7, 100, None])
@pytest.mark.parametrize("run", [pk.simulate, layerwise.simulate], ids=["plan", "layers"])
def test_decided_samples_stop(case, generator, run, chunk, kind):
    net, x, (_, _, out) = case
    if kind != "held":
        dense = spikes(40, *x.shape, generator=generator, rate=0.4)
        x, out = pk.pack(dense) if kind == "spikes" else dense, oracle(net, dense, 0.0)[2]
    result = run(net, x, 40, chunk=chunk, stop=pk.stop.margin(4))
    steps = stopping_steps(out, 4, chunk or 8)
    assert equal(result.steps, steps) and (1 < len(steps.unique()) or chunk == 100)
    alive = torch.arange(40).view(-1, 1, 1) < steps.view(-1, 1)
    assert equal(result.spikes.dense(), out * alive)
    whole = pk.simulate(net, x, 40)
    assert whole.steps.tolist() == [40] * 9
    last = steps == 40
    for name, (v,) in result.state.items():
        assert v.shape == whole.state[name][0].shape and equal(v[last], whole.state[name][0][last])


def test_states_of_stopped_samples_are_in_their_places(case):
    net, x, _ = case
    result = pk.simulate(net, x, 40, chunk=5, stop=pk.stop.margin(3))
    for k, steps in enumerate(result.steps.tolist()):
        alone = pk.simulate(net, x[k : k + 1], steps)
        for name, (v,) in alone.state.items():
            assert equal(result.state[name][0][k : k + 1], v)


def test_all_samples_stop(case):
    net, x, _ = case
    result = pk.simulate(net, x, 1000, chunk=10, stop=lambda counts, t: torch.full((len(counts),), t >= 20))
    assert result.steps.tolist() == [20] * 9 and result.spikes.T == 1000
    assert equal(result.count(), pk.simulate(net, x, 20).count())
    assert result.rates["0"] == pytest.approx(pk.simulate(net, x, 20).rates["0"])


@pytest.mark.parametrize("run", [pk.simulate, layerwise.simulate], ids=["plan", "layers"])
def test_of_no_samples_no_rule_is_asked(case, run):
    net, x, _ = case
    asked = []
    for samples in (x[:0], x):
        result = run(net, samples, 40, stop=lambda counts, t: asked.append(t) or torch.ones(len(counts)).bool())
        assert len(result.steps) == len(samples) and asked == [8] * bool(len(samples))


def test_bad_rules(case):
    net, x, _ = case
    with pytest.raises(TypeError, match="stop must return a bool tensor"):
        pk.simulate(net, x, 10, stop=lambda counts, t: counts)
    with pytest.raises(ValueError, match="lead must be above 0 spikes, got 0"):
        pk.stop.margin(0)
    with pytest.raises(TypeError, match="lead must be a number of spikes, got '3'"):
        pk.stop.margin("3")
    with pytest.raises(ValueError, match="record and stop exclude each other"):
        pk.simulate(net, x, 10, stop=pk.stop.margin(3), record=["0"])


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_records(case, chunk):
    net, x, (s1, s2, _) = case
    records = pk.simulate(net, x, 40, chunk=chunk, record=["0", "1", "1.v", "4.v"]).records
    assert list(records) == ["0", "1", "1.v", "4.v"]
    assert equal(records["0"].dense(), s1) and equal(records["1"].dense(), s2)
    v, potentials = None, []
    for t in range(40):
        _, v = reference.if_conv2d(s1[t : t + 1], net[1].weight.data, net[1].bias.data, v)
        potentials.append(v)
    assert equal(records["1.v"], torch.stack(potentials))
    assert equal(records["4.v"][-1], pk.simulate(net, x, 40).state["4"][0])
    for record, message in (
        (["conv9"], "record names a layer that net has not: 'conv9'"),
        (["3"], "'3'; it has"),
        ("0", "record must be a list of layer names, got the string '0'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.simulate(net, x, 4, record=record)
    with pytest.raises(ValueError, match="layer inner is called more than once a step"):
        pk.simulate(Twice(), torch.rand(3, 5), 4, record=["inner"])


def test_records_of_a_joining_layer(generator):
    net = pk.Network()
    net.append("first", pk.FusedIFLinear(5, 6), ("",))
    net.append("last", pk.FusedIFSum(nn.Linear(6, 6), nn.Identity()), ("first", "first"))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(3, 5, generator=generator).abs()
    result = pk.simulate(net, x, 30, record=["last.v"])
    assert equal(result.records["last.v"][-1], result.state["last"][0])


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.Conv2d(4, 6, (2, 3), padding="same"),
    nn.Conv2d(4, 6, 3, dilation=2, padding=(1, 2), groups=2), nn.Conv2d(4, 6, 1, stride=(1, 3)),
]  # fmt: skip


@pytest.mark.parametrize("convolution", CONVOLUTIONS, ids=str)
def test_operations_of_a_convolution(generator, convolution):
    """Every spike, once for each output that a convolution of ones connects it with."""
    c = convolution
    dense = spikes(9, 2, 4, 7, 8, generator=generator)
    layer = pk.FusedIFConv2d(4, 6, c.kernel_size, c.stride, c.padding, c.dilation, c.groups)
    with torch.no_grad():
        reached = F.conv2d(
            dense.flatten(0, 1), torch.ones_like(c.weight), None, c.stride, c.padding, c.dilation, c.groups
        ).sum()
    result = pk.simulate(nn.Sequential(layer, pk.Flatten()), pk.pack(dense), 9, chunk=4)
    assert result.synops.accumulates == {"0": int(reached)} and result.synops.multiply_accumulates == {"0": 0}


def test_operations_of_a_network(case):
    net, x, (s1, s2, _) = case
    synops = pk.simulate(net, x, 40, chunk=7).synops
    pooled = reference.max_pool2d(s2, 2)
    assert synops.accumulates["4"] == int(pooled.sum()) * 7 and synops.accumulates["0"] == 0
    assert synops.multiply_accumulates == {"0": 9 * 6 * 8 * 7 * 9, "1": 0, "4": 0}  # the image is multiplied once
    assert synops.total == sum(synops.accumulates.values()) + 9 * 6 * 8 * 7 * 9
    assert synops.joules == pytest.approx(
        0.9e-12 * sum(synops.accumulates.values()) + 4.6e-12 * synops.multiply_accumulates["0"]
    )
    sequence = x.expand(40, *x.shape).contiguous()
    assert pk.simulate(net, sequence, 40).synops.multiply_accumulates["0"] == 40 * 9 * 6 * 8 * 7 * 9


def test_operations_of_joined_inputs(generator):
    dense = [spikes(9, 2, 4, 6, 6, generator=generator), spikes(9, 2, 6, 6, 6, generator=generator)]

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = pk.MaxRatePool2d(2)
            self.sum = pk.FusedIFSum(nn.Conv2d(4, 6, 1), nn.Identity())

        def forward(self, x):
            return self.pool(self.sum((x, pk.pack(dense[1]))))

    synops = pk.simulate(Pair(), pk.pack(dense[0]), 9, chunk=9).synops
    assert synops.accumulates == {"sum": 6 * int(dense[0].sum()) + int(dense[1].sum()), "pool": 0}
