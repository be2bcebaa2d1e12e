"""The commands of research: --help imports nothing that takes time and shows an example; options name what there is."""

from pathlib import Path

import command_checks
import pytest
from common import names
from iteration import surrogate_models
from methods import ways
from training import augment, events, methods, step

from proxykernels.training import proxy

RESEARCH = Path(__file__).parents[1]
COMMANDS = command_checks.modules_of(RESEARCH)
PARTS = {
    "evaluate.py sigma-delta": "accuracy.sigma_delta",
    "evaluate.py energy": "accuracy.energy",
    "train.py relu": "training.relu",
    "train_iteration.py surrogate": "iteration.surrogate_step",
}
MODULES = COMMANDS | PARTS


def test_help_imports_nothing_that_takes_time():
    commands = [*(f"{name}.py" for name in COMMANDS), *PARTS]
    assert len(commands) > 10
    command_checks.imports_nothing_that_takes_time(RESEARCH, commands)


@pytest.mark.parametrize("name, module", MODULES.items())
def test_help_fits_and_shows_an_example(name, module, monkeypatch, capsys):
    command_checks.help_fits_and_shows_an_example(RESEARCH, name, module, monkeypatch, capsys)


@pytest.mark.parametrize("module", MODULES.values())
def test_options_mean_the_same_in_every_command(module, monkeypatch, capsys):
    command_checks.options_mean_the_same(module, monkeypatch, capsys)


@pytest.mark.parametrize("module", MODULES.values())
def test_help_has_every_default_and_no_name_broken(module, monkeypatch, capsys):
    command_checks.help_has_every_default_and_no_name_broken(module, monkeypatch, capsys)


def test_commands_are_in_the_index():
    command_checks.are_in_the_index([*(f"{name}.py" for name in COMMANDS), *PARTS])


@pytest.mark.parametrize("command", PARTS)
def test_a_part_is_found_by_its_name(command):
    command_checks.a_part_is_found_by_its_name(RESEARCH, command)


@pytest.mark.parametrize("module", [module for module in MODULES.values() if module != "coverage"])  # which only prints
def test_a_command_writes_to_what_git_ignores(monkeypatch, module):
    if command_checks.ran("git", "rev-parse").returncode:
        pytest.skip("git tracks nothing here")
    monkeypatch.chdir(command_checks.CHECKOUT)
    assert command_checks.writes_to_what_git_ignores(command_checks.parser_of(module, monkeypatch))


@pytest.mark.parametrize(
    ("named", "there"),
    [
        (names.METHODS, methods.METHODS),
        (names.LOSSES, methods.LOSSES),
        (names.STATISTICS, proxy.STATISTICS),
        (names.AUGMENTATIONS, augment.AUGMENTATIONS),
        (names.SCHEDULES, step.SCHEDULES),
        (names.EVENT_METHODS, events.METHODS),
        (names.WAYS, ways.WAYS),
        (names.SURROGATE_CONTENDERS, surrogate_models.CONTENDERS),
    ],
)
def test_options_name_what_there_is(named, there):
    assert list(named) == list(there)


RUN = command_checks.commands_of(RESEARCH)


def test_every_command_runs_by_it():
    assert {path.stem for path in RUN if path.parent == RESEARCH} == set(COMMANDS)


@pytest.mark.costly
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_ctrl_c_while_a_command_is_imported_is_one_line_too(path, tmp_path):
    command_checks.ctrl_c_while_imported_is_one_line(tmp_path, RESEARCH, path)
