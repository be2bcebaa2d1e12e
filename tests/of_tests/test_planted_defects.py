"""What planted_defects.py changes stands in the sources still: else it would plant nothing."""

import subprocess

import planted_defects
import pytest


@pytest.mark.parametrize("name", planted_defects.DEFECTS)
def test_its_place_is_there(name):
    defect = planted_defects.DEFECTS[name]
    assert defect.old in (planted_defects.ROOT / defect.file).read_text() and defect.old != defect.new


@pytest.mark.parametrize("suffix", [".h", ".cpp", ".py"])
def test_the_library_is_built_with_it(monkeypatch, suffix):
    """A library of other sources is refused: its tests would fail whatever the defect is."""

    def copytree(root, copy, ignore):
        (copy / defect.file).parent.mkdir(parents=True)
        (copy / defect.file).write_text(defect.old)

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "FAILED here", "")

    defect = next(each for each in planted_defects.DEFECTS.values() if each.file.endswith(suffix))
    commands: list[list[str]] = []
    monkeypatch.setattr(planted_defects.shutil, "copytree", copytree)
    monkeypatch.setattr(planted_defects.subprocess, "run", run)
    assert planted_defects.noticed(defect, []) == (True, "FAILED here")
    assert any("build_ext" in command for command in commands) == (suffix != ".py")
