"""What a model says once in training: which layer is silent and cannot learn, or has a twin that diverges."""

import warnings
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

PASSES = 20  # in a row: a layer that is silent for so many is not about to wake
# Mean activation in thresholds, without the clip: below 2 where training went well, above 4 soon after it no longer did
# (three networks, Adam at 1e-3 to 1e-2, cross-entropy on 256 images).
HIGHEST = 3.0

LARGER = (
    "Give it larger currents: batch_norm=True, a lower v_threshold, or for leaky neurons a decay nearer to 1 or biases "
    "at the onset (docs/train.md, Leaky neurons)"
)


class Watch:
    """Looks at the firing rates of each pass in training, until it has warned."""

    def __init__(self) -> None:
        self._silent: Counter[str] = Counter()  # layer -> passes in a row
        self._said = False

    def look(self, rates: Mapping[str, float], activations: Mapping[str, Tensor], *, clip: bool = True) -> None:
        """``rates``: layer -> firing rate, in the order of the network. ``activations``: layer -> the twin's mean
        activation in thresholds, of those that have one; at most 1 with ``clip``."""
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
