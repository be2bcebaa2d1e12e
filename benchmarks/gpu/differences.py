"""Where and how spikes differ: what a maintainer without the card must know of a self-check that failed."""

import numpy as np
import torch
from torch import Tensor

SHOWN = 20  # neurons, in full
BLOCKS = 4, 8, 16, 32, 64, 128  # of pixels and channels that a program may own: differences of one stand out


def described(found: Tensor, expected: Tensor, v: Tensor, v_expected: Tensor) -> str:
    """Words int32 [W, N, P, C] and potentials [N, C, H, W] that should be equal, in words.

    How many neurons differ, in which of all dimensions and steps, whether spikes are missing or added; by the place in
    blocks of pixels and channels; and the first of them in full.
    """
    found, expected = found.cpu(), expected.cpu()
    wrong = found ^ expected
    places = wrong.nonzero().numpy()
    of_v = (v != v_expected).sum().item()
    lines = [f"{len(places)} of {wrong.numel()} words differ, and {of_v} of {v.numel()} potentials"]
    if not len(places):
        return lines[0]
    for name, bits in (("missing", wrong & expected), ("added", wrong & found)):
        lines.append(f"spikes {name}: {_bits(bits).sum()}; by the step in a word: {_bits(bits).tolist()}")
    for name, column, size in zip(("word of time", "sample", "pixel", "channel"), places.T, wrong.shape, strict=True):
        lines.append(f"{name}: {_spread(column, size)}")
    pixels = places[:, 1] * wrong.shape[2] + places[:, 2]  # as programs count them
    for name, column in (("pixel of all samples", pixels), ("channel", places[:, 3])):
        lines += [f"{name} modulo {block}: {_spread(column % block, block)}" for block in BLOCKS]
    lines.append("word of time, sample, pixel, channel: expected, found, potential expected, found")
    v, v_expected = (values.flatten(2).transpose(1, 2).cpu() for values in (v, v_expected))
    for place in map(tuple, places[:SHOWN].tolist()):
        words = " ".join(f"{int(words[place]) & 0xFFFFFFFF:#010x}" for words in (expected, found))
        last = " ".join(f"{float(values[place[1:]]):.9g}" for values in (v_expected, v))
        lines.append(f"{place}: {words} {last}")
    return "\n".join(lines)


def _bits(words: Tensor) -> np.ndarray:
    """How many of the words have each of the 32 bits."""
    bits = (words.unsqueeze(-1) >> torch.arange(32)) & 1
    return bits.flatten(0, -2).sum(0).numpy()


def _spread(column: np.ndarray, size: int) -> str:
    """How many of ``size`` values there are, and the most frequent ones."""
    values, counts = np.unique(column, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:8]
    listed = ", ".join(f"{values[k]} ({counts[k]})" for k in most)
    return f"{len(values)} of {size}, most often {listed}"
