"""Chooses how many steps go through a network at a time. Each launch has a cost, and outputs of layers take memory.

How much a step takes is known after the first chunk, which is a short one where the input is large.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..spikes import Spikes
from .early_exit import STOP_EVERY, LogitMargin, Stop

CHUNK = 64  # steps: two words of a GPU, and a size at which a CPU's launch costs vanish
LONGEST_CHUNK = 256  # layers that are fed by spikes that repeat themselves gain from long chunks
CHUNK_INPUTS = 1 << 23  # inputs times steps of a chunk that is longer than CHUNK, so that its spikes take little memory
CHUNK_BYTES = 256 << 20  # of what all layers give in a chunk
LARGE_INPUT = 1 << 17  # values of a step, above which a network may give more than that
WHOLE = 16  # steps that kernels take at a time: a chunk of two and more is a multiple of them
FIRST_CHUNK = WHOLE  # steps, of a large input


class Chunks:
    """The number of steps of each chunk. Layers report their outputs by :meth:`add`."""

    def __init__(self, given: int | None, stop: Stop | None, shape: tuple[int, ...], device: torch.device):
        """``given``: what the caller wants, None: as many as are fast. ``shape``: of the input (T, N, ...)."""
        self.given, self.T, self.device, self.step_bytes = given, shape[0], device, 0.0
        inputs = max(1, math.prod(shape[1:]))
        most = max(CHUNK, min(CHUNK_INPUTS // inputs // CHUNK * CHUNK, LONGEST_CHUNK))
        self.most = most if stop is None else 1 if isinstance(stop, LogitMargin) else STOP_EVERY
        self.first = FIRST_CHUNK if inputs > LARGE_INPUT else self.most

    def add(self, y: Any) -> None:
        """What a layer gave in the first chunk."""
        if isinstance(y, Spikes):
            self.step_bytes += math.prod(y.shape[1:]) / 8
        elif isinstance(y, Tensor) and not checks.is_constant(y):
            self.step_bytes += math.prod(y.shape[1:]) * y.element_size()

    def steps(self, start: int) -> int:
        """Steps of the chunk that begins at step ``start``."""
        steps = self.given or (self.within_memory(self.T - start) if start else min(self.first, self.most))
        return steps if self.device.type == "cpu" else -(-steps // 32) * 32

    def within_memory(self, left: int) -> int:
        """Steps of the next chunk of those that are left: the most that fit; where few do, chunks are alike."""
        steps = max(1, int(CHUNK_BYTES / max(self.step_bytes, 1)))
        if steps >= self.most:
            return self.most
        return steps // WHOLE * WHOLE if steps >= 2 * WHOLE else -(-left // -(-left // steps))


def checked(chunk: int) -> int:
    """The steps of a chunk that a caller wants.

    Raises:
        TypeError, ValueError: it is no number of steps.
    """
    try:
        return checks.steps(chunk)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("T must", "chunk must")) from None
