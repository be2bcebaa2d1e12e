"""The shipped weights, and the script that made them: what it writes."""

import csv
from dataclasses import replace

import pytest
import torch
from common import accuracy, checkout, data, datasets, nets, twins
from equality import equal
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import TensorDataset
from torchvision.transforms import v2
from training import step as train_step
from training.augment import AUGMENTATIONS, Augmented, augment
from training_runs import assert_same, run_fixture, tensors  # noqa: F401 - a fixture

import proxykernels as pk

CPU = torch.device("cpu")


def test_a_tie_and_silence_are_wrong():
    counts = torch.tensor([[3, 1, 0], [2, 2, 0], [0, 0, 0], [1, 2, 3]], dtype=torch.int32)
    assert accuracy.strict_accuracy(counts, torch.tensor([0, 0, 0, 0])) == 0.25
    assert accuracy.strict_accuracy(counts, torch.tensor([1, 1, 1, 2])) == 0.25


def test_shipped_net():
    """On the 256 images shipped: within three standard deviations of the accuracy recorded for all 10,000."""
    path = checkout.WEIGHTS / "small.safetensors"
    assert path.stat().st_size <= 2_000_000
    with safe_open(path, "pt") as file:
        recorded = float(file.metadata()["test_accuracy"])
        steps = int(file.metadata()["T"])
    assert recorded >= 0.92 and steps == 16
    net, trained = nets.load("small", v_reset=None)
    measured, rates = accuracy.snn_accuracy(net, TensorDataset(*pk.samples.fashion_mnist()), steps, CPU)
    assert trained and abs(measured - recorded) < 3 * (recorded * (1 - recorded) / 256) ** 0.5
    assert all(0.01 < rate < 0.15 for rate in rates.values())


def test_training_writes_weights_that_load(run, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)  # so little is quick emulated, too
    out = run("--ann-epochs 1 --epochs 1 --rate-penalty 0.01 --augment shift-mirror --precision bfloat16")
    net, about = nets.load_file(out / "tiny.safetensors")
    held_out = datasets.held_out(datasets.load("fashion-mnist", run.root, "train")[0], 56)[1]
    images, labels = (torch.stack(list(part)) for part in zip(*held_out, strict=True))
    measured, _ = accuracy.snn_accuracy(net, TensorDataset(images, labels), 4, CPU)
    assert measured == pytest.approx(float(about["validation_accuracy"]), abs=1e-4)
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [(row["stage"], row["step"]) for row in rows] == [("ann", "5"), ("proxy", "10")]
    assert max(float(row["snn"]) for row in rows) == pytest.approx(measured, abs=1e-6)
    assert not list(out.glob("*.tmp"))
    tested, _ = accuracy.snn_accuracy(net, TensorDataset(*data.fashion_mnist("test", run.root)), 4, CPU)
    assert float(about["test_accuracy"]) == pytest.approx(tested, abs=1e-4)
    model, whole, _ = twins.load(out / "tiny.safetensors")
    test_set, _ = datasets.load("fashion-mnist", run.root, "test")
    twin = accuracy.ann_accuracy(model.eval().ann, test_set)
    assert whole and model.clip and float(about["twin_test_accuracy"]) == pytest.approx(twin, abs=1e-4)


def test_weights_are_trained_and_measured_in_few_bits(run):
    """The twin's weights learn as they are; the accuracy that is written is of the rounded ones."""
    out = run("--ann-epochs 1 --epochs 1 --T 16 --snn-precision int8")
    net, about = nets.load_file(out / "tiny.safetensors")
    test_set = TensorDataset(*data.fashion_mnist("test", run.root))
    tested, rates = accuracy.snn_accuracy(net, test_set, 16, CPU, "int8")
    assert about["snn_precision"] == "int8" and all(rates.values())
    assert float(about["test_accuracy"]) == pytest.approx(tested, abs=1e-4)
    assert rates != accuracy.snn_accuracy(net, test_set, 16, CPU)[1]  # a difference that could be seen


@pytest.mark.long
def test_leaky_neurons_are_trained_and_come_back(run):
    out = run("--neuron lif --decay 0.9375 --ann-epochs 6 --epochs 1 --T 16 --ann-lr 3e-3")
    model, whole, about = twins.load(out / "tiny.safetensors")
    assert about["decay"] == "0.9375" and whole
    assert all(layer.neuron == pk.neurons.LIFNeuron(decay=0.9375) for layer in model.net if hasattr(layer, "neuron"))
    tested, rates = accuracy.snn_accuracy(model.net, TensorDataset(*data.fashion_mnist("test", run.root)), 16, CPU)
    assert float(about["test_accuracy"]) == pytest.approx(tested, abs=1e-4) and tested > 0.05 and all(rates.values())


@pytest.mark.long
@pytest.mark.parametrize("decay", [0.9375, 0.75])
def test_leaky_neurons_take_over_what_others_learnt(decay):
    """The twins compute the same up to the rate 1/2, and the leaky network is nearly as good without any training."""
    source, _ = nets.load("small", 0.0)
    net = nets.small(decay=decay).eval()
    nets.take_over(net, source)
    images, labels = pk.samples.fashion_mnist()
    twins = [pk.ProxyNet(each, 32, clip=True, readout="rate").eval() for each in (source, net)]
    outputs = [twin.ann(images) for twin in twins]
    torch.testing.assert_close(outputs[0], outputs[1], atol=0.05, rtol=0)
    right = [accuracy.strict_accuracy(twin.snn(images), labels) for twin in twins]
    assert net.conv1.decay == decay and right[0] > 0.9 and right[1] > right[0] - 0.06


def test_what_cannot_be_taken_over_is_named():
    source = nets.small()
    with pytest.raises(ValueError, match="weights to start from are of another network"):
        nets.take_over(nets.paper(decay=0.5), source)
    with pytest.raises(ValueError, match="needed are IFNeurons of 2"):
        nets.take_over(nets.small(2.0, decay=0.5), source)
    with pytest.raises(ValueError, match="weights to start from are of LIFNeuron"):
        nets.take_over(nets.small(decay=0.5), nets.small(decay=0.5))
    with pytest.raises(ValueError, match="linear1 has no biases"):
        nets.take_over(nets.paper(decay=0.5), nets.paper())


def test_training_starts_from_a_file(run):
    first = run("--init random --epochs 1", "first")
    with pytest.raises(SystemExit, match="linear1 has no biases"):
        run(f"--init {first / 'tiny.safetensors'} --neuron lif --epochs 1")
    out = run(f"--init {first / 'tiny.safetensors'} --epochs 1 --lr 1e-9", "third")
    ours, theirs = (load_file(folder / "tiny.safetensors") for folder in (out, first))
    assert equal(ours["conv1.weight"], theirs["conv1.weight"]) and ours["conv1.weight"].abs().max() > 0


def test_leaky_neurons_start_where_they_fire():
    net, images = nets.small(decay=0.5), pk.samples.fashion_mnist()[0][:8]
    rates = pk.simulate(net, images, 16).rates
    assert rates["conv1"] > 0.01
    for layer in (layer for layer in net if hasattr(layer, "bias")):
        layer.bias.data -= 1 / 3
    assert pk.simulate(net, images, 16).rates["linear1"] == 0


@pytest.mark.long
def test_both_networks_keep_their_statistics_after_the_first_epoch(run):
    first = run("--init random --epochs 1 --schedule constant", "first")
    second = run("--init random --epochs 2 --schedule constant", "second")
    one, two = tensors(first), tensors(second)
    statistics = [key for key in one if "running" in key]
    assert len(statistics) == 8 and all(torch.equal(one[key], two[key]) for key in statistics)
    assert not torch.equal(one["model.net.conv1.bn.weight"], two["model.net.conv1.bn.weight"])
    always = tensors(run("--init random --epochs 2 --schedule constant --batch-norm always", "always"))
    assert not any(torch.equal(one[key], always[key]) for key in statistics)


def test_an_image_is_changed_by_seed_and_epoch_alone(run):
    dataset, _ = datasets.load("fashion-mnist", run.root, "train")
    augmented = augment(dataset, "shift-mirror-erase", seed=1)
    first = augmented.batch(range(40))[0]
    assert equal(augmented.batch([39, 5])[0], first[[39, 5]])
    augmented.epoch = 1
    second = augmented.batch(range(40))[0]
    assert sum(map(torch.equal, first, second)) < 4
    augmented.epoch = 0
    assert equal(augmented.batch(range(40))[0], first)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_images_are_shifted_mirrored_and_erased(name):
    """Each is one of the images that the augmentation allows, except for a rectangle of zeros; and each kind occurs."""
    images = torch.rand(64, 3, 8, 8) + 0.5
    changes = AUGMENTATIONS[name](8)
    if changes.erased:  # more of them, and further
        changes = replace(changes, shift=2, erased=0.5)
    augmented = Augmented(TensorDataset(images, torch.arange(64)), changes, seed=3)
    changed, labels = augmented.batch(range(64))
    assert equal(labels, torch.arange(64)) and changed.is_contiguous(memory_format=torch.channels_last)
    seen, erased = set(), 0
    for before, after in zip(images, changed, strict=True):
        hidden = (after == 0).all(0)
        kinds = {
            kind: expected
            for kind, expected in _every_change(before, changes).items()
            if torch.equal(after, torch.where(hidden, 0.0, expected))
        }
        kind = min(kinds, key=lambda kind: ((kinds[kind] == 0).all(0) ^ hidden).sum())
        gone = hidden & (kinds[kind] != 0).any(0)
        seen.add(kind)
        erased += bool(gone.any())
        rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
        if len(rows):
            box = hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert box.all()
    expected = (2 * changes.shift + 1) ** 2 * (1 + changes.mirror)
    assert len(seen) >= 0.6 * expected and (20 < erased < 44 if changes.erased else erased == 0)


def _every_change(image, changes):
    """All shifted and mirrored versions of an image [C, H, W], by another way than the code's."""
    versions = {}
    for down in range(-changes.shift, changes.shift + 1):
        for right in range(-changes.shift, changes.shift + 1):
            moved = v2.functional.affine(image, 0.0, [right, down], 1.0, [0.0])
            if border := changes.border:
                edge = torch.zeros_like(moved)
                inside = slice(border, -border)
                edge[:, inside, inside] = moved[:, inside, inside]
                moved = edge
            for mirror in {False, changes.mirror}:
                versions[down, right, mirror] = moved.flip(2) if mirror else moved
    return versions


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "trapezoid"])
def test_schedules(schedule):
    rates = [train_step.learning_rate(schedule, 2.0, k / 100) for k in range(100)]
    assert max(rates) == 2.0 and (rates[-1] < 0.01 or schedule == "constant")
    assert rates[0] == {"constant": 2.0, "cosine": 2.0, "one-cycle": 0.1, "trapezoid": 0.1}[schedule]
