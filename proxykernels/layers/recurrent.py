"""Recurrent layers, whose own spikes come back to them one step later."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..calls import neuron_ops
from ..neurons import AnyNeuron
from ..spikes import Spikes
from .base import Neurons
from .fused import PARAMETERS_BY_NAME
from .keywords import flag, whole_neuron
from .synapses import Product, Returning, Synapse

RECURRENCES = "full", "elementwise"


class FusedRecurrentLinear(Neurons, nn.Linear):  # type: ignore[misc]  # whose bias is never None to torch's annotations
    """Fully connected layer of recurrent neurons, over all T steps: I[t] = W x[t] + b + R s[t-1].

    Takes the arguments of nn.Linear, and has its parameters and ``recurrent_weight``, R. A spike comes back one step
    later; s[-1] = 0. A bias of the recurrent connection, which other libraries have, is in all currents, at t = 0 too:
    add it to ``bias``. Equations: :func:`proxykernels.kernels.reference.recurrent_scan`.

    Args:
        neuron: a neuron of :mod:`proxykernels.neurons` that fires, once at most in a step; as in :class:`FusedConv2d`.
        recurrence: "full": R is [out, out], and row i has the weights of what neuron i receives, as nn.Linear's weight.
            "elementwise": [out], and a neuron receives only its own spikes.
        v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, states + 1, out]: the states of the neurons, the
    potential first, and last the spikes of the step before, 0 or 1.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """

    synapse, has_twin = Product, False

    @whole_neuron
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        neuron: AnyNeuron,
        recurrence: Literal["full", "elementwise"] = "full",
        v_init: float | Tensor | None = None,
    ):
        flag("bias", bias, PARAMETERS_BY_NAME)
        if recurrence not in RECURRENCES:
            raise ValueError(f"recurrence must be one of {', '.join(RECURRENCES)}, got {recurrence!r}")
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_neurons(neuron, v_init)
        if not neuron.fires or neuron.counts:
            raise TypeError(
                "neuron must fire, once at most in a step, for its spikes come back to it; got "
                f"{type(neuron).__name__}, which FusedLinear takes"
            )
        shape = (out_features, out_features) if recurrence == "full" else (out_features,)
        self.recurrent_weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self._reset_recurrent()

    def reset_parameters(self) -> None:
        """Weights and bias as in nn.Linear; recurrent weights likewise, by the number of spikes a neuron receives."""
        nn.Linear.reset_parameters(self)
        if "recurrent_weight" in self._parameters:  # torch calls this before it exists
            self._reset_recurrent()

    def _reset_recurrent(self) -> None:
        weight = self.recurrent_weight
        bound = max(1, len(weight) if weight.ndim == 2 else 1) ** -0.5
        nn.init.uniform_(weight, -bound, bound)

    @property
    def states(self) -> int:
        return self.neuron.states + 1

    def repeats(self, device: torch.device, T: int) -> bool:
        return False

    def returning(self, y: Spikes | Tensor) -> list[tuple[Synapse, Spikes | Tensor]]:
        return [(Returning(self), y)]

    def _start(self, x: Any, v_init: Tensor) -> Tensor:
        v = super()._start(x, v_init)
        return torch.stack([v, *[torch.zeros_like(v)] * (self.states - 1)], 1)

    def _fire(self, x, v, batch_statistics):
        return self._fire_with(self.weight, self.bias, self.recurrent_weight, x, v)

    def _fire_with(self, weight: Tensor, bias: Tensor | None, recurrent: Tensor, x, v) -> tuple[Spikes, Tensor]:
        """Run the layer with these weights instead of its own."""
        return neuron_ops.recurrent_linear(x, weight, bias, recurrent, v, self.neuron, self.surrogate)

    def affine(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        recurrence = "" if self.recurrent_weight.ndim == 2 else ", recurrence='elementwise'"
        return super().extra_repr() + recurrence
