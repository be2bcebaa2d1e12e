"""train_digits.py on recordings made here: tones whose steps are the digits'."""

import csv
import wave

import numpy as np
import pytest
import torch
import train_digits
from common import names, weights_file
from training import digits

import proxykernels as pk


def write(path, samples, rate=8000, channels=1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture
def root(tmp_path):
    """Seven recordings of each of two digits by two speakers: a tone that rises, and one that falls."""
    folder, draw = tmp_path / "sounds" / "recordings", np.random.default_rng(0)
    folder.mkdir(parents=True)
    t = np.arange(2400) / 8000
    for digit, octaves in ((3, 1.5), (8, -1.5)):
        for speaker, hertz in (("anna", 900), ("otto", 500)):
            for number in range(7):
                phase = 2 * np.pi * hertz * draw.uniform(0.9, 1.1) * (2 ** (octaves * t / 0.3)) * t
                write(folder / f"{digit}_{speaker}_{number}.wav", 0.2 * np.sin(phase))
    return folder.parent


def rows(path) -> list[dict]:
    with (path / "train_digits.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_learns(root, tmp_path, capsys):
    options = ["--root", str(root), "--libraries", "proxykernels", "--seeds", "1", "--epochs", "12", "--batch", "4"]
    train_digits.main([*options, "--neurons", "16", "--test", "usual,otto", "--out", str(tmp_path)])
    usual, otto = rows(tmp_path)
    assert usual["test"] == "usual" and usual["recordings"] == "20" and float(usual["accuracy"]) == 1.0
    assert otto["test"] == "otto" and otto["recordings"] == "14" and float(usual["rate"]) > 0.005
    assert float(usual["arithmetic_uj"]) == pytest.approx(0.9 * float(usual["million_additions"]), abs=2e-3)
    state, about = weights_file.read(tmp_path / "train_digits.safetensors")
    net = digits.network(int(about["neurons"]))
    net.load_state_dict(state)
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["snntorch", "spikingjelly"])
def test_the_other_libraries_have_the_same_network(library):
    """As long as no potential is twice the threshold: snnTorch, which resets at once, then resets once more."""
    pytest.importorskip(library)
    torch.manual_seed(0)
    net = digits.network(24)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_((64 * parameter).round() / 64)
    spikes = torch.rand(30, 5, 64) < 0.15
    theirs = digits.CALLS[library](net)(spikes)
    ours = net(spikes)
    assert pk.simulate(net.eval(), spikes, 30).rates["0"] > 0.01
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    grads = [torch.autograd.grad(out.square().sum(), list(net.parameters())) for out in (ours, theirs)]
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)


def test_names_are_those_of_the_module():
    assert tuple(digits.CALLS) == names.RECURRENT_LIBRARIES


def test_varied_recordings(root):
    sounds = digits.read(root)
    heard = digits.heard_as(sounds[:3], 2)
    assert len(heard) == 9 and [sound.digit for sound in heard] == [sound.digit for sound in sounds[:3]] * 3
    lengths = {len(sound.samples) for sound in heard[3:]}
    assert len(lengths) > 3 and all(sound.samples.abs().max() <= 1 for sound in heard)


@pytest.mark.parametrize(
    ("name", "rate", "channels", "text"),
    [
        ("ten_anna_0.wav", 8000, 1, "ten_anna_0.wav must be named DIGIT_SPEAKER_NUMBER.wav"),
        ("3_anna_9.wav", 16000, 1, "must have one channel of 16 bits and 8000 samples a second"),
        ("3_anna_9.wav", 8000, 2, "must have one channel"),
    ],
)
def test_other_files(root, tmp_path, name, rate, channels, text):
    write(root / "recordings" / name, np.zeros(1600), rate, channels)
    with pytest.raises(SystemExit, match=text):
        train_digits.main(["--root", str(root), "--out", str(tmp_path)])


def test_refusals(root, tmp_path):
    with pytest.raises(SystemExit, match="has no .wav files: git clone"):
        train_digits.main(["--root", str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="--test must be of usual, anna, otto, got emma"):
        train_digits.main(["--root", str(root), "--test", "emma", "--out", str(tmp_path)])
    (root / "recordings" / "3_anna_9.wav").write_bytes(b"RIFF")
    with pytest.raises(SystemExit, match="3_anna_9.wav is damaged"):
        train_digits.main(["--root", str(root), "--out", str(tmp_path)])
