"""Events as the edges of moving things give them: along lines, ON on one side of a line and OFF on the other."""

import numpy as np
import torch

import proxykernels as pk

PIXELS_A_STEP = 2.0  # the fastest line


def along_edges(size: tuple[int, int], share: float, T: int, seed: int = 0) -> pk.Spikes:
    """Spikes (T, 1, 2, H, W): a share of the pixels, rounded down, has an event at each step."""
    rng = np.random.default_rng(seed)
    height, width = size
    count = int(share * height * width)
    length = max(height // 3, 2)
    lines = max(2 * count // length, 2)  # more than are needed: they are two pixels thick, and some leave the sensor
    middle, angle = rng.random((lines, 2)) * size, rng.random(lines) * np.pi
    speed = rng.uniform(-PIXELS_A_STEP, PIXELS_A_STEP, (lines, 2))
    frames = torch.zeros(T, 1, 2, height, width, dtype=torch.bool)
    for t in range(T):
        y, x, p = _pixels(middle + t * speed, angle, length)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x, p = y[inside], x[inside], p[inside]
        first = np.sort(np.unique(y * width + x, return_index=True)[1])[:count]  # whole lines, where they do not cross
        frames[t, 0, p[first], y[first], x[first]] = True
    return pk.pack(frames)


def _pixels(middle: np.ndarray, angle: np.ndarray, length: int) -> np.ndarray:
    """Rows, columns and polarities [3, pixels], line by line; ``middle`` [lines, 2], ``angle`` [lines]."""
    along = np.stack([np.sin(angle), np.cos(angle)], 1)
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    place, p = np.arange(length) - length / 2, np.arange(2)
    points = middle[:, None, None] + np.multiply.outer(place, along).swapaxes(0, 1)[:, :, None]
    points = np.rint(points + np.multiply.outer(p, across).swapaxes(0, 1)[:, None])
    polarity = np.broadcast_to(p, points.shape[:3])
    return np.stack([points[..., 0].ravel(), points[..., 1].ravel(), polarity.ravel()]).astype(np.int64)


def anywhere(size: tuple[int, int], share: float, T: int, seed: int = 0) -> pk.Spikes:
    """The same at random pixels, of either polarity."""
    g = torch.Generator().manual_seed(seed)
    fires = torch.rand(T, 1, 1, *size, generator=g) < share
    on = torch.rand(T, 1, 1, *size, generator=g) < 0.5
    return pk.pack(torch.cat([fires & ~on, fires & on], 2))
