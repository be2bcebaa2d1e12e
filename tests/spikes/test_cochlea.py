"""The model of the cochlea: its filters, its levels, and the spikes of what changes."""

import numpy as np
import pytest
import torch

import proxykernels as pk
from proxykernels.samples import cochlea


def tone(hertz: float, seconds: float = 0.5, rate: int = 8000, size: float = 0.5) -> torch.Tensor:
    return size * torch.sin(2 * torch.pi * hertz * torch.arange(int(seconds * rate), dtype=torch.float64) / rate)


def by_recursion(samples: np.ndarray, rate: int) -> np.ndarray:
    """The filters as their equation has them, a sample after the other."""
    pole = cochlea.poles(rate)
    stages, found = np.zeros((cochlea.ORDER, cochlea.BANDS), complex), []
    for x in samples:
        for k in range(cochlea.ORDER):
            stages[k] = x = x * (1 - np.abs(pole)) + pole * stages[k]
        found.append(x)
    return np.stack(found, 1)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_filters_are_four_one_pole_filters(rate):
    samples = np.random.default_rng(0).normal(size=rate // 4)
    np.testing.assert_allclose(cochlea._filtered(samples, rate), by_recursion(samples, rate), atol=1e-8)


def test_a_tone_is_loudest_in_its_band():
    hertz = np.angle(cochlea.poles(8000)) * 8000 / (2 * np.pi)
    assert hertz[0] == pytest.approx(100) and hertz[-1] == pytest.approx(3700) and (np.diff(hertz) > 0).all()
    for band in range(0, cochlea.BANDS, 5):
        level = cochlea.levels(tone(hertz[band]).numpy(), 8000)[:, -1]
        assert level.argmax() == band and level[band] == pytest.approx(10 * np.log10(0.5**2 / 4), abs=0.5)


def test_spikes_follow_the_level():
    """ON and OFF spikes say where the level is, to 3 dB: the last one was sent there."""
    sound = torch.cat([tone(500), tone(500, size=0.05), tone(1500)])
    spikes, level = pk.samples.cochlea_spikes(sound), cochlea.levels(sound.numpy(), 8000)
    assert (
        spikes.dtype == torch.bool
        and spikes.shape == (150, 1, 64)
        and not (spikes[:, 0, :32] & spikes[:, 0, 32:]).any()
    )
    last = np.full(32, 10 * np.log10(cochlea.SILENCE))
    for step, now in enumerate(level.T):
        off, on = spikes[step, 0].view(2, 32).numpy()
        assert (now[on] >= last[on] + 3).all() and (now[off] <= last[off] - 3).all()
        last = np.where(on | off, now, last)
        assert (np.abs(now - last) < 3).all()
    assert 0.02 < spikes.float().mean() < 0.2 and not spikes[40:50].any()  # of a held tone nothing is sent


def test_a_louder_sound_has_the_same_spikes():
    sound = torch.cat([tone(400, size=0.1), tone(900, size=0.02), tone(2500, size=0.1)])
    spikes, louder = pk.samples.cochlea_spikes(sound), pk.samples.cochlea_spikes(4 * sound)
    assert (spikes[20:] != louder[20:]).float().mean() < 0.01


def test_silence_has_no_spikes_and_steps_are_whole():
    assert pk.samples.cochlea_spikes(torch.zeros(879)).shape == (10, 1, 64)
    assert not pk.samples.cochlea_spikes(torch.zeros(8000)).any()
    assert pk.samples.cochlea_spikes(torch.zeros(4410), rate=44100).shape == (10, 1, 64)
    assert pk.samples.cochlea_spikes(tone(300).half()).any()


@pytest.mark.parametrize(
    ("sound", "rate", "error", "text"),
    [
        (torch.zeros(100, dtype=torch.int16), 8000, TypeError, "sound must be floating point"),
        (torch.zeros(2, 8000), 8000, ValueError, r"must have the shape \[samples\], one channel, got \[2, 8000\]"),
        (torch.zeros(79), 8000, ValueError, "at least 80 samples, a step of 10 ms, got 79"),
        (
            torch.zeros(8000),
            4000,
            ValueError,
            "rate must be an integer of at least 8000 and a multiple of 100, got 4000",
        ),
        (torch.zeros(8000), 11025, ValueError, "a multiple of 100, got 11025"),
        (torch.full((8000,), float("nan")), 8000, ValueError, "sound must be finite"),
    ],
)
def test_bad_input(sound, rate, error, text):
    with pytest.raises(error, match=text):
        pk.samples.cochlea_spikes(sound, rate)
