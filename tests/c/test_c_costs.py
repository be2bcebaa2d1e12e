"""What engines are told that kernels take: the cost model of layers, of one sample and 64 steps."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cost_model import Layer, model, modelled_cycles

from proxykernels.kernels.cpu import sources

STEPS = 64  # line_steps of src/engine/engine.h
KERNELS = "events", "shorts", "bytes", "lookup"  # the first lines
PROGRAM = Path(__file__).parents[1] / "cpu" / "kernel_costs.cpp"

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")


@pytest.fixture(scope="module")
def lines_of(tmp_path_factory):
    """A function of C, C_in, groups and tiles: the groups that are joined, and the lines."""
    program = tmp_path_factory.mktemp("costs") / "costs"
    files = [PROGRAM, sources.FOLDER / "cost_model.cpp"]
    subprocess.run(["g++", "-std=c++17", "-O1", f"-I{sources.FOLDER}", *files, "-o", program], check=True)

    def lines(*numbers: int) -> tuple[int, list[tuple[float, ...]]]:
        told = subprocess.run(
            [program, *map(str, map(int, numbers))], check=True, text=True, capture_output=True
        ).stdout
        joined, *rest = told.splitlines()
        return int(joined), [tuple(map(float, line.split())) for line in rest]

    return lines


def expected(C: int, C_in: int, tiles: bool) -> dict[str, tuple[float, float]]:
    layer = Layer(STEPS, (1, 14 * 12, C), (14, 12), (C, C_in, 3, 3), (1, 1), (1, 1), (1, 1))
    found = modelled_cycles(layer, has_tiles=tiles, has_lookup=True, digits=0, row=64)
    costs = model().machines[tiles].costs
    return {kernel: tuple(end - getattr(costs, kernel).call for end in found[kernel]) for kernel in KERNELS}


@pytest.mark.parametrize("tiles", [False, True])
def test_lines(lines_of, tiles):
    joined, lines = lines_of(48, 70, 1, tiles)
    assert joined == 0
    for line, own in zip(lines, expected(48, 70, tiles).values(), strict=False):
        assert line == pytest.approx(own, rel=1e-9)
    can = [silent < float("inf") for silent, _ in lines]
    assert can == [*4 * [True], *8 * [tiles], True]
    assert 0 < lines[12][0] < lines[12][1] if tiles else lines[12] == (0, 0)  # patterns, compared with tiles alone


def test_lines_of_groups(lines_of):
    """Rows are those of convolutions of joined groups; tables take the groups as they are."""
    joined, lines = lines_of(96, 8, 12, False)
    assert joined == 4
    for line, own in zip(lines[:3], expected(32, 32, False).values(), strict=False):
        assert line == pytest.approx([3 * end for end in own], rel=1e-9)
    assert lines[3] == pytest.approx(expected(96, 8, False)["lookup"], rel=1e-9)
