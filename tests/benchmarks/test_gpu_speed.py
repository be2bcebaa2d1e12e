"""gpu_speed.py from end to end without a GPU, with times that stand in for its own; rivals, operands, blocks."""

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import gpu_speed
import pytest
import torch
from cases import dyadic
from common import nets
from common.tables import read_csv
from equality import equal
from gpu import children, differences, kernel_speed, measure, self_check
from gpu import rivals as gpu_rivals
from gpu.compiled import operand_layouts, operand_report
from gpu.compiled.tritons import TRITONS, environment
from gpu.kernel_speed import TINY
from rich.console import Console
from speed import prepare, rivals
from speed.options import parse

import proxykernels as pk
from proxykernels.kernels.gpu.block_sizes import SEEN

pytest.importorskip("triton", reason="the tuner needs Triton: pip install triton")

from gpu import tune
from pretend_gpu import OnCard

from proxykernels.kernels.gpu import block_sizes
from proxykernels.kernels.gpu.block_sizes import choose_blocks


def one_ms(function):
    """Runs what would be timed, once."""
    function()
    return 1.0


@pytest.fixture
def pretended(kernels_can_run):
    """An H100 that is not there."""
    pytest.importorskip("triton")
    from gpu import dry_run

    with dry_run.pretended("NVIDIA H100 80GB HBM3") as card:
        yield card


def ended(tmp_path, *arguments: str) -> tuple[int, list[dict], set[str]]:
    """The status of the command, its rows, and the names of the archive's files."""
    with pytest.raises(SystemExit) as end:
        gpu_speed.main([*arguments, "--out", str(tmp_path)])
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        rows = list(
            csv.DictReader(file.read(next(n for n in names if n.endswith("/gpu_speed.csv"))).decode().split("\n"))
        )
    return end.value.code, rows, {name.partition("/")[2] for name in names}


@pytest.mark.slow
@pytest.mark.triton
def test_it_runs_to_its_end(pretended, tmp_path, capsys):
    status, rows, names = ended(tmp_path)
    log = next(tmp_path.glob("*/log.txt")).read_text()
    assert status == 0, log
    assert names >= {"gpu_speed.csv", "sim_speed.csv", "junit.xml", "versions.txt", "nvidia-smi.txt", "log.txt"}
    figures = {row["figure"]: row for row in rows}
    assert [name for name in figures if name.startswith("self-check")] == [
        f"self-check, {kind}" for kind in self_check.BITS
    ]
    assert all(figures[f"self-check, {kind}"]["value"] == "0" for kind in self_check.BITS)
    assert all(row["trusted"] == "yes" and "H100" in row["device"] for row in rows)
    convolutions = {name: row for name, row in figures.items() if "weights" in name}
    assert len(convolutions) == 4 and all(float(row["share"]) > 0 for row in convolutions.values())
    assert float(figures["small net, batch 2, T = 5: proxykernels"]["value"]) == 100
    assert sum("first call" in name for name in figures) == 4
    assert sum(name.startswith("step, ") for name in figures) == 4
    assert sum("the same in" in name for name in figures) == 4
    assert "no compute-sanitizer here" in log and "0 kernels in compiled" in log
    assert "Please send us" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a dry run is for machines without a GPU")
@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.usefixtures("kernels_can_run")
def test_a_dry_run_is_the_whole_command(tmp_path, capsys):
    pytest.importorskip("triton")
    status, rows, names = ended(tmp_path, "--dry-run")
    assert status == 0, next(tmp_path.glob("*/log.txt")).read_text()
    assert len(rows) > 20 and all(row["trusted"] == "no: a dry run" and "dry run" in row["device"] for row in rows)
    assert names >= {"gpu_speed.csv", "sim_speed.csv", "junit.xml", "versions.txt", "nvidia-smi.txt", "log.txt"}
    assert "nothing was measured" in capsys.readouterr().out
    assert not torch.cuda.is_available()


def test_differences_are_described():
    """A spike that is missing in step 5 of channel 3, and one added in step 31 of another sample."""
    expected = torch.zeros(1, 2, 4, 8, dtype=torch.int32)
    expected[0, 0, 1, 3] = 1 << 5
    found = expected.clone()
    found[0, 0, 1, 3] = 0
    found[0, 1, 2, 3] = -(1 << 31)
    v = torch.zeros(2, 8, 2, 2)
    changed = v.clone()
    changed[0, 3, 0, 1] = 0.5
    text = differences.described(found, expected, v, changed)
    assert "2 of 64 words differ, and 1 of 64 potentials" in text
    assert "spikes missing: 1;" in text and "spikes added: 1;" in text
    assert "channel: 1 of 8, most often 3 (2)" in text and "sample: 2 of 2, most often 0 (1), 1 (1)" in text
    assert "(0, 0, 1, 3): 0x00000020 0x00000000 0.5 0" in text
    assert "(0, 1, 2, 3): 0x00000000 0x80000000 0 0" in text


@pytest.mark.slow
@pytest.mark.triton
def test_it_goes_on_after_a_failure_and_does_not_trust_what_it_concerns(pretended, monkeypatch, tmp_path, capsys):
    """A kernel whose spikes are wrong in some of its runs."""
    from gpu import parts

    layer, runs = self_check.layer, []

    def racing(kind, weight):
        right = layer(kind, weight)

        def run(x):
            spikes, v = right(x)
            runs.append(x)
            if kind == "int8" and x.device.type == "cuda" and len(runs) % 2:
                spikes._words[0, 0, 0, 0] ^= 1
            return spikes, v

        return run

    monkeypatch.setattr(self_check, "layer", racing)
    monkeypatch.setattr(parts, "time_network", lambda options: 1 / 0)
    status, rows, names = ended(tmp_path)
    assert status == 1
    trusted = {row["figure"]: row["trusted"] for row in rows}
    wrong = [row for row in rows if row["figure"] == "self-check, int8"]
    assert [row["value"] for row in wrong] == ["1"]
    doubted = {name: says for name, says in trusted.items() if says != "yes"}
    assert doubted == {"conv 16->16 3x3 at 4x4, int8 weights": "no: self-check, int8: wrong in 1 of 2 runs"}
    assert {"differences-int8.txt", "differences-int8.npz"} <= names
    assert "1 of 512 words differ" in next(tmp_path.glob("*/differences-int8.txt")).read_text()
    assert "network ended with status 1 (log.txt)" in " ".join(capsys.readouterr().out.split())


def test_a_part_is_followed_as_it_goes(tmp_path, capsys, monkeypatch):
    """Its lines come before it ends; where there are none, it is said that it goes on."""
    monkeypatch.setattr(measure.Progress, "SILENT_S", 0.3)
    code = "import time; print('now: T = 4', flush=True); time.sleep(2); print('other\\nnow: T = 64')"
    with measure.Progress("network", Console(file=sys.stdout)) as progress:
        assert children.run([sys.executable, "-c", code], tmp_path / "log.txt", 60, None, progress.lines) == 0
    printed = [line.split("s  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    while printed[0] == "still going on, after: network":  # a slow start of Python
        printed.pop(0)
    assert printed[:2] == ["T = 4", "still going on, after: T = 4"] and printed[-1] == "T = 64"
    assert (tmp_path / "log.txt").read_text() == "now: T = 4\nother\nnow: T = 64\n"


def test_a_check_that_could_not_fail_is_refused(monkeypatch):
    monkeypatch.setattr(self_check, "THRESHOLD", 1000.0)
    with pytest.raises(RuntimeError, match="fire at 0%: it would compare next to nothing"):
        list(self_check.checks(torch.device("cpu"), TINY.conv, 1))


@pytest.mark.slow
@pytest.mark.triton
def test_where_torch_convolves_its_fast_algorithms_are_no_mistake(pretended, monkeypatch):
    """On a T4 cuDNN may round sums that are exact, which is no fault of the kernels; one of the scan's is found."""
    from proxykernels.kernels import unfused
    from proxykernels.kernels.gpu import backend

    convolve, device = unfused.F.conv2d, torch.device("cuda", 0)

    def by_winograd(*operands):
        y = convolve(*operands)
        return y * (1 + 2**-20) if torch.backends.cudnn.enabled and isinstance(operands[0], OnCard) else y

    monkeypatch.setattr(backend, "architecture", lambda device: "sm_75")
    monkeypatch.setattr(unfused.F, "conv2d", by_winograd)
    backend.convolutions.cache_clear()
    with pytest.warns(RuntimeWarning, match="torch computes the convolutions"):
        found = list(self_check.checks(device, TINY.conv, 1))
    assert [check.wrong for check in found] == [0] * 4 and torch.backends.cudnn.enabled
    scan = backend.Unfused.if_scan
    monkeypatch.setattr(backend.Unfused, "if_scan", staticmethod(lambda current, *rest: scan(current * 1.01, *rest)))
    assert [check.wrong for check in self_check.checks(device, TINY.conv, 1)] == [1] * 4


@pytest.mark.triton
def test_sim_speed_takes_the_gpu_that_is_there(pretended):
    for arguments, device in (([], "cuda"), (["--threads", "1"], "cpu"), (["--device", "cpu"], "cpu")):
        options = parse([*arguments, "--batch", "2"])
        threads = torch.get_num_threads()
        images, _ = prepare.prepare(options)
        torch.set_num_threads(threads)
        assert options.device == device == images.device.type


# The figures


def figures() -> dict[str, dict]:
    return {row["figure"]: row for row in kernel_speed.kernels(torch.device("cpu"), TINY, one_ms)}


def test_bytes_and_flops():
    """In a millisecond each, by hand: the copy reads and writes, a step's current is 4 bytes and its spike a bit."""
    rows = figures()
    assert rows["copy"]["value"] == 10.0 and rows["copy"]["unit"] == "GB/s"
    scan = rows["IF scan"]
    assert scan["value"] == round(2000 * (8 * 4 + 1 + 8) / 1e6, 1) and scan["limit"] == 10.0
    assert rows["matrix product, float16"]["value"] == round(2 * 64**3 / 1e9, 1)
    products = {name: row["value"] for name, row in rows.items() if "weights" in name}
    assert len(products) == 4 and all(row["unit"] == "TFLOP/s" for name, row in rows.items() if name in products)


def test_work_of_a_convolution():
    """The dense one's; a weight of two parts is multiplied twice."""
    shape = 3, 2, 16, 4
    effective = kernel_speed.convolution_speed(torch.device("cpu"), shape, "float32", one_ms)
    assert effective == pytest.approx(2 * 3 * 2 * 16 * 16 * 9 * 16 / 1e9)
    row = kernel_speed.figure("conv", 2 * effective, "TFLOP/s", 1.0, effective)
    assert row["value"] == round(2 * effective, 1) and row["effective"] == round(effective, 1)


# What is asked of it


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit) as error:
        gpu_speed.main([])
    assert "no CUDA device" in str(error.value)


def test_a_bad_option_ends_before_any_work(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(prepare, "set_float32_precision", lambda precision: None)
    monkeypatch.setattr(measure, "in_child", lambda *_: pytest.fail("a part was started"))
    with pytest.raises(SystemExit):
        gpu_speed.main(["--weights", str(tmp_path / "nowhere.safetensors"), "--out", str(tmp_path)])
    assert "nowhere.safetensors is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.costly
@pytest.mark.triton
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("captured", [False, True])
def test_layer_by_layer_counts_the_same_spikes(triton_kernels, monkeypatch, generator, precision, v_reset, captured):
    """Chunks of 4, 4 and 1 steps; each is captured once, and what the capture runs is forgotten."""
    monkeypatch.setattr(gpu_rivals, "CHUNK", 4)
    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(12, 4, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8).abs()
    images = dyadic(2, 1, 6, 6, generator=generator, span=2, unit=1 / 2)
    captures = []

    def capture(chunk):
        captures.append(chunk)
        chunk()
        return chunk

    counts = gpu_rivals.by_layers(net, images, precision, capture if captured else None)
    for batch, T in ((images, 9), (images.flip(0), 4)):
        expected = pk.simulate(net, batch, T).count()
        assert equal(counts(batch, T).int(), expected) and 0 < expected.float().mean() < T
    assert len(captures) == 2 * captured


@pytest.mark.triton
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_scan_is_that_of_the_definition(triton_kernels, generator, v_reset):
    """Two programs run 1030 leaky neurons: currents of 7 steps, then the same at every step."""
    from common.stages import Stage
    from gpu.multi_step_scan import scan

    part = Stage(torch.nn.Sequential(), 1.0, v_reset, decay=0.5)

    def by_hand(currents):
        v, spikes = torch.zeros(1030), []
        for current in currents:
            h = 0.5 * v + current
            spikes.append((h >= 1).float())
            v = torch.where(h >= 1, 0.0 if v_reset == 0 else h - 1, h)
        return torch.stack(spikes), v

    currents, v = dyadic(7, 1030, generator=generator, span=32), torch.zeros(1030)
    expected, v_expected = by_hand(currents)
    spikes = scan(currents, v, part, currents)
    assert spikes is currents and equal(spikes, expected) and 0.05 < spikes.mean() < 0.95
    assert equal(v, v_expected)
    held, v = dyadic(1030, generator=generator, span=32), torch.zeros(1030)
    expected, _ = by_hand(held.expand(7, -1))
    assert equal(scan(held, v, part, torch.empty(7, 1030), held=True), expected)


def test_graphs_need_a_gpu():
    for name in gpu_rivals.GPU_RIVALS:
        with pytest.raises(rivals.NotOffered, match="needs --device cuda"):
            rivals.build(name, nets.small(), torch.zeros(1, 1, 28, 28), gpu_rivals.GPU_RIVALS)


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


def test_the_kernels_list_is_the_table():
    rows = read_csv(TABLE)
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
    script = f"from gpu.compiled import operand_report as report; import json; target = {target!r}\n"
    script += "print(json.dumps(report.read(target, report.convolutions(target)[0])))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(None, tmp_path), capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert record["packed"] and bool(record["mixed"]) != (target in SEEN.get(triton.__version__, ()))


@pytest.mark.parametrize("neurons, C_out, K", [(100352, 128, 1152), (128, 10, 256), (100352, 16, 9), (128, 1, 1)])
def test_todays_choice_is_a_candidate(neurons, C_out, K):
    found = list(tune.candidates(C_out, K))
    assert choose_blocks(neurons, C_out, K) in found and len(set(found)) == len(found)


@pytest.fixture
def times(tmp_path, monkeypatch):
    """Makes Times of a function, all of one table and one commit."""
    monkeypatch.setattr(tune, "commit", lambda: "abc")
    return lambda time: tune.Times(tmp_path / "tune.csv", "net", 2, 3, time)


BLOCKS = [choose_blocks(8, 5, 27)._replace(PIXELS=pixels) for pixels in (1, 2, 3)]


def test_fastest_leaves_out_what_fails(times):
    def run(choice):
        if choice.PIXELS == 1:
            raise RuntimeError("out of resources")
        return choice.PIXELS

    def time(function):
        return float(function())

    assert tune.fastest([BLOCKS[2], BLOCKS[0], BLOCKS[1]], run, times(time)) == (BLOCKS[1], 2.0)
    with pytest.raises(RuntimeError, match="no block sizes"):
        tune.fastest([BLOCKS[0]], run, times(time))


@pytest.mark.triton
def test_layers_that_take_spikes_are_tuned(triton_kernels, monkeypatch, capsys, times):
    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3), pk.FusedIFConv2d(3, 5, 3), pk.Flatten(), pk.FusedIFLinear(20, 2)
    )
    tried = [choose_blocks(8, 5, 27), choose_blocks(8, 2, 20)._replace(NUM_STAGES=3)]
    monkeypatch.setattr(tune, "candidates", lambda C_out, K: tried)
    given = iter((2.0, 1.0, 3.0) * 2)  # of both candidates and of today's choice

    def time(function):
        function()
        return next(given)

    rows = list(tune.tune(net, (1, 6, 6), batch=2, T=3, times=times(time)))
    assert rows == [("1", 8, 5, 27, tried[1], 1.0, 3.0), ("3", 2, 2, 20, tried[1], 1.0, 3.0)]
    tune.print_table(rows, "a card")
    assert "a card" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_must_be_there():
    with pytest.raises(SystemExit, match="torch finds no CUDA device"):
        gpu_speed.main(["tune"])


def test_there_is_nothing_to_tune_where_torch_convolves(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(block_sizes, "architecture", lambda device: "sm_75")
    with pytest.raises(SystemExit, match="no block sizes to tune on sm_75: torch computes its convolutions"):
        gpu_speed.main(["tune"])
