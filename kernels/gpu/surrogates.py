"""The surrogate derivatives of the Triton kernels (reference.py). A kernel takes one as a constexpr and inlines it.

DERIVATIVE(x, theta, first, second) -> the derivative at x = h - theta; first, second: the parameters of the shape
"""

import triton
import triton.language as tl

from ..neuron_models import Surrogate


def arguments(surrogate: Surrogate) -> dict:
    """A launch's arguments for a surrogate derivative."""
    first, second = surrogate.numbers
    return {
        "first": float(first),
        "second": float(second),
        "passes": 0.0 if surrogate.detach_reset else 1.0,
        "DERIVATIVE": SHAPES[surrogate.shape],
    }


@triton.jit
def atan(x, theta, first, second):
    at = second * x
    return tl.div_rn(first + tl.zeros_like(x), 1.0 + at * at)


@triton.jit
def fast_sigmoid(x, theta, first, second):
    below = 1.0 + tl.abs(second * x)
    return tl.div_rn(first + tl.zeros_like(x), below * below)


@triton.jit
def sigmoid(x, theta, first, second):
    e = tl.exp(tl.maximum(-tl.abs(first * x), -80.0))
    s = tl.div_rn(tl.full(x.shape, 1.0, tl.float32), 1.0 + e)
    return first * (e * s * s)


@triton.jit
def triangle(x, theta, first, second):
    w = first * theta
    scale = tl.div_rn(tl.full(x.shape, 1.0, tl.float32), w * w)
    return tl.maximum(w - tl.abs(x), 0.0) * scale


SHAPES = {"ATan": atan, "FastSigmoid": fast_sigmoid, "Sigmoid": sigmoid, "Triangle": triangle}
