"""compare_methods.py on the shipped images, and the ReLU network that it converts."""

import csv
import os
import shutil
import signal

import compare_methods
import pytest
import torch
from cases import spikes
from common import conversion, data, datasets, names, nets
from equality import equal
from methods import compare, ways
from methods.trained import Training
from torch import nn
from training import checkpoint
from training import options as train_options
from training import step as train_step
from training_runs import tensors

import proxykernels as pk
from proxykernels.kernels import reference


def tiny(v_threshold=1.0, v_reset=0.0, **options):
    return nets.build("4C3-P4-8C3-P2-24", v_threshold, v_reset, batch_norm=False, **nets.GRAY | options)


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """The shipped images as training and as test set, and a quick network."""
    monkeypatch.setitem(nets.TRAINABLE, "tiny", tiny)
    monkeypatch.setattr(names, "TRAINABLE", (*names.TRAINABLE, "tiny"))
    monkeypatch.setattr(compare, "FIRST_POINTS", (1, 2))
    monkeypatch.setattr(conversion, "CALIBRATION", 50)
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    options = "--net tiny --width 1 --epochs 1 --T 4 --batch 32 --held-out 40 --test 40 --tune-steps 1"
    folders = f"--root {tmp_path} --out {tmp_path}/results --runs {tmp_path}/runs"
    return [*options.split(), *folders.split()]


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_network_that_is_converted_is_the_twin(generator, batch_norm, clip):
    torch.manual_seed(0)
    net = nets.build("6C3-P2-5C3-16", 0.5, 0.0, (1, 8, 8), 4, batch_norm=batch_norm, dropout=0.1)
    images = torch.rand(20, 1, 8, 8, generator=generator)
    model, other = (pk.ProxyNet(net, 8, clip=each) for each in (clip, not clip))
    model(images)  # statistics learn, and those of the two networks differ
    other.statistics = model.statistics
    ann = conversion.relu_network(model.eval())
    torch.testing.assert_close(ann(images), model.ann(images))
    assert (ann(images) - other.eval().ann(images)).abs().max() > 0.003  # something is clipped
    rates = pk.simulate(conversion.converted(model, images), images, 200).count() / 200
    assert (rates.argmax(1) == ann(images).argmax(1)).all() and rates.max() > 0.9


@pytest.mark.slow
def test_all_methods_leave_rows_and_a_plot(arguments, tmp_path, capsys):
    stem = "compare_methods_tiny_1"
    compare_methods.main([*arguments, "--stop-at", "2"])
    compare_methods.main(arguments)  # goes on
    folder = tmp_path / "results"
    rows = list(csv.DictReader((folder / f"{stem}_1_epochs.csv").open()))
    assert {row["method"] for row in rows} == set(ways.WAYS)
    for name in ways.WAYS:
        of_it = [row for row in rows if row["method"] == name]
        last = "1" if name.startswith(ways.AUTHORS) else "4"  # whose batches are its own
        assert list(dict.fromkeys(row["step"] for row in of_it)) == ([last] if last == "1" else ["1", "2", "4"])
        assert {row["split"] for row in of_it if row["step"] == last} == {"held-out", "test"}
        for row in of_it:
            assert 0 <= float(row["strict"]) <= float(row["lenient"]) <= 1 and 0 <= float(row["potential"]) <= 1
    tried = list(csv.DictReader((folder / f"{stem}_settings.csv").open()))
    for name, way in ways.WAYS.items():
        found = {tuple(row[key] for key in ("lr", "threshold", "start")) for row in tried if row["method"] == name}
        others = sum(len(values) - 1 for values in (way.lrs, way.thresholds, way.starts))
        assert len(found) == others + (others > 0)  # the first of all, and one after the other
    assert "Right, held-out images" in capsys.readouterr().out
    assert (folder / f"{stem}_1_epochs.png").stat().st_size > 10_000


@pytest.mark.long
@pytest.mark.parametrize("method", ["proxy", "bptt"])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(arguments, tmp_path, monkeypatch, method):
    """The same accuracies, and the same weights; stopped at a point, and by Ctrl-C on the way to another."""
    arguments += ["--methods", method, "--tune-steps", "0"]
    whole = [*arguments, "--runs", str(tmp_path / "whole"), "--out", str(tmp_path / "whole")]
    compare_methods.main(whole)
    compare_methods.main([*arguments, "--stop-at", "1"])
    calls, gradient = [], train_step.gradient

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return gradient(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train_step, "gradient", interrupted)
        with pytest.raises(SystemExit) as stop:
            compare_methods.main(arguments)
    assert stop.value.code == 128 + signal.SIGINT and len(calls) == 2  # after three steps of four
    place = f"compare_methods_tiny_1_1_epochs/{method}-0"
    assert checkpoint.read(tmp_path / "runs" / place)["position"]["step"] == 3
    compare_methods.main(arguments)
    one, two = (tensors(tmp_path / folder / place) for folder in ("whole", "runs"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    columns = [*compare.SHARES, "step", "T", "split", "output_threshold"]
    tables = [
        [
            [row[key] for key in columns]
            for row in csv.DictReader((tmp_path / folder / "compare_methods_tiny_1_1_epochs.csv").open())
        ]
        for folder in ("whole", "results")
    ]
    assert tables[0] == tables[1] and len(tables[0]) == 16  # three points, the last of two splits, each at four T


@pytest.mark.long
@pytest.mark.parametrize("name", ways.WAYS)
def test_every_way_goes_on_from_its_checkpoint(arguments, tmp_path, name):
    """The weights and moments of an unbroken training, to the bit; what is converted has the thresholds that train."""
    options = compare_methods.parse_options(arguments)
    dataset = datasets.in_memory("fashion-mnist", options.root, "train")
    way = ways.WAYS[name]
    settings = ways.Settings(way.lrs[-1], way.thresholds[0], way.starts[0])

    def trained(stops: list[int], folder: str) -> Training:
        for stop in stops:
            training = Training(way, settings, options, 0, dataset, 8, tmp_path / folder)
            training.advance(stop)
        return training

    training = trained([8], "whole")
    trained([3, 5, 8], "stopped")
    one, two = (tensors(tmp_path / folder) for folder in ("whole", "stopped"))
    assert one.keys() == two.keys() and len(one) > 20
    assert not [key for key in one if not torch.equal(one[key], two[key])]
    if name == "qcfs":
        learnt = [threshold.item() for threshold in training.method.thresholds]
        layers = [layer for layer in training.model.net if isinstance(layer, pk.layers.Fused)]
        assert learnt == [layer.v_threshold for layer in layers[:-1]] and set(learnt) != {settings.threshold}


@pytest.mark.long
def test_a_training_is_refused_where_another_one_stands(arguments, tmp_path):
    arguments += ["--methods", "proxy", "--tune-steps", "0", "--stop-at", "1"]
    compare_methods.main(arguments)
    with pytest.raises(SystemExit, match="the checkpoint was written with --T 4"):
        compare_methods.main([*arguments, "--T", "8", "--out", str(tmp_path / "else")])
    with pytest.raises(SystemExit, match=r"--out has .*_1_epochs\.csv of trainings with .*T = 4, not .*T = 8; name"):
        compare_methods.main([*arguments, "--T", "8", "--runs", str(tmp_path / "else")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--methods nothing", " proxy,"),
        ("--net nothing", " small"),
        ("--T 0", "whole number of at least 1"),
        ("--width 0", "--width: expected a number above 0, got 0"),
        ("--tune-steps -1", "--tune-steps: expected a whole number of at least 0, got -1"),
        ("--methods proxy --stop-at 1", "--stop-at must be at least 2, the first measured step, got 1"),
        ("--batch 257", "--batch must be at most the 128 training images, got 257"),
        ("--root /nowhere", "is in none of /nowhere"),
    ],
)
def test_bad_input_is_named(arguments, capsys, monkeypatch, options, message):
    monkeypatch.setattr(compare, "FIRST_POINTS", (2,))
    with pytest.raises(SystemExit) as stop:
        compare_methods.main([*arguments, *options.split()])
    said = capsys.readouterr().err.replace("'", "")  # with which argparse quotes choices before Python 3.12
    assert message in f"{stop.value.code} {said}"


def test_seeds_are_each_trained_once(arguments):
    options = compare_methods.parse_options([*arguments, "--seeds", "0,2,0", "--methods", "proxy"])
    assert options.seeds == [0, 2]
    assert [(seed, step) for _, seed, _, step, _ in compare.turns(options, 128)] == [
        (seed, step) for seed in (0, 2) for step in (1, 2, 4)
    ]


def test_layers_start_at_a_share_of_their_thresholds(arguments):
    """The last one too, whose threshold is fitted."""
    options = compare_methods.parse_options(arguments)
    dataset = datasets.in_memory("fashion-mnist", options.root, "train")
    training = Training(ways.WAYS["proxy"], ways.Settings(1e-3, 3.0, 0.5), options, 0, dataset, 4)
    layers = [layer for layer in training.model.net if isinstance(layer, pk.layers.Fused)]
    assert [layer.v_init for layer in layers] == [layer.v_threshold / 2 for layer in layers]
    assert layers[0].v_threshold == 3.0 != layers[-1].v_threshold


def test_outputs_that_may_go_down_without_end(arguments):
    """Proxy and tandem learning lower no output below zero; the way without a bound does."""
    options = compare_methods.parse_options(arguments)
    dataset = datasets.in_memory("fashion-mnist", options.root, "train")
    images, gradients = torch.stack([dataset[k][0] for k in range(8)]), {}
    for name in ("proxy", "proxy, outputs unbounded", "tandem"):
        training = Training(ways.WAYS[name], ways.Settings(1e-3, 1.0, 0.5), options, 0, dataset, 4)
        outputs = []

        def ann(*given, of=training.model.ann, outputs=outputs, **more):
            outputs.append(of(*given, **more))
            outputs[0].retain_grad()
            return outputs[0]

        training.model.ann = ann
        training.method.train()(images).sum().backward()
        assert (outputs[0] < 0).any() and (outputs[0] > 0).any()
        gradients[name] = outputs[0].grad * (outputs[0] < 0), (outputs[0] < 0).float()
    assert not gradients["proxy"][0].any() and not gradients["tandem"][0].any()
    assert equal(*gradients["proxy, outputs unbounded"])


def test_the_authors_recipe_is_the_preset():
    """Whatever the comparison asks of the others."""
    options = compare_methods.parse_options(["--T", "8", "--batch", "7"])
    theirs = ways.settings_of(ways.WAYS[ways.AUTHORS], options, 3)
    preset = train_options.parse("--preset authors-fashion --seed 3".split())
    assert theirs == preset and (theirs.T, theirs.batch, theirs.threshold, theirs.lr) == (15, 100, 2.0, 1e-4)
    others = ways.settings_of(ways.WAYS["proxy"], options, 3)
    assert (others.T, others.batch, others.reset) == (8, 7, "soft")
    assert ways.settings_of(ways.WAYS["tet"], options, 3).T == 4


def test_statistics_of_each_step(generator):
    """In training a layer normalises each step by its own batch, as torch called for each step does."""
    x = spikes(5, 6, 3, 4, 4, generator=generator)
    layer, norm = pk.FusedIFConv2d(3, 4, 3, batch_norm=True), nn.BatchNorm2d(4)
    ways.normalise_each_step(nn.Sequential(layer))
    with torch.no_grad():
        expected, _ = reference.if_scan(torch.stack([norm(layer.affine(step)) for step in x]))
        y, _ = layer.spike(pk.pack(x), batch_statistics=True)
    assert 0.01 < expected.mean() < 0.9 and (y.dense() != expected).float().mean() < 1e-2
    assert torch.allclose(layer.bn.running_var, norm.running_var, rtol=1e-4) and layer.bn.num_batches_tracked == 5
