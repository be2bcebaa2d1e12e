"""Recurrent neurons by the definition, for backends without a kernel of their own: a loop of torch's operations.

Shapes: ``current`` [T, N, 1, C], what the input makes; ``recurrent`` [C, C], of which row i has the weights of what
neuron i receives, or one value a neuron [C]. The states ``v`` are [N, states + 1, 1, C]: those of the model, and last
the spikes, 0 or 1, of the step before.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from .neuron_models import Neuron
from .recording import Choice, note
from .reference import recurrent_scan as definition
from .reference_gradients import surrogate_recurrent_scan
from .surrogates import Surrogate
from .weight_layouts import require_finite

LOOP = Choice("step loop", "no recurrent kernel here")


def recurrent_scan(pack: Callable[[Tensor], Tensor], current: Tensor, v: Tensor, neuron: Neuron, recurrent: Tensor):
    """Words, and the states after the last step; ``pack``: the backend's."""
    note(LOOP)
    if recurrent.is_cpu:  # a GPU would have to be waited for
        require_finite("recurrent_weight", recurrent)
    spikes, after = definition(current.squeeze(2), v.squeeze(2), neuron, recurrent)
    return pack(spikes.unsqueeze(3).bool()), after.unsqueeze(2).contiguous()


def recurrent_scan_backward(
    grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron, surrogate: Surrogate,
    recurrent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Back through all T steps, by the definition's autograd: gradients of the currents, of the state before the first
    step, and of a bias and of the parameters of a channel, float64 [1 + parameters, C]."""

    def gradients() -> tuple[Tensor, ...]:
        given = [x.detach().float().requires_grad_() for x in (current, v, neuron.channels)]
        neurons = neuron._replace(channels=given[2])
        found = surrogate_recurrent_scan(given[0].squeeze(2), given[1].squeeze(2), neurons, recurrent, surrogate)
        last = torch.zeros_like(v, dtype=torch.float32) if grad_v is None else grad_v.float()
        outer = grad_spikes.float().squeeze(2), last.squeeze(2)
        return torch.autograd.grad(found, given, outer, materialize_grads=True)

    with ThreadPoolExecutor(1) as thread:  # in this one a mode of torch, such as FlopCounterMode, may stop autograd
        of_current, of_v, of_channels = thread.submit(gradients).result()
    of_bias = of_current.double().sum((0, 1, 2))
    sums = torch.cat([of_bias.unsqueeze(0), of_channels.double().reshape(-1, len(of_bias))])
    return of_current.contiguous(), of_v.contiguous(), sums
