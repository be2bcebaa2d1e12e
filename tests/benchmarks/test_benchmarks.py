"""The benchmarks: data, networks, rivals that compute the same spikes, and the main job from end to end."""

import csv
import gzip
import shutil
import sys

import draw
import pytest
import sim_speed
import torch
from common import data, nets
from common.memory import PeakMemory
from speed import report, rivals, timing
from training.checkpoint import write_tensors

import proxykernels as pk

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
    return (data.fashion_mnist_sample()[0][:count] * 16).round() / 16


# Data


def test_sample_is_the_start_of_the_test_images():
    if not data.DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    images, labels = data.fashion_mnist("test", data.DEBIAN)
    sample_images, sample_labels = data.fashion_mnist_sample()
    assert images.shape == (10000, 1, 28, 28) and labels.shape == (10000,)
    assert torch.equal(sample_images, images[:256])
    assert torch.equal(sample_labels, labels[:256])


def test_sample_is_images_in_0_to_1_with_ten_classes():
    images, labels = data.fashion_mnist_sample()
    assert images.shape == (256, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    assert sum(path.stat().st_size for path in data.SAMPLE.iterdir()) < 150_000


def test_sample_is_reproducible(tmp_path):
    data.make_sample(data.SAMPLE, tmp_path)
    for path in tmp_path.iterdir():
        assert gzip.decompress(path.read_bytes()) == gzip.decompress((data.SAMPLE / path.name).read_bytes())


@pytest.mark.parametrize("layout", [".", "raw", "FashionMNIST/raw"])
def test_root_may_be_torchvisions_layout(tmp_path, layout):
    folder = tmp_path / layout
    data.make_sample(data.SAMPLE, folder)
    assert torch.equal(data.fashion_mnist("test", tmp_path)[1], data.fashion_mnist_sample()[1])


def test_missing_folder_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte.gz is in none of"):
        data.fashion_mnist("train", tmp_path)


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of train, test"):
        data.fashion_mnist("validation")


def test_failed_download_names_the_other_ways(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "FashionMNIST", fail)
    monkeypatch.setattr(data, "DEBIAN", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no network.*dataset-fashion-mnist.*folder"):
        data.fashion_mnist()


def idx(content, offset, value):
    """The bytes of an IDX file with another 32-bit number at ``offset`` of its header."""
    return content[:offset] + value.to_bytes(4, "big") + content[offset + 4 :]


# What happens to a gzipped IDX file of 256 images: a function of its bytes, and of these unpacked.
DAMAGE = {
    "empty file": lambda packed, content: b"",
    "half the gzip file": lambda packed, content: packed[: len(packed) // 2],
    "a flipped byte": lambda packed, content: packed[:99] + bytes([packed[99] ^ 255]) + packed[100:],
    "not gzip": lambda packed, content: content,
    "a pixel too few": lambda packed, content: gzip.compress(content[:-1]),
    "a pixel too many": lambda packed, content: gzip.compress(content + b"\0"),
    "half a header": lambda packed, content: gzip.compress(content[:6]),
    "elements that are floats": lambda packed, content: gzip.compress(idx(content, 0, 0x0D03)),
    "images of 14 x 56": lambda packed, content: gzip.compress(idx(idx(content, 8, 14), 12, 56)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_images_name_the_file_and_the_remedy(tmp_path, kind):
    data.make_sample(data.SAMPLE, tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    packed = path.read_bytes()
    path.write_bytes(DAMAGE[kind](packed, gzip.decompress(packed)))
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*; remove it and fetch it again"):
        data.fashion_mnist("test", tmp_path)


def test_labels_must_match_the_images(tmp_path):
    data.make_sample(data.SAMPLE, tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    header = bytes([0, 0, 8, 1])
    path.write_bytes(gzip.compress(header + (255).to_bytes(4, "big") + bytes(255)))
    with pytest.raises(ValueError, match="expected 256 labels"):
        data.fashion_mnist("test", tmp_path)
    path.write_bytes(gzip.compress(header + (256).to_bytes(4, "big") + bytes([10]) * 256))
    with pytest.raises(ValueError, match="a label is 10"):
        data.fashion_mnist("test", tmp_path)


# Networks


@pytest.mark.parametrize("decay", [None, 0.5, 1 - 1 / 16])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_random_weights_give_realistic_firing_rates(monkeypatch, tmp_path, v_reset, decay):
    monkeypatch.setattr(nets, "WEIGHTS", tmp_path)
    net, trained = nets.load("small", v_reset, decay=decay)
    rates = pk.simulate(net, data.fashion_mnist_sample()[0][:8], 32).rates
    assert not trained
    assert all(0.01 < rate < 0.2 for rate in rates.values()), rates


def test_stored_weights_are_loaded(monkeypatch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setattr(nets, "WEIGHTS", tmp_path)
    state = {key: value.half() for key, value in nets.small(0.5).state_dict().items()}
    safetensors.save_file(state, tmp_path / "small.safetensors", {"v_threshold": "0.5"})
    net, trained = nets.load("small", None)
    assert trained and not net.training
    assert net.conv1.v_threshold == 0.5 and net.conv1.v_reset is None
    assert net.conv1.weight.dtype == torch.float32
    assert all(torch.equal(value, state[key].float()) for key, value in net.state_dict().items())


def test_paper_network_has_its_shapes():
    net = nets.paper()
    assert [tuple(layer.weight.shape) for layer in net if hasattr(layer, "weight")] == [
        (128, 1, 3, 3),
        (128, 128, 3, 3),
        (128, 128, 3, 3),
        (2560, 6272),
        (1152, 2560),
        (256, 1152),
        (10, 256),
    ]
    assert all(layer.bias is None for layer in net if hasattr(layer, "weight"))


# Rivals


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
    for T in (1, 21, 16):  # again from rest each time; 21 is not a multiple of the multi-step modes' 4
        expected = pk.simulate(net, images, T).count()
        assert torch.equal(rival.counts(images, T).to(torch.int32), expected)
    assert expected.any()


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
        assert torch.equal(rival.counts(images, T).to(torch.int32), expected)
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
    assert torch.equal(rival.counts(images, 17).to(torch.int32), pk.simulate(net, images, 17).count())


def test_batch_normalisation_is_folded():
    net, _ = nets.load("paper", 0.0)
    net.conv2.bn.running_mean.fill_(0.25)
    net.conv2.bn.weight.data.fill_(1.5)
    images = data.fashion_mnist_sample()[0][:2]
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


# The main job


def run_job(tmp_path, *options):
    sim_speed.main(["--batch", "4", "--T", "3,5", "--repeats", "2", "--out", str(tmp_path), *options])
    with open(tmp_path / "sim_speed.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_main_job_writes_a_row_per_contender_and_a_plot(tmp_path, capsys):
    rows = run_job(tmp_path, "--rivals", ",".join(LIBRARIES))
    shown = capsys.readouterr().out
    ran = {row["contender"] for row in rows}
    assert {"proxykernels", "plain"} <= ran
    assert len(rows) == 2 * len(ran)
    for row in rows:
        assert float(row["min_ms_per_image"]) <= float(row["median_ms_per_image"]) <= float(row["max_ms_per_image"])
        assert row["rounds"] == "2" and row["counts_total"] == "40" and row["batch"] == "4"
        assert row["version"] and row["torch"] and row["device"] and row["commit"]
    assert all(row["counts_different"] == "0" for row in rows if row["contender"] == "plain")
    assert all(name in shown for name in ("proxykernels is", "Firing rates", "linear2", *LIBRARIES))
    (png,) = tmp_path.glob("*.png")
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 10_000


@pytest.mark.slow
def test_main_job_appends_and_runs_alone(tmp_path):
    before = run_job(tmp_path, "--rivals", "none", "--reset", "soft")
    after = run_job(tmp_path, "--rivals", "none", "--reset", "hard")
    assert after[: len(before)] == before and len(after) == 4
    assert {row["reset"] for row in after} == {"hard", "soft"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sim_speed.csv",
        "sim_speed_small_hard_cpu_T3-5_batch4_rivalsnone_repeats2.png",
        "sim_speed_small_soft_cpu_T3-5_batch4_rivalsnone_repeats2.png",
    ]


@pytest.mark.slow
def test_main_job_with_shared_thresholds_and_the_relu_network(tmp_path, capsys):
    rows = run_job(tmp_path, "--rivals", "plain", "--shared", "--relu", "--int8", "--reset", "soft")
    assert {row["contender"] for row in rows} == {"proxykernels", "proxykernels int8", "plain", "relu"}
    assert {row["net"] for row in rows} == {"small-shared"}
    shown = " ".join(capsys.readouterr().out.split())
    assert "proxykernels, int8: " in shown and "In passes of the ReLU network: proxykernels " in shown


@pytest.mark.parametrize("v_reset", [0.0, None])
def test_shared_thresholds_make_rates_of_conversion(monkeypatch, v_reset):
    monkeypatch.setattr(nets, "shipped", dict)  # random weights
    net, _ = nets.load("paper", v_reset)
    nets.share_thresholds(net)
    images = data.fashion_mnist_sample()[0][:4]
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
        ("--net paper --neuron lif --tau 16 --reset hard", False, "sim_speed_paper_hard_cpu_lif-tau16_untrained.png"),
        ("--net paper", False, "sim_speed_paper_soft_cpu_untrained.png"),
        ("--net paper --weights a/b.safetensors", True, "sim_speed_paper_soft_cpu_weightsb.png"),
        ("--threads 1 --repeats 3 --root x", True, "sim_speed_small_soft_cpu_threads1_repeats3_rootx.png"),
    ],
)
def test_only_a_run_with_the_default_options_draws_the_headline_picture(options, trained, name):
    given = sim_speed.make_parser().parse_args(options.split())
    others = sim_speed.not_default(given, trained)
    assert report.picture_name(given.net or "small", given.reset or "soft", "cpu", others) == name


def test_the_reset_is_that_of_the_weights(tmp_path):
    path = tmp_path / "mine.safetensors"
    about = {"net": "small", "v_threshold": "1.0", "T": "8", "reset": "soft"}
    write_tensors(path, nets.load("small", 0.0)[0].state_dict(), about)
    assert sim_speed.prepare(["--weights", str(path), "--out", str(tmp_path)])[0].reset == "soft"
    assert sim_speed.prepare(["--weights", str(path), "--reset", "hard", "--out", str(tmp_path)])[0].reset == "hard"
    assert sim_speed.prepare(["--neuron", "lif", "--out", str(tmp_path)])[0].reset == "hard"
    assert sim_speed.prepare(["--net", "paper", "--out", str(tmp_path)])[0].reset == "soft"


@pytest.mark.slow
def test_headline_picture_survives_another_run(tmp_path):
    headline = tmp_path / "sim_speed_small_soft_cpu.png"
    headline.write_bytes(b"the headline")
    run_job(tmp_path, "--rivals", "none")
    assert headline.read_bytes() == b"the headline"


@pytest.mark.slow
def test_pictures_are_drawn_anew_from_the_tables(tmp_path, monkeypatch):
    """Of runs with equal T the one with the most contenders is shown, and of these the last."""
    for table in (draw.RESULTS).glob("*.csv"):
        shutil.copy(table, tmp_path)
    rows = list(csv.DictReader((tmp_path / "sim_speed.csv").open()))
    mine = [row for row in rows if (row["net"], row["reset"], row["T"]) == ("small", "hard", "64")]
    small_run = [{**mine[0], "date": "2099-01-01", "median_ms_per_image": "1e6"}]
    last = [{**row, "date": "2099-01-02", "median_ms_per_image": str(7.0 + k)} for k, row in enumerate(mine)]
    report.append_csv(tmp_path / "sim_speed.csv", small_run + last)
    drawn = {}
    plot = report.plot
    monkeypatch.setattr(report, "plot", lambda path, rows: (drawn.update({path.name: rows}), plot(path, rows)))
    draw.main(["--results", str(tmp_path)])
    pictures = [{path.name for path in folder.glob("*.png")} for folder in (tmp_path, draw.RESULTS)]
    assert pictures[0] | {"imagenet.png"} == pictures[1]  # which shows photographs, of packages that may be missing
    shown = drawn["sim_speed_small_hard_cpu.png"]
    assert [row["median_ms_per_image"] for row in shown if row["T"] == "64"] == [str(7.0 + k) for k in range(len(mine))]
    assert {row["T"] for row in shown} == {"16", "64", "256"}
    assert {row["T"] for row in drawn["sim_speed_paper_hard_cpu.png"]} == {"16", "64", "256"}  # of two runs


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
            ["--neuron", "lif", "--weights", str(nets.WEIGHTS / "small.safetensors")],
            "a network of --weights has neurons of its own",
        ),
        (["--threads", "1.5"], "whole number of at least 1, got '1.5'"),
        (["--net", "large"], "invalid choice: 'large'"),
        (
            ["--net", "paper", "--weights", str(nets.WEIGHTS / "small.safetensors")],
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
    write_tensors(path, nets.load("small", 0.0)[0].state_dict(), about)
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
