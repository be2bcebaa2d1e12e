"""Without a GPU the Triton kernels are run by Triton's interpreter, or compiled and emulated with --emulate.

Which of them must be chosen before the kernels are imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import selection
import torch

from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu.fallback import Fallback

HAS_GPU = torch.cuda.is_available()
FLOAT32_SETTINGS = torch.backends.cudnn.conv, torch.backends.cuda.matmul
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

INSTRUCTION_SETS = [target for target in cpu.TARGETS if cpu.load(target)]
# Instruction set and kernel of the convolutions, forced one at a time; last, whatever is fastest.
CONVOLUTIONS = [
    ("amx", "tiles"),
    ("avx512", "lookup"),
    *((target, rows) for target in ("avx512", "avx2", "portable") for rows in ("events", "shorts", "bytes", "im2col")),
    (None, "dense"),
    (None, None),
]
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_addoption(parser):
    group = parser.getgroup("selection of cases: tests/selection.py")
    group.addoption("--quick", action="store_true", help="the inner loop: every value of every parameter once")
    group.addoption(
        "--slow", metavar="K/N", type=selection.part, help="the tests marked slow alone, the K-th of N parts of them"
    )
    group.addoption("--exhaustive", action="store_true", help="every combination of all parameters, and slow tests")
    parser.addoption(
        "--emulate",
        choices=["sm_75", "sm_80", "sm_90"],
        help="compile the Triton kernels for this GPU and execute their PTX on the CPU (tests/gpu/emulator/README.md)",
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config):
    """Whole folders are run by a process for each core, where pytest-xdist is installed; ``-n 0`` prevents it.

    A file or a test is through before the others would have imported torch.
    """
    given = not config.pluginmanager.hasplugin("xdist") or config.option.numprocesses is not None
    if given or config.option.usepdb or hasattr(config, "workerinput") or CORES == 1:
        return
    if all(Path(config.invocation_params.dir, argument).is_dir() for argument in config.args):
        config.option.numprocesses = min(CORES, 8)
        config.option.dist = "worksteal"  # neighbours stay together, and so do what they share


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # A test of threads asks for its own. What a test starts inherits the limit.
        threads = max(1, CORES // config.workerinput["workercount"])
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
    target = config.getoption("--emulate")
    if target:
        os.environ["TRITON_INTERPRET"] = "0"
        from emulator import driver

        driver.install(target)
    elif not HAS_GPU:
        os.environ.setdefault("TRITON_INTERPRET", "1")


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


def pytest_collectstart(collector):
    """What a test module draws as it is imported, such as weights of layers, is the same in every run."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc):
    """Choose cases."""
    yield
    option = metafunc.config.option
    if not (option.exhaustive or any("[" in argument for argument in metafunc.config.args)):
        selection.thin(metafunc, strength=1 if option.quick else 2)


@pytest.hookimpl(tryfirst=True)  # before the options -m and -k choose
def pytest_collection_modifyitems(config, items):
    """Choose tests. Those marked gpu are skipped without one; with one, those of the Triton kernels run on it."""
    for item in items:
        if HAS_GPU and "kernels_can_run" in item.fixturenames:
            item.add_marker(pytest.mark.gpu)
        elif not HAS_GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if config.option.exhaustive:
        return
    kept = items
    if config.option.slow:
        kept = selection.part_of_slow(kept, *config.option.slow)
    elif not any("::" in argument for argument in config.args):  # a test that is named runs
        left_out = {"slow", "long"} if config.option.quick else {"slow"}
        kept = [item for item in kept if not left_out & {mark.name for mark in item.iter_markers()}]
    remaining = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in remaining])
    items[:] = kept


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws without a generator, such as a layer's first weights, is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """A test that leaves another precision of float32 behind fails, not those that come after it."""
    before = [setting.fp32_precision for setting in FLOAT32_SETTINGS]
    yield
    after = [setting.fp32_precision for setting in FLOAT32_SETTINGS]
    for setting, precision in zip(FLOAT32_SETTINGS, before, strict=True):
        setting.fp32_precision = precision
    assert after == before, "torch.backends.*.fp32_precision"


@pytest.fixture
def generator(request) -> torch.Generator:
    """Random numbers, drawn where the test's tensors are made."""
    fixtures = {"backend", "instruction_set"} & set(request.fixturenames)
    on_gpu = "cuda" in [request.getfixturevalue(name) for name in fixtures]
    return torch.Generator("cuda" if on_gpu else "cpu").manual_seed(0)


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
def kernels_can_run(pytestconfig, monkeypatch):
    """Without a GPU the Triton kernels run only in Triton's interpreter, chosen at their import, or in the emulator."""
    if pytestconfig.getoption("--emulate"):
        return
    from triton.runtime import interpreter

    from proxykernels.kernels.gpu import if_scan

    if not HAS_GPU and not isinstance(if_scan._if_scan_kernel, interpreter.InterpretedFunction):
        pytest.fail(
            "There is no GPU, and Triton's interpreter was off when the kernels were imported. "
            "Run: TRITON_INTERPRET=1 python -m pytest -m triton",
            pytrace=False,
        )
    # Each call of a device function looks through triton.language for what it has to replace. Once is enough.
    replace = cache(interpreter._patch_lang)

    def call(self, *arguments, **keywords):
        replace(self.fn)
        return self.rewrite()(*arguments, **keywords)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)


@pytest.fixture
def fused(kernels_can_run):
    """For tests of the fused convolution alone, which is not taken where Triton has no tensor cores to multiply on."""
    from proxykernels.kernels.gpu import convolutions

    device = torch.device("cuda" if HAS_GPU else "cpu")
    if convolutions.convolutions(device) is not convolutions.Fused:
        pytest.skip("convolutions of spikes are not fused on this GPU")


@pytest.fixture
def triton_kernels(kernels_can_run, monkeypatch):
    """The whole library on the Triton kernels: on a GPU, or by the interpreter, which takes CPU tensors."""
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    if HAS_GPU:
        with torch.device("cuda"):
            yield
        return
    monkeypatch.setattr(backends, "cpu_backend", lambda: gpu)
    monkeypatch.setattr(backends, "PERIODS", 0)  # the C++ kernels' own form of spikes
    yield
