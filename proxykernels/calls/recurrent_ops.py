"""Recurrent neurons behind a matrix product, over all time steps in one call."""

from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..neurons import AnyNeuron
from ..spikes import Spikes
from ..surrogates import Surrogate
from .currents import scaled
from .gradients import input_kinds, recurrent
from .gradients.calls import carrying, wants_gradient
from .neuron_values import Fired

_ONE_PIXEL = input_kinds.ImageWindow((1, 1), (1, 1), (0, 0), (1, 1), 1)


def linear(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None,
    recurrent_weight: Tensor,
    v: Tensor | float | None,
    neuron: AnyNeuron,
    surrogate: Surrogate | None = None,
) -> Fired:
    """A matrix product and recurrent neurons: I[t] = W x[t] + b + R s[t-1].

    Args:
        x: Spikes (T, N, in), or a tensor of that shape. weight: [out, in]. bias: [out].
        recurrent_weight: R, [out, out], where row i has the weights of what neuron i receives; or [out], if each neuron
            receives only its own spikes.
        v: the initial state [N, states + 1, out], whose last entry is the spikes s[-1]; or a potential, or None (at
            rest), with s[-1] = 0.

    Returns:
        Spikes (T, N, out) and the state after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    tensors = neuron.check_once()
    x = carrying(x, 3, "[T, N, features]", surrogate, None)
    checks.parameters(weight, bias, 2, "[out, in]", x.device)
    checks.features(x.shape, weight)
    checks.recurrent(recurrent_weight, len(weight), x.device)
    if not neuron.fires:
        raise TypeError(f"neuron must fire, for its spikes come back to it, got {type(neuron).__name__}")
    shape = x.shape[1], len(weight)
    checks.room(x.shape[0], shape, x.device)
    checks.recurrent_state(v, shape, neuron.states, x.device)
    start, ready = _start(v, shape, neuron, x.device), neuron.on(shape[1], x.device)
    if isinstance(x, Spikes):
        given: recurrent.Input = input_kinds.SpikeWords(x.T, _ONE_PIXEL)
        handle, values, weight = x._handle, x._words, scaled(weight, x)
    else:
        values = x[..., None, None]
        given, handle, values = input_kinds.input_of(values, _ONE_PIXEL, False)  # type: ignore[assignment]
    operands: Any = recurrent.Operands(
        handle, values, weight[:, :, None, None], None if bias is None else bias.float(), start, ready.channels,
        recurrent_weight,
    )  # fmt: skip
    if wants_gradient(surrogate, x, weight, bias, v, recurrent_weight, *tensors):
        words, handle, after = recurrent.fire(given, operands, ready, surrogate.kernel)  # type: ignore[union-attr]
        return Spikes(words, (x.shape[0], *shape), handle=handle), after.squeeze(2)
    detached: Any = [operand if operand is None else operand.detach() for operand in operands]
    plain = recurrent.Operands(*detached)
    words, after, _ = recurrent.run(given, plain.x, plain.weight, plain.bias, plain.v, ready.detach(), plain.recurrent)
    return Spikes(words, (x.shape[0], *shape)), after.squeeze(2)


def _start(v: Tensor | float | None, shape: tuple[int, int], neuron: AnyNeuron, device: torch.device) -> Tensor:
    """The initial state, [N, states + 1, 1, C]."""
    if isinstance(v, Tensor):
        return v.float().unsqueeze(2)
    start = torch.zeros(shape[0], neuron.states + 1, 1, shape[1], dtype=torch.float32, device=device)
    start[:, 0] = float(neuron.rest if v is None else v)
    return start
