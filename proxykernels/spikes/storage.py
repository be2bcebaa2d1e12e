"""How spikes and values lie in memory, and how words of bits are rearranged without a kernel.

Spikes are words, words with their max pooling, or periods, which have the same few members. Words of steps, samples,
pixels and channels are rearranged in any backend's layout by plain torch and the operators, which torch.compile
traces. Values have the shapes of users, [N, C, ...], or the order of the kernels, [N, P, C] with P pixels.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..kernels import heap, ops
from ..kernels.cpu import words as over_channels
from ..kernels.gpu import words as words_over_time

Pair = tuple[int, int]  # of height and width
COUNTED = words_over_time.COUNTED


def pack_words(dense: Tensor) -> Tensor:
    """The words of bool spikes [T, N, ...]."""
    T, N = dense.shape[:2]
    C = dense.shape[2] if dense.ndim > 2 else 1
    return ops.pack(dense.reshape(T, N, C, math.prod(dense.shape[3:])))


def over_time(words: Tensor) -> bool:
    """Whether words are packed over time, as on a GPU, rather than over channels."""
    return words.dtype == torch.int32


def new_counts(tensors: int, device: torch.device) -> Tensor:
    """What :func:`proxykernels.kernels.ops.add_counts` adds to, of at most COUNTED tensors of words over time.

    int64 [COUNTERS, tensors, 2]; summed over the first dimension, the spikes of each and how many neurons these reach.
    """
    return torch.zeros(words_over_time.COUNTERS, tensors, 2, dtype=torch.int64, device=device)


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """The words of steps start .. stop - 1: the given tensor, if these are all, and otherwise a copy."""
    if (start, stop) == (0, T):
        return words
    return _layout(words).cut(words, T, start, stop)


def cat(words: list[Tensor], steps: list[int]) -> Tensor:
    """Words one after another in time."""
    return _layout(words[0]).cat(words, steps)


def cat_channels(words: list[Tensor], T: int, channels: list[int]) -> Tensor:
    """Words of C_1, C_2, ... channels as words of their sum."""
    if over_time(words[0]) or not any(C % 8 for C in channels[:-1]):  # whole bytes
        return torch.cat(words, -1)
    return ops.pack(torch.cat([ops.unpack(part, T, C, torch.bool) for part, C in zip(words, channels, strict=True)], 2))


def samples(words: Tensor, index: Tensor) -> Tensor:
    """The words of the samples ``index`` int64 [n]."""
    return words.index_select(_batch_dim(words), index)


def cat_samples(words: list[Tensor]) -> Tensor:
    """Words of several batches as words of one."""
    return torch.cat(words, _batch_dim(words[0]))


def pixels(words: Tensor, index: Tensor) -> Tensor:
    """The words of the pixels ``index`` int64 [p]."""
    return words.index_select(2, index)


def of_neurons(words: Tensor, neurons: Tensor) -> Tensor:
    """The words of the neurons ``neurons`` bool [N, C, P], and no spikes of the others."""
    if over_time(words):
        return words & -neurons.transpose(1, 2).int()  # -1 has all bits
    return words & ops.pack(neurons.unsqueeze(0))  # of one step


def place(words: Tensor, size: Pair, size_out: Pair, rows: slice, columns: slice) -> Tensor:
    """The words of images of ``size_out`` (H, W): images of ``size`` in some rows and columns, elsewhere no spikes."""
    placed = words.new_zeros(*words.shape[:2], *size_out, words.shape[3])
    placed[:, :, rows, columns] = words.unflatten(2, size)
    return placed.flatten(2, 3)


def spread(words: Tensor, index: Tensor, N: int) -> Tensor:
    """The words of N samples: ``words`` at ``index`` int64 [n], and no spikes elsewhere."""
    shape = list(words.shape)
    shape[_batch_dim(words)] = N
    return words.new_zeros(shape).index_copy_(_batch_dim(words), index, words)


def _batch_dim(words: Tensor) -> int:
    return 1 if over_time(words) else 0


def _layout(words: Tensor):
    return words_over_time if over_time(words) else over_channels


class Words:
    """The bits of T steps, in the layout of the device (kernels/cpu/words.py, kernels/gpu/words.py).

    Attributes:
        tensor: what is stored, as :class:`Periods` have it too.
    """

    __slots__ = ("T", "_totals", "tensor", "words")

    def __init__(self, words: Tensor, T: int):
        self.tensor = self.words = words
        self.T = T
        self._totals: Tensor | None = None  # once they are counted

    @property
    def nbytes(self) -> int:
        return _bytes(self.words)

    def total(self) -> Tensor:
        """The number of spikes, int64 without dimensions."""
        return self.total_of_pixels().sum() if self.words.is_cpu else ops.total(self.words)

    def total_of_pixels(self) -> Tensor:
        """The number of spikes of each pixel, over all samples, steps and channels: int64 [P]."""
        if torch.compiler.is_compiling():  # traced tensors must not be cached
            return ops.total_of_pixels(self.words)
        if self._totals is None:  # cached, since each layer that reads the spikes asks
            self._totals = ops.total_of_pixels(self.words)
        return self._totals

    def cut(self, start: int, stop: int) -> "Words":
        """The steps start .. stop - 1."""
        return Words(cut(self.words, self.T, start, stop), stop - start)

    def pixels(self, index: Tensor) -> "Words":
        """The pixels ``index`` int64 [p], counted row by row."""
        return Words(pixels(self.words, index), self.T)

    def of_neurons(self, neurons: Tensor) -> "Words":
        """The spikes of the neurons ``neurons``, bool [N, C, P]; all others are silent."""
        return Words(of_neurons(self.words, neurons), self.T)


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
        periods: int16 [N, P, C], 0 for a neuron that never fires; also named ``tensor``.
        start: the step at which these T steps begin.
    """

    __slots__ = ("T", "_totals", "_words", "periods", "start", "tensor")

    def __init__(self, periods: Tensor, T: int, start: int = 0):
        self.tensor = self.periods = periods
        self.T, self.start = T, start
        self._words: Tensor | None = None
        self._totals: Tensor | None = None

    @property
    def words(self) -> Tensor:
        if self._words is None:
            self._words = ops.expand_periods(self.periods, self.start, self.T)
        return self._words

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


def channels(shape: Sequence[int]) -> int:
    """Number of channels in the shape of one step, [N, C, ...]; 1 for [N]."""
    return shape[1] if len(shape) > 1 else 1


def to_channels_last(x: Tensor, leading: int = 1) -> Tensor:
    """[N, C, ...] as [N, P, C], or with ``leading`` 2 [T, N, C, ...] as [T, N, P, C]; no copy if x is channels last."""
    x = x[(..., *[None] * (leading + 2 - x.ndim))]
    return x.flatten(leading + 1).transpose(-1, -2)


def from_channels_last(x: Tensor, shape: Sequence[int]) -> Tensor:
    """[N, P, C] as a tensor of ``shape`` [N, C, ...], channels last in memory."""
    N, C, *size = *shape, *[1] * (2 - len(shape))
    y = x.view(N, *size, C).movedim(-1, 1)
    return y if len(shape) > 1 else y.squeeze(1)


def is_constant(x: Tensor) -> bool:
    """Whether x [T, N, ...] is one step repeated without a copy, as ``image.expand(T, ...)`` makes it.

    Always False while a graph is exported: it must be right for other inputs too, and does not check their strides.
    """
    if torch.compiler.is_exporting():
        return False
    return x.shape[0] == 1 or x.stride(0) == 0


def is_repeated(x: Tensor) -> bool:
    """Like :func:`is_constant`, but a single step counts only if it was cut from a constant x.

    So a chunk of one step tells whether the chunks before and after it are the same.
    """
    return not torch.compiler.is_exporting() and x.shape[0] > 0 and x.stride(0) == 0


def repeated(step: Tensor, T: int) -> Tensor:
    """A step [N, ...] repeated T times without a copy; :func:`is_repeated` holds for it even if T is 1."""
    return step.expand(T, *step.shape) if T > 1 else step.expand(2, *step.shape)[:T]


@lru_cache(256)
def _start_on_cpu(N: int, P: int, C: int, v: float) -> Tensor:
    """The same potential for all neurons. Cached, so it must not be written to."""
    with torch.inference_mode(False):
        return torch.full((C,), v, dtype=torch.float32, device=heap.CPU).expand(N, P, C)


def start(
    v: Tensor | float | None, shape: Sequence[int], device: torch.device, neuron, *, kept: bool = False
) -> Tensor:
    """The start state of neurons of ``shape`` [N, C, ...]: [N, P, C], or [N, states, P, C] with several states.

    ``v``: that state in the layout of users, or a potential (None: the resting one), where other states start at 0.
    ``kept``: whether the same tensor may be returned again, on a CPU and if autograd and the like do not follow.
    """
    if not isinstance(v, Tensor):
        whole = shape[0], math.prod(shape[2:]), shape[1] if len(shape) > 1 else 1
        rest = float(neuron.rest if v is None else v)
        if kept:
            potentials = _start_on_cpu(*whole, rest)
        elif device.type != "cpu":
            potentials = torch.full(whole, rest, dtype=torch.float32, device=device)
        else:  # not full size, since kernels write to a copy; on a GPU that would cost another launch
            potentials = torch.full(whole[2:], rest, dtype=torch.float32, device=device).expand(whole)
        if neuron.states == 1:
            return potentials
        return torch.stack([potentials, *[torch.zeros_like(potentials)] * (neuron.states - 1)], 1)
    return to_channels_last(v.float(), 1 if neuron.states == 1 else 2)
