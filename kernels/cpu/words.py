"""Spikes packed over channels, uint8 [N, T, P, ceil(C / 8)]: what needs no kernel."""

import torch
from torch import Tensor


def pixel_bytes(C: int) -> int:
    """Bytes of the spikes of one pixel."""
    return (C + 7) // 8


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """The steps start .. stop - 1."""
    return words[:, start:stop].contiguous()


def cat(words: list[Tensor], steps: list[int]) -> Tensor:
    """Spikes one after another in time."""
    return words[0] if len(words) == 1 else torch.cat(words, 1)
