"""The memory that an engine says it has is what it takes."""

import os
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells what a process takes")
def test_memory_that_is_reported_is_taken():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    taken, reported = map(int, ran.stdout.split())
    assert taken > 2e7 and reported == pytest.approx(taken, rel=0.1)
