"""Dropout of spikes: the same units at every step."""

import torch
from torch import Tensor, nn

from .. import checks
from ..spikes import Spikes
from ..spikes.spike_tensor import dense_like, packed
from .base import check_layer


class Dropout(nn.Module):
    """Drops each unit of each sample with probability p in training, at all steps of a call; in evaluation nothing.

    A mask drawn at each step, as nn.Dropout would draw it, averages out over the steps; one that stays trains
    subnetworks, as dropout should. In :class:`ProxyNet` both twins drop the same units in a forward pass; there and in
    :class:`SurrogateNet` the mask outlasts the parts in which the steps are computed. :func:`simulate` drops nothing,
    whatever ``training`` says.

    What is kept counts 1 / (1 - p), as in nn.Dropout, so that the next layer's mean current is the same in training as
    in evaluation. A spike is one bit and cannot grow. So ``Spikes`` stay packed, with ``scale`` = 1 / (1 - p), and the
    layer that takes them multiplies its weights, for this call; its bias is not multiplied:

        I[t] = (W / (1 - p)) * (m s[t]) + b        m = 1 for a unit that is kept, else 0

    It is the current that counts in the source (Algorithm 1 there multiplies currents by m / (1 - p)), and the
    twin's, so the twins have the same mean current. Without the factor, neurons would get 1 - p of their current in
    training and fire less, or not at all; with it in evaluation instead, trained weights would have to change.
    Source: Lee, Sarwar, Panda, Srinivasan and Roy, "Enabling spike-based backpropagation for training deep neural
    network architectures", Frontiers in Neuroscience 14:119, 2020, arXiv:1903.06379.

    Args:
        p: probability of a unit to be dropped, 0 <= p < 1; default 0.5.

    Shapes: x (T, N, ...), Spikes or a tensor; y (T, N, ...), of the same kind: a tensor of 0 and x / (1 - p).

    Raises:
        TypeError, ValueError: p or x has the wrong type or value.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        checks.start("p", p)  # a finite number
        if not 0 <= p < 1:
            raise ValueError(f"p must be within 0 <= p < 1, got {p}")
        self.p = float(p)

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        checks.steps_of(x, None, "(T, N, ...)")
        if not self.drops:
            return x
        check_layer(self)
        bits = packed(x)
        if isinstance(x, Tensor) and isinstance(bits, Spikes) and x.dtype == torch.float32:
            return dense_like(bits._of(self.draw(bits), 1 / (1 - self.p)), x)
        return self.drop(x, self.draw(x))

    @property
    def drops(self) -> bool:
        """Whether a call drops units: in training, unless p is 0."""
        return self.training and self.p > 0

    def draw(self, x: Spikes | Tensor) -> Tensor:
        """The units of x (T, N, ...) that are kept, drawn anew: bool [N, ...]."""
        return torch.empty(x.shape[1:], dtype=torch.float32, device=x.device).bernoulli_(1 - self.p).bool()

    def drop(self, x: Spikes | Tensor, kept: Tensor) -> Spikes | Tensor:
        """x (T, N, ...) with the units ``kept`` bool [N, ...] scaled and the others silent."""
        scale = 1 / (1 - self.p)
        if isinstance(x, Spikes):
            return x._of(kept, scale)
        factor = kept.to(x.dtype if x.is_floating_point() else torch.float32) * scale
        return checks.repeated(x[0] * factor, len(x)) if checks.is_repeated(x) else x * factor

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
