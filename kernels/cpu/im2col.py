"""Convolutions with few channels as 1x1 convolutions: the inputs of a window are gathered into one pixel.

A byte of packed spikes holds eight channels. A window of 7 x 7 pixels with two or three channels has 49 bytes that are
mostly empty, and the kernels visit each. Gathered, it has 13 or 19 full bytes.
"""

from math import ceil

import torch
from torch import Tensor

from .. import heap
from ..unfused import output_size
from ..weight_cache import CONSTANTS, Packed
from . import abi
from .cost_model import Layer

MOST_CHANNELS = 4  # with more, bytes are more than half full
MOST_ROW_BITS = 57  # in a row of a window: src/conv2d/im2col.h
MOST_BYTES = 1 << 26  # of all windows together
ROW_CYCLES, BYTE_CYCLES = 3.0, 0.7  # per row and per byte of a window, at each step, on Zen 4


def is_possible(layer: Layer) -> bool:
    """Whether the windows of a layer without groups can be gathered, and have more than one pixel."""
    _, channels, _, width = layer.weight
    few = channels <= MOST_CHANNELS and width * channels <= MOST_ROW_BITS and layer.dilation[1] == 1
    return few and layer.taps > 1 and layer.pixels * layer.T * gathered_bytes(layer) <= MOST_BYTES


def gathered_bytes(layer: Layer) -> int:
    """Bytes of a gathered window."""
    return ceil(layer.inputs / 8)


def output_of(layer: Layer) -> tuple[int, int]:
    """Height and width of the output."""
    return output_size(layer.size, layer.weight[2:], layer.stride, layer.padding, layer.dilation)


def gathered(layer: Layer) -> Layer:
    """The layer as a 1x1 convolution of gathered windows."""
    one, none = (1, 1), (0, 0)
    return Layer(layer.T, layer.neurons, output_of(layer), (layer.weight[0], layer.inputs, 1, 1), one, none, one)


def cycles(layer: Layer) -> float:
    """Cycles of one core for gathering the windows."""
    window = ROW_CYCLES * layer.weight[2] + BYTE_CYCLES * gathered_bytes(layer)
    return window * layer.pixels * layer.T


def gather(
    table: abi.Kernels, words: Tensor, layer: Layer, packed: Packed
) -> tuple[Tensor, int, tuple[int, int], Tensor]:
    """The arguments of the 1x1 convolution that replaces one of spikes [N, T, H * W, 1]: windows [N, T, P, bytes], T,
    their height and width, and weights [C_out, C_in * h * w, 1, 1]."""
    (N, P, C_out), (_, C_in, *kernel) = layer.neurons, layer.weight
    size, window = output_of(layer), (*layer.stride, *layer.padding, *layer.dilation)
    words, windows = words.contiguous(), heap.empty(N, layer.T, P, gathered_bytes(layer), dtype=torch.uint8)
    conv = abi.Conv2d(
        abi.Neurons(T=layer.T, N=N, P=P, C=C_out),
        words.data_ptr(), None, None, None, None, None, 0, 0, 0, 0, 1, C_in, *layer.size, size[1], *kernel, *window,
    )  # fmt: skip
    table.im2col(conv, windows.data_ptr())
    weight = packed.get("im2col", _gather_weight)
    CONSTANTS.add(weight.untyped_storage())
    return windows, layer.T, size, weight


def _gather_weight(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None].contiguous()
