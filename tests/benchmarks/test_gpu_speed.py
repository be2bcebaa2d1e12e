"""gpu_speed.py from end to end on a GPU that is not there (pretend_gpu.py), with times that stand in for its own."""

import contextlib
import csv
import traceback
import zipfile
from types import SimpleNamespace

import gpu_speed
import pytest
import torch
from gpu import cards, kernel_speed, measure, rivals, self_check, timing
from speed import options

TINY = kernel_speed.Sizes(copy=5_000_000, matrix=64, scan=(8, 2, 1000), conv=(3, 2, 16, 4), repeats=2)
RECORD = {
    "instructions": 1760, "registers": 128, "programs": 2,
    "loop": dict(instructions=171, tensor_core=8, barriers=3, async_copies=3, short_stores=0, conversions=0,
                 integer=87, shared_bytes=3584),
}  # fmt: skip


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
    from gpu import parts, time_model
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
        records = lambda variants: ({"variant": variant, **RECORD} for variant in variants)  # noqa: E731
        monkeypatch.setattr(time_model, "compile_in_child", records)
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
    assert all(row["trusted"] == "yes" and row["card"] == "H100 SXM" for row in rows)
    convolutions = {name: row for name, row in figures.items() if "weights" in name}
    assert len(convolutions) == 4 and all(float(row["predicted"]) > 0 for row in convolutions.values())
    assert float(figures["small net, batch 2, T = 5: proxykernels"]["value"]) == 100
    assert "Please send us" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.triton
def test_it_goes_on_after_a_failure_and_trusts_nothing_then(pretended, monkeypatch, tmp_path, capsys):
    """A kernel whose spikes are wrong in some of its runs."""
    from gpu import parts

    layer, runs = self_check._layer, []

    def racing(kind, weight):
        right = layer(kind, weight)

        def run(x):
            spikes, v = right(x)
            runs.append(x)
            if kind == "int8" and x.device.type == "cuda" and len(runs) % 2:
                spikes._words[0, 0, 0, 0] ^= 1
            return spikes, v

        return run

    monkeypatch.setattr(self_check, "_layer", racing)
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
    assert torch.equal(half, half.half().float())


# The figures


def figures() -> dict[str, dict]:
    return {row["figure"]: row for row in kernel_speed.kernels(torch.device("cpu"), TINY, "", one_ms)}


def test_bytes_and_flops():
    """In a millisecond each, by hand: the copy reads and writes, a step's current is 4 bytes and its spike a bit."""
    rows = figures()
    assert rows["copy"]["value"] == 10.0 and rows["copy"]["unit"] == "GB/s"
    scan = rows["IF scan"]
    assert scan["value"] == round(2000 * (8 * 4 + 1 + 8) / 1e6, 1) and scan["limit"] == 10.0
    assert rows["matrix product, float16"]["value"] == round(2 * 64**3 / 1e9, 1)
    products = {name: row["value"] for name, row in rows.items() if "weights" in name}
    assert len(products) == 4 and all(row["unit"] == "TFLOP/s" for name, row in rows.items() if name in products)
    assert all(row["predicted"] == "" for row in rows.values())  # no model of a CPU


def test_work_of_a_convolution():
    """The dense one's; a weight of two parts is multiplied twice."""
    shape = 3, 2, 16, 4
    effective = kernel_speed.convolution_speed(torch.device("cpu"), shape, "float32", one_ms)
    assert effective == pytest.approx(2 * 3 * 2 * 16 * 16 * 9 * 16 / 1e9)
    row = kernel_speed.figure("conv", 2 * effective, "TFLOP/s", 1.0, effective)
    assert row["value"] == round(2 * effective, 1) and row["effective"] == round(effective, 1)


@pytest.mark.slow
@pytest.mark.triton
def test_a_known_card_is_predicted():
    """By kernels that are compiled for it, whatever is here."""
    pytest.importorskip("triton")
    predicted = kernel_speed.predicted_convolutions("H100 SXM", (64, 128, 128, 28))
    peak = 2 * 4096 * 132 * 1.755e9 / 1e12  # of int8
    assert list(predicted) == list(kernel_speed.WEIGHTS)
    assert 0.3 * peak < kernel_speed.WEIGHTS["float32"] * predicted["float32"] < 0.7 * peak
    assert predicted["float32"] < predicted["float16"] and predicted["int16"] < predicted["int8"]
    assert kernel_speed.predicted_convolutions("", (64, 128, 128, 28)) == {}


# The card


@pytest.mark.parametrize(
    ("name", "multiprocessors", "card"),
    [
        ("NVIDIA H100 80GB HBM3", 132, "H100 SXM"),
        ("NVIDIA H100 PCIe", 114, "H100 PCIe"),
        ("NVIDIA H100 NVL", 132, "H100 NVL"),
        ("NVIDIA A100-SXM4-80GB", 108, "A100 SXM"),
        ("NVIDIA A100 80GB PCIe", 108, "A100 PCIe"),
        ("NVIDIA GeForce RTX 4090", 128, "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", 114, ""),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 16, ""),
        ("NVIDIA T4", 40, ""),
    ],
)
def test_cards_are_told_from_each_other(name, multiprocessors, card):
    assert cards.known(name, multiprocessors) == card


def test_clocks_are_those_since_the_last_look(tmp_path):
    path = tmp_path / "clocks.csv"
    path.write_text("timestamp, clocks.current.sm [MHz], clocks.current.memory [MHz], power.draw [W], t, reasons\n")
    clocks = cards.Clocks(path)
    assert clocks.since_last() == {"sm_mhz": "", "watts": ""}
    with path.open("a") as file:
        file.write("2026/11/28 07:00:00.000, 1700, 2619, 500.5, 60, 0x0\n")
        file.write("2026/11/28 07:00:00.100, 1800, 2619, [N/A], 60, 0x0\n20")
    assert clocks.since_last() == {"sm_mhz": 1750, "watts": 500.5}
    with path.open("a") as file:
        file.write("26/11/28 07:00:00.200, 1980, 2619, 700, 60, 0x0\n")
    assert clocks.since_last() == {"sm_mhz": 1980, "watts": 700}
    assert cards.Clocks(tmp_path / "nowhere.csv").since_last() == {"sm_mhz": "", "watts": ""}


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
    monkeypatch.setattr(options, "set_float32_precision", lambda precision: None)
    monkeypatch.setattr(measure, "in_child", lambda *_: pytest.fail("a part was started"))
    with pytest.raises(SystemExit):
        gpu_speed.main(["--weights", str(tmp_path / "nowhere.safetensors"), "--out", str(tmp_path)])
    assert "nowhere.safetensors is missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
