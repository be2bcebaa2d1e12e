"""Recurrent neurons as one function of autograd: forward and back a piece of steps at a time.

Kept for the backward pass: what fire.py keeps, the layer's own spikes as bits, and the states before each piece. Going
back, the currents of a piece are computed again, and one kernel runs its steps forward and back
(ops.recurrent_scan_backward). So no more than a piece of currents is ever in memory.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels import ops
from ...kernels.neuron_models import Neuron, Surrogate
from ...neurons import IFNeuron
from ...spikes import storage
from ...spikes.spike_autograd import Function, applied, new_handle
from .fire import _like, followed_gradients
from .input_kinds import ConstantImage, SpikeWords, Values

PIECE_BYTES = 1 << 20  # of currents: what stays in the cache until they are used
WORD = 32  # steps of a word of a GPU
_SILENT = IFNeuron(v_threshold=math.inf, v_reset=None)

Input = SpikeWords | Values | ConstantImage
Pieces = list[tuple[int, int]]  # first and last step of each


class Operands(NamedTuple):
    """What may have a gradient; all but the last as of fire.Operands.

    Attributes:
        recurrent: [C, C], of which row i has the weights of what neuron i receives, or one value a neuron [C].
    """

    handle: Tensor | None
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    v: Tensor
    channels: Tensor
    recurrent: Tensor


def pieces(T: int, v: Tensor, trained: bool) -> Pieces:
    """The pieces of T steps of neurons with states v [N, states + 1, 1, C].

    ``trained``: for a backward pass, which has four times as much of each step: the input, the states, the spikes that
    come back, and the gradients of the currents.
    """
    neurons = max(1, v.shape[0] * v.shape[-1])
    steps = max(1, PIECE_BYTES // (4 if trained else 1) // (4 * neurons) // WORD) * WORD
    return [(start, min(start + steps, T)) for start in range(0, T, steps)]


def run(
    given: Input,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    neuron: Neuron,
    recurrent: Tensor,
    trained: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Words, the states after the last step, and those before each piece, [pieces, N, states + 1, 1, C]."""
    words, steps, starts = [], [], []
    for start, stop in pieces(given.T, v, trained):
        starts.append(v)
        fired, v = ops.recurrent_scan(_currents(given, x, weight, bias, start, stop, v), v, neuron, recurrent)
        words.append(fired)
        steps.append(stop - start)
    return storage.cat(words, steps), v, torch.stack(starts)


def fire(given: Input, operands: Operands, neuron: Neuron, surrogate: Surrogate) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`run` with a gradient: words, the handle of the spikes, and the states after the last step."""
    model = neuron.model, tuple(neuron.scalars)
    words, handle, after, _ = applied(_Fire, *operands, model, given, surrogate)
    return words, handle, after


def _currents(given: Input, x: Tensor, weight: Tensor, bias: Tensor | None, start: int, stop: int, v: Tensor) -> Tensor:
    """What the input makes in some steps, [t, N, 1, C]; of a constant one without a copy for each."""
    given, x = given.piece(x, start, stop)
    silent = _SILENT.on(len(weight), v.device)  # kernels fire neurons as well
    current = given.currents(x, weight, bias, v[:, 0], silent)
    return current.expand(given.T, *current.shape[-3:])


class _Fire(Function):
    @staticmethod
    def forward(
        handle, x, weight, bias, v, channels, recurrent, model: tuple, given: Input, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        words, after, starts = run(given, x, weight, bias, v, Neuron(model[0], channels, model[1]), recurrent, True)
        return words, new_handle((given.T, after.shape[0], 1, after.shape[-1]), after.device), after, starts

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        *tensors, ctx.model, ctx.given, ctx.surrogate = inputs
        ctx.save_for_backward(*tensors, output[0], output[3])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[0], output[3])

    @staticmethod
    def backward(ctx: Any, _, grad_spikes: Tensor | None, grad_v: Tensor | None, __):
        if grad_spikes is None and grad_v is None:
            return (None,) * 10
        given, wanted = ctx.given, ctx.needs_input_grad
        *operands, words, starts = ctx.saved_tensors  # read once, as checkpoints of torch allow
        neuron = Neuron(ctx.model[0], operands[5], ctx.model[1])
        if grad_spikes is None:
            N, C = starts.shape[1], starts.shape[-1]
            grad_spikes = torch.zeros((), dtype=torch.float32, device=starts.device).expand(given.T, N, 1, C)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            found = followed_gradients(given, operands, neuron, ctx.surrogate, grad_spikes, grad_v)
        else:
            found = _back(given, Operands(*operands), words, starts, neuron, ctx.surrogate, grad_spikes, grad_v, wanted)
        return *(g if needed else None for g, needed in zip(found, wanted, strict=False)), None, None, None


def _back(
    given: Input,
    operands: Operands,
    words: Tensor,
    starts: Tensor,
    neuron: Neuron,
    surrogate: Surrogate,
    grad_spikes: Tensor,
    grad_v: Tensor | None,
    wanted: tuple[bool, ...],
) -> list[Tensor | None]:
    """The gradients of the operands, a piece of steps after the other, from the last."""
    handle, x, weight, bias, v, channels, recurrent = operands
    of_input: list[Tensor] = []
    of_weight = of_recurrent = sums = None
    for (start, stop), before in reversed(list(zip(pieces(given.T, v, True), starts, strict=True))):
        current = _currents(given, x, weight, bias, start, stop, v)
        grad_current, grad_v, grown = ops.recurrent_scan_backward(
            grad_spikes[start:stop], grad_v, current, before, neuron, surrogate, recurrent
        )
        del current
        sums = _added(sums, grown)
        if wanted[6]:
            fired = _fired_before(words, given.T, start, stop, before)
            of_recurrent = _recurrent_gradient(of_recurrent, grad_current.squeeze(2), fired, recurrent)
            del fired
        its, values = given.piece(x, start, stop)
        if isinstance(its, ConstantImage):  # of which all steps have the same currents
            grad_current = grad_current.sum(0)
        if wanted[2]:
            dense = ops.unpack(values, its.T, weight.shape[1], torch.float32) if isinstance(its, SpikeWords) else values
            of_weight = _product(of_weight, grad_current, dense.reshape(*grad_current.shape[:-2], weight.shape[1]))
            del dense
        if wanted[0] or wanted[1]:
            of_input.append(its.input_gradient(grad_current, weight))
    input_gradient = None
    if of_input:
        constant = isinstance(given, ConstantImage)
        input_gradient = torch.stack(of_input).sum(0) if constant else torch.cat(of_input[::-1])
    return [
        input_gradient if wanted[0] else None,  # as float32 as handles are
        _like(x, input_gradient) if wanted[1] else None,
        _like(weight, of_weight[..., None, None]) if wanted[2] else None,  # type: ignore[index]
        _like(bias, sums[0]) if wanted[3] else None,  # type: ignore[arg-type, index]
        _like(v, grad_v) if wanted[4] else None,
        _like(channels, sums[1 : 1 + len(channels)]) if wanted[5] else None,  # type: ignore[index]
        _like(recurrent, of_recurrent) if wanted[6] else None,
    ]


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _fired_before(words: Tensor, T: int, start: int, stop: int, before: Tensor) -> Tensor:
    """What came back to the neurons in each of some steps: the spikes [t, N, C] of the steps before."""
    C = before.shape[-1]
    dense = ops.unpack(storage.cut(words, T, start, stop), stop - start, C, torch.float32).squeeze(3)
    return torch.cat([before[:, -1].transpose(0, 1), dense[:-1]])


def _recurrent_gradient(total: Tensor | None, grad_current: Tensor, fired: Tensor, recurrent: Tensor) -> Tensor:
    """That of the recurrent weights so far, and what gradients [t, N, C] of the currents add to it."""
    if recurrent.ndim == 1:
        return _added(total, (grad_current * fired).sum((0, 1)))
    return _product(total, grad_current, fired)


def _product(total: Tensor | None, grad_current: Tensor, x: Tensor) -> Tensor:
    """The gradient [C, in] of weights so far, and what gradients of the currents [..., C] of inputs x [..., in] add to
    it: in place, as another matrix of that size may be larger than all else."""
    rows, x = grad_current.flatten(0, -2), x.flatten(0, -2).to(grad_current.dtype)
    return rows.t() @ x if total is None else total.addmm_(rows.t(), x)
