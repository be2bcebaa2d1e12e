"""What a model computes between its layers by operations of torch, where no layer does it."""

from collections.abc import Sequence

from torch import Tensor, nn

from .. import checks
from ..spikes import Spikes, pack


class Formula(nn.Module):
    """Operations of torch on the outputs of layers, the same at each step.

    Made by :func:`from_spikingjelly` of what lies between a model's layers and no layer here does. Spikes are unpacked.
    Its operations are not counted in ``synops``.

    Args:
        function: a module that takes one tensor (T, N, ...) for each input and gives one (T, N, ...). No step may
            depend on another.
        binary: whether it gives 0 and 1 for spikes, which are packed again.

    Shapes: x (T, N, ...), Spikes or a tensor, or a tuple of them for several inputs; y as ``function`` gives it.

    Raises:
        TypeError: function is no module.
    """

    def __init__(self, function: nn.Module, *, binary: bool = False):
        super().__init__()
        checks.module("function", function)
        self.function, self.binary = function, binary

    def forward(self, x: Spikes | Tensor | Sequence[Spikes | Tensor]) -> Spikes | Tensor:
        parts = x if isinstance(x, tuple | list) else (x,)
        y = self.function(*(part.dense() if isinstance(part, Spikes) else part for part in parts))
        packs = self.binary and all(isinstance(part, Spikes) for part in parts)
        return pack(y) if packs and not y.requires_grad else y

    def extra_repr(self) -> str:
        return f"binary={self.binary}"
