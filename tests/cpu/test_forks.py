"""A child of a fork has none of its parent's OpenMP threads: it says so where it would wait for them."""

import os
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys, torch
import proxykernels as pk
layer = pk.FusedIFConv2d(32, 32, 3)
x = torch.rand(8, 4, 32, 24, 24)
fired = x < 0.5
use = lambda: {USE}
torch.set_num_threads(2)
{BEFORE}
child = os.fork()
if not child:
    try:
        {CHILD}
        use()
        os._exit(0)
    except RuntimeError as error:
        print(error, flush=True)
        os._exit(3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
USES = {
    "currents": "pk.if_scan(x)",
    "held": "pk.if_hold(x[0], 50)",
    "conv": "layer(x)",
    "spikes": "pk.pack(fired)",
    "simulate": "pk.simulate(torch.nn.Sequential(layer), x[0], T=20)",
}


def run(use, before="use()", child="pass"):
    program = PROGRAM.format(USE=USES[use], BEFORE=before, CHILD=child)
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the child too
        pytest.fail("the child waits for ever")
    return process.returncode, said


@pytest.mark.parametrize("use", USES)
def test_a_child_says_that_its_threads_stayed_behind(use):
    status, said = run(use)
    assert status == 3 and "forked from one that had used proxykernels with 2 threads" in said
    assert "multiprocessing.get_context('spawn')" in said and "torch.set_num_threads(1)" in said


@pytest.mark.parametrize(
    "way",
    [
        {"child": "torch.set_num_threads(1)"},
        {"before": "torch.set_num_threads(1); use()"},
        {"before": "pass"},
        {"before": "import threading; t = threading.Thread(target=use); t.start(); t.join()"},
        {"child": "import threading; t = threading.Thread(target=use); t.start(); t.join(); os._exit(0)"},
    ],
    ids=["one-thread-in-the-child", "one-thread", "used-in-the-child-alone", "used-by-another-thread", "a-new-thread"],
)
def test_a_child_that_has_its_threads_works(way):
    assert run("conv", **way) == (0, "")
