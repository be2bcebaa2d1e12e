"""Dropout in a network that is computed in parts: one mask for all chunks of steps, and for both twins of ProxyNet."""

from torch import Tensor, nn

from .. import checks
from ..layers import Dropout
from ..spikes import Spikes


class Masks:
    """Which units the Dropouts of a network keep in one forward pass: drawn where first asked for, then the same."""

    def __init__(self):
        self._kept: dict[tuple[str, int], Tensor] = {}  # layer's name, call -> units that are kept, bool [N, ...]

    def of(self, name: str, call: int, layer: Dropout, x: Spikes | Tensor) -> Tensor:
        """Those of a layer's ``call``-th call in a step, on x (T, N, ...)."""
        kept = self._kept.get((name, call))
        if kept is None:
            kept = self._kept[name, call] = layer.draw(x)
        if tuple(kept.shape) != tuple(x.shape[1:]):
            raise ValueError(
                f"x has the shape {list(x.shape[1:])} a step, and had {list(kept.shape)} in the other twin"
            )
        return kept


class HeldDropout(nn.Module):
    """Takes the place of a :class:`Dropout` for a forward pass. ``masks`` None: nothing is dropped."""

    def __init__(self, name: str, layer: Dropout, masks: Masks | None):
        super().__init__()
        self.name, self.layer, self.masks = name, layer, masks
        self.calls = 0

    def start_chunk(self) -> None:
        self.calls = 0

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        with checks.at(f"layer {self.name}"):
            checks.steps_of(x, None, "(T, N, ...)")
            if self.masks is None or not self.layer.drops:
                return x
            kept = self.masks.of(self.name, self.calls, self.layer, x)
            self.calls += 1
            return self.layer.drop(x, kept)
