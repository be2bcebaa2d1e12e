"""What simulate keeps of a layer for ``record``: its spikes, and its potentials after every step."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..calls import spike_ops
from ..layers import Neurons, SpikingLayer
from ..spikes import Spikes

POTENTIALS = ".v"  # behind a layer's name: its potentials


class Records:
    """The records of one layer; false if nothing was asked for."""

    def __init__(self, name: str, layer: SpikingLayer):
        self.name, self.layer = name, layer
        self.parts: dict[str, list] = {}  # the name, or the name and POTENTIALS -> a part for each chunk

    def __bool__(self) -> bool:
        return bool(self.parts)

    def add(self, x: Spikes | Tensor | tuple, v: Tensor | None, y: Spikes | Tensor) -> None:
        """A chunk: the layer's input, the potentials it started from, and its spikes."""
        if self.name in self.parts:
            self.parts[self.name].append(y)
        if self.name + POTENTIALS in self.parts:
            self.parts[self.name + POTENTIALS].append(self._potentials(x, v))

    def whole(self) -> dict[str, Spikes | Tensor]:
        return {
            key: torch.cat(parts) if isinstance(parts[0], Tensor) else spike_ops.cat_steps(parts)
            for key, parts in self.parts.items()
        }

    def _potentials(self, x: Any, v: Tensor | None) -> Tensor:
        """The potentials after each step, float32 [T, N, ...]; the layer itself returns the last ones only."""
        parts = x if isinstance(x, tuple) else (x,)
        steps = []
        for t in range(parts[0].shape[0]):
            step = tuple(part[t : t + 1] for part in parts)
            given: Any = step if isinstance(x, tuple) else step[0]
            _, v = self.layer.spike(given, v)
            several = isinstance(self.layer, Neurons) and self.layer.states > 1
            steps.append(v[:, 0] if several else v)
        return torch.stack(steps)


def ask(records: Mapping[str, Records], wanted: Iterable[str]) -> None:
    """Tell the layers' records, by the layers' names, what ``record`` names."""
    if isinstance(wanted, str):
        raise TypeError(f"record must be a list of layer names, got the string {wanted!r}; write [{wanted!r}]")
    if not isinstance(wanted, Iterable):
        raise TypeError(f"record must be a list of layer names, got {wanted!r}; net has {sorted(records)}")
    for key in wanted:
        if not isinstance(key, str):
            raise TypeError(f"record must be a list of layer names, got {key!r} in it")
        name = key.removesuffix(POTENTIALS) if key not in records else key
        if name not in records:
            raise ValueError(f"record names a layer that net has not: {key!r}; it has {sorted(records)}")
        records[name].parts[key] = []
