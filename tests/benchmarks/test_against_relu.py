"""against_relu.py from end to end, and what counts as level."""

import csv
import sys
from functools import partial

import against_relu
import pytest
import torch
from common import relu_networks, subjects
from equality import equal
from rich.console import Console
from speed import against_table, answers, cascades, cut_activations, levels, logit_exit, relu_passes, turns
from speed.rivals import NotOffered
from torch import nn

import proxykernels as pk

ONNX = "ONNX Runtime float32", "ONNX Runtime int8"


@pytest.fixture
def subject():
    """Right is what the ReLU network says, of images of which it is surest."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 9, 5),
    ).eval()  # fmt: skip
    images = torch.rand(800, 1, 8, 8)
    with torch.no_grad():
        first, second = ann(images).topk(2).values.T
        images = images[(first - second).argsort(descending=True)[:80]]
        right = nn.functional.one_hot(ann(images).argmax(1), 5).bool()
    return subjects.Subject("small", ann, images, images, right, (images[:40], right[:40]))


@pytest.mark.slow
def test_every_contender_has_its_rows(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subjects, "load", lambda name, root: subject)
    monkeypatch.setattr(turns, "SETTLE_S", 0.0)
    monkeypatch.setattr(turns, "BLOCK_S", 1e-4)
    monkeypatch.setattr(cascades, "SHARES", (20,))
    here = [f"OpenVINO {precision}" for precision in relu_passes.PRECISIONS]
    monkeypatch.setattr(relu_passes, "NAMES", ("torch", *here))
    against_relu.main(["--batch", "1,3", "--T", "1,8", "--quick", "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "against_relu_small.csv").open()))
    assert (tmp_path / "against_relu_small.png").stat().st_size > 10_000
    timed = [row for row in rows if row["batch"]]
    of_one = [(row["contender"], row["precision"], row["T"]) for row in timed if row["batch"] == "3"]
    passes = [precision for name, precision, _ in of_one if name == levels.RELU]
    assert passes[:2] == ["float32", "float32"] and passes[-1] == "int8" and len(passes) in (3, 4)  # or bfloat16
    assert of_one[len(passes) :] == [
        *((name, precision, "") for name in (levels.HALF, levels.QUARTER) for precision in ("float32", "int8")),
        *((levels.CASCADE, precision, "20") for precision in ("float32", "int8")),
        *(
            (name, precision, T)
            for precision in ("float32", "int8")
            for name, T in ((levels.IF, "1"), (levels.IF, "8"), (levels.EARLY, "8"))
        ),
        *((levels.SIGMA_DELTA, "float32", T) for T in "1234"),
        *((levels.GRADED, precision, "1") for precision in ("float32", "int8")),
        *((levels.GRADED_CASCADE, precision, "20") for precision in ("float32", "int8")),
    ]
    assert len(timed) == 2 * len(of_one) and [row["contender"] for row in rows if not row["batch"]] == [*levels.UNTIMED]
    medians = [row for row in timed if row["contender"] != levels.EARLY]
    assert all(0 < float(row["ms_low"]) <= float(row["ms"]) <= float(row["ms_high"]) for row in medians)
    assert all(4 <= float(row["mean_T"]) <= 8 and float(row["ms"]) > 0 for row in timed if row not in medians)
    assert all(row["commit"] and row["device"] and row["openvino"] and row["images"] == "64" for row in rows)
    assert rows[0]["gained"] == rows[0]["lost"] == "0" and rows[0]["held_out"] == "100.00"
    assert all(float(row["right"]) == pytest.approx(100 - int(row["lost"]) / 0.64, abs=0.01) for row in rows)
    right = {(row["contender"], row["by"], row["precision"], row["T"]): float(row["right"]) for row in rows}
    assert right[levels.HALF, "OpenVINO", "float32", ""] == right[levels.CASCADE, "OpenVINO", "float32", "20"] == 100
    assert right[levels.RELU, "torch", "float32", ""] == right[levels.RELU, "OpenVINO", "float32", ""] == 100
    assert (
        right[levels.IF, "engine", "float32", "1"]
        < 100
        < 1 + right[levels.SIGMA_DELTA, timed[-1]["by"], "float32", "4"]
    )
    shown = capsys.readouterr().out
    assert (
        "IF, float32: engine" in shown and "sigma-delta, float32: first level with the ReLU network (100.00 %)" in shown
    )


def test_answers_are_those_of_a_simulation(subject):
    net = pk.convert(subject.ann, subject.calibration)
    for run in (pk.compile(net, subject.images[:1]), lambda x, T: pk.simulate(net, x, T)):
        neurons = answers.neurons_of(net, subject.images)
        found = answers.spiking(lambda x, run=run: run(x, 6), subject.images, neurons, lambda r: r.logits, "")
        result = pk.simulate(net, subject.images, 6)
        torch.testing.assert_close(found.outputs, result.logits)
        assert found.additions == sum(result.synops.accumulates.values()) / 80 > 0
        assert found.products == 36 * 6 * 9  # the image's, once
        spikes = sum(result.rates[name] * places for name, places in result.places.items() if places)
        assert neurons == {"0": 216, "2": 54, "3": 72, "6": 5} or sum(neurons.values()) in (293, 347)
        assert found.rate == pytest.approx(spikes / 80 / 6 / sum(neurons.values())) and found.rate > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "torch.compile", "OpenVINO float32", "OpenVINO int8", *ONNX])
def test_passes_give_the_networks_logits(subject, name):
    if name in ONNX:
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    passes = relu_passes.Passes(subject.ann, subject.calibration)
    with torch.no_grad():
        expected = subject.ann(subject.images)
    room = 0.25 if "int8" in name else 1e-5  # on AVX2 alone, sums of two int8 products saturate
    for batch in (None, 1, 4):
        run = passes.of(name, batch)
        found = torch.cat([run(x).clone() for x in subject.images.split(batch or 80)])
        error = (found - expected).abs().max() / expected.abs().max()
        assert error < room and ("int8" not in name or error > 0), batch


def test_a_rival_that_is_not_installed_is_left_out(subject, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotOffered, match="absent .*; to compare with it: pip install onnxruntime onnx"):
        relu_passes.Passes(subject.ann, subject.calibration).of("ONNX Runtime float32")


def test_smaller_networks_without_weights_are_left_out(subject, monkeypatch, capsys):
    def load(name, root):
        if name == "small-half":
            raise FileNotFoundError("small-half.safetensors is missing")
        return subject

    monkeypatch.setattr(subjects, "load", load)
    found = against_table.smaller_subjects(Console(), subject, None)
    assert (
        list(found) == ["small-quarter"] and "small-half: small-half.safetensors is missing" in capsys.readouterr().out
    )


class OfTorch:
    """Passes that run a module, of whichever name and batch; ``sizes``: of the batches that they were given."""

    any_batch = False

    def __init__(self, net):
        self.net, self.sizes = net, []

    def of(self, name, batch=None):
        @torch.no_grad()
        def run(images):
            assert batch in (None, len(images))
            self.sizes.append(len(images))
            return self.net(images)

        return run


def test_a_cascade_gives_unsure_images_to_the_large_network(subject):
    torch.manual_seed(1)
    images, small = subject.images, nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    found = cascades.cascades(OfTorch(small), OfTorch(subject.ann), "", images)
    assert list(found) == list(cascades.SHARES)
    with torch.no_grad():
        first, last = small(images), subject.ann(images)
    for share, cascade in found.items():
        unsure = cascades.leads(first) < cascade.lead
        assert unsure.sum() == share * len(images) // 100
        expected = torch.where(unsure[:, None], last, first)
        logits, goes_on = cascade.answers(images)
        torch.testing.assert_close(logits, expected)
        assert goes_on == pytest.approx(share / 100)
        for batch in (None, 1, 8, 5):
            cascade.large.sizes.clear()
            parts = images.split(batch or len(images))
            torch.testing.assert_close(torch.cat([cascade.run(batch)(part) for part in parts]), expected)
            given = [int(part.sum()) for part in unsure.split(batch or len(images)) if part.any()]
            sizes = [min(size for size in (1, 2, 4, batch) if size >= count) for count in given] if batch else given
            assert cascade.large.sizes == sizes and given


def test_a_cascade_of_graded_networks_counts_what_goes_on(subject):
    """Products are those of all images in the small network, and of the unsure ones in the large one."""
    torch.manual_seed(1)
    subject = subject._replace(held_out=(subject.images, subject.right))
    small = subject._replace(ann=nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 5)).eval())
    nets = [pk.convert(one.ann, one.calibration, neuron="graded") for one in (small, subject)]
    for contender in against_table.graded_cascades(*nets, subject):
        found = contender.answers(subject.images)
        simulate = partial(pk.simulate, T=1, precision=None if contender.precision == "float32" else "int8")
        first, last = (simulate(net, subject.images) for net in nets)
        unsure = (contender.timed(80)(subject.images) != first.logits).any(1)
        share = unsure.float().mean().item()
        assert share == pytest.approx(int(contender.T) / 100)
        torch.testing.assert_close(found.outputs, torch.where(unsure[:, None], last.logits, first.logits))
        work = [
            first.synops.multiply_accumulates,
            simulate(nets[1], subject.images[unsure]).synops.multiply_accumulates,
        ]
        assert found.products == pytest.approx(sum(sum(part.values()) for part in work) / 80) and found.additions == 0


def test_small_activations_are_cut(subject):
    net = cut_activations.cut(subject.ann, subject.images)
    assert isinstance(subject.ann[1], nn.ReLU) and isinstance(net[1][1], cut_activations.Cut)
    with torch.no_grad():
        values, cut = nn.Sequential(*subject.ann[:2])(subject.images), nn.Sequential(*net[:2])(subject.images)
    threshold = net[1][1].threshold
    assert threshold == pytest.approx(0.1 * values.flatten().quantile(0.99).item(), rel=0.05)
    assert equal(cut, values * (values >= threshold)) and 0 < ((values > 0) & (cut == 0)).float().mean() < 0.5


def test_a_network_of_torchvision(tmp_path, monkeypatch):
    from PIL import Image
    from torchvision import models

    torch.manual_seed(0)
    for split, count in (("train", 3), ("test", 5)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / split / name / f"{k}.png")
    ann = models.resnet18(num_classes=2)
    torch.save(ann.state_dict(), tmp_path / "two.pth")
    torch.save(models.resnet18(num_classes=3).state_dict(), tmp_path / "three.pth")
    found = subjects.of_torchvision("resnet18", tmp_path / "two.pth", tmp_path)
    assert found.images.shape == (10, 3, 32, 32) and found.right.sum(0).tolist() == [5, 5]
    assert (
        len(found.calibration) == 6
        and -2.2 < found.calibration.min() < -1
        and equal(found.ann.fc.weight, ann.fc.weight)
    )
    monkeypatch.setattr(subjects, "MOST_BYTES", 4 * 12 * 32 * 32)
    assert len(subjects.of_torchvision("resnet18", tmp_path / "two.pth", tmp_path).images) == 4
    with pytest.raises(ValueError, match=r"three.pth knows 3 classes, and --root .* has 2"):
        subjects.of_torchvision("resnet18", tmp_path / "three.pth", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--net nonsense", "against_relu.py: torchvision has no network 'nonsense'"),
        ("--net resnet18", "--state-dict must be a file with the weights of resnet18"),
        (
            "--net vgg11-cifar10 --root .",
            "vgg11-cifar10.safetensors is missing; python benchmarks/research/train.py relu",
        ),
    ],
)
def test_networks_without_weights(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(relu_networks, "file_of", lambda name: tmp_path / f"{name}.safetensors")
    with pytest.raises(SystemExit, match=message):
        against_relu.main([*options.split(), "--out", str(tmp_path)])


@pytest.mark.slow  # of the imports that come before any timing
def test_what_is_refused_before_any_timing(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "load", lambda name, root: subject)
    with pytest.raises(SystemExit, match="--batch must be at most the 64 test images, got 65"):
        against_relu.main(["--quick", "--batch", "1,65", "--out", str(tmp_path)])
    odd = subject._replace(ann=nn.Sequential(*subject.ann[:6], nn.Tanh(), subject.ann[6]))
    monkeypatch.setattr(subjects, "load", lambda name, root: odd)
    with pytest.raises(SystemExit, match="against_relu.py: small cannot be converted: .*Tanh"):
        against_relu.main(["--quick", "--batch", "1", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_network_that_the_engine_refuses_is_simulated(subject, monkeypatch):
    def refuse(*_, **__):
        raise TypeError("the engine does not take this")

    net = pk.convert(subject.ann, subject.calibration)
    monkeypatch.setattr(pk, "compile", refuse)
    by, run = against_table.runner(net, subject.images, "int8")
    assert by == "simulate (the engine does not take this)"
    result = run(subject.images, T=4)
    assert equal(result.count(), pk.simulate(net, subject.images, 4, precision="int8").count()) and result.count().any()


def test_the_lead_of_early_exit():
    """By hand: of 2,000 images two may end with another answer."""
    leads, otherwise = torch.arange(2000, 0, -1).float(), torch.zeros(2000, dtype=torch.bool)
    assert logit_exit.least_lead(leads, otherwise) == 0
    otherwise[[3, 500, 700, 1999]] = True
    shuffled = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    lead = logit_exit.least_lead(leads[shuffled], otherwise[shuffled])
    assert lead == 1300.5 and (leads >= lead).sum() == 700 and otherwise[leads >= lead].sum() == 2
    assert logit_exit.least_lead(leads[:50], torch.ones(50, dtype=torch.bool)) > leads.max()  # none may end
    same = torch.full((1000,), 0.25)  # before anything has reached the output
    assert logit_exit.least_lead(same, torch.arange(1000) > 500) > 0.25
    same[:300] = 0.5
    assert 0.25 < logit_exit.least_lead(same, torch.arange(1000) > 500) < 0.5


def test_steps_are_chosen_on_held_out_images():
    rows = [
        row(levels.RELU, "float32", "", "93.31", by="torch") | {"held_out": "94.00"},
        row(levels.IF, "float32", "4", "93.40") | {"held_out": "93.85"},
        row(levels.IF, "float32", "8", "93.10") | {"held_out": "93.90"},
    ]
    assert levels.first_level(rows, levels.IF, "float32") == rows[2]
    assert levels.is_level(row(levels.RELU, "int8", "", "93.25"), rows[0])  # has none: by the test images of both
    assert not levels.is_level(row(levels.RELU, "int8", "", "93.20"), rows[0])


def row(contender, precision, T, right, ms="1", by="engine", batch="1"):
    keys = "contender", "precision", "T", "right", "ms", "by", "batch"
    return dict(zip(keys, (contender, precision, T, right, ms, by, batch), strict=True))


def test_the_first_level_steps():
    relu = [
        row(levels.RELU, "float32", "", "93.31", "3", "torch"),
        row(levels.RELU, "float32", "", "93.31", "2", "OpenVINO"),
        row(levels.RELU, "int8", "", "93.00", "0.5", "OpenVINO"),
        row(levels.RELU, "int8", "", "93.00", "0.6", "ONNX Runtime"),
        row(levels.HALF, "int8", "", "92.00", "0.1", "OpenVINO"),  # of another network
    ]
    late = [row(levels.IF, "float32", T, right) for T, right in (("16", "93.40"), ("2", "93.20"), ("8", "93.21"))]
    never = [row(levels.IF, "int8", "16", "93.20")]
    ours = [
        row(levels.SIGMA_DELTA, "float32", "1", "93.31", "1.5"),
        row(levels.POWERS, "float32", "", "99", "", "torch", ""),
    ]
    rows = relu + late + never + ours
    assert levels.first_level(rows, levels.IF, "float32")["T"] == "8"  # to the hundredth, in whatever order
    assert levels.first_level(rows, levels.IF, "int8") is None
    assert levels.passes(rows, ours[0]) == {"float32": 0.75, "int8": 3.0}
    assert list(levels.sentences(rows)) == [
        "IF, float32: first level with the ReLU network (93.31 %) at T = 8, 93.21 %; "
        "1 image: 0.50 of the float32 pass and 2.00 of the int8 pass",
        "IF, int8: not level with the ReLU network (93.31 %) up to T = 16, 93.20 %",
        "sigma-delta, float32: first level with the ReLU network (93.31 %) at T = 1, 93.31 %; "
        "1 image: 0.75 of the float32 pass and 3.00 of the int8 pass",
    ]


def test_the_interval_of_an_accuracy():
    """Wilson's, as statsmodels has it: of 50 of 100 40.38 to 59.62, of 9,331 of 10,000 92.80 to 93.78."""
    for images, right, expected in ((100, "50.00", (40.383, 59.617)), (10_000, "93.31", (92.803, 93.784))):
        found = levels.interval({"images": str(images), "right": right})
        assert found == pytest.approx(expected, abs=2e-3)
