"""Large inputs in bounded memory: how long chunks are, and what a simulation takes at its peak."""

import math
import subprocess
import sys
import weakref

import layerwise
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.layers import base
from proxykernels.running import simulate as chunks

CPU = torch.device("cpu")


def test_chunks_of_a_small_input_are_long():
    plan = chunks.Chunks(None, None, (100, 4, 1, 28, 28), CPU)
    assert plan.steps(0) == 256
    plan.add(pk.pack(torch.zeros(2, 4, 64, 28, 28)))
    assert plan.steps(256) == 256


@pytest.mark.parametrize("neurons, steps", [(1 << 20, 64), (1 << 26, 32), (1 << 30, 2), (1 << 36, 1)])
def test_chunks_of_a_large_input_follow_from_what_the_layers_give(neurons, steps):
    plan = chunks.Chunks(None, None, (1000, 1, 3, 224, 224), CPU)
    assert plan.steps(0) == chunks.FIRST_CHUNK
    plan.step_bytes = neurons / 8
    assert plan.steps(8) == steps


@pytest.mark.parametrize("T, lengths", [(50, [17, 17]), (47, [31]), (48, [16, 16]), (17, [1])])
def test_few_steps_that_fit_are_shared_out_alike(T, lengths):
    plan, start = chunks.Chunks(None, None, (T, 256, 1, 28, 28), CPU), chunks.FIRST_CHUNK
    plan.step_bytes = chunks.CHUNK_BYTES / 31.5
    for length in lengths:
        assert plan.steps(start) == length
        start += length
    assert start == T


def test_looks_at_which_samples_are_decided_keep_their_distance():
    plan = chunks.Chunks(None, pk.stop.margin(1), (17, 2, 5), CPU)
    assert [plan.steps(start) for start in (0, 8, 16)] == [8] * 3


def test_what_layers_give_is_counted():
    plan = chunks.Chunks(None, None, (9, 2, 3, 224, 224), CPU)
    plan.add(pk.pack(torch.zeros(5, 2, 16, 3, 3)))
    assert plan.step_bytes == 2 * 16 * 9 / 8
    plan.add(torch.zeros(5, 2, 7))
    plan.add(torch.zeros(1, 2, 7).expand(5, 2, 7))  # one step
    assert plan.step_bytes == 36 + 4 * 14


def test_any_chunk_is_the_callers():
    assert chunks.Chunks(100, None, (1000, 1, 3, 640, 480), CPU).steps(0) == 100
    assert chunks.Chunks(100, None, (1000, 1, 3, 640, 480), torch.device("cuda")).steps(0) == 128


def test_chunks_of_a_gpu_fit_what_is_free(monkeypatch):
    free = 64 << 20
    monkeypatch.setattr(chunks.unfused, "free_bytes", lambda device: free)
    plan = chunks.Chunks(None, None, (1000, 1, 3, 640, 480), torch.device("cuda"))
    plan.step_bytes = float(1 << 19)
    assert plan.steps(64) == 32  # 16 MB, where 64 steps would fit 256
    free = 1 << 20
    assert plan.steps(96) == 32  # all alike
    assert not plan.halve(32)
    with pytest.warns(RuntimeWarning, match="no memory for a chunk of 64 steps"):
        assert plan.halve(64)
    assert plan.steps(128) == 32 and not plan.halve(64)


def test_a_small_budget_changes_no_spike(generator, monkeypatch):
    net = pk.convert(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1),
            nn.Conv2d(4, 8, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 5),
        ).eval(),
        torch.rand(4, 3, 16, 16, generator=generator),
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.data = (parameter * 256).round() / 256
    x = (torch.rand(2, 3, 16, 16, generator=generator) * 16).round() / 16
    whole = layerwise.simulate(net, x, 90, chunk=90)
    monkeypatch.setattr(chunks, "LARGE_INPUT", 0)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 16)
    starts = []
    steps = chunks.Chunks.steps
    monkeypatch.setattr(chunks.Chunks, "steps", lambda plan, start: starts.append(start) or steps(plan, start))
    result = pk.simulate(net, x, 90, record=["0"])  # layer by layer
    assert starts[:2] == [0, 16] and 3 < len(starts) < 40  # at first 16, then as many as the budget allows
    assert equal(result.spikes.dense(), whole.spikes.dense()) and whole.count().sum() > 90
    assert result.rates == pytest.approx(whole.rates, nan_ok=True)


@pytest.mark.parametrize(
    "pool, shape",
    [
        (pk.AvgPool2d(3, 2, 1), (37, 2, 5, 9, 7)),
        (pk.AdaptiveAvgPool2d((2, 3)), (37, 2, 5, 9, 7)),
        (pk.SumPool2d(2), (37, 2, 5, 9, 7)),
        (pk.layers.AvgPool1d(2), (37, 2, 5, 9)),
        (pk.layers.AdaptiveAvgPool1d(4), (37, 2, 5, 9)),
        (pk.Voting(3), (37, 2, 9)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_spikes_are_unpacked_a_few_steps_at_a_time(generator, monkeypatch, pool, shape):
    x = pk.pack((torch.rand(shape, generator=generator) < 0.4).float())
    expected = pool(x.dense())
    unpacked, dense = [], pk.Spikes.dense
    monkeypatch.setattr(pk.Spikes, "dense", lambda spikes, *given: unpacked.append(spikes.T) or dense(spikes, *given))
    monkeypatch.setattr(base, "UNPACKED_BYTES", 4 * 5 * math.prod(shape[1:]))
    y = pool(x)
    assert equal(y, expected) and y.any() and len(set(y.flatten().tolist())) > 2
    assert sum(unpacked) == 37 and max(unpacked) < 37 / 2


def test_a_network_lets_go_of_what_nobody_will_take(generator):
    class Watched(pk.FusedIFLinear):
        def forward(self, x):
            alive.append([words() is not None for words in given])
            y = super().forward(x)
            given.append(weakref.ref(y._words))
            return y

    given, alive = [], []
    net = pk.Network()
    for k, sources in enumerate([("",), ("l0",), ("l1",), ("l2",)]):
        net.append(f"l{k}", Watched(4, 4), sources)
    net.append("sum", pk.FusedIFSum(nn.Identity(), nn.Identity()), ("l0", "l3"))
    y = net(pk.pack((torch.rand(6, 2, 4, generator=generator) < 0.5).float()))
    assert alive == [[], [True], [True, True], [True, False, True]]  # the first one's are taken at the end
    assert [words() is not None for words in given] == [False] * 4 and y.T == 6


PEAK = """
import torch, torchvision
import proxykernels as pk
from proxykernels.running import kept_plans
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
torch.manual_seed(0)
net = pk.convert(torchvision.models.mobilenet_v2().eval(), torch.rand(2, 3, 96, 96))
x = torch.rand(1, 3, 480, 640)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = peak()
state = pk.simulate(net, x, 24).state
total = peak()
kept_plans.run = lambda *given: None  # the layers are run one by one
pk.simulate(net, x, 64, chunk=64)
print(4 * sum(v.numel() for states in state.values() for v in states) / 2**20, before, total, peak())
"""


@pytest.mark.slow
def test_peak_of_a_large_image():
    """640 x 480 pixels through a network that carries real values: what memory a step takes does not set the peak."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    potentials, before, peak, of_long_chunks = map(float, done.stdout.split())
    budget = chunks.CHUNK_BYTES / 2**20
    assert peak < 2000 and peak - before < potentials + 1.3 * budget < of_long_chunks - before, done.stdout


TRAINED = """
import ctypes, torch
import proxykernels as pk
def resident(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
torch.manual_seed(0)
torch.set_num_threads(1)
net = pk.FusedRecurrentLinear(512, 512, neuron=pk.neurons.LIFNeuron(decay=0.9))
pk.use_surrogate(net, pk.ATan())
x = pk.pack(torch.rand(1000, 1, 512) < 0.1)
for turn in range(2):  # the second finds what stays, such as packed weights
    net.zero_grad()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = resident("VmRSS")
    net(x).count().float().square().mean().backward()
gradients = [parameter.grad for parameter in net.parameters()]
print(resident("VmHWM") - before, sum(g.nbytes for g in gradients) / 2**20, float(gradients[0].abs().max()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
def test_peak_of_training_recurrent_neurons():
    """The backward pass of one sample has the states of one, of a piece of its steps."""
    done = subprocess.run([sys.executable, "-c", TRAINED], capture_output=True, text=True, check=True)
    peak, gradients, largest = map(float, done.stdout.split())
    assert largest > 0 and peak < gradients + 6, done.stdout
