"""Recurrent neurons by the definition, for backends without a kernel of their own: a loop of torch's operations.

Shapes: ``current`` [T, N, 1, C], what the input makes; ``recurrent`` [C, C], of which row i has the weights of what
neuron i receives, or one value a neuron [C]. The states ``v`` are [N, states + 1, 1, C]: those of the model, and last
the spikes, 0 or 1, of the step before.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .neuron_models import Neuron
from .recording import Choice, note
from .reference import feedback, step
from .reference import recurrent_scan as definition
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
    scan_backward: Callable[..., tuple[Tensor, Tensor, Tensor]], grad_spikes: Tensor, grad_v: Tensor | None,
    current: Tensor, v: Tensor, neuron: Neuron, surrogate: Surrogate, recurrent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Back through all T steps, one after another, each by the backend's ``scan_backward`` (backends.Backend).

    Returns:
        As scan_backward: the gradients of the currents, of the states before the first step and the spikes before it,
        and of a bias and of the parameters of a channel.
    """
    neuron, recurrent = neuron.detach(), recurrent.detach().float()
    spike, its_states = v[:, -1].float(), v[:, :-1].float()
    state, steps = tuple(its_states.unbind(1)), []
    for step_current in current.float():
        whole = step_current + feedback(spike, recurrent)
        steps.append((whole, state[0] if neuron.states == 1 else torch.stack(state, 1)))
        spike, state = step(state, whole, neuron)
    grad_state, grad_spike = None, torch.zeros_like(spike)
    if grad_v is not None:
        grad_state, grad_spike = grad_v[:, :-1].float(), grad_v[:, -1].float()
        grad_state = grad_state.squeeze(1) if neuron.states == 1 else grad_state
    grad_current = torch.empty(grad_spikes.shape, dtype=torch.float32, device=v.device)
    sums = v.new_zeros(1 + len(neuron.channels), v.shape[-1], dtype=torch.float64)
    for t in reversed(range(len(steps))):
        outer = (grad_spikes[t] + grad_spike).unsqueeze(0)
        whole, before = steps.pop()
        its, grad_state, grown = scan_backward(outer, grad_state, whole.unsqueeze(0), before, neuron, surrogate)
        grad_current[t] = its[0]
        grad_spike = its[0] * recurrent if recurrent.ndim == 1 else its[0] @ recurrent
        sums += grown
    if grad_state is None:
        grad_state = torch.zeros_like(its_states)
    return grad_current, torch.cat([grad_state.view_as(its_states), grad_spike.unsqueeze(1)], 1), sums
