"""train.py refuses bad input in one sentence, and stops a run that cannot get well; the last checkpoint stays."""

import csv
import json
import resource
import shutil
from argparse import ArgumentParser

import pytest
import torch
import train_iteration
from common import datasets, machine, nets
from PIL import Image
from training import checkpoint as train_checkpoint
from training import step as train_step
from training.options import PRESETS, parse
from training_runs import run_fixture, tensors  # noqa: F401 - a fixture


def refused(run, options: str, out: str = "out") -> str:
    """The one sentence that a run ends with."""
    with pytest.raises(SystemExit) as stop:
        run(options, out)
    message = str(stop.value.code)
    assert message.startswith("train.py: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--net nothing", "invalid choice: nothing"),
        ("--data nothing", "choose from cifar10, fashion-mnist, folder"),
        ("--method nothing", "choose from ann, proxy,"),
        ("--T 0", "--T must be at least 1, got 0"),
        ("--threshold 0", "--threshold must be positive, got 0.0"),
        ("--output-threshold 0", "expected data or a positive number, got 0"),
        ("--decay 1.5", "--decay must be within 0 .. 1, got 1.5"),
        ("--neuron nothing", "choose from if, lif"),
        ("--loss nothing", "choose from cross-entropy, mse-count, mse-rate"),
        ("--preset nothing", "choose from authors-fashion, plain, recommended"),
        ("--init nothing", "--init must be random, ann or a file of train.py, got nothing"),
        ("--lr nan", "--lr must be positive, got nan"),
        ("--rate-penalty -1", "--rate-penalty must be at least 0, got -1.0"),
        ("--rescale 100", "--rescale must be at least 0 and below 100"),
        ("--rescale 99 --twin relu", "(of --neuron if and --twin clipped), got 99.0"),
        ("--betas 0.9 1", "--betas must be two numbers within 0 .. 1, without 1, got [0.9, 1.0]"),
        ("--device nothing", "--device nothing does not work here"),
    ],
)
def test_unknown_names_list_the_known_ones(run, capsys, options, message):
    with pytest.raises(SystemExit):
        run(options)
    assert message in capsys.readouterr().err.replace("'", "")  # argparse quotes choices before Python 3.12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method surrogate --statistics means", "--statistics means has no effect with --method surrogate"),
        (
            "--init random --method surrogate --rate-penalty 1",
            "--rate-penalty 1.0 has no effect with --method surr",
        ),
        ("--init random --rescale 97", "--rescale 97.0 has no effect with --init random and --method ann"),
        ("--method ann --rescale 97", "--rescale 97.0 has no effect with --init random and --method ann"),
        ("--init random --ann-epochs 7", "--ann-epochs 7 has no effect with --init random"),
        ("--init random --ann-lr 0.1", "--ann-lr 0.1 has no effect with --init random"),
        ("--decay 0.5", "--decay 0.5 has no effect with --neuron if"),
        ("--loss cross-entropy --target 0.9", "--target 0.9 has no effect with --loss cross-entropy"),
        ("--neuron lif --twin relu", "--twin relu has no effect with --neuron lif"),
        ("--init random --epochs 0", "--epochs must be at least 1, but for --init ann with --ann-epochs, got 0"),
        ("--ann-epochs 0 --epochs 0", "--epochs must be at least 1, but for --init ann with --ann-epochs, got 0"),
    ],
)
def test_options_without_effect(run, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        run(options)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_default_without_effect_is_none_that_was_given(preset):
    """For every preset, with options that make some of its defaults ineffective."""
    for options in ("", "--init random --method surrogate", "--neuron lif", "--loss cross-entropy", "--method ann"):
        parse([*options.split(), "--preset", preset])
    parse("--statistics steps --method surrogate --rate-penalty 0.5 --rescale 97".split())


def test_bfloat16_that_would_be_emulated(run, capsys, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    for command in run, lambda options: train_iteration.main(options.split()):
        with pytest.raises(SystemExit):
            command("--precision bfloat16")
        assert "--precision bfloat16 takes ten times as long as float32 on a CPU" in capsys.readouterr().err
    parser = ArgumentParser()
    machine.check_precision(parser, "float32", torch.device("cpu"))
    machine.check_precision(parser, "bfloat16", torch.device("cuda"))


def test_bad_input_ends_in_one_sentence(run, tmp_path):
    assert "there is no checkpoint in" in refused(run, "--resume")
    assert "--batch must be at most the 200 training images, got 201" in refused(run, "--batch 201")
    assert "--validation must be within 1 .. 255" in refused(run, "--validation 256")
    assert "--data folder needs --root PATH" in refused(run, "--data folder")
    images = run.root / "train-images-idx3-ubyte.gz"
    content = images.read_bytes()
    images.write_bytes(content[:-100])
    assert f"{images} is damaged" in refused(run, "")
    images.unlink()
    assert "is in none of" in refused(run, "")
    images.write_bytes(content)
    (run.root / "t10k-labels-idx1-ubyte.gz").unlink()  # needed at the end, and asked for at the start
    assert "t10k-labels-idx1-ubyte.gz is missing" in refused(run, "")
    assert not (tmp_path / "out").exists()


def folder_of_images(root, size=8) -> None:
    """Two classes of 60 images in ``root/train`` and 10 in ``root/test``."""
    for split, count in (("train", 60), ("test", 10)):
        for label in ("dark", "light"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                shade = index if label == "dark" else 255 - index
                Image.new("RGB", (size, size), (shade, shade, shade)).save(root / split / label / f"{index:02}.png")


def test_a_folder_of_images(run, tmp_path):
    root = tmp_path / "images"
    folder_of_images(root)
    options = f"--data folder --init random --epochs 1 --batch 32 --root {root}"
    held_out = datasets.held_out(datasets.load("folder", root, "train")[0], 56)[1]
    assert 15 < sum(label for _, label in held_out) < 41  # of both classes
    net, about = nets.load_file(run(options) / "tiny.safetensors")
    assert json.loads(about["shape"]) == [3, 8, 8] and net[-1].out_features == 2 and float(about["test_accuracy"]) >= 0
    path = root / "train" / "dark" / "07.png"
    Image.new("RGB", (9, 8)).save(path)
    message = refused(run, options, "other")
    assert f"{path} has 9 x 8 pixels, and {path.with_name('00.png')} has 8 x 8; scale all images" in message
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path} is damaged" in refused(run, options, "another")


def test_a_folder_with_other_classes_in_its_test_images(run, tmp_path):
    root = tmp_path / "images"
    folder_of_images(root)
    options = f"--data folder --init random --epochs 1 --batch 32 --root {root}"
    (root / "train" / "dark").rename(root / "train" / "black")
    assert f"{root}/train/black has no counterpart in {root}/test; give both the same" in refused(run, options)
    (root / "train" / "black").rename(root / "train" / "dark")
    (root / "test" / "none").mkdir()
    assert f"{root}/test/none has no counterpart in {root}/train; give both the same" in refused(run, options)
    shutil.rmtree(root / "train")
    (root / "test" / "none").rmdir()
    assert len(datasets.load("folder", root, "test")[0]) == 20  # which needs no training images


def test_cifar10_that_is_not_there(monkeypatch, tmp_path):
    def download(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.datasets.CIFAR10, "download", download)
    assert "--data cifar10 needs --root" in refused_data(None)
    assert "could not be downloaded (no network); put cifar-10-python.tar.gz there" in refused_data(tmp_path)


def refused_data(root) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        datasets.load("cifar10", root, "train")
    return str(error.value)


def test_a_checkpoint_of_another_run_is_refused(run):
    out = run("--init random --epochs 1")
    assert "holds a run already; go on with --resume" in refused(run, "--init random --epochs 1")
    assert "--T 4; give the same to --resume" in refused(run, "--init random --epochs 1 --T 5 --resume")
    saved = train_checkpoint.read(out)
    torch.save(saved | {"model": nets.small().state_dict()}, out / train_checkpoint.FILE)
    assert "the checkpoint is of another network" in refused(run, "--init random --epochs 1 --resume")
    (out / train_checkpoint.FILE).write_bytes(b"nothing")
    assert "is damaged" in refused(run, "--init random --epochs 1 --resume")


def test_a_full_disk_leaves_the_last_checkpoint(run, monkeypatch):
    out = run("--init random --epochs 1 --schedule constant")
    before = tensors(out)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = torch.save

    def save_on_a_full_disk(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        try:
            save(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    monkeypatch.setattr(train_checkpoint.torch, "save", save_on_a_full_disk)
    with pytest.raises(SystemExit, match="could not be written .* the last checkpoint is intact"):
        run("--init random --epochs 2 --schedule constant --resume")
    after = tensors(out)
    assert all(torch.equal(after[key], before[key]) for key in before) and not list(out.glob("*.tmp"))


def test_a_loss_that_is_not_finite_stops_and_the_checkpoint_stays(run, monkeypatch):
    out = run("--init random --epochs 1 --schedule constant")
    before = tensors(out)
    monkeypatch.setitem(train_step.LOSSES, "mse-rate", lambda rate, *_: rate.sum() * torch.nan)
    message = refused(run, "--init random --epochs 2 --schedule constant --resume")
    assert "the loss became nan in epoch 2 of stage proxy; lower --lr" in message
    assert all(torch.equal(tensors(out)[key], before[key]) for key in before)


@pytest.mark.costly
@pytest.mark.parametrize("method", ["ann", "proxy", "tandem", "surrogate"])
def test_a_gradient_that_is_not_finite_stops_before_the_step(run, monkeypatch, method):
    options = f"--init random --epochs 2 --schedule constant --method {method}"
    out = run(options.replace("--epochs 2", "--epochs 1"))
    before = tensors(out)

    def lose(rate, *_):
        rate.register_hook(lambda gradient: gradient * torch.nan)
        return rate.sum()

    monkeypatch.setitem(train_step.LOSSES, "mse-rate", lose)
    message = refused(run, options + " --resume")
    assert "gradient" in message and "is not finite" in message and "The last checkpoint is intact" in message
    assert all(torch.equal(tensors(out)[key], before[key]) for key in before)


@pytest.mark.costly
@pytest.mark.parametrize("method", ["ann", "proxy", "tandem", "surrogate"])
def test_weights_that_are_not_finite_stop_a_run(run, monkeypatch, method):
    """Spikes, and so the losses of proxy and tandem learning, do not show them."""
    options = f"--init random --epochs 2 --schedule constant --method {method}"
    out = run(options.replace("--epochs 2", "--epochs 1"))
    before = tensors(out)
    damaged = train_checkpoint.read(out)
    damaged["model"]["net.conv2.weight"] *= torch.nan
    monkeypatch.setattr(train_checkpoint, "read", lambda folder: damaged)
    with pytest.raises(SystemExit, match="finite|became nan"):
        run(options + " --resume")
    monkeypatch.undo()
    assert all(torch.equal(tensors(out)[key], before[key]) for key in before)


@pytest.mark.slow
def test_a_run_away_stops_and_a_clipped_twin_does_not_run_away(run):
    options = "--T 8 --init random --epochs 20 --schedule constant --loss cross-entropy --lr 0.02"
    message = refused(run, f"{options} --twin relu")
    assert "training runs away in epoch" in message and "a layer's firing rate is 8" in message
    out = run(f"{options} --twin clipped", "clipped")
    assert all(float(row["mean_rate"]) < 0.5 for row in csv.DictReader((out / "log.csv").open()))
