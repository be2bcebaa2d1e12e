"""Warns once in training about a layer that is silent and cannot learn, or whose twin diverges."""

import warnings
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

PASSES = 20  # a layer that is silent for that many passes in a row is unlikely to recover
# Mean activation in thresholds, without the clip: below 2 while training went well, above 4 soon after it diverged
# (three networks, Adam at 1e-3 to 1e-2, cross-entropy on 256 images).
HIGHEST = 3.0

LARGER = (
    "Give it larger currents: batch_norm=True, a lower v_threshold, or for leaky neurons a decay nearer to 1 or biases "
    "at the onset (docs/train.md, Leaky neurons)"
)


class Watch:
    """Watches the firing rates of each training pass, until it has warned."""

    def __init__(self) -> None:
        self._silent: Counter[str] = Counter()  # layer -> passes in a row
        self._said = False

    def look(self, rates: Mapping[str, float], activations: Mapping[str, Tensor], *, clip: bool = True) -> None:
        """``rates``: layer -> firing rate, in the order of the network. ``activations``: layer -> the twin's mean
        activation in thresholds, if it has one; at most 1 with ``clip``."""
        if self._said:
            return
        message = self._silence(rates, activations) or (None if clip else _divergence(activations))
        if message is not None:
            self._said = True
            warnings.warn(message, UserWarning, stacklevel=5)  # at the model's call

    def _silence(self, rates: Mapping[str, float], activations: Mapping[str, Tensor]) -> str | None:
        silent = [name for name, rate in rates.items() if not rate]
        self._silent = Counter({name: self._silent[name] + 1 for name in silent})
        for name in silent:
            if name in activations and not activations[name].item():
                return (
                    f"layer {silent[0]} gave no spike, and layer {name} of the twin is 0: it has no gradient. {LARGER}"
                )
        for name in silent:
            if self._silent[name] >= PASSES:
                return f"layer {name} gave no spike in {PASSES} passes in a row. {LARGER}"
        return None


def _divergence(activations: Mapping[str, Tensor]) -> str | None:
    for name, activation in activations.items():
        if activation.item() > HIGHEST:
            return (
                f"activations in layer {name} of the twin are {activation.item():.1f} thresholds on average, and a "
                "neuron fires once a step at most: training diverges. Use clip=True, the default"
            )
    return None
