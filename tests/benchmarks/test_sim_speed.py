"""The main job from end to end."""

import csv
import shutil

import draw
import pytest
import sim_speed
import torch
from common import checkout, data, firing_rates, nets, weights_file
from common.checkout import RESULTS
from common.machine import device_name
from common.memory import PeakMemory
from speed import options as speed_options
from speed import prepare, report, timing

import proxykernels as pk

RIVALS = ("plain", "spikingjelly-s", "spikingjelly-m", "snntorch", "norse", "sinabs")
# Timing


def test_slow_contenders_get_fewer_rounds():
    assert timing.plan_rounds([10.0, 0.1, 1.0], budget_s=40.0, limit_s=40.0) == [3, 9, 9]
    assert timing.plan_rounds([10.0, 0.1, 1.0], budget_s=6.0, limit_s=40.0) == [2, 9, 2]
    assert timing.plan_rounds([10.0, 0.1, 1.0], budget_s=6.0, limit_s=20.0) == [1, 9, 2]
    assert timing.plan_rounds([10.0, 0.1, 1.0], budget_s=-1.0, limit_s=-1.0) == [1, 1, 1]


def test_rounds_are_interleaved_and_rotate():
    assert list(timing._turns([3, 3, 3])) == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    turns = list(timing._turns([6, 2, 3]))
    assert [turns.count(index) for index in range(3)] == [6, 2, 3]


def test_peak_memory_sees_what_was_freed_again():
    with PeakMemory(torch.device("cpu")) as memory:
        torch.ones(50_000_000, dtype=torch.uint8).max()
    if memory.growth_bytes is None:
        pytest.skip("this system does not tell the peak of the resident set")
    assert 45e6 < memory.growth_bytes < 100e6


def test_a_processor_without_avx512_has_a_name_of_its_own(monkeypatch):
    names = {}
    for instructions in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=instructions: found)
        names[instructions] = device_name(torch.device("cpu"))
    assert names["AVX512"] and names["AVX2"] == names["AVX512"] + ", AVX2"


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


@pytest.mark.long
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_shared_thresholds_make_rates_of_conversion(v_reset):
    net, trained = nets.load("paper", v_reset, random=True)
    assert not trained
    firing_rates.share_thresholds(net)
    images = pk.samples.fashion_mnist()[0][:4]
    rates = pk.simulate(net, images, 64).rates
    assert all(0.04 < rate < 0.35 for rate in rates.values()), rates
    assert all(isinstance(layer.v_threshold, float) for layer in net if isinstance(layer, pk.layers.Fused))


@pytest.mark.parametrize(
    ("options", "trained", "name"),
    [
        ("", True, "sim_speed_small_soft_cpu.png"),
        ("--reset hard --T 64,16,256 --batch 32", True, "sim_speed_small_hard_cpu.png"),
        ("--T 16", True, "sim_speed_small_soft_cpu_T16.png"),
        ("--batch 1", True, "sim_speed_small_soft_cpu_batch1.png"),
        ("--rivals plain,sinabs --int16", True, "sim_speed_small_soft_cpu_int16_rivalsplain-sinabs.png"),
        ("--random --reset hard", False, "sim_speed_small_hard_cpu_untrained.png"),
        ("--net paper --neuron lif --tau 16 --reset hard", False, "sim_speed_paper_hard_cpu_lif-tau16_untrained.png"),
        ("--net paper", False, "sim_speed_paper_soft_cpu_untrained.png"),
        ("--net paper --weights a/b.safetensors", True, "sim_speed_paper_soft_cpu_weightsb.png"),
        ("--threads 1 --repeats 3 --root x", True, "sim_speed_small_soft_cpu_threads1_repeats3_rootx.png"),
    ],
)
def test_only_a_run_with_the_default_options_draws_the_headline_picture(options, trained, name):
    given = speed_options.make_parser().parse_args(options.split())
    others = prepare.not_default(given, trained)
    assert report.picture_name(given.net or "small", given.reset or "soft", "cpu", others) == name


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
def test_headline_picture_survives_another_run(tmp_path):
    headline = tmp_path / "sim_speed_small_soft_cpu.png"
    headline.write_bytes(b"the headline")
    run_job(tmp_path, "--rivals", "none")
    assert headline.read_bytes() == b"the headline"


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
        (
            ["--net", "paper", "--weights", str(checkout.WEIGHTS / "small.safetensors")],
            "is of the network small",
        ),
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
