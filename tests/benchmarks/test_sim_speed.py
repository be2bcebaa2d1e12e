"""The main job from end to end."""

import csv
import shutil

import draw
import pytest
import sim_speed
import torch
from common import checkout, data, nets, weights_file
from common.checkout import RESULTS
from common.memory import PeakMemory
from speed import options as speed_options
from speed import prepare, report

RIVALS = ("plain", "spikingjelly-s", "spikingjelly-m", "snntorch", "norse", "sinabs")
# Timing


def test_peak_memory_sees_what_was_freed_again():
    with PeakMemory(torch.device("cpu")) as memory:
        torch.ones(50_000_000, dtype=torch.uint8).max()
    if memory.growth_bytes is None:
        pytest.skip("this system does not tell the peak of the resident set")
    assert 45e6 < memory.growth_bytes < 100e6


# The main job


def run_job(tmp_path, *options):
    sim_speed.main(["--batch", "4", "--T", "3,5", "--repeats", "2", "--out", str(tmp_path), *options])
    with open(tmp_path / "sim_speed.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_main_job_writes_a_row_per_contender_and_a_plot(tmp_path, capsys):
    rows = run_job(tmp_path, "--rivals", ",".join(RIVALS))
    shown = capsys.readouterr().out
    ran = {row["contender"] for row in rows}
    assert {"proxykernels", "plain"} <= ran
    assert len(rows) == 2 * len(ran)
    for row in rows:
        assert float(row["min_ms_per_image"]) <= float(row["median_ms_per_image"]) <= float(row["max_ms_per_image"])
        assert row["rounds"] == "2" and row["counts_total"] == "40" and row["batch"] == "4"
        assert row["version"] and row["torch"] and row["device"] and row["commit"]
    assert all(row["counts_different"] == "0" for row in rows if row["contender"] == "plain")
    assert all(name in shown for name in ("proxykernels is", "Firing rates", "linear2", *RIVALS))
    (png,) = tmp_path.glob("*.png")
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000


@pytest.mark.slow
def test_main_job_appends_and_runs_alone(tmp_path):
    before = run_job(tmp_path, "--rivals", "none", "--reset", "soft")
    after = run_job(tmp_path, "--rivals", "none", "--reset", "hard")
    assert after[: len(before)] == before and len(after) == 8
    assert {row["reset"] for row in after} == {"hard", "soft"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sim_speed.csv",
        "sim_speed_small_hard_cpu_T3-5_batch4_rivalsnone_repeats2.png",
        "sim_speed_small_soft_cpu_T3-5_batch4_rivalsnone_repeats2.png",
    ]


@pytest.mark.slow
def test_main_job_with_shared_thresholds_and_the_relu_network(tmp_path, capsys):
    rows = run_job(tmp_path, "--rivals", "plain", "--shared", "--relu", "--int8", "--reset", "soft")
    assert {row["contender"] for row in rows} == {"proxykernels", "proxykernels int8", "net(x)", "plain", "relu"}
    assert {row["net"] for row in rows} == {"small-shared"}
    shown = " ".join(capsys.readouterr().out.split())
    assert "proxykernels, int8: " in shown and "In passes of the ReLU network: proxykernels " in shown


def test_the_reset_is_that_of_the_weights(tmp_path):
    path = tmp_path / "mine.safetensors"
    about = {"net": "small", "v_threshold": "1.0", "T": "8", "reset": "soft"}
    path.write_bytes(weights_file.content(nets.load("small", 0.0)[0].state_dict(), about))

    def reset(*given: str) -> str:
        options = speed_options.parse([*given, "--out", str(tmp_path)])
        prepare.prepare(options)
        return options.reset

    assert reset("--weights", str(path)) == "soft"
    assert reset("--weights", str(path), "--reset", "hard") == "hard"
    assert reset("--neuron", "lif") == reset("--random") == "hard"
    assert reset("--net", "paper") == "soft"
    with pytest.raises(SystemExit):
        reset("--random", "--weights", str(path))


@pytest.mark.slow
def test_pictures_are_drawn_anew_from_the_tables(tmp_path, monkeypatch):
    """Of runs with equal T the one with the most contenders is shown, and of these the last."""
    for table in RESULTS.glob("*.csv"):
        shutil.copy(table, tmp_path)
    rows = list(csv.DictReader((tmp_path / "sim_speed.csv").open()))
    mine = [row for row in rows if (row["net"], row["reset"], row["T"], row["batch"]) == ("small", "hard", "64", "32")]
    mine = max(([row for row in mine if row["date"] == date] for date in {row["date"] for row in mine}), key=len)
    small_run = [{**mine[0], "date": "2099-01-01", "median_ms_per_image": "1e6"}]
    last = [{**row, "date": "2099-01-02", "median_ms_per_image": str(7.0 + k)} for k, row in enumerate(mine)]
    report.append_csv(tmp_path / "sim_speed.csv", small_run + last)
    drawn = {}
    plot = report.plot
    monkeypatch.setattr(report, "plot", lambda path, rows: (drawn.update({path.name: rows}), plot(path, rows)))
    draw.main(["--results", str(tmp_path)])
    pictures = {path.name for path in tmp_path.glob("*.png")}
    shipped = {path.name for path in RESULTS.glob("*.png")}
    assert {"speed.png", "ops_speed_rates.png"} | {
        name for name in shipped if name.startswith("against_relu")
    } <= pictures
    shown = drawn["sim_speed_small_hard_cpu.png"]
    assert [row["median_ms_per_image"] for row in shown if row["T"] == "64"] == [str(7.0 + k) for k in range(len(mine))]
    assert {row["T"] for row in shown} >= {"16", "64"}
    assert {row["T"] for row in drawn["sim_speed_paper_hard_cpu.png"]} >= {"16", "64"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rivals", "plain,sinab"], "no rival is called 'sinab'; known: plain, compiled"),
        (["--T", "16,0"], "whole number of at least 1, got '0'"),
        (["--T", "16,"], "whole number of at least 1, got ''"),
        (["--batch", "-3"], "whole number of at least 1, got '-3'"),
        (["--neuron", "lif", "--tau", "1"], "expected a number of steps above 1, got '1'"),
        (["--neuron", "lif", "--tau", "nan"], "expected a number of steps above 1, got 'nan'"),
        (
            ["--neuron", "lif", "--weights", str(checkout.WEIGHTS / "small.safetensors")],
            "a network of --weights has neurons of its own",
        ),
        (["--threads", "1.5"], "whole number of at least 1, got '1.5'"),
        (["--net", "large"], "invalid choice: 'large'"),
        (["--net", "paper", "--weights", str(checkout.WEIGHTS / "small.safetensors")], "is of the network small"),
        (["--root", "no/such/folder"], "t10k-images-idx3-ubyte.gz is in none of no/such/folder"),
        (["--batch", "257", "--root", str(data.SAMPLE)], "at most the 256 test images, got 257"),
    ],
)
def test_bad_option_ends_with_one_sentence(tmp_path, capsys, options, sentence):
    with pytest.raises(SystemExit):
        sim_speed.main(["--out", str(tmp_path), *options])
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in message


def test_file_of_weights_names_the_network(tmp_path):
    path = tmp_path / "mine.safetensors"
    about = {"net": "small", "v_threshold": "1.0", "T": "8", "reset": "hard"}
    path.write_bytes(weights_file.content(nets.load("small", 0.0)[0].state_dict(), about))
    assert nets.net_of(path) == nets.net_of(path, "small") == nets.net_of(None) == "small"
    with pytest.raises(ValueError, match="mine.safetensors is of the network small; needed is paper"):
        nets.net_of(path, "paper")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_must_be_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        sim_speed.main(["--out", str(tmp_path), "--device", "cuda"])
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_foreign_csv_is_not_touched(tmp_path, capsys):
    foreign = tmp_path / "sim_speed.csv"
    foreign.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        sim_speed.main(["--out", str(tmp_path)])
    assert "has other columns" in capsys.readouterr().err
    assert foreign.read_text() == "a,b\n1,2\n"
