"""The fuzzer finds planted defects, shrinks them, and says how to see them again."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent

RUN = """
import ctypes, sys
sys.path.insert(0, {tests!r})
import torch, fuzz
from fuzzing import ways
from proxykernels.kernels import reference
{defect}
sys.exit(fuzz.main({arguments!r}))
"""

# Each: what is planted, the arguments, and what the report must say.
DEFECTS = {
    "greater, not greater or equal": (
        "reference.FAMILIES[''] = lambda state, current, theta, *, fire, v_reset=None: ((h := state[0] + current) > "
        "theta, (torch.where(h > theta, h - theta if v_reset is None else v_reset, h),))",
        ["--cases", "300", "--only", "scans"],
        ["Mismatch: spikes", "Scan("],
    ),
    "one bit of a kernel's spikes": (
        """
load = ways.kernels
def kernels(way):
    backend = load(way)
    if way == "portable plan" and not hasattr(backend, "_right"):
        backend._right = backend.if_scan
        def if_scan(current, *rest):
            spikes, v = backend._right(current, *rest)
            if len(current) > 32 and v.shape[2] > 7 and v.numel():
                spikes[-1, 32, -1, 0] ^= 128
            return spikes, v
        backend.if_scan = if_scan
    return backend
ways.kernels = kernels
""",
        ["--cases", "1000", "--only", "scans"],
        ["Mismatch: spikes: at [32, ", "; 1 of ", "way='portable plan'", "T=33"],
    ),
    "the spikes that a recurrent layer ended with": (
        """
from proxykernels.kernels.cpu import backend
right = backend.CpuKernels.recurrent_scan
def recurrent_scan(self, current, v, neuron, recurrent):
    words, last = right(self, current, v, neuron, recurrent)
    last[:, -1, :, 8:] = 0
    return words, last
backend.CpuKernels.recurrent_scan = recurrent_scan
""",
        ["--cases", "300", "--only", "recurrent networks"],
        ["Mismatch: s", "RecurrentNetwork("],
    ),
    "a layer that writes where the spikes of its former call lie": (
        """
from proxykernels.kernels.cpu.layer_plans import LayerPlan
right = LayerPlan.run
def run(self, x, kind, neurons, shortcut=None):
    right(self, x, kind, neurons, shortcut)
    if neurons.N * neurons.T:
        if hasattr(self, "_former"):
            ctypes.memset(self._former, 255, 1)
        self._former = neurons.spikes
LayerPlan.run = run
""",
        ["--cases", "300", "--only", "calls"],
        ["Mismatch: spikes of call 0, later", "Calls("],
    ),
    "a crash": (
        """
from proxykernels.kernels.cpu import backend
backend.CpuKernels.find_periods = lambda self, current, T, theta: ctypes.string_at(0)
""",
        ["--cases", "300", "--only", "scans"],
        ["the process died of SIGSEGV", "held=True"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defects_are_found_and_shrunk(name):
    defect, arguments, expected = DEFECTS[name]
    program = RUN.format(tests=str(TESTS), defect=defect, arguments=["--seed", "1", *arguments])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("seed 1\n") and "The smallest that fails" in done.stdout
    for part in expected:
        assert part in done.stdout, done.stdout
    assert "python tests/fuzz.py --seed 1 --case" in done.stdout


@pytest.mark.slow
def test_right_cases_pass_and_are_counted():
    command = [sys.executable, TESTS / "fuzz.py", "--seed", "1", "--cases", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("seed 1\n60 cases, ")
    for way in ("portable plan", "engine: patterns", "engine: rows", "if_scan"):
        assert way in done.stdout
