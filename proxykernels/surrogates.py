"""Surrogate derivatives: what stands for the derivative of a spike by its neuron's potential in training.

A spike, 1 where the potential h reaches the threshold, has the derivative 0 almost everywhere. In the backward pass
another takes its place, a function of the distance x = h - threshold:

    ATan(alpha)          alpha / 2 / (1 + (pi / 2 alpha x)^2)       SpikingJelly's ATan; Fang et al., arXiv:2007.05785
    FastSigmoid(slope)   height / (1 + slope |x|)^2                 SuperSpike; Zenke and Ganguli, arXiv:1705.11146
    Sigmoid(alpha)       alpha s (1 - s) of s = 1 / (1 + exp(-alpha x))       SpikingJelly's Sigmoid
    Triangle(width)      max(0, 1 - |x| / w) / w of w = width * threshold     Esser et al., arXiv:1603.08270

A new one is one more class here, and its derivative in kernels/reference_gradients.py,
kernels/cpu/src/scan_backward.h and kernels/gpu/neurons_backward.py.
"""

import math
from dataclasses import dataclass

from .checks import is_number
from .kernels import neuron_models as kernels
from .neurons import neuron_checks

__all__ = ["ATan", "FastSigmoid", "Sigmoid", "Surrogate", "Triangle"]


class _Derivative:
    """Base of all, which checks their arguments: numbers above 0, the same for all neurons, and a bool."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if name == "detach_reset":
                if not isinstance(value, bool):
                    raise TypeError(f"detach_reset must be True or False, got {value!r}")
            elif not is_number(value):
                raise TypeError(f"{name} must be a number above 0, got {value!r}")
            else:
                neuron_checks.above_zero(name, value)


@dataclass(frozen=True)
class ATan(_Derivative):
    """The derivative of an arcus tangent: alpha / 2 / (1 + (pi / 2 alpha x)^2), x = h - threshold.

    Attributes:
        alpha: above 0; the derivative at the threshold is alpha / 2.
        detach_reset: whether gradients do not pass through the reset.

    Raises:
        TypeError, ValueError: alpha is not a number above 0, or detach_reset no bool.
    """

    alpha: float = 2.0
    detach_reset: bool = False

    @property
    def kernel(self) -> kernels.Surrogate:
        """What the kernels take."""
        return kernels.Surrogate("ATan", (self.alpha / 2, math.pi * self.alpha / 2), self.detach_reset)


@dataclass(frozen=True)
class FastSigmoid(_Derivative):
    """The derivative of a fast sigmoid: ``height / (1 + slope |x|)^2``, x = h - threshold.

    snnTorch's ``fast_sigmoid(slope)``, Norse's "super" of alpha = slope. SpikingJelly's SuperSpike(alpha) has the slope
    1 and the height alpha, its SoftSign(alpha) the slope alpha and the height alpha / 2.

    Attributes:
        slope: above 0; how fast it falls.
        height: above 0; the derivative at the threshold.
        detach_reset: whether gradients do not pass through the reset.

    Raises:
        TypeError, ValueError: slope or height is not a number above 0, or detach_reset no bool.
    """

    slope: float = 25.0
    height: float = 1.0
    detach_reset: bool = False

    @property
    def kernel(self) -> kernels.Surrogate:
        """What the kernels take."""
        return kernels.Surrogate("FastSigmoid", (self.height, self.slope), self.detach_reset)


@dataclass(frozen=True)
class Sigmoid(_Derivative):
    """The derivative of a sigmoid: alpha s (1 - s), s = 1 / (1 + exp(-alpha x)), x = h - threshold.

    Attributes:
        alpha: above 0; the derivative at the threshold is alpha / 4.
        detach_reset: whether gradients do not pass through the reset.

    Raises:
        TypeError, ValueError: alpha is not a number above 0, or detach_reset no bool.
    """

    alpha: float = 4.0
    detach_reset: bool = False

    @property
    def kernel(self) -> kernels.Surrogate:
        """What the kernels take."""
        return kernels.Surrogate("Sigmoid", (self.alpha, 0.0), self.detach_reset)


@dataclass(frozen=True)
class Triangle(_Derivative):
    """A triangle: ``max(0, 1 - |x| / w) / w``, x = h - threshold, w = width times the threshold.

    Attributes:
        width: half of its base in thresholds, above 0; the derivative at the threshold is 1 / w.
        detach_reset: whether gradients do not pass through the reset.

    Raises:
        TypeError, ValueError: width is not a number above 0, or detach_reset no bool.
    """

    width: float = 1.0
    detach_reset: bool = False

    @property
    def kernel(self) -> kernels.Surrogate:
        """What the kernels take."""
        return kernels.Surrogate("Triangle", (self.width, 0.0), self.detach_reset)


Surrogate = ATan | FastSigmoid | Sigmoid | Triangle


def check(surrogate: Surrogate | None) -> None:
    """Refuse everything but a surrogate derivative or None.

    Raises:
        TypeError: it is something else.
    """
    if surrogate is not None and not isinstance(surrogate, Surrogate):
        kind = surrogate if isinstance(surrogate, type) else type(surrogate)
        raise TypeError(
            "surrogate must be ATan, FastSigmoid, Sigmoid or Triangle, such as ATan(2.0), or None; got "
            f"{kind.__module__}.{kind.__name__}"
        )
