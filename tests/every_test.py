"""A plugin of pytest for all tests, also those of benchmarks/research: which run, in how many processes, on what seed.

pyproject.toml names it.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import selection
import torch

HAS_GPU = torch.cuda.is_available()
FLOAT32_SETTINGS = torch.backends.cudnn.conv, torch.backends.cuda.matmul
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def pytest_addoption(parser):
    group = parser.getgroup("selection of cases: tests/selection.py")
    group.addoption("--quick", action="store_true", help="the inner loop: every value of every parameter once")
    group.addoption(
        "--slow", metavar="K/N", type=selection.part, help="the tests marked slow alone, the K-th of N parts of them"
    )
    group.addoption("--exhaustive", action="store_true", help="every combination of all parameters, and slow tests")


@pytest.hookimpl(wrapper=True)  # before pytest-xdist reads its options, which was registered later
def pytest_cmdline_main(config):
    """Whole folders are run by a process for each core, where pytest-xdist is installed; ``-n 0`` prevents it.

    A file or a test is through before the others would have imported torch.
    """
    given = not config.pluginmanager.hasplugin("xdist") or config.option.numprocesses is not None
    asked = given or config.option.usepdb or hasattr(config, "workerinput") or CORES == 1
    if not asked and all(Path(config.invocation_params.dir, argument).is_dir() for argument in config.args):
        config.option.numprocesses = min(CORES, 8)
        config.option.dist = "worksteal"  # neighbours stay together, and so do what they share
    return (yield)


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # A test of threads asks for its own. What a test starts inherits the limit.
        threads = max(1, CORES // config.workerinput["workercount"])
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


def pytest_collectstart(collector):
    """What a test module draws as it is imported, such as weights of layers, is the same in every run."""
    if isinstance(collector, pytest.Module):
        _seed()


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Python's search for garbage finds none in what is collected, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_unconfigure():
    """At its end Python lets go of all, or libraries report what they have left."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc):
    """Choose cases."""
    yield
    option = metafunc.config.option
    if not (option.exhaustive or any("[" in argument for argument in metafunc.config.args)):
        selection.thin(metafunc, option.quick, bool(option.slow))


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
    _seed()


def _seed() -> None:
    """``torch.manual_seed`` notes who called it for GPUs that are not there, and takes as long as many a test."""
    torch.manual_seed(0) if HAS_GPU else torch.default_generator.manual_seed(0)


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
