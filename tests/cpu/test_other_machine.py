"""The program that tests the kernels on other processors: its plain loops agree with the kernels on this one too."""

import shutil

import other_machine
import pytest

AARCH64 = "aarch64-linux-gnu-g++", "qemu-aarch64 -L /usr/aarch64-linux-gnu"


@pytest.mark.slow
@pytest.mark.parametrize("compiler, emulator", [("c++", ""), AARCH64], ids=["here", "aarch64"])
def test_kernels_agree_with_plain_loops(tmp_path, compiler, emulator):
    for tool in (compiler, *emulator.split()[:1]):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    done = other_machine.run(other_machine.build(tmp_path, compiler), emulator)
    assert done.returncode == 0 and "700 passed, 0 failed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_wrong_kernel_is_found(tmp_path, monkeypatch):
    """The same program on sources in which a potential that equals the threshold does not fire."""
    wrong = tmp_path / "src"
    shutil.copytree(other_machine.sources.FOLDER, wrong)
    step = wrong / "neurons.h"
    step.write_text(step.read_text().replace("h >= p.theta", "h + all<V>(-1e-6f) >= p.theta"))
    monkeypatch.setattr(other_machine.sources, "FOLDER", wrong)
    done = other_machine.run(other_machine.build(tmp_path))
    assert done.returncode == 1 and "WRONG: " in done.stdout, done.stdout + done.stderr
