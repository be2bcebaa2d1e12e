"""The cost model in C++ is that in Python, number by number: C programs take the kernels that pk.Engine takes."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from proxykernels.kernels.cpu import choice, sources
from proxykernels.kernels.cpu.cost_model import ROWS, WITH_TILES, WITHOUT_TILES, Layer

PROGRAM = Path(__file__).parents[1] / "cpu" / "c_costs.cpp"


def random_layers(count: int):
    draw = random.Random(0)
    for _ in range(count):
        groups = draw.choice((1, 1, 1, 2, 3, 4, 8, 16, 64))
        C, C_in = groups * draw.choice((1, 2, 8, 10, 16, 64, 300)), draw.choice((1, 2, 3, 8, 16, 64, 128, 512, 3000))
        size, kernel = (draw.randint(1, 60), draw.randint(1, 60)), (draw.randint(1, 7), draw.randint(1, 7))
        out = draw.randint(1, 60), draw.randint(1, 60)
        yield Layer(
            choice.SEGMENT, (1, out[0] * out[1], C), size, (C, C_in, *kernel), (1, 1),
            (draw.randint(0, 3), draw.randint(0, 3)), (draw.randint(1, 3), draw.randint(1, 3)),
        ), groups  # fmt: skip


@pytest.mark.skipif(not shutil.which("c++"), reason="c++ is not installed")
def test_lines(tmp_path):
    command = [
        "c++",
        *sources.FLAGS,
        f"-I{sources.LIBRARY}",
        PROGRAM,
        sources.LIBRARY / "cost_model.cpp",
        "-o",
        tmp_path / "costs",
    ]
    subprocess.run(command, check=True)
    cases = [(*case, row, tiles) for case in random_layers(400) for row in ROWS for tiles in (False, True)]
    text = ""
    for layer, groups, row, tiles in cases:
        of_layer = layer.pixels, layer.neurons[2], *layer.size, *layer.weight[1:], layer.dilation[1], layer.padding[1]
        text += " ".join(map(str, (*of_layer, layer.dilation[0], groups, ROWS[row], int(tiles)))) + "\n"
    done = subprocess.run([tmp_path / "costs"], input=text, text=True, capture_output=True, check=True)
    printed = done.stdout.splitlines()
    assert len(printed) == len(cases)
    kinds = set()
    for (layer, groups, row, tiles), line in zip(cases, printed, strict=True):
        joined, *numbers = line.split()
        expected_joined = choice.join_in_rows(layer.weight, groups)
        expected = choice.lines(layer, groups, expected_joined, row, WITH_TILES if tiles else WITHOUT_TILES)
        expected += [(0.0, 0.0)] * (11 - len(expected))
        assert int(joined) == expected_joined
        found = list(map(float, numbers))
        assert found == pytest.approx([value for pair in expected for value in pair], rel=1e-12), (layer, groups, row)
        kinds.add((tiles, found[-1] > 0, expected_joined > 0))
    assert len(kinds) > 3
