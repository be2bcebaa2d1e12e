"""The cost models of engines, in C++, and of layers that are called one by one: what both have, number by number."""

import random

import pytest
import torch

from proxykernels.kernels.cpu import choice
from proxykernels.kernels.cpu.cost_model import ROWS, WITH_TILES, WITHOUT_TILES, Layer, adding, cycles, lookup
from proxykernels.plan import library
from proxykernels.plan.operations import Kind, Operation, Window
from proxykernels.plan.plan import Plan

STEPS = 64  # line_steps of src/engine/engine.h


def random_layers(count: int):
    draw = random.Random(0)
    for _ in range(count):
        groups = draw.choice((1, 1, 1, 2, 3, 4, 8, 16, 64))
        C, C_in = groups * draw.choice((1, 2, 8, 10, 16, 64, 300)), draw.choice((1, 2, 3, 8, 16, 64, 128, 512, 3000))
        size, kernel = (draw.randint(1, 60), draw.randint(1, 60)), (draw.randint(1, 7), draw.randint(1, 7))
        out = draw.randint(1, 60), draw.randint(1, 60)
        yield Layer(
            STEPS, (1, out[0] * out[1], C), size, (C, C_in, *kernel), (1, 1),
            (draw.randint(0, 3), draw.randint(0, 3)), (draw.randint(1, 3), draw.randint(1, 3)),
        ), groups, out  # fmt: skip


def line(machine, kernel, silent, busy):
    return tuple(cycles(kernel, counts | {"call": 0}, machine.costs) for counts in (silent, busy))


@pytest.mark.parametrize("tiles", [False, True])
def test_lines(tiles):
    machine, kinds = WITH_TILES if tiles else WITHOUT_TILES, set()
    for layer, groups, out in random_layers(400):
        plan, weight = Plan((layer.weight[1] * groups, *layer.size), False), torch.empty(1).expand(layer.weight)
        sizes = {"kernel": layer.weight[2:], "padding": layer.padding, "dilation": layer.dilation}
        window = Window(0, weight=weight, groups=groups, **sizes)
        operation = Operation(Kind.FIRE, "", (window,), (layer.weight[0], *out), False)
        lines = (library.Line * 11)()
        joined = library.find_lines(plan, operation, window, tiles, lines)
        assert joined == library.find_lines(plan, operation, window)
        parts = groups // joined if joined else 1
        (N, P, C), (C_out, C_in, *kernel) = layer.neurons, layer.weight
        part = layer._replace(neurons=(N, P, C // parts), weight=(C_out // parts, C_in * groups // parts, *kernel))
        expected = []
        for rows, channels in ROWS.items():
            ends = (adding(part, rate, channels, machine.event_slice) for rate in (0.0, 1.0))
            expected.append([parts * end for end in line(machine, rows, *ends)])
        expected.append(line(machine, "lookup", lookup(layer), lookup(layer)))
        found = [(one.silent, one.busy) for one in lines]
        assert [*map(list, found[:4])] == [pytest.approx(pair, rel=1e-12) for pair in expected], (layer, groups)
        assert tiles or (found[4][0] == float("inf") and found[10] == (0.0, 0.0))
        whole = choice.join(layer.weight, groups)
        assert joined in (0, groups, whole) and groups % max(1, joined) == 0
        kinds.add((found[10][0] > 0, joined > 0))
    assert len(kinds) == (3 if tiles else 2)
