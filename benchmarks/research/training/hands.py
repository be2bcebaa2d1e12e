"""Gestures of a hand as an event camera sees them: a bright spot that moves before a dark ground, at random pace, size,
place and brightness. No recording is needed, and a finger on a screen makes the same events (docs/extra/demo/eye.js).
"""

import numpy as np
import torch
from torch import Tensor

CLASSES = (
    "side to side", "up and down", "rising stroke", "falling stroke",
    "clockwise", "counterclockwise", "figure of eight", "taps",
)  # fmt: skip
SIZE = 32  # pixels along each side
STEP_MS = 20
CONTRAST = 1.3  # an event where the light has changed by this factor since the pixel's last one
NOISE = 0.002  # most events a pixel, polarity and step that nothing moved for


def gestures(count: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` gestures, as many of each class: spikes bool [T, N, 2, 32, 32], channel 0 OFF, 1 ON; and labels."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(count) % len(CLASSES))
    x, y, gain = paths(labels, steps, draw)
    radius = draw.uniform(2.5, 5, count)
    spikes = torch.zeros(steps, count, 2, SIZE, SIZE, dtype=torch.bool)
    seen = np.ones((count, SIZE, SIZE))
    places = 2 * SIZE * SIZE
    noisy = draw.poisson(places * draw.uniform(0, NOISE, count), (steps, count))
    for t in range(steps):
        off, on = events(seen, light(x[t], y[t], gain[t], radius))
        step = np.stack([off, on], 1).reshape(count, places)
        step[np.repeat(np.arange(count), noisy[t]), draw.integers(places, size=noisy[t].sum())] = True
        spikes[t] = torch.from_numpy(step).view(count, 2, SIZE, SIZE)
    return spikes, torch.from_numpy(labels)


def paths(labels: np.ndarray, steps: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the spot is, and how bright, [T, N] each: x and y in pixels, and how much light it adds to the ground's."""
    count = len(labels)
    seconds = np.arange(steps)[:, None] * STEP_MS / 1000

    def some(low: float, high: float) -> np.ndarray:
        return draw.uniform(low, high, count)

    unsteady = some(0.1, 0.5) * np.sin(2 * np.pi * (some(0.2, 0.6) * seconds + some(0, 1)))
    turn = 2 * np.pi * (some(0.8, 2.2) * seconds + some(0, 1)) + unsteady
    bow = some(-0.15, 0.15) * np.sin(2 * turn)
    aspect = some(0.7, 1.4)
    tapped = 0.25 * np.sin(0.3 * turn)  # a hand that taps hardly moves
    shapes = np.stack([  # of each class: x and y, which grows downwards, from -1 to 1
        [np.sin(turn), bow], [bow, np.sin(turn)],
        [np.sin(turn) - bow, -np.sin(turn) - bow], [np.sin(turn) - bow, np.sin(turn) + bow],
        [np.cos(turn), aspect * np.sin(turn)], [np.cos(turn), -aspect * np.sin(turn)],
        [np.sin(turn), aspect * 0.5 * np.sin(2 * turn)], [tapped, bow],
    ])  # fmt: skip
    dx, dy = (shapes[labels, axis, :, np.arange(count)].T for axis in (0, 1))
    lean, reach = some(-0.2, 0.2), some(4.5, 10)
    shaken = np.cumsum(draw.normal(0, 0.12, (2, steps, count)), 1)
    x = SIZE / 2 + some(-4, 4) + reach * (np.cos(lean) * dx - np.sin(lean) * dy) + shaken[0]
    y = SIZE / 2 + some(-4, 4) + reach * (np.sin(lean) * dx + np.cos(lean) * dy) + shaken[1]
    there = (labels != CLASSES.index("taps")) | (np.sin(turn) > some(-0.5, 0.5))
    return x, y, np.exp(some(np.log(1.5), np.log(6))) * there


def light(x: np.ndarray, y: np.ndarray, gain: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The light on each pixel, [N, 32, 32]: 1, and more near the spot. Arguments [N]."""
    pixels = np.arange(SIZE)
    across, down = (pixels - x[:, None]) ** 2, (pixels - y[:, None]) ** 2
    share = np.maximum(1 - (down[:, :, None] + across[:, None]) / (radius * radius)[:, None, None], 0)
    return 1 + gain[:, None, None] * (share * share)


def events(seen: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the light ``now`` has fallen, and where it has risen, by the contrast.

    ``seen`` is the light at each pixel's last event, or at the beginning; it is changed in place.
    """
    off, on = now * CONTRAST < seen, now > seen * CONTRAST
    np.copyto(seen, now, where=off | on)
    return off, on
