"""evaluate.py sigma-delta and train.py relu: what is counted, what is compared with what, and the tables."""

import csv
import shutil

import pytest
import torch
from accuracy import sigma_delta, sigma_delta_controls, sigma_delta_loop, sigma_delta_table, sigma_delta_time
from common import cost, data, relu_networks, subjects, weights_file
from torch import nn
from training import relu

import proxykernels as pk


@pytest.fixture
def subject(generator):
    ann = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 5))
    images = torch.rand(20, 1, 8, 8, generator=generator)
    with torch.no_grad():
        right = nn.functional.one_hot(ann(images).argmax(1), 5).bool()
    right[::4] = False  # images of unknown content
    return subjects.Subject("small", ann.eval(), images, images, right)


@pytest.fixture
def fashion(tmp_path):
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path / name.name)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    return tmp_path


def test_every_network_and_step_has_its_row(subject, monkeypatch):
    monkeypatch.setattr(sigma_delta_table, "IF_STEPS", (4, 8))
    rows = list(sigma_delta_table.rows(subject, 10))
    assert [row["neurons"] for row in rows[:3]] == ["ReLU", "ReLU, zeros skipped", "sigma-delta, K = 9"]
    of = {K: [row for row in rows if row["neurons"] == f"sigma-delta, K = {K}"] for K in sigma_delta_table.EXPONENTS}
    assert all([row["T"] for row in part] == list(sigma_delta_table.STEPS) for part in of.values())
    assert float(rows[0]["right"]) == 1 and float(of[9][3]["right"]) >= 0.9
    assert float(of[9][-1]["correlation"]) > float(of[6][-1]["correlation"])
    assert [(row["neurons"], row["T"], row["images"]) for row in rows[-2:]] == [("IF", 4, 10), ("IF", 8, 10)]
    assert float(of[9][3]["spikes_a_neuron"]) > float(of[9][0]["spikes_a_neuron"]) > 0
    assert float(rows[1]["arithmetic_uj"]) <= float(rows[0]["arithmetic_uj"])


def test_images_without_a_label_count_in_no_accuracy(subject):
    logits = torch.zeros(20, 5)
    logits[torch.arange(20), subject.right.int().argmax(1)] = 1
    assert subject.accuracy(logits) == 1
    assert subject.accuracy(-logits) == 0
    assert subject.accuracy(logits[:4]) == 1


def test_products_of_a_relu_network(generator):
    ann = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 3)).eval()
    x = torch.rand(2, 2, 5, 5, generator=generator)
    dense, sparse = cost.of_relu(ann, x)
    inside = (3 * 5 - 2) ** 2  # taps of all windows that lie in the image
    assert dense.products == 4 * inside + 300
    with torch.no_grad():
        fires = (ann[1](ann[0](x)) > 0).sum().item() / 2
    assert sparse.products == 4 * inside + 3 * fires < dense.products
    assert dense.weights == 4 * 9 + 300 and dense.values == 2 * (100 + 3)


def test_operations_of_a_simulation():
    ann = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()).eval()
    net = pk.convert(ann, torch.ones(1, 3), neuron=pk.neurons.SigmaDelta(1))
    for parameter in net.parameters():
        parameter.data.fill_(1)
    work = cost.of_simulation(net, pk.simulate(net, torch.ones(2, 3), 6), 6, 2, values=2, bits=8)
    assert (work.products, work.additions) == (12, 4 * 4 * 2)  # each of the four sends 1 four times
    assert (work.updates, work.values, work.bits) == (3 * 6 * 6, 4 * 6 * 6, 16 * 6 * 6)
    assert work.weights == 12 + 4 * 4 * 2  # the first layer's once, a row for each spike


def test_sums_before_a_pooling_are_states_too():
    ann = nn.Sequential(nn.Conv1d(1, 2, 1), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.ones_(ann[0].weight)
    net = pk.convert(ann, torch.ones(1, 1, 8), neuron="sigma-delta")
    work = cost.of_simulation(net, pk.simulate(net, torch.ones(3, 1, 8), 5), 5, 3, values=2, bits=8)
    sums, neurons = 5 * 2 * 8, 5 * 2 * 2
    assert (work.updates, work.values, work.bits) == (sums + 2 * neurons, 2 * (sums + neurons), 16 * neurons)


def test_the_step_loop_is_the_simulation(subject):
    net = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    loop = torch.stack(list(sigma_delta_loop.outputs(net, subject.images, 6)))
    torch.testing.assert_close(loop, pk.simulate(net, subject.images, 6).potentials, atol=0.02, rtol=0)
    assert (loop[0] - loop[-1]).abs().max() > 0.05


@torch.no_grad()
def test_controls_send_the_same_activations_in_one_pass(subject):
    rows = list(sigma_delta_controls.rows(subject, 10))
    names = ["float32", "8 bits", "4 bits", "two signed powers", *["sigma-delta"] * 4]
    graded = rows[15:]
    assert [row["sent_as"] for row in rows[:15]] == names + names[1:]
    assert [row["weights"] for row in rows] == ["float32"] * 8 + ["int8"] * 7 + ["float32", "int8"] * 6
    assert [row["bits_a_message"] for row in rows[:5]] == [32, 8, 4, 5, 5]
    # In one layer of neurons, two powers in one pass are what two steps send.
    assert rows[3]["messages_a_neuron"] == rows[5]["messages_a_neuron"] and rows[3]["right"] == rows[5]["right"]
    net, found = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta"), {}
    for name, way in sigma_delta_controls.ways().items():
        found[name] = sigma_delta_controls.in_one_pass(net, subject.images, 20, way)
    expected, whole = subject.ann(subject.images), found["float32"]
    assert graded[0]["sent_as"] == "graded, threshold 0" and graded[0]["same_class"] == "1.0000"
    assert graded[0]["million_products"] == rows[0]["million_products"] and graded[0]["million_additions"] == "0.00"
    assert graded[0]["messages_a_neuron"] == rows[0]["messages_a_neuron"]
    costs = [float(row["messages_a_neuron"]) for row in graded[::2]]
    assert costs == sorted(costs, reverse=True) and costs[-1] < costs[0]
    torch.testing.assert_close(whole.logits, expected)
    assert whole.work.products == cost.of_relu(subject.ann, subject.images)[1].products and not whole.work.additions
    errors = [(found[name].logits - expected).abs().max().item() for name in names[1:4]]
    assert 0 < errors[0] < errors[1] < errors[2]
    two, image = found["two signed powers"], 9 * 6 * 36  # products of the image, which is sent as it is
    assert two.work.products == image and two.work.additions == 5 * 54 * two.messages_a_neuron > 0
    assert whole.work.products == image + 5 * 54 * whole.messages_a_neuron


@torch.no_grad()
def test_rounded_weights_are_whole_units(subject):
    net = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    weight = sigma_delta_controls.with_rounded_weights(net).get_submodule("0").synapses[0].weight.flatten(1)
    unit = weight.abs().amax(1, keepdim=True) / 127
    torch.testing.assert_close((weight / unit).round() * unit, weight)
    assert not torch.equal(weight, net.get_submodule("0").synapses[0].weight.flatten(1))


def test_every_contender_is_timed(subject, monkeypatch):
    monkeypatch.setattr(sigma_delta_time, "IF_STEPS", 4)
    rows = list(sigma_delta_time.rows(subject, 1))
    contenders = {"ReLU network", "sigma-delta", "sigma-delta, settled", "step loop", "IF"}
    assert {row["contender"] for row in rows} == contenders
    assert all(float(row["ms"]) > 0 for row in rows) and rows[0]["passes"] == "1.00"
    torch.nn.init.constant_(subject.ann[0].weight, 1.0)  # which the network that was converted before does not have
    with pytest.raises(RuntimeError, match="step loop's outputs differ"):
        monkeypatch.setattr(sigma_delta_loop, "outputs", lambda net, x, T: [subject.ann(x)])
        net = pk.convert(nn.Sequential(*subject.ann[:4], nn.Linear(54, 5)), subject.images, neuron="sigma-delta")
        sigma_delta_time._same(net, subject.images)


@pytest.mark.slow
def test_a_network_is_trained_loaded_and_measured(fashion, monkeypatch, capsys):
    monkeypatch.setattr(sigma_delta_table, "IF_STEPS", (4, 8))
    monkeypatch.setattr(relu_networks, "file_of", lambda name: fashion / f"{name}.safetensors")
    measure = ["--net", "resnet20", "--images", "12", "--few", "4", "--root", str(fashion), "--out", str(fashion)]
    with pytest.raises(
        SystemExit, match=r"resnet20.safetensors is missing; python benchmarks/research/train.py relu --net"
    ):
        sigma_delta.main(measure)
    train = ["--net", "resnet20", "--epochs", "1", "--root", str(fashion), "--out", str(fashion)]
    relu.main(train)
    assert "of the test images right" in capsys.readouterr().out
    images, labels = subjects.load("resnet20", fashion).held_out  # half of so few images
    assert len(images) == len(labels) == 128
    sigma_delta.main(measure)
    sigma_delta.main(["--net", "small", *measure[2:]])
    rows = list(csv.DictReader((fashion / sigma_delta_table.TABLE).open()))
    assert {row["net"] for row in rows} == {"resnet20", "small"} and all(row["device"] for row in rows)
    again = len(rows)
    sigma_delta.main(measure)
    assert len(list(csv.DictReader((fashion / sigma_delta_table.TABLE).open()))) == again


def test_images_in_folders_are_needed_for_cifar10(tmp_path):
    with pytest.raises(SystemExit, match="--data folder needs --root PATH"):
        relu.main(["--net", "vgg11-cifar10", "--root", str(tmp_path)])


def test_seeds_have_files_of_their_own_and_rows_of_one_table(fashion):
    train = ["--net", "lenet5", "--epochs", "1", "--root", str(fashion), "--out", str(fashion)]
    for seed in ("1", "0", "1"):
        relu.main([*train, "--seed", seed])
    rows = list(csv.DictReader((fashion / "train_relu.csv").open()))
    assert [(row["net"], row["seed"], row["images"]) for row in rows] == [
        ("lenet5", "0", "128"),
        ("lenet5", "1", "128"),
    ]
    assert all(0 <= float(row["right"]) <= 100 and float(row["million_products"]) == 0.407 for row in rows)
    weights = [weights_file.read(fashion / f"lenet5{end}.safetensors")[0]["0.weight"] for end in ("", "-1")]
    assert not torch.equal(*weights)
