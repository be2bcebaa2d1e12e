"""Convolutions with few channels as 1x1 convolutions: the inputs of a window are gathered into one pixel.

A byte of packed spikes holds eight channels. A window of 7 x 7 pixels with two or three channels has 49 bytes that are
mostly empty, and the kernels visit each. Gathered, it has 13 or 19 full bytes.
"""

from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from .. import heap
from . import abi
from .layer_plans import described

MOST_CHANNELS = 4  # with more, bytes are more than half full
MOST_ROW_BITS = 57  # in a row of a window: src/conv2d/im2col.h
MOST_BYTES = 1 << 26  # of all windows together
FEWEST_TAPS, FEW_STEPS, TAPS_OF_FEW = 25, 8, 49  # of a window, in many and in few steps: else gathering takes longer


def is_possible(weight: tuple[int, ...], dilation: tuple[int, int], pixels: int) -> bool:
    """Whether the windows of weights [C_out, C_in, h, w], without groups, can be gathered, and have more than one
    pixel. ``pixels``: output pixels of all images and steps."""
    _, channels, height, width = weight
    few = channels <= MOST_CHANNELS and width * channels <= MOST_ROW_BITS and dilation[1] == 1
    return few and height * width > 1 and pixels * _bytes(weight) <= MOST_BYTES


def pays(weight: tuple[int, ...], T: int) -> bool:
    """Whether gathering saves more time than it takes."""
    return prod(weight[2:]) >= (FEWEST_TAPS if T >= FEW_STEPS else TAPS_OF_FEW)


def gather(table: abi.Kernels, words: Tensor, neurons: Any, size, weight: tuple[int, ...], window: tuple) -> Tensor:
    """The windows [N, T, P, bytes] of contiguous spikes [N, T, H * W, 1].

    ``neurons``: an abi.Neurons. ``window``: stride, padding, dilation.
    """
    windows = heap.empty(neurons.N, neurons.T, neurons.P, _bytes(weight), dtype=torch.uint8)
    conv = described(neurons, size, weight, window)
    conv.x = words.data_ptr()
    table.im2col(conv, windows.data_ptr())
    return windows


def gathered(weight: Tensor) -> Tensor:
    """Weights [C_out, C_in, h, w] of the 1x1 convolution of gathered windows."""
    return weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None].contiguous()


def _bytes(weight: tuple[int, ...]) -> int:
    """Bytes of a gathered window."""
    return ceil(prod(weight[1:]) / 8)
