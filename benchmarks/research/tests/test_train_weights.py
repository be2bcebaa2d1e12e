"""What is done with weights between and after the epochs: averages, scales, the compact form of a file."""

import csv

import evaluate
import pytest
import torch
from common import accuracy, conversion, data, nets, twins, weights_file
from torch.utils.data import TensorDataset
from training import model as train_model
from training import options
from training_runs import run_fixture, tensors  # noqa: F401 - a fixture

import proxykernels as pk


def test_the_compact_form_of_a_file(run, tmp_path, monkeypatch):
    """Every weight is within half a step of its channel's scale, the rest as it was, and the file is a network's."""
    path = run("--init random --epochs 1 --linear-norm --width 2") / "tiny.safetensors"
    compact = tmp_path / "tiny.safetensors.gz"
    monkeypatch.setattr("sys.argv", ["weights_file", str(path), str(compact), "--test-accuracy", "0.5"])
    weights_file.main()
    (ours, about), (theirs, before) = (weights_file.read(file) for file in (compact, path))
    assert about["test_accuracy"] == "0.5000" and "twin_test_accuracy" in before.keys() - about.keys()
    assert ours.keys() == theirs.keys() and compact.stat().st_size < 0.8 * path.stat().st_size
    for key, tensor in theirs.items():
        error = (ours[key].float() - tensor.float()).abs()
        if tensor.ndim < 2:
            assert not error.any()
        else:
            largest = tensor.float().flatten(1).abs().amax(1)
            assert (error.flatten(1).amax(1) <= largest / 254 * 1.001).all() and error.any()
    model, whole, _ = twins.load(compact)
    assert whole and model.net.linear1.bn is not None and model.net.linear1.weight.shape == (48, 144)
    compact.write_bytes(compact.read_bytes()[:-100])
    with pytest.raises(ValueError, match="tiny.safetensors.gz is damaged"):
        nets.load_file(compact)


def test_statistics_are_measured_for_averaged_weights(run):
    """Normalised by what was measured, every channel's currents have the mean 0 and the variance 1."""
    images, _ = pk.samples.fashion_mnist()
    model = pk.ProxyNet(nets.TRAINABLE["tiny"](linear_norm=True), 4, clip=True).eval()
    train_model.measure_twin(model, images[:200])
    assert not model.training and {norm.momentum for norm in model.statistics.values()} == {0.1}
    current = model.net.conv1.affine(images[:200])
    own = model.statistics["conv1"]
    normalised = (current - own.running_mean[:, None, None]) / own.running_var.sqrt()[:, None, None]
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-4 and (normalised.var((0, 2, 3)) - 1).abs().max() < 0.02
    assert model.statistics["linear1"].num_batches_tracked == 2 and model.net.conv1.bn.num_batches_tracked == 0


@pytest.mark.parametrize("batch_norm", [False, True])
def test_rescaled_weights_compute_the_same_and_fire_more(batch_norm):
    torch.manual_seed(0)
    images, _ = pk.samples.fashion_mnist()
    net = nets.build(
        "6C3-P4-8C3-P2-24", 1.0, None, batch_norm=batch_norm, linear_norm=batch_norm, dropout=0.5, **nets.GRAY
    )
    model = pk.ProxyNet(net, 64, clip=True, readout="rate").eval()
    if batch_norm:
        train_model.measure_twin(model, images[:200])
        model.measure_batch_norm(images[:50])
        for layer in (net.conv1, net.conv2, net.linear1):
            layer.bn.weight.data *= 0.2
    before, rates, fired = model.ann(images), model.ann_rates, model.snn(images).mean()
    train_model.to_range(model, images, 99.9999)  # of so few activations the largest, so that none is clipped
    after = model.ann(images)
    torch.testing.assert_close(after, before / before.max())
    ratios = [model.ann_rates[name] / rate for name, rate in rates.items()]
    assert before.abs().max() > 0.05 and min(ratios) > 0.999 and max(ratios) > 2
    assert model.snn(images).mean() > 1.5 * fired
    train_model.to_range(model, images, 50)
    assert model.ann(images).isfinite().all() and model.ann_rates["conv2"] > 1.5 * ratios[1] * rates["conv2"]


@pytest.mark.long
def test_rescaled_after_the_twins_own_training(run):
    """Between two stages, and from a file with only the twin; not from one of a spiking network."""
    both = "--ann-epochs 1 --epochs 1 --lr 1e-9"
    plain, scaled = run(both, "plain"), run(f"{both} --rescale 99", "scaled")

    def weights(folder):
        return tensors(folder)["model.net.linear1.weight"]

    def ratio(ours, theirs):
        ratios = (weights(ours) / weights(theirs)).flatten()
        assert ratios.quantile(0.9) - ratios.quantile(0.1) < 0.02
        return ratios.median()

    assert abs(ratio(scaled, plain) - 1) > 0.1
    twin = run("--ann-epochs 1 --epochs 0 --rescale 99", "twin")  # what is published of its epochs is scaled, too
    published, later = (
        weights_file.read(folder / "tiny.safetensors")[0]["linear1.weight"].float() for folder in (twin, scaled)
    )
    assert torch.allclose(published, later, rtol=1e-2, atol=1e-4)
    again = run(f"--init {scaled / 'tiny.safetensors'} --epochs 1 --lr 1e-9 --rescale 99", "again")
    assert abs(ratio(again, scaled) - 1) < 1e-2
    alone = run("--init random --method ann --epochs 1", "alone")
    later = run(f"--init {alone / 'tiny.safetensors'} --epochs 1 --lr 1e-9 --rescale 99", "later")
    assert abs(ratio(later, alone) - 1) > 0.1


def test_the_default_preset():
    """What it recommends, as far as the options on the command line allow it."""
    assert options.parse([]) == options.parse(["--preset", "recommended"])
    given = options.parse(["--T", "8"])
    assert (given.T, given.reset, given.rescale, given.ann_epochs) == (8, "soft", options.RESCALE, 16)
    assert options.parse(["--neuron", "lif"]).rescale == options.parse(["--twin", "relu"]).rescale == 0
    assert options.parse(["--preset", "plain"]).rescale == options.parse(["--preset", "authors-fashion"]).rescale == 0
    assert options.parse(["--preset", "authors-fashion"]).smoothing == 0


def test_proxy_from_random_weights_has_defaults_of_its_own():
    """A normalised network gets the defaults that it needs not to collapse; the command line overrides them."""
    given = options.parse("--net paper --init random".split())
    assert (given.linear_norm, given.threshold, given.output_threshold, given.lr) == (True, 3.0, "data", 1e-3)
    assert (given.pool, given.statistics, given.start) == ("rates", "means", 0.5)
    given = options.parse("--net paper --init random --lr 1e-4 --no-linear-norm --output-threshold 0.5".split())
    assert (given.linear_norm, given.threshold, given.output_threshold, given.lr) == (False, 3.0, 0.5, 1e-4)
    for other in ("--net paper", "--net small --init random", "--net paper --init random --method ann"):
        given = options.parse(other.split())
        assert given.output_threshold is None and (given.pool, given.statistics, given.start) == ("spikes", None, None)
    assert options.parse("--preset authors-fashion".split()).threshold == 2.0


def test_an_output_threshold_of_its_own_is_trained_with_kept_and_taken_over(run):
    found = {}
    for name, given in (("number", "0.25"), ("data", "data")):
        out = run(f"--init random --epochs 1 --output-threshold {given}", name)
        net, about = nets.load_file(out / "tiny.safetensors")
        found[name] = net[-1].v_threshold
        assert net[0].v_threshold == 1.0 and about["v_threshold"] == "1.0"
    assert found["number"] == 0.25 and 0 < found["data"] < 1 and found["data"] != 0.25
    later = run(f"--init {out / 'tiny.safetensors'} --epochs 1 --lr 1e-9", "later")
    assert nets.load_file(later / "tiny.safetensors")[0][-1].v_threshold == pytest.approx(found["data"])


def test_pools_and_initial_potentials_are_in_the_file(run):
    out = run(
        "--init random --epochs 1 --pool rates --statistics means --start 0.5 --linear-norm --output-threshold data"
    )
    net, about = nets.load_file(out / "tiny.safetensors")
    assert [type(layer) for layer in net].count(pk.MaxRatePool2d) == 2 and about["pool"] == '"rates"'
    layers = [layer for layer in net if isinstance(layer, pk.layers.Fused)]
    assert [layer.v_init for layer in layers] == pytest.approx([layer.v_threshold / 2 for layer in layers])
    model, _, _ = twins.load(out / "tiny.safetensors")
    images, _ = pk.samples.fashion_mnist()
    assert 0 < model.snn(images[:20]).mean() < 1
    assert conversion.relu_network(model)(images[:20]).shape == (20, 10)
    options = f"--init {out / 'tiny.safetensors'} --epochs 1 --lr 1e-9 --linear-norm"
    later, told = nets.load_file(run(f"{options} --pool rates", "later") / "tiny.safetensors")
    assert told["statistics"] == about["statistics"] == "means"
    assert [layer.v_init for layer in later if isinstance(layer, pk.layers.Fused)] == [layer.v_init for layer in layers]
    with pytest.raises(SystemExit, match="that pools rates; pass --pool rates"):
        run(options, "other")


@pytest.mark.long
def test_a_twin_trained_alone_is_measured_converted(run, monkeypatch):
    """Its own spiking network has unscaled weights and fires too little: epochs are compared by the one in use."""
    monkeypatch.setattr(conversion, "CALIBRATION", 100)
    net_options = "--threshold 3 --linear-norm --dropout 0.1"
    out = run(f"--init random --method ann --epochs 5 --lr 1e-2 --loss cross-entropy --T 16 {net_options}")
    model, whole, about = twins.load(out / "tiny.safetensors")
    assert whole and about["method"] == "ann"
    images = TensorDataset(*data.fashion_mnist("test", run.root))  # and those that were trained on
    net = conversion.converted(model, conversion.calibration(images))
    tested, own = (accuracy.snn_accuracy(each, images, 16, torch.device("cpu"))[0] for each in (net, model.net))
    assert tested > own + 0.1 and float(about["test_accuracy"]) == pytest.approx(tested, abs=1e-4)
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert max(float(row["snn"]) for row in rows) == pytest.approx(float(about["validation_accuracy"]), abs=1e-4)
    arguments = ["--weights", str(out / "tiny.safetensors"), "--root", str(run.root), "--out", str(out / "results")]
    assert evaluate.main(arguments) == 0
    *_, last = csv.DictReader((out / "results" / "accuracy_tiny.csv").open())
    assert float(last["accuracy"]) == pytest.approx(tested, abs=1e-4)


def test_surrogate_gradients_normalise_by_all_steps_whatever_the_file_was_trained_by(run):
    first = run("--init random --epochs 1 --statistics means") / "tiny.safetensors"
    assert weights_file.read(first)[1]["statistics"] == "means"
    out = run(f"--init {first} --method surrogate --epochs 1", "second")
    assert "statistics" not in weights_file.read(out / "tiny.safetensors")[1]
