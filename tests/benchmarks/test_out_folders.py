"""A user's command changes nothing that git tracks: each folder that one takes by default is ignored."""

import argparse
import importlib
import subprocess
from pathlib import Path

import evaluate
import gpu_speed
import pytest
import sim_speed
import test_printed
from common import checkout, printed

CHECKOUT = Path(__file__).parents[2]
MODULES = {**test_printed.COMMANDS, **test_printed.PARTS}
READ = {"root", "weights", "images", "state_dict", "folder", "init", "checkpoint"}  # options of what is read


def ran(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


@pytest.fixture(scope="module", autouse=True)
def in_a_checkout():
    if ran("git", "rev-parse").returncode:
        pytest.skip("git tracks nothing here")


def parser_of(module, monkeypatch, arguments=()) -> argparse.ArgumentParser:
    """The parser of a command, which is asked for no options."""

    class Seen(Exception):
        pass

    seen = []

    def parse_args(parser, *_):
        seen.append(parser)
        raise Seen

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Seen):
        importlib.import_module(module).main(list(arguments))
    return seen[0]


def is_ignored(path: Path) -> bool:
    inside = path.absolute().is_relative_to(CHECKOUT)
    return not inside or ran("git", "check-ignore", "-q", str(path.absolute() / "any.csv")).returncode == 0


def check(parser) -> list[str]:
    """The names of the options that are written to, whose defaults git must ignore."""
    written = [a for a in parser._actions if isinstance(a.default, Path) and a.dest not in READ]
    tracked = {action.dest: str(action.default) for action in written if not is_ignored(action.default)}
    assert not tracked, f"{parser.prog} writes to what git tracks by default: {tracked}"
    return [action.dest for action in written]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "gpu_speed"])
def test_a_command_writes_to_what_git_ignores(monkeypatch, name):
    monkeypatch.chdir(CHECKOUT)
    found = check(parser_of(MODULES[name], monkeypatch))
    assert found or name in ("engine_speed", "ops_speed")  # which write only where --out says


@pytest.mark.parametrize("part", ["", "compile", "operands", "model"])
def test_so_does_a_part_for_gpus(monkeypatch, part):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr("sys.argv", ["gpu_speed.py"])
    assert "out" in check(parser_of(gpu_speed.__name__, monkeypatch, [part] if part else []))


def test_the_check_can_fail():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=checkout.RESULTS)
    with pytest.raises(AssertionError, match="writes to what git tracks"):
        check(parser)


def test_results_of_a_run(tmp_path, monkeypatch):
    """The main job and an evaluation, without --out."""
    monkeypatch.setattr(printed, "RUNS", tmp_path)
    before = ran("git", "status", "--porcelain").stdout
    sim_speed.main(["--batch", "2", "--T", "3", "--repeats", "1", "--rivals", "none"])
    with pytest.raises(SystemExit):  # the data are not where it looks
        evaluate.main(["--T", "1", "--root", str(tmp_path)])
    assert (tmp_path / "sim_speed.csv").is_file()
    assert ran("git", "status", "--porcelain").stdout == before
    assert (checkout.RESULTS / "sim_speed.csv").is_file()
