"""The main job from end to end, its rivals, and the benchmark of the CPU's kernels."""

import csv
import itertools
import shutil
import sys

import draw
import ops_speed
import pytest
import sim_speed
import torch
from common import checkout, data, nets, weights_file
from common.checkout import RESULTS
from common.memory import PeakMemory
from common.tables import read_csv
from equality import equal
from speed import ops_cases, ops_parts, ops_table, prepare, report, rivals
from speed import options as speed_options
from speed.ops_cases import SHAPES, Data, Shape, row_adds

import proxykernels as pk
from proxykernels.kernels import cpu

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


LIBRARIES = {
    "plain": "torch",
    "spikingjelly-s": "spikingjelly",
    "spikingjelly-m": "spikingjelly",
    "snntorch": "snntorch",
    "norse": "norse",
    "sinabs": "sinabs",
}
ON_GRID, OFF_GRID = 1.0, 1.0 + 2.0**-16  # potentials of dyadic_net are at the first often, at the second never
STRICT_ON_GRID = [
    ("snntorch", ON_GRID),
    ("norse", ON_GRID),
]  # not comparable: these fire above the threshold, not at it


def dyadic_net(v_threshold, v_reset, decay=None):
    """The small network with weights that are multiples of 1/64, so that every float32 sum is exact.

    Of leaky neurons not for ever: a potential needs more bits every step, until they do not fit.
    """
    net, _ = nets.load("small", v_reset, decay=decay)
    for layer in net:
        if hasattr(layer, "v_threshold"):
            layer.v_threshold = v_threshold
    for parameter in net.parameters():
        parameter.data = (parameter.data * 64).round() / 64
    return net


def dyadic_images(count):
    return (pk.samples.fashion_mnist()[0][:count] * 16).round() / 16


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "name, v_threshold",
    [(name, theta) for name in LIBRARIES for theta in (ON_GRID, OFF_GRID) if (name, theta) not in STRICT_ON_GRID],
)
def test_rival_counts_the_same_spikes(name, v_threshold, v_reset):
    pytest.importorskip(LIBRARIES[name])
    net, images = dyadic_net(v_threshold, v_reset), dyadic_images(3)
    if name == "norse" and v_reset is None:
        with pytest.raises(rivals.NotOffered, match="soft reset"):
            rivals.build(name, net, images)
        return
    rival = rivals.build(name, net, images)
    for T in (1, 13, 8):  # again from rest each time; 13 is not a multiple of the multi-step modes' 4
        expected = pk.simulate(net, images, T).count()
        assert equal(rival.counts(images, T).to(torch.int32), expected)
    assert expected.any()


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("name", LIBRARIES)
def test_leaky_rival_counts_the_same_spikes(name, v_reset):
    pytest.importorskip(LIBRARIES[name])
    net, images = dyadic_net(OFF_GRID, v_reset, decay=0.75), dyadic_images(3)
    if name == "snntorch" and v_reset is None:
        with pytest.raises(rivals.NotOffered, match="subtracts after the decay"):
            rivals.build(name, net, images)
        return
    rival = rivals.build(name, net, images)
    for T in (21, 16):  # again from rest each time
        expected = pk.simulate(net, images, T).count()
        assert equal(rival.counts(images, T).to(torch.int32), expected)
    assert expected.sum() > 30


def test_leaky_rivals_leak():
    net, images = dyadic_net(OFF_GRID, 0.0, decay=0.75), dyadic_images(3)
    counts = pk.simulate(net, images, 21).count()
    for layer in net:
        if hasattr(layer, "decay"):
            layer.decay = 0.8125
    assert (rivals.build("plain", net, images).counts(images, 21) - counts).abs().sum() > 10


def test_rivals_refuse_neurons_that_they_have_not():
    net = torch.nn.Sequential(pk.FusedConv2d(1, 2, 3, neuron=pk.neurons.CubaLIFNeuron()))
    with pytest.raises(rivals.NotOffered, match="integrate and fire, or leak to 0, got CubaLIFNeuron"):
        rivals.build("plain", net, dyadic_images(1))


@pytest.mark.slow
@pytest.mark.parametrize("decay", [None, 0.75])
def test_compiled_rival_counts_the_same_spikes(decay):
    net, images = dyadic_net(OFF_GRID if decay else ON_GRID, 0.0, decay), dyadic_images(2)
    try:
        rival = rivals.build("compiled", net, images)
    except rivals.NotOffered as reason:
        pytest.skip(str(reason))
    assert equal(rival.counts(images, 17).to(torch.int32), pk.simulate(net, images, 17).count())


@pytest.mark.long
def test_batch_normalisation_is_folded():
    net, _ = nets.load("paper", 0.0)
    net.conv2.bn.running_mean.fill_(0.25)
    net.conv2.bn.weight.data.fill_(1.5)
    images = pk.samples.fashion_mnist()[0][:2]
    counts = rivals.build("plain", net, images).counts(images, 8)
    difference = (counts - pk.simulate(net, images, 8).count()).abs()
    assert difference.sum() <= 1  # sums in another order may move a spike


def test_absent_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sinabs", None)
    monkeypatch.setitem(sys.modules, "sinabs.activation", None)
    with pytest.raises(rivals.NotOffered, match="absent .*pip install sinabs"):
        rivals.build("sinabs", dyadic_net(ON_GRID, 0.0), dyadic_images(1))


def test_rivals_refuse_other_resets():
    net = torch.nn.Sequential(pk.FusedIFConv2d(1, 2, 3, v_reset=-0.5))
    with pytest.raises(rivals.NotOffered, match="v_reset=-0.5"):
        rivals.build("plain", net, dyadic_images(1))


compiled = pytest.mark.skipif(cpu.load() is None, reason="the C++ kernels were not built")
TINY = [
    Shape(3, 2, 20, 6, 40, 3, 0.2, padding=1),
    Shape(2, 2, 8, 6, 8, 3, 0.5, stride=2, padding=2, dilation=2, groups=8),
    Shape(4, 3, 40, 1, 11, 1, 0.1),
]
tiny = pytest.mark.parametrize("shape", TINY, ids=["conv", "depthwise", "linear"])


# Shapes and counts


def test_multiplications_by_hand():
    assert SHAPES[0].gmac == pytest.approx(32 * 4 * 784 * 128 * 1152 / 1e9)  # the convolution
    strided = Shape(2, 3, 6, 9, 4, 3, 0.1, stride=2, padding=1, groups=2)
    assert strided.out == (5, 5) and strided.gmac == pytest.approx(2 * 3 * 25 * 4 * (3 * 9) / 1e9)
    assert str(strided) == "6->4 3x3 s2 g2 9x9" and str(TINY[2]) == "linear 40->11"


def test_row_adds_are_counted_window_by_window():
    shape = Shape(2, 2, 5, 7, 17, 3, 0.4, stride=2, padding=1, dilation=2)
    dense = Data.of(shape).dense
    adds = 0
    for y, x, dy, dx in itertools.product(range(shape.out[0]), range(shape.out[1]), range(3), range(3)):
        row, column = 2 * y - 1 + 2 * dy, 2 * x - 1 + 2 * dx
        if 0 <= row < 7 and 0 <= column < 7:
            adds += int(dense[:, :, :, row, column].sum())
    assert row_adds(shape, dense, 16) == 2 * adds > 0  # 17 output channels: two rows


def test_dyadic_weights_are_multiples_of_a_sixteenth():
    data = Data.of(TINY[0])
    assert equal(data.dyadic * 16, (data.dyadic * 16).round()) and data.dyadic.std() > 0.3
    assert data.weight.shape == data.dyadic.shape and abs(data.dense.float().mean() - 0.2) < 0.05


# Timing


@compiled
@tiny
def test_ours_and_the_rival_compute_the_same(shape):
    data = Data.of(shape)
    spikes, v = ops_parts.ours(shape, data.dense, data.dyadic)()
    expected, v_expected = ops_parts.rival(shape, data.dense, data.dyadic)()
    assert equal(spikes.dense(), expected.dense()) and equal(v, v_expected)
    assert 0 < spikes.rate() < 1


# Parity


@pytest.mark.parametrize("bits, v, message", [(0b101, 0.0, "2 spikes differ"), (0, 1.0, "0 spikes differ")])
def test_difference_ends_the_program(bits, v, message):
    words = torch.zeros(1, 2, 3, 1, dtype=torch.uint8)
    expected = words.clone(), torch.zeros(1, 3, 8)
    ops_parts.check(TINY[0], "events", (words, torch.zeros(1, 3, 8)), expected)
    words[0, 1, 2, 0] = bits
    with pytest.raises(SystemExit, match=f"events is wrong on 20->40 3x3 6x6.*{message}"):
        ops_parts.check(TINY[0], "events", (words, expected[1] + v), expected)


@compiled
def test_networks_are_timed_beside_their_originals(tmp_path):
    pytest.importorskip("spikingjelly")
    ops_speed.main(["--quick", "--parts", "networks", "--rounds", "1", "--out", str(tmp_path)])
    (row,) = read_csv(tmp_path / "ops_speed_networks.csv")
    assert float(row["ours_ms"]) > 0 and float(row["spikingjelly_ms"]) > 0 and float(row["rate"]) > 0.1


@compiled
@pytest.mark.parametrize("part, wrong", [("rates", "plan"), ("shapes", None)])
def test_wrong_kernel_is_found_and_nothing_is_written(tmp_path, monkeypatch, part, wrong):
    monkeypatch.setattr(ops_table, "QUICK_SHAPES", TINY[:1])
    run = ops_parts.Kernel.run

    def run_wrongly(self, shape, words, weight):
        spikes, v = run(self, shape, words, weight)
        if self.forced != "dense" and wrong in (None, self.forced):
            spikes[0, 0, 0, 0] ^= 1
        return spikes, v

    monkeypatch.setattr(ops_parts.Kernel, "run", run_wrongly)
    with pytest.raises(SystemExit, match=f"{wrong or ''}.* is wrong on .* 1 spikes differ"):
        ops_speed.main(["--quick", "--parts", part, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


# From end to end


@pytest.mark.long
@compiled
def test_rates_have_a_row_a_kernel_and_a_plot(tmp_path, capsys):
    ops_speed.main(["--quick", "--parts", "rates", "--out", str(tmp_path)])
    rows, shown = read_csv(tmp_path / "ops_speed_rates.csv"), capsys.readouterr().out
    assert list(rows[0]) == ops_table.COLUMNS["rates"]
    named = {*ops_parts.KERNELS, "chosen", "torch fp32"}
    assert named <= {row["kernel"] for row in rows}
    assert len(rows) == len(ops_cases.QUICK_LAYERS) * len(ops_table.QUICK_RATES) * len({row["kernel"] for row in rows})
    for row in rows:
        assert row["date"] and row["commit"] and row["device"] and int(row["threads"]) > 0 and row["torch"]
        assert float(row["min_ms"]) <= float(row["median_ms"]) <= float(row["max_ms"]) and row["rounds"] == "2"
        assert bool(row["cycles_row_add"]) == (row["kernel"] == "plan")
        assert row["taken"] in ("", row["kernel"]) or row["kernel"] == "chosen"
    event = next(row for row in rows if row["kernel"] == "plan")
    shape = ops_cases.QUICK_LAYERS[0]
    assert float(event["gmac_s"]) == pytest.approx(1000 * shape.gmac / float(event["median_ms"]), rel=0.02, abs=0.01)
    cycles = float(event["median_ms"]) / 1000 * float(event["peak_gmac_s"]) * 1e9 / ops_speed.CORE_MACS
    adds = row_adds(shape, Data.of(shape).dense, 16)
    assert float(event["cycles_row_add"]) == pytest.approx(cycles / adds, rel=0.1)
    assert "fp32 matrix-product peak" in shown
    png = tmp_path / "ops_speed_rates.png"
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000
    assert len(list(tmp_path.iterdir())) == 2  # nothing half written


@compiled
def test_shapes_have_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(ops_table, "QUICK_SHAPES", TINY)
    ops_speed.main(["--quick", "--rounds", "1", "--parts", "shapes", "--out", str(tmp_path)])
    shapes = read_csv(tmp_path / "ops_speed_shapes.csv")
    assert [row["layer"] for row in shapes] == [str(shape) for shape in TINY]
    assert shapes[1]["kernel"] == "depthwise" and shapes[1]["groups"] == "8"
    for row in shapes:
        ratio = float(row["rival_median_ms"]) / float(row["ours_median_ms"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=0.05, abs=0.01)
        assert row["lost"] == str(float(row["ratio"]) < 0.9)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--parts", "rates,speed"], "'speed' is none of rates, shapes, drop_in, networks"),
        (["--rounds", "0"], "whole number of at least 1"),
    ],
)
def test_bad_options_end_with_one_sentence(capsys, options, message):
    with pytest.raises(SystemExit):
        ops_speed.main(options)
    assert message in capsys.readouterr().err


def test_absent_library_ends_with_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "load", lambda *target: None)
    with pytest.raises(SystemExit, match="the C\\+\\+ kernels were not built"):
        ops_speed.main(["--out", str(tmp_path)])
