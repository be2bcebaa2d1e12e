"""gpu_speed.py from end to end on a GPU that is not there (pretend_gpu.py), with times that stand in for its own."""

import contextlib
import csv
import traceback
import zipfile
from types import SimpleNamespace

import gpu_speed
import pytest
import torch
from equality import equal
from gpu import kernel_speed, measure, rivals, self_check, timing
from speed import prepare

TINY = kernel_speed.Sizes(copy=5_000_000, matrix=64, scan=(8, 2, 1000), conv=(3, 2, 16, 4), repeats=2)


def one_ms(function):
    """Runs what would be timed, once."""
    function()
    return 1.0


class Event:
    """A CUDA event by which everything takes 100 ms."""

    def __init__(self, enable_timing: bool):
        pass

    def record(self, stream=None):
        pass

    synchronize = record

    def elapsed_time(self, end) -> float:
        return 100.0


@pytest.fixture
def pretended(kernels_can_run, monkeypatch, tmp_path):
    """An H100 that is not there: its kernels are run by Triton's interpreter, processes are calls, sizes are tiny."""
    pytest.importorskip("triton")
    from gpu import parts
    from pretend_gpu import pretend_gpu

    def in_child(arguments, log, limit_s):
        card.executes = "self-check" in arguments  # the interpreter takes minutes for more
        try:
            with log.open("a") as file, contextlib.redirect_stdout(file):
                gpu_speed.main(arguments)
        except SystemExit as end:
            return int(end.code or 0)
        except Exception:  # which ends the child alone
            log.write_text(log.read_text() + traceback.format_exc())
            return 1
        return 0

    def tests(command, cwd, timeout):
        junit = command[-1].removeprefix("--junitxml=")
        with open(junit, "w") as file:
            file.write("<testsuites/>")
        return SimpleNamespace(returncode=0)

    properties = SimpleNamespace(
        total_memory=80 << 30, multi_processor_count=132, major=9, minor=0, uuid="00000000-0000"
    )
    network = ["--net", "small", "--batch", "2", "--T", "2,5", "--repeats", "1", "--rivals", "layers-fp16"]

    def to_card(kind, move):
        """``kind.to`` that asks no driver."""
        to = kind.to

        def moved(self, *arguments, **named):
            wanted = arguments[0] if arguments else named.get("device")
            there = isinstance(wanted, str | torch.device) and torch.device(wanted).type == "cuda"
            return move(self) if there else to(self, *arguments, **named)

        monkeypatch.setattr(kind, "to", moved)

    with rivals.float32_precision("ieee"), pretend_gpu(monkeypatch) as card:  # what a command sets stays set
        to_card(torch.Tensor, card.on_card)
        to_card(torch.nn.Module, card.moved)
        for name, value in {
            "is_available": lambda: True,
            "get_device_name": lambda device=None: "NVIDIA H100 80GB HBM3",
            "get_device_properties": lambda device: properties,
            "Event": Event,
            "synchronize": lambda device=None: None,
            "device": lambda device: contextlib.nullcontext(),
            "reset_peak_memory_stats": lambda device: None,
            "memory_allocated": lambda device: 0,
            "max_memory_allocated": lambda device: 5_000_000,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(measure, "in_child", in_child)
        monkeypatch.setattr(measure, "NETWORKS", [network])
        monkeypatch.setattr(parts, "SIZES", TINY)
        monkeypatch.setattr(timing, "FEWEST", 1)
        monkeypatch.setattr(timing, "ENOUGH_MS", 100.0)
        monkeypatch.setattr(parts, "subprocess", SimpleNamespace(run=tests))
        yield card


def ended(tmp_path) -> tuple[int, list[dict], set[str]]:
    """The status of the command, its rows, and the names of the archive's files."""
    with pytest.raises(SystemExit) as end:
        gpu_speed.main(["--out", str(tmp_path)])
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
    assert "Please send us" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.triton
def test_it_goes_on_after_a_failure_and_trusts_nothing_then(pretended, monkeypatch, tmp_path, capsys):
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
    status, rows, _ = ended(tmp_path)
    assert status == 1
    trusted = {row["figure"]: row["trusted"] for row in rows}
    wrong = [row for row in rows if row["figure"] == "self-check, int8"]
    assert [row["value"] for row in wrong] == ["1"]
    assert trusted["copy"] == "no: self-check, int8: wrong in 1 of 2 runs" and trusted["self-check, int8"] == "yes"
    assert "network ended with status 1 (log.txt)" in " ".join(capsys.readouterr().out.split())


def test_a_check_that_could_not_fail_is_refused(monkeypatch):
    monkeypatch.setattr(self_check, "THRESHOLD", 1000.0)
    with pytest.raises(RuntimeError, match="fire at 0%: it would compare next to nothing"):
        list(self_check.checks(torch.device("cpu"), TINY.conv, 1))


def test_float32_weights_have_low_parts():
    weight = self_check._weights(16, self_check.BITS["float32"], torch.Generator().manual_seed(0))
    low = weight - weight.half().float()
    assert (low != 0).float().mean() > 0.5
    half = self_check._weights(16, self_check.BITS["float16"], torch.Generator().manual_seed(0))
    assert equal(half, half.half().float())


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


def test_a_part_that_takes_too_long_is_named(monkeypatch, tmp_path):
    def run(arguments, log, limit_s):
        raise measure.subprocess.TimeoutExpired(arguments, limit_s)

    monkeypatch.setattr(measure, "in_child", run)
    options = SimpleNamespace(weights=None)
    assert measure.run_part("tests", tmp_path, [], options) == ["tests took more than 600 s"]


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
