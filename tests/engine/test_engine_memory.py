"""The memory that an engine says it has is what it takes."""

import ctypes
import os
import subprocess
import sys

import layerwise
import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

import proxykernels as pk

CHECKED = hasattr(ctypes.CDLL(None), "__asan_poison_memory_region")
of_own_memory = pytest.mark.skipif(CHECKED, reason="the checked build takes memory of its own")

SCRIPT = """
import gc, torch, proxykernels as pk
from torch import nn

def taken():
    gc.collect()
    with open("/proc/self/smaps_rollup") as about:
        return next(int(line.split()[1]) for line in about if line.startswith("Rss:")) * 1024

def network(channels, hidden):
    return nn.Sequential(
        pk.FusedIFConv2d(1, channels, 3), pk.FusedIFConv2d(channels, channels, 3), pk.MaxPool2d(4), pk.Flatten(),
        pk.FusedIFLinear(channels * 36, hidden), pk.FusedIFLinear(hidden, 10),
    ).eval()

torch.manual_seed(0)
small, net, x = network(2, 3), network(64, 1000), torch.rand(16, 1, 28, 28)
pk.compile(small, x)(x, 20).count()
before = taken()
engine = pk.compile(net, x)
engine(x, 20)
weights, arena = engine.sizes
plain = sum(w.weight.nbytes for op in engine.plan.operations for w in op.windows if w.weight is not None)
print(taken() - before, weights + plain + arena)
"""


@pytest.mark.slow
@of_own_memory
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells what a process takes")
def test_memory_that_is_reported_is_taken():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    taken, reported = map(int, ran.stdout.split())
    assert taken > 2e7 and reported == pytest.approx(taken, rel=0.1)


def held_in_real_values(channels, size):
    """Neurons behind an average pooling, whose values are much larger than spikes; and inputs of the first ones."""
    net = nn.Sequential(
        pk.FusedIFConv2d(1, channels, 1), pk.AvgPool2d(1), pk.FusedIFConv2d(channels, 3, 1, stride=8), pk.Flatten(),
        pk.FusedIFLinear(3 * (size // 8) ** 2, 5),
    ).eval()  # fmt: skip
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=torch.Generator().manual_seed(0))
    return net


# The library is told of more steps or samples than there is memory for. It writes past the end of a part of the memory,
# into the next one.
OVERRUN = """
import sys, torch, proxykernels as pk
from torch import nn

more_steps, more_samples = map(int, sys.argv[1:])
torch.set_num_threads(1)
net = nn.Sequential(pk.FusedIFLinear(16, 64), pk.FusedIFLinear(64, 128)).eval()
for parameter in net.parameters():
    parameter.data = parameter.data.abs()
x = torch.ones(3, 16)
engine = pk.compile(net, x)
session = engine.session()
run = session.run
session.run = lambda given, T, *others: run(given._replace(N=given.N + more_samples), T + more_steps, *others)
given = engine.inputs.given(x)
written = engine.advance(session, given._replace(N=2), 4, fresh=True)
print("ran", written.counts.sum().item() > 0)
"""


@pytest.mark.skipif(not CHECKED, reason="of the build that tests/checked_build.py makes")
@pytest.mark.parametrize(("steps", "samples"), [(0, 0), (1, 0), (0, 1)])
def test_a_write_past_a_part_is_found(steps, samples):
    command = [sys.executable, "-c", OVERRUN, str(steps), str(samples)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if steps or samples:
        assert ran.returncode and "use-after-poison" in ran.stderr
    else:
        assert ran.returncode == 0 and ran.stdout == "ran True\n", ran.stderr


MOST_SLOT_BYTES = 1 << 28  # kernels/cpu/src/engine/run.h


def test_memory_of_real_values_is_bounded():
    """64 samples of 64 steps would take twice as much."""
    net = held_in_real_values(32, 32)
    x = torch.rand(64, 1, 32, 32)
    engine = pk.compile(net, x)
    y = engine(x, 64).spikes.dense()
    assert engine.sizes[1] < 1.2 * MOST_SLOT_BYTES
    some = engine(x[60:], 64).spikes.dense()
    assert some.any() and equal(y[:, 60:], some)
    stream = engine.stream(64)
    assert equal(stream(x.expand(64, *x.shape)).dense()[:, 60:], some)


def test_steps_of_few_samples_are_bounded():
    """A step of the sample takes more than an eighth of the memory: early exit asks after several segments."""
    net = held_in_real_values(64, 512)
    x = torch.rand(1, 1, 512, 512)
    engine = pk.compile(net, x)
    result = engine(x, 16, stop=lambda counts, t: torch.full((len(counts),), t >= 8))
    assert engine.sizes[1] < 1.2 * MOST_SLOT_BYTES and result.steps.tolist() == [8]
    wanted = layerwise.simulate(net, x, T=8).spikes.dense()
    assert wanted.any() and equal(result.spikes.dense()[:8], wanted)


def test_what_does_not_fit_is_refused():
    net = nn.Sequential(pk.FusedIFConv2d(1, 2, 1), pk.Flatten(), pk.FusedIFLinear(8, 1000)).eval()
    x = torch.rand(2, 1, 2, 2)
    engine = pk.compile(net, x)
    for batch in (2**34, 2**40, 2**62):
        with pytest.raises(ValueError, match=rf"batch = {batch} samples take .* GiB.*smaller batch"):
            engine.stream(batch)
    with pytest.raises(ValueError, match=r"T = 2147483647 steps of N = 10000 samples take .* GiB.*fewer steps"):
        engine(torch.rand(10000, 1, 2, 2), 2**31 - 1)
    assert len(engine(x, 3).count()) == 2


# What the machine has, but no process may take.
LIMITED = """
import resource, torch, proxykernels as pk
from torch import nn

net = nn.Sequential(pk.FusedIFLinear(4, 8), pk.FusedIFLinear(8, 100_000), pk.FusedIFLinear(100_000, 1)).eval()
# Packed they take several times their 32 MB: whole registers of outputs.
large, pixels = nn.Sequential(pk.FusedIFLinear(8_000_000, 1)), torch.rand(1, 8_000_000)
x = torch.rand(4)
engine, N = pk.compile(net, x[None]), 1_000
stream = engine.stream(N)
with open("/proc/self/statm") as about:
    taken = int(about.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (150 << 20),) * 2)
for call in (lambda: stream(x.expand(N, 4)), lambda: pk.compile(large, pixels)):
    try:
        call()
    except MemoryError as error:
        print(error)
print(engine(x[None], 3).spikes.shape)
"""


@pytest.mark.slow
@of_own_memory
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells what a process takes, and limits it")
def test_memory_that_is_not_there_is_an_error():
    ran = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    of_run, of_weights, shape = ran.stdout.splitlines()
    assert of_run.startswith("N = 1000 samples need") and of_run.endswith("take fewer samples at a time")
    assert "to pack the" in of_weights and shape == "(3, 1, 1)"


def test_a_batch_of_more_samples_than_a_part_has_tasks():
    """Threads take tasks by a number of 20 bits."""
    threads, N = torch.get_num_threads(), 1_100_000
    x = torch.rand(N, 1, 1, 2)
    net = nn.Sequential(pk.FusedIFConv2d(1, 1, 1, v_threshold=0.5), pk.MaxPool2d((1, 2)))
    stream = pk.compile(net, x[:4]).stream(N)
    torch.set_num_threads(2)
    try:
        y = [stream(x), stream(x)]
    finally:
        torch.set_num_threads(threads)
    assert equal(torch.cat([part.dense() for part in y])[:, -7:], layerwise.simulate(net, x[-7:], T=2).spikes.dense())
