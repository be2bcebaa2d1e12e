"""All commands: --help imports nothing that takes time and shows an example, and options name what there is."""

import re
from pathlib import Path

import command_checks
import pytest
from common import accuracy, datasets, names, nets, relu_networks, subjects
from gpu import rivals as gpu_rivals
from speed import event_table, rivals

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMANDS = command_checks.modules_of(BENCHMARKS)


def test_help_imports_nothing_that_takes_time():
    command_checks.imports_nothing_that_takes_time(BENCHMARKS, [f"{name}.py" for name in COMMANDS])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_and_shows_an_example(name, monkeypatch, capsys):
    command_checks.help_fits_and_shows_an_example(BENCHMARKS, name, name, monkeypatch, capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_mean_the_same_in_every_command(name, monkeypatch, capsys):
    command_checks.options_mean_the_same(name, monkeypatch, capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_default_and_no_name_broken(name, monkeypatch, capsys):
    command_checks.help_has_every_default_and_no_name_broken(name, monkeypatch, capsys)


def test_commands_are_few_and_in_the_index():
    assert 6 < len(COMMANDS) <= 12
    command_checks.are_in_the_index([f"{name}.py" for name in COMMANDS])


def test_nothing_of_research_is_needed():
    """What is imported in benchmarks/ and tests/ is found without benchmarks/research, which imports from there."""
    research = {path.stem for path in (BENCHMARKS / "research").glob("[a-z]*")} - {"tests"}
    files = [path for folder in ("benchmarks", "tests") for path in (command_checks.CHECKOUT / folder).rglob("*.py")]
    sources = [path for path in files if BENCHMARKS / "research" not in path.parents]
    imported = {
        (path.name, name)
        for path in sources
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(files) > len(sources) > 200 and {"training", "evaluate"} < research
    assert not [pair for pair in imported if pair[1] in research]


@pytest.mark.parametrize(
    ("named", "there"),
    [
        (names.NETS, nets.NETS),
        (names.TRAINABLE, nets.TRAINABLE),
        (names.PRECISIONS, accuracy.PRECISIONS),
        (names.DATA, datasets.LOADERS),
        (names.RIVALS, rivals.RIVALS),
        (names.GPU_RIVALS, gpu_rivals.GPU_RIVALS),
        (names.EVENT_SIZES, event_table.SIZES),
        (names.RELU_NETS, relu_networks.NETS),
        (names.SUBJECTS, subjects.NAMES),
    ],
)
def test_options_name_what_there_is(named, there):
    assert list(named) == list(there)


IN_CHILDREN = ("gpu_speed",)  # where torch is imported when it is known what to do
RUN = [path for path in command_checks.commands_of(BENCHMARKS) if BENCHMARKS / "research" not in path.parents]


def test_every_command_runs_by_it():
    assert {path.stem for path in RUN if path.parent == BENCHMARKS} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RUN if path.stem not in IN_CHILDREN], ids=lambda path: path.stem)
def test_ctrl_c_while_a_command_is_imported_is_one_line_too(path, tmp_path):
    command_checks.ctrl_c_while_imported_is_one_line(tmp_path, BENCHMARKS, path)
