"""The state that is carried from chunk to chunk: potentials, and the samples that are still simulated."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor


def check_layers(state: Mapping[str, Any], layers: Collection[str]) -> None:
    """A state that is given must be of layers that there are, and hold lists.

    Raises:
        TypeError, ValueError: it is not; the message names the layer.
    """
    for name, states in state.items():
        if not isinstance(states, list | tuple):
            raise TypeError(f"state of layer {name} must be a list of tensors, got {type(states).__name__}")
    unknown = set(state) - set(layers)
    if unknown:
        raise ValueError(f"state holds layers that net has not: {sorted(unknown)}; it has {sorted(layers)}")


def check_calls(name: str, given: int, calls: int) -> None:
    """A state that is given must have a tensor for each population, or none; known once the layer was called."""
    if given not in (0, calls):
        raise ValueError(
            f"state of layer {name} must have one tensor for each of its {calls} call(s) in a step, got {given}"
        )


class States:
    """The potentials of a layer, one tensor [N, ...] for each of its calls in a step.

    A layer that a network calls more than once is that many populations of neurons.
    """

    def __init__(self, given: list[Tensor] | None):
        self.now = list(given) if given is not None else []
        self.retired: list[tuple[Tensor, list[Tensor]]] = []  # samples that were stopped, and their potentials

    def of_call(self, call: int) -> Tensor | None:
        """None: at rest."""
        return self.now[call] if call < len(self.now) else None

    def set(self, call: int, v: Tensor) -> None:
        self.now[call : call + 1] = [v]

    def retire(self, decided: Tensor, index: Tensor) -> None:
        """Put those of the samples that are decided (bool [n]) aside; ``index`` [n]: which samples these n are."""
        self.retired.append((index[decided], [v[decided] for v in self.now]))
        self.now = [v[~decided] for v in self.now]

    def whole(self, index: Tensor) -> list[Tensor]:
        """Those of all samples; ``index``: the samples that were not retired."""
        if not self.retired:
            return self.now
        indices, states = zip(*self.retired, (index, self.now), strict=True)
        order = torch.cat(indices).argsort()
        return [torch.cat(parts)[order] for parts in zip(*states, strict=True)]
