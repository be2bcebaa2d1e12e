"""Triton: backpropagation through all T steps of neurons in one launch, with a surrogate derivative.

Each program runs its neurons forward again, the states before each step going to a scratch buffer, and then back in
time (neurons_backward.py). It is bound by memory. Neurons of one state need no buffer: their gradients take its place.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import MODELS, Neuron, Surrogate
from .neuron_steps import arguments, by_sample, by_state, read_states, write_states, zero_states
from .neurons_backward import back_of, surrogate_arguments

BLOCK = 512
NUM_WARPS = 4


@triton.jit(do_not_specialize=["T"])
def _scan_backward_kernel(
    grad_spikes_pointer,  # [T, neurons] float32; stride grad_stride over time
    grad_v_pointer,  # [states, neurons] float32, of the states after the last step; None: 0
    current_pointer,  # [T, neurons] float32; stride current_stride over time
    v_pointer,  # [states, neurons] float32, before the first step
    neuron,  # the neurons' parameters: neuron_steps.py
    before_pointer,  # [T, states, neurons] float32, scratch; may be grad_current_pointer
    grad_current_pointer,  # [T, neurons] float32, written if CONSTANT is not
    grad_start_pointer,  # [states, neurons] float32, written
    sums_pointer,  # [1 + PARAMETERS, neurons] float32, written: gradients of the currents' sum and of the parameters
    T,
    neurons,
    channels,
    current_stride,
    grad_stride,
    first,
    second,
    passes,
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
    BACK: tl.constexpr,
    DERIVATIVE: tl.constexpr,
    PARAMETERS: tl.constexpr,
    CONSTANT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < neurons - start
    channel = ((start % channels).to(tl.int32) + offsets) % channels
    loaded = LOAD(neuron, 0, channel, None)
    surrogate = (first, second, passes)

    state = read_states(v_pointer + start, neurons, offsets, mask, STATES)
    current_row = current_pointer + start
    before_row = before_pointer + start
    row = start
    for _ in range(0, T):
        current = tl.load(current_row + offsets, mask=mask, other=0.0)
        write_states(before_row, neurons, offsets, state, mask, STATES)
        state, _above_threshold = STEP(state, current, neuron, loaded)
        current_row += current_stride
        before_row += tl.cast(STATES, tl.int64) * neurons
        if not CONSTANT:
            row += neurons

    # Triton may give an address to one thread where it is written and to another where it is read.
    tl.debug_barrier()
    if grad_v_pointer is None:
        grad_state = zero_states(state[0], STATES)
    else:
        grad_state = read_states(grad_v_pointer + start, neurons, offsets, mask, STATES)
    grad_row = grad_spikes_pointer + start + T.to(tl.int64) * grad_stride
    total = tl.zeros((BLOCK,), tl.float32)
    sums = (total, total, total, total)
    for _ in range(0, T):
        current_row -= current_stride
        before_row -= tl.cast(STATES, tl.int64) * neurons
        grad_row -= grad_stride
        state = read_states(before_row, neurons, offsets, mask, STATES)
        current = tl.load(current_row + offsets, mask=mask, other=0.0)
        grad_spike = tl.load(grad_row + offsets, mask=mask, other=0.0)
        grad, grad_state, grown = BACK(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE)
        total += grad
        sums = (sums[0] + grown[0], sums[1] + grown[1], sums[2] + grown[2], sums[3] + grown[3])
        if not CONSTANT:
            row -= neurons
            tl.store(grad_current_pointer + row + offsets, grad, mask=mask)
    write_states(grad_start_pointer + start, neurons, offsets, grad_state, mask, STATES)
    sums_row = sums_pointer + start
    tl.store(sums_row + offsets, total, mask=mask)
    for k in tl.static_range(PARAMETERS):
        sums_row += neurons  # a multiple of it may be more than an int32 holds
        tl.store(sums_row + offsets, sums[k], mask=mask)


def scan_backward(
    grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron, surrogate: Surrogate
) -> tuple[Tensor, Tensor, Tensor]:
    """See backends.Backend: gradients of the currents, of the state before the first step, and of the parameters."""
    (T, *shape), constant = grad_spikes.shape, current.ndim == 3
    grad_spikes = grad_spikes.float()
    held = grad_spikes.stride(0) == 0 and grad_spikes[0].is_contiguous()  # as of counts
    grad_spikes = grad_spikes if held else grad_spikes.contiguous()
    current = current.float().contiguous()
    v = by_state(v.float(), neuron)
    grad_v = None if grad_v is None else by_state(grad_v.float(), neuron)
    grad_current, grad_start = torch.empty_like(current), torch.empty_like(v)
    neurons, C = grad_spikes[0].numel(), shape[-1]
    parameters = len(neuron.channels)
    sums = current.new_empty(1 + parameters, *shape)
    if neurons:
        alone = neuron.states == 1 and not constant
        before = grad_current if alone else current.new_empty(T, neuron.states, neurons)
        with torch.cuda.device_of(current):
            _scan_backward_kernel[(triton.cdiv(neurons, BLOCK),)](
                grad_spikes_pointer=grad_spikes,
                grad_v_pointer=grad_v,
                current_pointer=current,
                v_pointer=v,
                before_pointer=before,
                grad_current_pointer=grad_current,
                grad_start_pointer=grad_start,
                sums_pointer=sums,
                T=T,
                neurons=neurons,
                channels=C,
                current_stride=0 if constant else neurons,
                grad_stride=0 if held else neurons,
                **arguments(neuron),
                **surrogate_arguments(surrogate),
                BACK=back_of(neuron.model),
                PARAMETERS=len(MODELS[neuron.model].channels),
                CONSTANT=constant,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
                enable_fp_fusion=False,
            )
    grad_current = sums[0].clone() if constant else grad_current
    return grad_current, by_sample(grad_start, neuron), sums.flatten(1, -2).sum(1, dtype=torch.float64)
