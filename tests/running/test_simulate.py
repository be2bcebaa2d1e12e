"""Whole networks: chunks, states, rates, memory."""

import subprocess
import sys
from pathlib import Path

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference, unfused


def make_net(generator, v_reset=0.0):
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 6, 3, padding=1, v_reset=v_reset),
        pk.FusedIFConv2d(6, 9, 3, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(9 * 3 * 2, 7, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    return net


def oracle(net, x, v_reset):
    """Dense spikes of each layer of make_net; x [T, N, 1, H, W]."""
    s1, _ = reference.if_conv2d(x, net[0].weight.data, net[0].bias.data, padding=1, v_reset=v_reset)
    s2, _ = reference.if_conv2d(s1, net[1].weight.data, net[1].bias.data, v_reset=v_reset)
    pooled = reference.max_pool2d(s2, 2).flatten(2)
    return s1, s2, reference.if_linear(pooled, net[4].weight.data, net[4].bias.data, v_reset=v_reset)[0]


@pytest.mark.parametrize("chunk", [None, 1, 7, 32, 100, 1000])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("kind", ["held", "sequence", "spikes"])
def test_against_the_oracle(generator, kind, v_reset, chunk):
    T, net = 100, make_net(generator, v_reset)
    image = dyadic(3, 1, 8, 7, generator=generator).abs()
    x = {"held": image, "sequence": dyadic(T, 3, 1, 8, 7, generator=generator)}.get(kind)
    dense = image.expand(T, *image.shape) if kind == "held" else x
    if kind == "spikes":
        dense = spikes(T, 3, 1, 8, 7, generator=generator)
        x = pk.pack(dense)
    s1, s2, out = oracle(net, dense, v_reset)
    result = layerwise.simulate(net, x, T, chunk=chunk)
    assert equal(result.spikes.dense(), out)
    for until in (1, 33, T):
        assert equal(result.count(until=until), out[:until].sum(0).int())
    assert result.rates == pytest.approx(
        {"0": s1.mean().item(), "1": s2.mean().item(), "4": out.mean().item()}, abs=1e-6
    )


def test_state_goes_on(generator):
    net, x = make_net(generator), dyadic(2, 1, 8, 7, generator=generator).abs()
    whole = pk.simulate(net, x, 50)
    first = pk.simulate(net, x, 20)
    second = pk.simulate(net, x, 30, state=first.state)
    assert equal(first.count() + second.count(), whole.count())
    for name, states in whole.state.items():
        assert all(torch.equal(a, b) for a, b in zip(states, second.state[name], strict=True))


class Twice(nn.Module):
    """A module of its own kind that calls one layer twice: two populations of neurons."""

    def __init__(self):
        super().__init__()
        self.inner = pk.FusedIFLinear(5, 5)
        self.last = pk.FusedIFLinear(5, 2)

    def forward(self, x):
        return self.last(self.inner(self.inner(x)))


def test_any_module_and_shared_layers(generator):
    net, x = Twice(), torch.rand(3, 5, generator=generator)
    for layer in (net.inner, net.last):
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
        layer.bias.data.fill_(0.25)
    x = (x * 16).round() / 16
    weight, bias = net.inner.weight.data, net.inner.bias.data
    s, _ = reference.if_linear(x.expand(40, 3, 5), weight, bias)
    s, _ = reference.if_linear(s, weight, bias)
    s, _ = reference.if_linear(s, net.last.weight.data, net.last.bias.data)
    for chunk in (7, 40):
        result = layerwise.simulate(net, x, 40, chunk=chunk)
        assert equal(result.spikes.dense(), s) and len(result.state["inner"]) == 2


def test_the_net_stays_as_it_was(generator):
    net = make_net(generator)
    before = {name: type(module) for name, module in net.named_modules()}
    pk.simulate(net, torch.rand(1, 1, 8, 7), 3)
    assert {name: type(module) for name, module in net.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_one_layer_is_a_net_and_no_sample_is_a_batch():
    layer = pk.FusedIFLinear(4, 2)
    assert pk.simulate(layer, torch.rand(3, 4), 5).rates.keys() == {"FusedIFLinear"}
    result = pk.simulate(layer, torch.zeros(0, 4), 5)
    assert result.count().shape == (0, 2)


def test_running_statistics_whatever_the_mode(generator):
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, batch_norm=True))
    x = torch.rand(2, 1, 6, 6, generator=generator)
    assert equal(pk.simulate(net.train(), x, 9).count(), pk.simulate(net.eval(), x, 9).count())
    assert net[0].bn.num_batches_tracked == 0


@pytest.mark.parametrize("precision", [None, "int8"])
def test_a_held_input_is_convolved_once_for_all_chunks(monkeypatch, generator, precision):
    x, calls, convolve = torch.rand(4, 1, 8, 6, generator=generator), [], unfused.convolve

    def counted(*operands):
        calls.append(operands)
        return convolve(*operands)

    monkeypatch.setattr(unfused, "convolve", counted)
    net = make_net(generator, None)  # with a hard reset there are periods, of all steps
    expected, _ = layerwise.simulate(net, x, 33, chunk=33, precision=precision).spikes.dense(), calls.clear()
    assert equal(layerwise.simulate(net, x, 33, chunk=7, precision=precision).spikes.dense(), expected)
    assert len(calls) == 1 and expected.any()
    x += 1  # and anew for the next simulation
    assert not torch.equal(layerwise.simulate(net, x, 33, chunk=7, precision=precision).spikes.dense(), expected)


PEAK = """
import sys; sys.path.insert(0, {benchmarks!r})
import torch
from common import nets
net, _ = nets.load("small", 0.0)
import proxykernels as pk
from proxykernels.running import kept_plans
x = torch.rand(32, 1, 28, 28)
def peak(T, **options):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    pk.simulate(net, x, T, **options)
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
by_plan = peak(64), peak({T})
kept_plans.run = lambda *given: None  # the layers are run one by one
print(*by_plan, peak({T}, chunk={T}))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_T():
    """The small net, batch 32: from T = 64 to 2048, whose chunks are four times as long, the process's peak rises by a
    quarter of what one chunk of all steps takes, at most."""
    code = PEAK.format(benchmarks=str(Path(__file__).parents[2] / "benchmarks"), T=2048)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    short, long, in_one_chunk = map(int, done.stdout.split())
    assert long - short <= 0.25 * (in_one_chunk - short) and in_one_chunk > 2 * short, done.stdout
