"""How spikes are stored: as words, as words with their max pooling, or as periods. All have the same few members."""

import torch
from torch import Tensor

from ..kernels import ops
from . import word_ops


class Words:
    """The bits of T steps, in the layout of the device (kernels/cpu/words.py, kernels/gpu/words.py)."""

    __slots__ = ("T", "_totals", "words")

    def __init__(self, words: Tensor, T: int):
        self.words, self.T = words, T
        self._totals: Tensor | None = None  # once they are counted

    @property
    def device(self) -> torch.device:
        return self.words.device

    @property
    def nbytes(self) -> int:
        return _bytes(self.words)

    def total(self) -> Tensor:
        """The number of spikes, int64 without dimensions."""
        return self.total_of_pixels().sum() if self.device.type == "cpu" else ops.total(self.words)

    def total_of_pixels(self) -> Tensor:
        """The number of spikes of each pixel, over all samples, steps and channels: int64 [P]."""
        if torch.compiler.is_compiling():  # traced tensors must not be cached
            return ops.total_of_pixels(self.words)
        if self._totals is None:  # cached, since each layer that reads the spikes asks
            self._totals = ops.total_of_pixels(self.words)
        return self._totals

    def cut(self, start: int, stop: int) -> "Words":
        """The steps start .. stop - 1."""
        return Words(word_ops.cut(self.words, self.T, start, stop), stop - start)

    def pixels(self, index: Tensor) -> "Words":
        """The pixels ``index`` int64 [p], counted row by row."""
        return Words(word_ops.pixels(self.words, index), self.T)

    def of_neurons(self, neurons: Tensor) -> "Words":
        """The spikes of the neurons ``neurons``, bool [N, C, P]; all others are silent."""
        return Words(word_ops.of_neurons(self.words, neurons), self.T)


class PooledWords(Words):
    """Words, and the words after 2 x 2 max pooling, which a GPU's convolution makes in the same launch."""

    __slots__ = ("pooled",)

    def __init__(self, words: Tensor, T: int, pooled: Tensor):
        super().__init__(words, T)
        self.pooled = pooled

    @property
    def nbytes(self) -> int:
        return _bytes(self.words) + _bytes(self.pooled)


class Periods:
    """Spikes of periodic neurons, on a CPU: a neuron fires at the steps t where its period divides t + 1.

    Stored in two bytes per neuron; the words are made when they are first needed.

    Attributes:
        periods: int16 [N, P, C], 0 for a neuron that never fires.
        start: the step at which these T steps begin.
    """

    __slots__ = ("T", "_totals", "_words", "periods", "start")

    def __init__(self, periods: Tensor, T: int, start: int = 0):
        self.periods, self.T, self.start = periods, T, start
        self._words: Tensor | None = None
        self._totals: Tensor | None = None

    @property
    def words(self) -> Tensor:
        if self._words is None:
            self._words = ops.expand_periods(self.periods, self.start, self.T)
        return self._words

    @property
    def device(self) -> torch.device:
        return self.periods.device

    @property
    def nbytes(self) -> int:
        return _bytes(self.periods) + (0 if self._words is None else _bytes(self._words))

    def total(self) -> Tensor:
        return self.total_of_pixels().sum()

    def total_of_pixels(self) -> Tensor:
        if torch.compiler.is_compiling():
            return ops.total_periods(self.periods, self.start, self.T)
        if self._totals is None:
            self._totals = ops.total_periods(self.periods, self.start, self.T)
        return self._totals

    def cut(self, start: int, stop: int) -> "Periods":
        return Periods(self.periods, stop - start, self.start + start)

    def pixels(self, index: Tensor) -> "Periods":
        return Periods(self.periods.index_select(1, index), self.T, self.start)

    def of_neurons(self, neurons: Tensor) -> "Periods":
        return Periods(self.periods * neurons.transpose(1, 2), self.T, self.start)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
