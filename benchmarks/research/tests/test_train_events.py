"""Event frames of a moving camera, and the command that trains on them."""

import csv
import shutil
from pathlib import Path
from statistics import mean

import pytest
import torch
import train_events
from common import data, weights_file
from common.accuracy import strict_accuracy
from equality import equal
from training import events

import proxykernels as pk
from proxykernels.samples import saccades
from proxykernels.samples.saccades import place, saccade_frames


def test_the_camera_comes_back_along_a_triangle():
    assert [place(time) for time in (0, 1 / 3, 2 / 3, 1)] == [(0, 0), (3, 6), (6, 0), (0, 0)]
    assert place(0.5) == (4.5, 3)
    assert all(0 <= coordinate <= 6 for time in range(100) for coordinate in place(time / 100))


def test_events_follow_the_light():
    """What ON and OFF events add up to is never a threshold away from the logarithm of the light."""
    images, _ = pk.samples.fashion_mnist()
    frames = saccade_frames(images[:20], 30)
    assert frames.shape == (20, 30, 2, 34, 34) and frames.dtype == torch.uint8
    off, on = frames.float().unbind(2)
    start = saccades._seen(images[:20], 0, 0)
    for t in (3, 9, 10, 17, 29):
        believed = start + saccades.CONTRAST * (on - off)[:, : t + 1].sum(1)
        assert (believed - saccades._seen(images[:20], *place((t + 1) / 30))).abs().max() < saccades.CONTRAST
    assert equal(on.sum(1), off.sum(1)) and on.sum() > 20_000  # back where it began


def test_an_edge_that_moves_right():
    """White comes from the left: ON events in front of the bar, OFF behind it, and none where nothing is."""
    image = torch.zeros(1, 1, 28, 28)
    image[..., 10:12] = 1
    frames = saccade_frames(image, 15)[0, :5].long()  # the first side: 3 pixels to the right
    assert frames[:, 1, 12:20, :10].sum() == 0 and frames[:, :, :, 16:].sum() == 0
    assert frames[:, 1, 12:20, 12:14].sum(0).min() >= 5  # log(1.1 / 0.1) / 0.4 = 5.99
    assert frames[:, 0, 12:20, 10:12].sum(0).min() >= 5
    assert saccade_frames(torch.zeros(2, 1, 28, 28)).sum() == 0


@pytest.mark.parametrize(
    ("images", "T", "error", "text"),
    [
        (torch.zeros(2, 1, 28, 28) - 1, 4, ValueError, "images must lie from 0 to 1, got -1 to -1"),
        (torch.full((2, 1, 28, 28), float("nan")), 4, ValueError, "images must lie from 0 to 1, got nan"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), 4, TypeError, "images must be floating point"),
        (torch.zeros(2, 3, 28, 28), 4, ValueError, r"the shape \[N, 1, H, W\] with H and W at most 28, got \[2, 3"),
        (torch.zeros(2, 1, 32, 32), 4, ValueError, r"at most 28, got \[2, 1, 32, 32\]"),
        (torch.zeros(2, 1, 28, 28), 0, ValueError, "T must be at least 1 step, got 0"),
    ],
)
def test_frames_of_what_is_no_image_are_refused(images, T, error, text):
    with pytest.raises(error, match=text):
        saccade_frames(images, T)


def test_images_are_recorded_one_by_one(monkeypatch):
    images, _ = pk.samples.fashion_mnist()
    together = saccade_frames(images[:9])
    monkeypatch.setattr(saccades, "BATCH", 4)
    assert equal(saccade_frames(images[:9]), together) and together.any()


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    for name in data.SAMPLE.glob("*.gz"):
        shutil.copy(name, tmp_path)
        shutil.copy(name, tmp_path / name.name.replace("t10k", "train"))
    return ["--root", str(tmp_path), "--out", str(tmp_path)]


@pytest.mark.slow
def test_it_learns(arguments, tmp_path):
    options = [*arguments, "--epochs", "6", "--batch", "32", "--T", "9", "--dropout", "0"]
    train_events.main(options)
    train_events.main([*options, "--methods", "proxy"])  # again: its rows are replaced
    rows = list(csv.DictReader((tmp_path / "train_events.csv").open()))
    assert list(rows[0]) == events.COLUMNS
    assert [(row["method"], row["epoch"]) for row in rows] == [
        (method, str(epoch))
        for method in ("surrogate", "surrogate, each movement", "relu", "relu, first movement", "proxy")
        for epoch in range(1, 7)
    ]
    assert all(bool(row["million_products"]) == row["method"].startswith("relu") for row in rows)
    assert all(float(row["strict"]) > 0.55 for row in rows if row["epoch"] == "6")  # of the images it was trained on
    weights, about = weights_file.read(tmp_path / "train_events_surrogate_each_movement.safetensors")
    assert {"method": "surrogate, each movement", "T": "9"}.items() <= about.items()
    events.network(events.adding_up, 0.0).load_state_dict(weights)


@pytest.mark.parametrize("last", [events.firing, events.adding_up])
def test_accuracy_is_read_from_the_first_event_on(last):
    """Compared with simulate, image by image; some begin two steps later and are read two steps later."""
    frames = saccade_frames(pk.samples.fashion_mnist()[0][:30], 9)
    late = torch.cat([torch.zeros_like(frames[:, :2]), frames[:, :-2]], 1)
    frames = torch.where(torch.arange(30).view(-1, 1, 1, 1, 1) % 3 == 0, late, frames)
    torch.manual_seed(0)
    net = events.network(last, 0.0).eval()
    for layer in net:
        if hasattr(layer, "weight"):
            layer.weight.data *= 3
    result = pk.simulate(net, pk.time_first(frames > 0), 9)
    dense = result.spikes.dense().cumsum(0) if last is events.firing else result.potentials
    labels = dense[-1].argmax(1)  # its own answers at the end are right
    rows = events.over_time(net, torch.utils.data.TensorDataset(frames, labels))
    assert [row["ms"] for row in rows] == [f"{100 * (t + 1) / 3:g}" for t in range(9)]
    for t, row in enumerate(rows):
        answers = torch.stack([dense[min(t + 2 * (k % 3 == 0), 8), k] for k in range(30)])
        assert float(row["strict"]) == pytest.approx(strict_accuracy(answers, labels), abs=1e-4)
    assert len({row["strict"] for row in rows}) > 2 and float(rows[-1]["strict"]) > 0.5


def test_counts_of_movements():
    frames = torch.rand(9, 2, 2, 4, 4) < 0.3
    found = events.counts(frames, 3)
    assert found.shape == (2, 6, 4, 4)
    assert equal(found[:, 2:4], frames[3:6].sum(0).float()) and found.max() > 1
    assert equal(events.counts(frames, 1), found[:, :2])


def test_steps_that_the_movements_do_not_divide(arguments):
    with pytest.raises(SystemExit, match="--T must be a multiple of the 3 movements, got 10"):
        train_events.main([*arguments, "--T", "10"])


def test_bad_input_is_named(arguments, capsys):
    with pytest.raises(SystemExit):
        train_events.main([*arguments, "--images", "0"])
    assert "--images: expected a whole number of at least 1, got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="train_events.py: .*is in none of /nowhere"):
        train_events.main([*arguments, "--root", "/nowhere"])


def test_the_guide_has_the_tables_figures():
    root = Path(__file__).parents[3]
    rows = list(csv.DictReader((root / "benchmarks" / "results" / "train_events.csv").open()))
    page = (root / "docs" / "events.md").read_text()
    for method in dict.fromkeys(row["method"] for row in rows):
        last = {row["seed"]: row for row in rows if row["method"] == method}.values()
        right, ties = ([100 * float(row[name]) for row in last] for name in ("strict", "tied"))
        told = f"{mean(right):.2f} %" + (f" ({min(right):.2f} to {max(right):.2f})" if len(right) > 1 else "")
        assert f"| {method} | {len(last)} | {told} | {mean(ties):.2f} % |" in page
