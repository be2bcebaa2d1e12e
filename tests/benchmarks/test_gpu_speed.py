"""gpu_speed.py from end to end on a GPU that is not there (pretend_gpu.py), with times that stand in for its own."""

import csv
import zipfile

import gpu_speed
import pytest
import torch
from gpu import differences, kernel_speed, measure, self_check
from gpu.kernel_speed import TINY
from speed import prepare


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
    status, rows, names = ended(tmp_path)
    assert status == 1
    trusted = {row["figure"]: row["trusted"] for row in rows}
    wrong = [row for row in rows if row["figure"] == "self-check, int8"]
    assert [row["value"] for row in wrong] == ["1"]
    assert trusted["copy"] == "no: self-check, int8: wrong in 1 of 2 runs" and trusted["self-check, int8"] == "yes"
    assert {"differences-int8.txt", "differences-int8.npz"} <= names
    assert "1 of 512 words differ" in next(tmp_path.glob("*/differences-int8.txt")).read_text()
    assert "network ended with status 1 (log.txt)" in " ".join(capsys.readouterr().out.split())


def test_a_check_that_could_not_fail_is_refused(monkeypatch):
    monkeypatch.setattr(self_check, "THRESHOLD", 1000.0)
    with pytest.raises(RuntimeError, match="fire at 0%: it would compare next to nothing"):
        list(self_check.checks(torch.device("cpu"), TINY.conv, 1))


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
