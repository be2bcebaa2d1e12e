"""All commands: --help imports nothing that takes time, and options name what there is."""

import subprocess
import sys
from pathlib import Path

import pytest
from accuracy import anytime_table, subjects
from common import accuracy, names, nets
from gpu import rivals as gpu_rivals
from methods import recipes_table, ways
from speed import event_contenders, event_lag_table, event_table, rivals, surrogate_models
from training import augment, data, events, methods, relu_networks, step

from proxykernels.training import proxy

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = {  # first words of a command line
    "compare_methods": ["recipes"],
    "evaluate": ["anytime", "energy", "few-steps", "sigma-delta"],
    "imagenet": ["torchvision"],
    "train": ["relu"],
    "train_iteration": ["surrogate"],
}
COMMANDS = [
    f"{path.name} {part}" for path in sorted(BENCHMARKS.glob("*.py")) for part in ["", *PARTS.get(path.stem, [])]
]
SLOW = ("torch", "numpy", "matplotlib", "proxykernels")


def test_help_imports_nothing_that_takes_time():
    """In one process, each command after the other; alone each takes a third of a second."""
    script = f"""
import runpy, sys
for command in sys.argv[1:]:
    sys.argv = [*command.split(), "--help"]
    sys.path[0] = "."
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        assert stop.code == 0, command
    slow = {set(SLOW)!r} & set(sys.modules)
    assert not slow, (command, slow)
"""
    done = subprocess.run([sys.executable, "-c", script, *COMMANDS], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(COMMANDS) > 12


@pytest.mark.parametrize(
    ("named", "there"),
    [
        (names.NETS, nets.NETS),
        (names.TRAINABLE, nets.TRAINABLE),
        (names.PRECISIONS, accuracy.PRECISIONS),
        (names.DATA, data.LOADERS),
        (names.METHODS, methods.METHODS),
        (names.LOSSES, methods.LOSSES),
        (names.STATISTICS, proxy.STATISTICS),
        (names.AUGMENTATIONS, augment.AUGMENTATIONS),
        (names.SCHEDULES, step.SCHEDULES),
        (names.RIVALS, rivals.RIVALS),
        (names.GPU_RIVALS, gpu_rivals.GPU_RIVALS),
        (names.EVENT_METHODS, events.METHODS),
        (names.EVENT_NETS, event_lag_table.STRIDES),
        (names.EVENT_CONTENDERS, event_contenders.CONTENDERS),
        (names.EVENT_SIZES, event_table.SIZES),
        (names.WAYS["if"], ways.WAYS["if"]),
        (names.WAYS["lif"], ways.WAYS["lif"]),
        (names.RECIPES, recipes_table.RECIPES),
        (names.ANYTIME, [anytime_table.PROXY, *anytime_table.CONVERSIONS]),
        (names.RELU_NETS, relu_networks.NETS),
        (names.SUBJECTS, subjects.NAMES),
        (names.SURROGATE_CONTENDERS, surrogate_models.CONTENDERS),
    ],
)
def test_options_name_what_there_is(named, there):
    assert list(named) == list(there)
