"""train_gestures.py on few gestures, made here and in the format of DVS Gesture."""

import csv

import numpy as np
import pytest
import torch
import train_gestures
from common import names, weights_file
from training import gestures, hands

import proxykernels as pk

SHARES = 0.4, 1, 1, 1, 2, 1, 1, 1, 1  # of the random weights and biases of each layer


def rows(path) -> list[dict]:
    with (path / "train_gestures.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_learns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gestures, "TEST_GESTURES", 64)
    options = ["--libraries", "proxykernels", "--seeds", "1", "--epochs", "4", "--gestures", "160", "--batch", "16"]
    train_gestures.main([*options, "--neurons", "16", "--T", "20", "--out", str(tmp_path)])
    (row,) = rows(tmp_path)
    assert row["data"] == "made" and row["recordings"] == "64" and float(row["accuracy"]) > 0.3
    assert all(float(rate) > 0.001 for rate in row["rate"].split()) and len(row["rate"].split()) == 3
    state, about = weights_file.read(tmp_path / "train_gestures.safetensors")
    gestures.network(int(about["neurons"]), int(about["classes"])).load_state_dict(state)
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["snntorch", "spikingjelly"])
def test_the_other_libraries_have_the_same_network(library):
    """As long as no potential is twice the threshold, where snnTorch resets once more, or equals it, where it does not
    fire. Weights are therefore small, and biases between two multiples of what weights are multiples of."""
    pytest.importorskip(library)
    torch.manual_seed(0)
    net = gestures.network(24, 8)
    with torch.no_grad():
        for parameter, share in zip(net.parameters(), SHARES, strict=True):
            parameter.copy_((64 * share * parameter).round() / 64)
        for layer in (net[0], net[2], net[5]):
            layer.bias += 1 / 128
    spikes, _ = hands.gestures(6, 20, 0)
    theirs, ours = gestures.CALLS[library](net)(spikes), net(spikes)
    assert min(rate for rate in pk.simulate(net.eval(), spikes, 20).rates.values() if rate == rate) > 0.005
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=1e-3)


def test_names_are_those_of_the_module():
    assert tuple(gestures.CALLS) == names.RECURRENT_LIBRARIES


def test_made_gestures():
    spikes, labels = hands.gestures(16, 30, 0)
    assert spikes.shape == (30, 16, 2, 32, 32) and labels.bincount().tolist() == [2] * 8
    again, _ = hands.gestures(16, 30, 0)
    other, _ = hands.gestures(16, 30, 1)
    assert torch.equal(spikes, again) and not torch.equal(spikes, other)
    assert all(0.0005 < rate < 0.05 for rate in spikes.float().mean((0, 2, 3, 4)).tolist())


def test_a_spot_that_moves_right_is_on_in_front_and_off_behind():
    seen, still = np.ones((1, 32, 32)), np.array([16.0])
    radius, gain = np.array([4.0]), np.array([3.0])
    off, on = hands.events(seen, hands.light(np.array([10.0]), still, gain, radius))
    assert on.any() and not off.any()
    assert not any(part.any() for part in hands.events(seen, hands.light(np.array([10.0]), still, gain, radius)))
    off, on = hands.events(seen, hands.light(np.array([12.0]), still, gain, radius))
    assert off[0].nonzero()[1].max() < on[0].nonzero()[1].min()


def write(folder, events: np.ndarray) -> None:
    """As tonic's copy of DVS Gesture has them: x, y, p and milliseconds. It wants a hundred files at least."""
    for split, users in (("Train", 10), ("Test", 10)):
        (folder / "DVSGesture").mkdir(exist_ok=True, parents=True)
        (folder / "DVSGesture" / f"ibmGesture{split}.tar.gz").write_bytes(b"")
        for user in range(users):
            path = folder / "DVSGesture" / f"ibmGesture{split}" / f"user{user:02}_led"
            path.mkdir(parents=True)
            for label in range(11):
                moved = events.copy()
                moved[:, 0] = (moved[:, 0] + 10 * label) % 128
                np.save(path / f"{label}.npy", moved)


def test_dvs_gesture(tmp_path):
    pytest.importorskip("tonic")
    draw = np.random.default_rng(0)
    t = np.sort(draw.integers(0, 450, 3000))
    events = np.stack([t // 8 + draw.integers(0, 6, 3000), draw.integers(60, 66, 3000), t % 2, t + 1000], 1)
    write(tmp_path, events.astype(np.int64))
    options = ["--libraries", "proxykernels", "--seeds", "1", "--epochs", "1", "--neurons", "8", "--T", "10"]
    train_gestures.main([*options, "--root", str(tmp_path), "--out", str(tmp_path)])
    (row,) = rows(tmp_path)
    assert row["data"] == "DVS Gesture" and row["recordings"] == "220"  # two windows of 110 recordings
    with pytest.raises(SystemExit, match="no recording lasts 50 steps of 20 ms"):
        train_gestures.main(["--root", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="has no recordings: tonic.datasets.DVSGesture"):
        train_gestures.main(["--root", str(tmp_path / "none"), "--out", str(tmp_path)])
