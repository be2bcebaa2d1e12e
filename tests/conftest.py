"""Without a GPU the Triton kernels are run by Triton's interpreter, or compiled and emulated with --emulate.

Which of them must be chosen before the kernels are imported.
"""

import os
from contextlib import contextmanager

import pytest
import quick_interpreter
import torch

from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu.words import Fallback

pytest.register_assert_rewrite("demo_page")  # a plugin, which test modules import before they name it

HAS_GPU = torch.cuda.is_available()

INSTRUCTION_SETS = [target for target in cpu.TARGETS if cpu.load(target)]
# Instruction set and kernel of the convolutions, forced one at a time; None: whatever is fastest.
CONVOLUTIONS = [
    *((target, kernel) for target in cpu.TARGETS for kernel in ("plan", "im2col")),
    (None, None),
    (None, "dense"),
]
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_addoption(parser):
    parser.addoption(
        "--emulate",
        choices=["sm_75", "sm_80", "sm_89", "sm_90", "sm_120"],
        help="compile the Triton kernels for this GPU and execute their PTX on the CPU (tests/gpu/emulator/README.md)",
    )


def pytest_configure(config):
    target = config.getoption("--emulate")
    if target:
        os.environ["TRITON_INTERPRET"] = "0"
        from emulator import driver

        driver.install(target)
    elif not HAS_GPU:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    elif torch.version.cuda and torch.cuda.get_device_capability() < (8, 0):  # where torch convolves spikes
        torch.backends.cudnn.enabled = False  # its fast algorithms round sums that are exact


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--emulate"):
        from emulator.driver import State

        terminalreporter.write_line(
            f"emulated: {len(State.kernels)} kernels, {State.launches} launches of {State.blocks} blocks, "
            f"{State.digit_launches} of them with int8 digits"
        )


def pytest_sessionfinish(session):
    if session.config.getoption("--emulate") and hasattr(session.config, "workeroutput"):
        from emulator.driver import State

        counts = State.launches, State.blocks, State.digit_launches
        session.config.workeroutput["emulated"] = (list(State.kernels), *counts)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node):
    if emulated := getattr(node, "workeroutput", {}).get("emulated"):
        from emulator.driver import State

        kernels, launches, blocks, digit_launches = emulated
        State.kernels.update(dict.fromkeys(kernels))
        State.launches += launches
        State.blocks += blocks
        State.digit_launches += digit_launches


@contextmanager
def _on(name: str, monkeypatch, target: str | None = None, kernel: str | None = None):
    """CPU tensors take one way, "reference" or an instruction set and kernel; or all tensors are made on a GPU."""
    if name == "cuda":
        with torch.device("cuda"):
            yield name
        return
    kernels = Fallback() if name == "reference" else cpu.load(target, kernel)
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    yield name


@pytest.fixture(params=[*INSTRUCTION_SETS, "reference", GPU])
def instruction_set(request, monkeypatch):
    """Each instruction set, the reference code, and a GPU: for operations of one kernel."""
    with _on(request.param, monkeypatch, request.param) as name:
        yield name


WAYS = {f"{t or 'any'}-{k or 'chosen'}": (t, k) for t, k in CONVOLUTIONS if t in (*INSTRUCTION_SETS, None)}


@pytest.fixture(params=[*WAYS, "reference", GPU])
def backend(request, monkeypatch):
    """Each way that a convolution or matrix product can take."""
    with _on(request.param, monkeypatch, *WAYS.get(request.param, ())) as name:
        yield name


@pytest.fixture
def short_proof(monkeypatch):
    """Imported networks are compared with their originals in fewer steps: in tests that compare them, too."""
    from proxykernels.conversion.libraries import port_proof

    for name, steps in {"SHORT": 12, "LONG": 32, "AGAIN": 4}.items():
        monkeypatch.setattr(port_proof, name, steps)


@pytest.fixture
def kernels_can_run(pytestconfig, monkeypatch):
    """Without a GPU the Triton kernels run only in Triton's interpreter, chosen at their import, or in the emulator."""
    if pytestconfig.getoption("--emulate"):
        return
    from triton.runtime import interpreter

    from proxykernels.kernels.gpu import scans

    if not HAS_GPU and not isinstance(scans._if_scan_kernel, interpreter.InterpretedFunction):
        pytest.fail(
            "There is no GPU, and Triton's interpreter was off when the kernels were imported. "
            "Run: TRITON_INTERPRET=1 python -m pytest -m triton",
            pytrace=False,
        )
    if not HAS_GPU:
        quick_interpreter.install(monkeypatch)


@pytest.fixture
def fused(kernels_can_run):
    """For tests of the fused convolution alone, which is not taken where Triton has no tensor cores to multiply on."""
    from proxykernels.kernels.gpu import backend

    device = torch.device("cuda" if HAS_GPU else "cpu")
    if backend.convolutions(device) is not backend.Fused:
        pytest.skip("convolutions of spikes are not fused on this GPU")


@pytest.fixture
def triton_kernels(kernels_can_run, monkeypatch):
    """The whole library on the Triton kernels: on a GPU, or by the interpreter, which takes CPU tensors."""
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    if HAS_GPU:
        with torch.device("cuda"):
            yield
        return
    from proxykernels.kernels.gpu.backend import REFERENCE

    monkeypatch.setattr(backends, "cpu_backend", lambda: gpu)
    monkeypatch.setattr(backends, "reference_backend", lambda device: REFERENCE)
    monkeypatch.setattr(backends, "PERIODS", 0)  # the C++ kernels' own form of spikes
    yield
