"""A user's command changes nothing that git tracks: each folder that one takes by default is ignored."""

import gpu_speed
import pytest
import sim_speed
import test_commands
from command_checks import CHECKOUT, parser_of, ran, writes_to_what_git_ignores
from common import checkout, printed


@pytest.fixture(scope="module", autouse=True)
def in_a_checkout():
    if ran("git", "rev-parse").returncode:
        pytest.skip("git tracks nothing here")


@pytest.mark.parametrize("name", [name for name in test_commands.COMMANDS if name != "gpu_speed"])
def test_a_command_writes_to_what_git_ignores(monkeypatch, name):
    monkeypatch.chdir(CHECKOUT)
    found = writes_to_what_git_ignores(parser_of(name, monkeypatch))
    assert found or name in ("engine_speed", "ops_speed")  # which write only where --out says


@pytest.mark.parametrize("part", ["", "compile", "operands"])
def test_so_does_a_part_for_gpus(monkeypatch, part):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr("sys.argv", ["gpu_speed.py"])
    found = writes_to_what_git_ignores(parser_of(gpu_speed.__name__, monkeypatch, [part] if part else []))
    assert "out" in found


def test_results_of_a_run(tmp_path, monkeypatch):
    """The main job, without --out."""
    monkeypatch.setattr(printed, "RUNS", tmp_path)
    before = ran("git", "status", "--porcelain").stdout
    sim_speed.main(["--batch", "2", "--T", "3", "--repeats", "1", "--rivals", "none"])
    assert (tmp_path / "sim_speed.csv").is_file()
    assert ran("git", "status", "--porcelain").stdout == before
    assert (checkout.RESULTS / "sim_speed.csv").is_file()
