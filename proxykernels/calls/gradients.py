"""Neurons with a surrogate derivative as one function of autograd: packed spikes and states forward, gradients back.

Kept for the backward pass: the input as it came (spikes as bits), the weights and the state before the first step. The
currents are computed again, then one scan goes forward and back through all steps (ops.scan_backward). Its gradients
are convolved in autocast's type if the forward pass was under autocast on a GPU.

With create_graph=True, or in torch.func, the gradient itself is differentiated. It is then a function that autograd
follows: the steps of kernels/reference_gradients.py, in the memory and time of T steps in plain torch.

Recurrent neurons go forward and back a piece of steps at a time. Kept for their backward pass are also the layer's own
spikes as bits, and the states before each piece. Going back, the currents of a piece are computed again, and one kernel
runs its steps forward and back (ops.recurrent_scan_backward). So no more than a piece of currents is ever in memory.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import ops, unfused
from ..kernels.neuron_models import Neuron, Surrogate
from ..kernels.reference_gradients import surrogate_recurrent_scan, surrogate_scan
from ..neurons import IFNeuron
from ..spikes import spike_autograd, storage
from ..spikes.spike_autograd import Function, applied, new_handle
from .currents import (
    ConstantCurrents,
    ConstantImage,
    Currents,
    ImageWindow,
    Input,
    SpikePeriods,
    SpikeWords,
    Values,
    fire_several_times,
)


class Operands(NamedTuple):
    """What may have a gradient.

    Attributes:
        handle: of spikes, which has their gradient; None: they have none, or x are values.
        x: the input, in the form that its kind (currents.Input) takes.
        weight, bias: of a convolution, [C_out, C_in / groups, kernel_h, kernel_w] and [C_out]; or None.
        v: the state before the first step, [N, P, C] or [N, states, P, C].
        channels: parameters of the neurons, as kernels.neurons.Neuron has them.
    """

    handle: Tensor | None
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    v: Tensor
    channels: Tensor


def fire(given: Input, operands: Operands, neuron: Neuron, surrogate: Surrogate) -> tuple[Tensor, Tensor, Tensor]:
    """Run neurons on an input; ``given``: what kind it is. The neuron's ``channels`` are those of the operands.

    Returns:
        Words, periods, or integers of neurons that fire several times in a step; the handle of the spikes, which has
        their gradient; and the state after the last step.
    """
    model = neuron.model, tuple(neuron.scalars)
    kept, handle, after = applied(_Fire, *operands, model, given, surrogate)
    return kept, handle, after


class _Fire(Function):
    @staticmethod
    def forward(
        handle, x, weight, bias, v, channels, model: tuple, given: Input, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor]:
        neuron = Neuron(model[0], channels, model[1])
        operands = x, weight, bias, v, neuron
        kept, after = fire_several_times(given, *operands) if neuron.counts else given.fire(*operands)
        return kept, new_handle((given.T, after.shape[0], *after.shape[-2:]), after.device), after

    @staticmethod
    def setup_context(ctx: Any, inputs, output):
        *tensors, ctx.model, ctx.given, ctx.surrogate = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.dtype = _type_of_gradients(inputs[4].device)
        ctx.mark_non_differentiable(output[0])

    @staticmethod
    def backward(ctx: Any, _, grad_spikes: Tensor | None, grad_v: Tensor | None):
        if grad_spikes is None and grad_v is None:
            return (None,) * 9
        given, wanted = ctx.given, ctx.needs_input_grad
        saved = ctx.saved_tensors  # read once, as checkpoints of torch allow
        handle, x, weight, bias, v, channels = saved
        neuron = Neuron(ctx.model[0], channels, ctx.model[1])
        if grad_spikes is None:
            zero = torch.zeros((), dtype=torch.float32, device=v.device)
            grad_spikes = zero.expand(given.T, v.shape[0], *v.shape[-2:])
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = followed_gradients(given, saved, neuron, ctx.surrogate, grad_spikes, grad_v)
            return *(g if needed else None for g, needed in zip(gradients, wanted, strict=False)), None, None, None
        current = given.currents(x, weight, bias, v, neuron)
        grad_current, grad_start, sums = ops.scan_backward(grad_spikes, grad_v, current, v, neuron, ctx.surrogate)
        del current, grad_spikes
        grad_current = grad_current.to(ctx.dtype)
        of_input: Any = given.input_gradient(grad_current, weight) if wanted[0] or wanted[1] else None
        return (
            of_input.float() if wanted[0] else None,  # as handles are
            _like(x, of_input) if wanted[1] else None,
            _like(weight, given.weight_gradient(grad_current, weight, x)) if wanted[2] else None,
            _like(bias, sums[0]) if wanted[3] else None,
            _like(v, grad_start) if wanted[4] else None,
            _like(channels, sums[1 : 1 + len(channels)]) if wanted[5] else None,
            None, None, None,
        )  # fmt: skip


def _type_of_gradients(device: torch.device) -> torch.dtype:
    """In which the gradients of currents are convolved."""
    lower = device.type == "cuda" and torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cuda") if lower else torch.float32


def _like(tensor: Tensor, gradient: Any) -> Tensor:
    """A gradient in the type of its tensor."""
    return gradient.to(tensor.dtype)


def followed_gradients(
    given: Input,
    operands: Sequence[Any],
    neuron: Neuron,
    surrogate: Surrogate,
    grad_spikes: Tensor,
    grad_v: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of ``operands``: handle, x, weight, bias, v and channels, as fire takes them, and behind these the
    weights of recurrent neurons.

    ``grad_spikes`` [T, N, P, C]; ``grad_v`` like v.
    """
    numbers = [k for k, operand in enumerate(operands) if operand is not None and operand.is_floating_point()]

    def run(*values: Tensor) -> tuple[Tensor, Tensor]:
        handle, x, weight, bias, v, channels, *recurrent = (
            values[numbers.index(k)] if k in numbers else operand for k, operand in enumerate(operands)
        )
        current, its = _currents(given, handle, x, weight, bias), neuron._replace(channels=channels)
        if recurrent:
            spikes, after = surrogate_recurrent_scan(current.squeeze(3), v.squeeze(2), its, recurrent[0], surrogate)
            return spikes.unsqueeze(2), after.unsqueeze(2)
        spikes, after = surrogate_scan(current, v.transpose(-1, -2), its, surrogate)
        return spikes.transpose(-1, -2), after.transpose(-1, -2)

    (_, after), pull = torch.func.vjp(  # type: ignore[misc]  # without has_aux they are two
        run, *(operands[k] for k in numbers)
    )
    found = pull((grad_spikes, torch.zeros_like(after) if grad_v is None else grad_v))
    return [found[numbers.index(k)] if k in numbers else None for k in range(len(operands))]


def _currents(given: Input, handle: Any, x: Tensor, weight: Any, bias: Any) -> Tensor:
    """The currents [T, N, C, P]."""
    if isinstance(given, ConstantCurrents):
        return x.transpose(-1, -2).expand(given.T, *x.transpose(-1, -2).shape)
    if isinstance(given, Currents):
        return x.transpose(-1, -2)
    if isinstance(given, ConstantImage):
        current = _convolved(given.window, x, weight, bias)
        return current.expand(given.T, *current.shape)
    if isinstance(given, Values):
        images = x
    else:
        words = x if isinstance(given, SpikeWords) else ops.expand_periods(x, given.start, given.T)
        images = _spikes(given, handle, words, weight)
    return _convolved(given.window, images.flatten(0, 1), weight, bias).unflatten(0, images.shape[:2])


def _spikes(given: SpikeWords | SpikePeriods, handle: Tensor | None, words: Tensor, weight: Tensor) -> Tensor:
    """The spikes [T, N, C, H, W]."""
    C, size = weight.shape[1] * given.window.groups, given.window.size
    if handle is not None:
        return spike_autograd.Dense.apply(handle, words, (*handle.shape[:2], C, *size), torch.float32)
    spikes = ops.unpack(words, given.T, C, torch.float32)
    return spikes.unflatten(3, size)


def _convolved(window: ImageWindow, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The currents [n, C, P] of images [n, C_in, H, W], float32 as the kernels have them."""
    dtype = torch.promote_types(weight.dtype, torch.float32) if images.dtype != torch.bool else torch.float32
    with unfused.exact(images.device):
        current = F.conv2d(images.to(dtype), weight.to(dtype), None, *window.pairs, window.groups)
    current = current.float() if bias is None else current.float() + bias.float().view(-1, 1, 1)
    return current.flatten(2)


PIECE_BYTES = 1 << 20  # of currents: what stays in the cache until they are used
WORD = 32  # steps of a word of a GPU
_SILENT = IFNeuron(v_threshold=math.inf, v_reset=None)

RecurrentInput = SpikeWords | Values | ConstantImage
Pieces = list[tuple[int, int]]  # first and last step of each


class RecurrentOperands(NamedTuple):
    """What may have a gradient; all but the last as of Operands.

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


def run_recurrent(
    given: RecurrentInput,
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
        fired, v = ops.recurrent_scan(_currents_of_piece(given, x, weight, bias, start, stop, v), v, neuron, recurrent)
        words.append(fired)
        steps.append(stop - start)
    return storage.cat(words, steps), v, torch.stack(starts)


def fire_recurrent(
    given: RecurrentInput, operands: RecurrentOperands, neuron: Neuron, surrogate: Surrogate
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`run_recurrent` with a gradient: words, the handle of the spikes, and the states after the last step."""
    model = neuron.model, tuple(neuron.scalars)
    words, handle, after, _ = applied(_FireRecurrent, *operands, model, given, surrogate)
    return words, handle, after


def _currents_of_piece(
    given: RecurrentInput, x: Tensor, weight: Tensor, bias: Tensor | None, start: int, stop: int, v: Tensor
) -> Tensor:
    """What the input makes in some steps, [t, N, 1, C]; of a constant one without a copy for each."""
    given, x = given.piece(x, start, stop)
    silent = _SILENT.on(len(weight), v.device)  # kernels fire neurons as well
    current = given.currents(x, weight, bias, v[:, 0], silent)
    return current.expand(given.T, *current.shape[-3:])


class _FireRecurrent(Function):
    @staticmethod
    def forward(
        handle, x, weight, bias, v, channels, recurrent, model: tuple, given: RecurrentInput, surrogate: Surrogate
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        words, after, starts = run_recurrent(
            given, x, weight, bias, v, Neuron(model[0], channels, model[1]), recurrent, True
        )
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
            found = _back(
                given, RecurrentOperands(*operands), words, starts, neuron, ctx.surrogate, grad_spikes, grad_v, wanted
            )
        return *(g if needed else None for g, needed in zip(found, wanted, strict=False)), None, None, None


def _back(
    given: RecurrentInput,
    operands: RecurrentOperands,
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
        current = _currents_of_piece(given, x, weight, bias, start, stop, v)
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
