"""A layer's call is a plan of one operation: kept by sizes and weights, in any segment, on any number of threads."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from cases import dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import cpu, reference
from proxykernels.kernels.cpu import layer_plans

pytestmark = pytest.mark.skipif(not cpu.load(), reason="the C++ kernels are not built here")


@pytest.fixture
def made(monkeypatch):
    """The plans of convolutions that are made, by the shapes of their weights."""
    shapes, make = [], layer_plans.LayerPlans.conv2d

    def noted(self, neurons, size, weight, *others):
        shapes.append(tuple(weight.shape))
        return make(self, neurons, size, weight, *others)

    monkeypatch.setattr(layer_plans.LayerPlans, "conv2d", noted)
    return shapes


def fires(layer, x) -> torch.Tensor:
    found = layer(pk.pack(x)).dense()
    assert found.any() and not found.all()
    return found


def test_a_plan_is_kept_until_weights_or_bias_change(made, generator):
    layer, x = pk.FusedIFConv2d(8, 12, 3).eval(), spikes(6, 2, 8, 7, 7, generator=generator, rate=0.5)
    layer.weight.data, layer.bias.data = dyadic(12, 8, 3, 3, generator=generator), dyadic(12, generator=generator)
    first = fires(layer, x)
    assert equal(fires(layer, x), first) and equal(fires(layer, x[:3, :1]), first[:3, :1])  # other T and N
    assert len(made) == 1
    layer.weight.data[0] += 1.0
    changed = fires(layer, x)
    layer.bias.data -= 0.5
    assert len(made) == 2 and not torch.equal(changed, first) and not torch.equal(fires(layer, x), changed)
    assert len(made) == 3


@pytest.mark.parametrize("reset", [0.0, None], ids=["hard", "soft"])
def test_thresholds_that_change_leave_the_weights_packed(made, generator, reset):
    weight, x = dyadic(12, 30, generator=generator), spikes(9, 4, 30, generator=generator, rate=0.5)
    counts = []
    for theta in torch.linspace(1.0, 1.9, 9):
        expected, v_expected = reference.if_linear(x, weight, v_threshold=theta.item(), v_reset=reset)
        found, v = pk.if_linear(pk.pack(x), weight, v_threshold=theta.item(), v_reset=reset)
        assert equal(found.dense(), expected) and equal(v, v_expected)
        counts.append(int(expected.sum()))
    assert counts[0] > counts[-1] > 0 and len(made) == 1


def test_plans_of_many_sizes_are_bounded(made, generator):
    weight = dyadic(4, 3, 3, 3, generator=generator)
    kernels = pk.kernels.backends.cpu_backend()
    for size in [*range(3, 3 + 2 * layer_plans.MOST_KEPT), 3]:
        x = spikes(5, 1, 3, size, size, generator=generator, rate=0.5)
        assert equal(pk.if_conv2d(pk.pack(x), weight)[0].dense(), reference.if_conv2d(x, weight)[0])
    assert len(made) == 2 * layer_plans.MOST_KEPT + 1  # the first was made again
    (known,) = kernels._packed._known[weight.untyped_storage()].values()
    assert len(known[1]) == layer_plans.MOST_KEPT
    plan = weakref.ref(next(iter(known[1].values())))
    del known, weight
    gc.collect()
    assert plan() is None


@pytest.mark.parametrize("T", [1, 16, 64, 65, 200])
@pytest.mark.parametrize("start", ["rest", "a channel", "a pixel"])
@pytest.mark.parametrize("C_out, groups", [(40, 1), (40, 8), (40, 40), (5, 1)])
def test_any_number_of_steps_from_any_state(generator, C_out, groups, start, T):
    """More steps than a segment has; the states lie where the caller wants them."""
    C_in = C_out if groups > 1 else 9
    x = spikes(T, 3, C_in, 6, 5, generator=generator, rate=0.3)
    weight, bias = dyadic(C_out, C_in // groups, 3, 3, generator=generator), dyadic(C_out, generator=generator, span=4)
    v0 = {
        "rest": None,
        "a channel": dyadic(C_out, 1, 1, generator=generator).expand(3, C_out, 6, 5),
        "a pixel": dyadic(3, C_out, 6, 5, generator=generator),
    }[start]
    options = {"padding": 1, "groups": groups, "v_reset": None}
    expected, v_expected = reference.if_conv2d(x, weight, bias, v0, **options)
    found, v = pk.if_conv2d(pk.pack(x), weight, bias, v0, **options)
    assert expected.any() and equal(found.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("T", [3, 64, 130])
def test_a_shortcut_of_several_segments(generator, T):
    x = spikes(T, 2, 24, 6, 5, generator=generator, rate=0.2)
    weight = dyadic(24, 24, 3, 3, generator=generator)
    neuron = pk.neurons.IFNeuron(v_reset=None)
    both = torch.cat([weight, torch.eye(24).view(24, 24, 1, 1) * torch.ones(3, 3)], 1)
    both[:, 24:] *= torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    other = spikes(T, 2, 24, 6, 5, generator=generator, rate=0.2)
    expected, v_expected = reference.if_conv2d(torch.cat([x, other], 2), both, None, None, padding=1, v_reset=None)
    found, v = neuron_ops.conv2d(pk.pack(x), weight, None, None, neuron, padding=1, shortcut=pk.pack(other))
    assert expected.any() and equal(found.dense(), expected) and equal(v, v_expected)


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("T", [2, 20, 70])
def test_currents(generator, T, groups):
    """Of a readout: in the order of the layer, on the ways of patterns, rows and depthwise kernels."""
    x = spikes(T, 3, 16, 7, 6, generator=generator, rate=0.3)
    weight, bias = dyadic(16, 16 // groups, 3, 3, generator=generator), dyadic(16, generator=generator)
    found, _ = neuron_ops.conv2d(
        pk.pack(x), weight, bias, None, pk.neurons.LINeuron(decay=0.0), padding=1, groups=groups
    )
    expected = torch.nn.functional.conv2d(x.flatten(0, 1), weight, bias, padding=1, groups=groups)
    assert equal(found, expected.unflatten(0, (T, 3)))


def test_threads_call_a_layer_at_the_same_time(generator):
    layer = pk.FusedIFConv2d(16, 32, 3).eval()
    layer.weight.data, layer.bias.data = dyadic(32, 16, 3, 3, generator=generator), torch.zeros(32)
    inputs = [spikes(20, 2, 16, 9, 9, generator=generator, rate=0.2) for _ in range(4)]
    expected = [reference.if_conv2d(x, layer.weight.data)[0] for x in inputs]
    wrong = []

    def run(x, right):
        with torch.no_grad():
            wrong.extend(k for k in range(20) if not torch.equal(layer(pk.pack(x)).dense(), right))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected[0].any() and not wrong


def test_several_threads_share_a_call(generator):
    x, weight = spikes(30, 4, 32, 12, 12, generator=generator, rate=0.2), dyadic(48, 32, 3, 3, generator=generator)
    expected, before = reference.if_conv2d(x, weight)[0], torch.get_num_threads()
    try:
        for threads in (1, 3, 2):
            torch.set_num_threads(threads)
            assert expected.any() and equal(pk.if_conv2d(pk.pack(x), weight)[0].dense(), expected)
    finally:
        torch.set_num_threads(before)


def test_a_run_of_several_segments_leaves_the_spikes_of_the_call_before_alone(generator):
    """64 steps are one segment, written where the spikes go; 256 are four of as many steps."""
    layer = pk.FusedIFLinear(40, 70).eval()
    calls = [torch.rand(T, 32, 40, generator=generator) < 0.3 for T in (64, 256)]
    with torch.no_grad():
        first = layer(pk.pack(calls[0]))
        before = first.dense()
        second = layer(pk.pack(calls[1]))
        assert before.any() and not equal(second.dense()[192:], before)
        assert equal(first.dense(), before)


def test_layers_share_their_working_memory():
    """Ten layers, called in turn, hold about what one of them does; a session of its own would take 7 MB for each."""
    script = """
import os, torch, proxykernels as pk
def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
torch.set_num_threads(1)
layers = [pk.FusedIFConv2d(64, 64, 3, padding=1, bias=False).eval() for _ in range(11)]
x = pk.pack(torch.rand(32, 8, 64, 56, 56) < 0.1)
with torch.no_grad():
    for layer in layers[:1] * 2:
        layer(x)
    before = resident()
    for layer in layers[1:] * 2:
        assert layer(x).dense().any()
    print((resident() - before) / 1e6)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 25  # packed weights and statistics of ten layers


def test_layers_of_other_sizes_follow_each_other(generator):
    """Each takes the memory that the other has written to, in calls of the same sizes and of others."""
    layers = [pk.FusedIFConv2d(8, 24, 3, padding=1, bias=False).eval(), pk.FusedIFConv2d(24, 8, 5, bias=False).eval()]
    for layer in layers:
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    for T, N in ((3, 2), (3, 2), (40, 2), (3, 2), (3, 5), (40, 2)):
        for layer in layers:
            x = spikes(T, N, layer.weight.shape[1], 9, 9, generator=generator, rate=0.2)
            expected = reference.if_conv2d(x, layer.weight.data, padding=layer.padding)[0]
            assert equal(fires(layer, x), expected)
