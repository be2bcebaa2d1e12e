"""A fork after the library was used: neither the child nor its parent waits for threads that the child has not."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")]

PROGRAM = """
import os, sys, threading, torch
import proxykernels as pk
from proxykernels.kernels import forks
torch.set_num_threads(2)
layer = pk.FusedIFConv2d(32, 32, 3).eval()
x = torch.rand(8, 4, 32, 24, 24)
fired = x < 0.5

def use():
    spikes, v = {USE}
    return spikes.dense().sum().item(), v.sum().item()

def in_thread():
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

def fork(then):
    child = os.fork()
    if not child:
        then()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def hold_locks():
    held, locks = threading.Event(), [*forks._locks]
    def hold():
        for lock in locks:
            lock.acquire()
        held.set()
        threading.Event().wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    assert len(locks) > 2

expected = use()
assert expected[0] > 0
def check():
    assert use() == expected and torch.get_num_threads() == 2
{FORKS}
"""
USES = {
    "currents": "pk.if_scan(x)",
    "held": "pk.if_hold(x[0], 50)",
    "conv": "layer(pk.pack(fired)), x",
    "spikes": "pk.pack(fired), x",
    "simulate": "pk.simulate(torch.nn.Sequential(layer), x[0], T=20).spikes, x",
}


def run(use, order="check(), exit(fork(check) or check())"):
    program = PROGRAM.format(USE=USES[use], FORKS=order)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the child too
        pytest.fail("the child waits for ever")
    return process.returncode, said


@pytest.mark.parametrize("use", USES)
def test_a_child_and_its_parent_go_on(use):
    assert run(use) == (0, "")


@pytest.mark.parametrize(
    "forks",
    ["exit(fork(lambda: os._exit(fork(check))))", "in_thread(), exit(fork(check))", "exit(fork(in_thread))"],
    ids=["grandchild", "after-another-thread", "another-thread-of-the-child"],
)
def test_any_thread_of_any_child_goes_on(forks):
    assert run("conv", forks) == (0, "")


@pytest.mark.parametrize("use", USES)
def test_a_child_waits_for_no_lock_that_another_thread_held(use):
    assert run(use, "hold_locks(), os._exit(fork(check))") == (0, "")
