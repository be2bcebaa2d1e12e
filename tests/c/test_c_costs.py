"""What engines are told that kernels take: the cost model of layers, of one sample and 64 steps."""

import pytest
import torch

from proxykernels.kernels.cpu.cost_model import Layer, model, modelled_cycles
from proxykernels.kernels.table import Kind
from proxykernels.plan import library
from proxykernels.plan.operations import Operation, Window
from proxykernels.plan.plan import Plan

STEPS = 64  # line_steps of src/engine/engine.h
KERNELS = "events", "shorts", "bytes", "lookup"  # the first lines


def lines_of(C: int, C_in: int, groups: int, tiles: bool) -> tuple[int, list[tuple[float, float]]]:
    """Of a convolution of 3 x 3 pixels on 14 x 12: the groups that are joined, and the lines."""
    window = Window(0, weight=torch.empty(C, C_in, 3, 3), groups=groups, kernel=(3, 3), padding=(1, 1))
    plan, lines = Plan((C_in * groups, 14, 12), False), (library.Line * 11)()
    operation = Operation(Kind.FIRE, "", (window,), (C, 14, 12), False)
    joined = library.find_lines(plan, operation, window, tiles, lines)
    assert joined == library.find_lines(plan, operation, window)
    return joined, [(line.silent, line.busy) for line in lines]


def expected(C: int, C_in: int, tiles: bool) -> dict[str, tuple[float, float]]:
    layer = Layer(STEPS, (1, 14 * 12, C), (14, 12), (C, C_in, 3, 3), (1, 1), (1, 1), (1, 1))
    found = modelled_cycles(layer, has_tiles=tiles, has_lookup=True, digits=0, row=64)
    costs = model().machines[tiles].costs
    return {kernel: tuple(end - getattr(costs, kernel).call for end in found[kernel]) for kernel in KERNELS}


@pytest.mark.parametrize("tiles", [False, True])
def test_lines(tiles):
    joined, lines = lines_of(48, 70, 1, tiles)
    assert joined == 0
    for line, own in zip(lines, expected(48, 70, tiles).values(), strict=False):
        assert line == pytest.approx(own, rel=1e-9)
    can = [silent < float("inf") for silent, _ in lines]
    assert can == [*4 * [True], *6 * [tiles], True]
    assert 0 < lines[10][0] < lines[10][1] if tiles else lines[10] == (0, 0)  # patterns, compared with tiles alone


def test_lines_of_groups():
    """Rows are those of convolutions of joined groups; tables take the groups as they are."""
    joined, lines = lines_of(96, 8, 12, False)
    assert joined == 4
    for line, own in zip(lines[:3], expected(32, 32, False).values(), strict=False):
        assert line == pytest.approx([3 * end for end in own], rel=1e-9)
    assert lines[3] == pytest.approx(expected(96, 8, False)["lookup"], rel=1e-9)
