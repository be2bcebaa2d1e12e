"""A sound as a model of the cochlea hears it: filters, the level of each in decibels, and a spike for each change.

A silicon cochlea sends events where the sound in one of its bands grows or fades. Here it is a model. A band is a
gammatone filter of fourth order: four complex one-pole filters in a row, at frequencies and with bandwidths of the
human ear (Glasberg and Moore, "Derivation of auditory filter shapes from notched-noise data", Hearing Research 47,
1990). Every 10 ms a band looks at its mean power, and sends a spike when the level is 3 dB away from that of its last
spike: ON above, OFF below. A louder sound has the same spikes, but for those of its beginning and end.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .. import checks

BANDS = 32
LOWEST, HIGHEST = 100.0, 3700.0  # Hz, the middle of the first and the last band
STEPS_A_SECOND = 100
STEP_DB = 3.0
SILENCE = 1e-8  # mean power that counts as none; a sine from -1 to 1 has 1/4 in its own band
ORDER = 4
FADED = 1e-9  # of its largest value: the rest of an impulse response is left out


def cochlea_spikes(sound: Tensor, rate: int = 8000) -> Tensor:
    """The spikes of 32 bands from 100 to 3,700 Hz, every 10 ms.

    Args:
        sound: samples from -1 to 1, [samples], floating point.
        rate: samples a second, a multiple of 100 and at least 8,000.

    Returns:
        Spikes, bool [T, 1, 64]: 32 OFF spikes, from the lowest band up, then 32 ON spikes. T is the number of whole
        steps of 10 ms.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value, or there is less than one step.
    """
    checks.floating("sound", sound)
    if sound.ndim != 1:
        raise ValueError(f"sound must have the shape [samples], one channel, got {list(sound.shape)}")
    if not checks.is_integer(rate) or rate < 8000 or rate % STEPS_A_SECOND:
        raise ValueError(f"rate must be an integer of at least 8000 and a multiple of {STEPS_A_SECOND}, got {rate!r}")
    length = rate // STEPS_A_SECOND
    T = len(sound) // length
    if T < 1:
        raise ValueError(f"sound must have at least {length} samples, a step of 10 ms, got {len(sound)}")
    samples = sound[: T * length].detach().double().cpu().numpy()
    if not np.isfinite(samples).all():
        raise ValueError("sound must be finite")
    return torch.from_numpy(_changes(levels(samples, rate)))[:, None]


def levels(samples: np.ndarray, rate: int) -> np.ndarray:
    """The level of each band in each step, in decibels, float64 [BANDS, T], of T whole steps of samples."""
    power = np.abs(_filtered(samples, rate)) ** 2
    return 10 * np.log10(power.reshape(BANDS, -1, rate // STEPS_A_SECOND).mean(2) + SILENCE)


def poles(rate: int) -> np.ndarray:
    """The pole of each band's one-pole filters, complex [BANDS]."""

    def erbs(hertz: float) -> float:
        return 21.4 * np.log10(0.00437 * hertz + 1)

    hertz = (10 ** (np.linspace(erbs(LOWEST), erbs(HIGHEST), BANDS) / 21.4) - 1) / 0.00437
    width = 1.019 * 24.7 * (0.00437 * hertz + 1)
    return np.exp(2 * np.pi * (1j * hertz - width) / rate)


def _filtered(samples: np.ndarray, rate: int) -> np.ndarray:
    """What each band makes of the samples, complex [BANDS, samples]: y[n] = x[n] (1 - |a|) + a y[n-1], four times."""
    responses = _responses(rate)
    points = 1 << (len(samples) + responses.shape[1] - 1).bit_length()
    product = np.fft.fft(samples, points) * _spectra(rate, points)
    return np.fft.ifft(product)[:, : len(samples)]


@lru_cache
def _responses(rate: int) -> np.ndarray:
    """The responses of the bands to an impulse, until all have faded, complex [BANDS, samples]."""
    pole, steps = poles(rate)[:, None], np.arange(rate)
    found = (1 - abs(pole)) ** ORDER * (steps + 1) * (steps + 2) * (steps + 3) / 6 * np.exp(np.log(pole) * steps)
    large = (np.abs(found) > FADED * np.abs(found).max(1, keepdims=True)).any(0)
    return found[:, : large.nonzero()[0][-1] + 1]


@lru_cache(maxsize=2)
def _spectra(rate: int, points: int) -> np.ndarray:
    return np.fft.fft(_responses(rate), points)


def _changes(levels: np.ndarray) -> np.ndarray:
    """Spikes bool [T, 2 BANDS] of levels in decibels, [BANDS, T]."""
    last, fired = np.full(BANDS, 10 * np.log10(SILENCE)), []
    for now in levels.T:
        below, above = now <= last - STEP_DB, now >= last + STEP_DB
        last = np.where(below | above, now, last)
        fired.append(np.concatenate([below, above]))
    return np.stack(fired)
