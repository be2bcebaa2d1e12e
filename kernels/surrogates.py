"""A surrogate derivative as one value, which is passed from the layers to the kernels.

table.py lists the shapes. Each has a derivative in reference_gradients.py, cpu/src/surrogates.h and gpu/surrogates.py.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Surrogate(NamedTuple):
    """A surrogate derivative.

    Attributes:
        shape: one of SURROGATES of table.py.
        numbers: two that the shape takes: ATan a and pi a (a = alpha / 2), FastSigmoid height and slope, Sigmoid alpha
            and 0, Triangle width and 0.
        detach_reset: whether gradients do not pass through the reset.
    """

    shape: str
    numbers: Sequence[float]
    detach_reset: bool


SCHEMA = "str shape, float[] numbers, bool detach_reset"  # of its fields, in an operator's schema
