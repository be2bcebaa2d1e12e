"""gpu_speed.py operands: which numbers convolutions pack, and that the kernels believe it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import operand_layouts, operand_report
from gpu.tritons import TRITONS, environment

from proxykernels.kernels.gpu.block_sizes import SEEN

TABLE = Path(__file__).parents[2] / "benchmarks" / "results" / "spike_operands.csv"
BLOCKED = (
    "#ttg.blocked<{sizePerThread = [1, 1, 1, 1], threadsPerWarp = [1, 1, 1, 32], warpsPerCTA = [1, 1, 8, 1], "
    "order = [3, 2, 1, 0]}>"
)


def linear(register: list, lane: list | None = None) -> str:
    lane = lane or [[0, 0, 0, 4], [0, 0, 0, 8], [0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 4, 0]]
    return f"#ttg.linear<{{register = {register}, lane = {lane}, warp = [[0, 1, 0, 0], [0, 2, 0, 0]], block = []}}>"


ONE, TWO, LATER = [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 8, 0]
OF_8 = linear([ONE, TWO, LATER, [0, 0, 0, 16], [1, 0, 0, 0]])  # of int8 on sm_80, as Triton 3.9.0 prints it
OF_2 = linear([ONE, LATER, [0, 0, 0, 8]], [TWO, [0, 0, 0, 4], [0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 4, 0]])  # of float16


@pytest.mark.parametrize(
    "layout, pack, right",
    [
        pytest.param(OF_8, 8, True, id="mma-of-int8"),
        pytest.param(OF_2, 2, True, id="mma-of-float16"),
        pytest.param(OF_2, 8, False, id="two-inputs-where-four-are-taken"),
        pytest.param(BLOCKED, 2, False, id="blocked-of-float16"),
        pytest.param(BLOCKED, 8, False, id="blocked-of-int8"),
        pytest.param(linear([[0, 0, 1, 0], ONE]), 2, False, id="steps-of-one-input"),
        pytest.param(linear([[0, 1, 0, 0], ONE]), 2, False, id="pixels"),
        pytest.param(linear([[0, 0, 1, 1], ONE]), 2, False, id="both-at-once"),
        pytest.param(linear([ONE, TWO, [0, 0, 4, 0]]), 8, False, id="four-steps-later"),
        pytest.param(linear([ONE, TWO, [0, 0, 8, 4]]), 8, False, id="of-other-inputs"),
        pytest.param(linear([ONE, TWO, LATER], [[0, 0, 9, 0]]), 8, False, id="a-lane-begins-at-step-eight"),
        pytest.param(linear([ONE, TWO]), 8, False, id="too-few"),
        pytest.param(linear([]), 2, False, id="one-number"),
        pytest.param("#ttg.dot_op<{opIdx = 0, parent = #mma, kWidth = 4}>", 8, False, id="unknown"),
    ],
)
def test_layouts(layout, pack, right):
    asm = f'"{{ {operand_layouts.MARK}\\0A prmt }}" {{packed_element = {pack} : i32, pure = true}}'
    ttgir = f"#factor = {layout}\n  %1 = tt.elementwise_inline_asm {asm} %0 : tensor<2x8x16x32xi32, #factor> "
    ttgir += "-> tensor<2x8x16x32xi8, #factor> loc(#loc7)\n"
    found = operand_layouts.operands(ttgir)
    assert found == {"packed": 1, "mixed": [] if right else [layout]}
    assert operand_layouts.operands(ttgir.replace(operand_layouts.MARK, "")) == {"packed": 0, "mixed": []}


def test_blocks_are_repeated_until_they_fill_the_shape():
    bases = operand_layouts.bases_of(BLOCKED, [2, 8, 16, 64])
    assert bases["lane"] == [[0, 0, 0, 1 << k] for k in range(5)]
    assert bases["warp"] == [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 4, 0]]
    again = [[0, 0, 0, 32], [0, 0, 8, 0], [0, 1, 0, 0], [0, 2, 0, 0], [0, 4, 0, 0], [1, 0, 0, 0]]
    assert bases["register"] == again
    assert operand_layouts.bases_of(BLOCKED, [1, 1, 16, 16])["lane"][4] == [0, 0, 0, 0]  # twice the same numbers


TRITONS_OWN = """
import json
from triton._C.libtriton import gluon_ir, ir
from triton.experimental.gluon.language import BlockedLayout
context = ir.context()
ir.load_dialects(context)
builder = gluon_ir.GluonOpBuilder(context)
for *layout, shape in {cases}:
    own = builder.to_linear_layout(BlockedLayout(*layout)._to_ir(builder), shape)
    print(json.dumps([own.reg_bases, own.lane_bases, own.warp_bases]), flush=True)
"""


@pytest.mark.triton
@pytest.mark.long
def test_blocks_are_those_of_triton():
    """Triton leaves out registers that repeat a number, and no layout with one among the first is of one step."""
    pytest.importorskip("triton")
    cases = [
        ([1, 1, 1, 1], [1, 1, 1, 32], [1, 1, 8, 1], [3, 2, 1, 0], [2, 8, 16, 32]),
        ([1, 1, 1, 1], [1, 1, 1, 32], [1, 1, 2, 2], [3, 2, 1, 0], [2, 4, 16, 64]),
        ([1, 2, 1, 4], [1, 1, 4, 8], [2, 1, 2, 1], [2, 3, 0, 1], [2, 4, 16, 64]),
        ([2, 1, 2, 1], [1, 4, 8, 1], [1, 1, 1, 4], [0, 2, 3, 1], [1, 4, 16, 16]),
    ]
    script = TRITONS_OWN.format(cases=cases)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if "AttributeError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("this Triton shows no layouts")
    assert done.returncode == 0, done.stderr
    for (size, lanes, warps, order, shape), line in zip(cases, done.stdout.splitlines(), strict=True):
        layout = f"#ttg.blocked<{{sizePerThread = {size}, threadsPerWarp = {lanes}, warpsPerCTA = {warps}, "
        bases = operand_layouts.bases_of(layout + f"order = {order}}}>", shape)
        assert [[basis for basis in bases["register"] if any(basis)], bases["lane"], bases["warp"]] == json.loads(line)


def read(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_kernels_list_is_the_table():
    rows = read(TABLE)
    assert {(row["triton"], row["target"]) for row in rows} == {
        (version, target) for version in TRITONS for target in operand_report.TARGETS
    }
    assert all(int(row["packed"]) >= int(row["convolutions"]) >= 8 for row in rows)
    short = {(row["triton"], row["target"]) for row in rows if row["code"] == operand_report.SHORT}
    assert short == {(version, target) for version, targets in SEEN.items() for target in targets}
    for row in rows:
        assert (
            (row["packed"] == row["of_one_step"]) == (row["code"] == operand_report.SHORT) == (not row["other_layout"])
        )


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.parametrize("target", operand_report.TARGETS)
def test_layouts_of_the_triton_that_is_installed(target, tmp_path):
    """One convolution of each target: its layouts are what the list says, and the kernel's code is right in them."""
    triton = pytest.importorskip("triton")
    script = f"from gpu import operand_report as report; import json; target = {target!r}\n"
    script += "print(json.dumps(report.read(target, report.convolutions(target)[0])))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(None, tmp_path), capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert record["packed"] and bool(record["mixed"]) != (target in SEEN.get(triton.__version__, ()))
