"""Sigma-delta neurons, which conversion alone makes."""

from dataclasses import dataclass
from typing import ClassVar

from .. import checks
from ..kernels.table import Most


@dataclass(frozen=True)
class SigmaDelta:
    """Sigma-delta neurons, for :func:`convert`: each sends the change of its activation in signed powers of two.

    z adds up what arrives; a is what the neuron has sent; the threshold theta is a channel's largest activation on the
    calibration data, at least a quarter of its layer's:

        s[t] = the one of +-theta 2**-k, 0 <= k < exponents, nearest to relu(z[t]) - a[t-1]; 0 if that is too small
        a[t] = a[t-1] + s[t]

    So a neuron is silent once it has sent its activation, up to 3/4 of the smallest power. Sources: O'Connor and
    Welling, "Sigma delta quantized networks", ICLR 2017, arXiv:1611.02024; the sigma-delta neurons of Intel's Lava and
    Loihi 2; of signed powers of two, Huang et al., "Differential coding for training-free ANN-to-SNN conversion", ICML
    2025, arXiv:2503.00301. docs/few_steps.md has more. No layer takes them as its ``neuron``.

    Attributes:
        exponents: K, from 1 to 12.
        signed: whether layers without a ReLU, such as linear bottlenecks, become neurons too, with z[t] in the place of
            relu(z[t]), and the largest absolute value for theta. False: they pass real values on, which are multiplied
            at each step; the outputs come in fewer steps. The last layer passes real values on in any case.

    Raises:
        TypeError, ValueError: exponents is no such integer, or signed no bool.
    """

    exponents: int = 9
    signed: bool = False

    fires: ClassVar[bool] = True

    def __post_init__(self):
        if not checks.is_integer(self.exponents):
            raise TypeError(f"exponents must be an integer, got {self.exponents!r}")
        if not 1 <= self.exponents <= Most.EXPONENTS:
            raise ValueError(f"exponents must be from 1 to {Most.EXPONENTS}, got {self.exponents}")
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be a bool, got {self.signed!r}")
