"""The threshold of graded neurons: the largest at which a converted network still answers as its ReLU network does.

It is a share of each layer's scale, the same for all layers. Source: Kurtz et al., "Inducing and exploiting activation
sparsity for fast inference on deep neural networks", ICML 2020, whose networks are trained with the threshold.
"""

import numbers
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...network import Network
from ...neurons import Graded
from ...running.simulate import simulate
from .scales import GRADED

TOLERANCE = 1e-2  # of the answers, or of the mean output
SAMPLES, VALUES = 2048, 1 << 24  # of the calibration data that the search looks at, and numbers in them, at most
FINEST, A_DOUBLING = -10, 4  # thresholds are tried from 1 down to 2**FINEST, so many between one and its double


def most_samples(sample: Tensor) -> int:
    """How many samples like this one [...] the search looks at, at most."""
    return max(1, min(SAMPLES, VALUES // max(1, sample.numel())))


def tolerance_of(neuron: object, tolerance: float | None) -> float | None:
    """The tolerance to search a threshold for; None: there is nothing to search.

    Raises:
        TypeError, ValueError: it is no share, or the neurons have no threshold to search.
    """
    if neuron != GRADED:
        if tolerance is not None:
            raise ValueError(f"tolerance is an option for neuron={GRADED!r}, got {tolerance!r}; leave it out")
        return None
    if tolerance is None:
        return TOLERANCE
    if not isinstance(tolerance, numbers.Real) or isinstance(tolerance, bool):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be from 0 to below 1, a share of the samples, got {tolerance!r}")
    return float(tolerance)


@torch.no_grad()
def choose_threshold(net: Network, x: Tensor, tolerance: float) -> float:
    """Give all graded neurons of ``net`` the largest threshold whose answers on samples x [N, ...] are within
    ``tolerance`` of those with the threshold 0; returns it."""
    from tqdm import tqdm

    expected = _outputs(net, x, 0.0)
    fits, fails = FINEST * A_DOUBLING - 1, 1  # exponents times A_DOUBLING; the first stands for the threshold 0
    with tqdm(desc="thresholds", unit="try", delay=2, leave=False) as bar:
        while fails - fits > 1:
            middle = (fits + fails) // 2
            found = _outputs(net, x, 2.0 ** (middle / A_DOUBLING))
            fits, fails = (middle, fails) if _differs(net, found, expected) <= tolerance else (fits, middle)
            bar.update()
    threshold = 2.0 ** (fits / A_DOUBLING) if fits >= FINEST * A_DOUBLING else 0.0
    _set(net, threshold)
    return threshold


def _outputs(net: Network, x: Tensor, threshold: float) -> Tensor:
    _set(net, threshold)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a threshold that silences a layer
        return simulate(net, x, 1).logits


def _set(net: Network, threshold: float) -> None:
    for layer in net.modules():
        if isinstance(layer, SigmaDeltaNeurons) and isinstance(layer.neuron, Graded):
            layer.neuron = replace(layer.neuron, threshold=threshold)


def _differs(net: Network, found: Tensor, expected: Tensor) -> float:
    """The share of the samples whose largest output is another one; of other outputs than classes the mean error, as a
    share of the mean output."""
    if net._parts is None and expected.ndim == 2 and expected.shape[1] > 1:
        return (found.argmax(1) != expected.argmax(1)).float().mean().item()
    return ((found - expected).abs().mean() / expected.abs().mean()).nan_to_num().item()
