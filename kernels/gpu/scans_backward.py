"""Triton: backpropagation through all T steps of neurons in one launch, with a surrogate derivative.

Each program runs its neurons forward again, the states before each step going to a scratch buffer, and then back in
time (neurons_backward.py). It is bound by memory. Neurons of one state need no buffer: their gradients take its place.

Recurrent neurons add ds[t-1] += R^T dI[t]. A program owns one sample, as in scans.py. It keeps the states and the
currents before each step. The gradients of a step's currents are in memory, where all threads read them; those that are
not 0 are listed, and each adds a row of R, what a neuron receives, to the gradients of the spikes of the step before. A
surrogate derivative that is 0 away from the threshold therefore saves work.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import Neuron, Surrogate
from .launch import launch
from .neuron_steps import arguments, by_sample, by_state, read_states, write_states, zero_states
from .neurons_backward import back_of, surrogate_arguments
from .scans import add_rows, block_of, by_step, neurons_of_program

BLOCK = 512
NUM_WARPS = 4


@triton.jit
def _grown(sums, grown):
    """Four sums, of the gradients of parameters, after a step."""
    return sums[0] + grown[0], sums[1] + grown[1], sums[2] + grown[2], sums[3] + grown[3]


@triton.jit
def _write_sums(row_pointer, size, offsets, total, sums, mask, PARAMETERS: tl.constexpr):
    """Write the gradient of the currents' sum, and PARAMETERS of four sums, each ``size`` behind the one before."""
    tl.store(row_pointer + offsets, total, mask=mask)
    for k in tl.static_range(PARAMETERS):
        row_pointer += size  # a multiple of it may be more than an int32 holds
        tl.store(row_pointer + offsets, sums[k], mask=mask)


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
    start, offsets, mask, channel = neurons_of_program(neurons, channels, BLOCK)
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
        sums = _grown(sums, grown)
        if not CONSTANT:
            row -= neurons
            tl.store(grad_current_pointer + row + offsets, grad, mask=mask)
    write_states(grad_start_pointer + start, neurons, offsets, grad_state, mask, STATES)
    _write_sums(sums_pointer + start, neurons, offsets, total, sums, mask, PARAMETERS)


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
        launch(
            _scan_backward_kernel,
            triton.cdiv(neurons, BLOCK),
            results=(grad_current, grad_start, sums),
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
            PARAMETERS=len(neuron.channels),
            CONSTANT=constant,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
    grad_current = sums[0].clone() if constant else grad_current
    return grad_current, by_sample(grad_start, neuron), sums.flatten(1, -2).sum(1, dtype=torch.float64)


def warps_of(block: int) -> int:
    """Two neurons a thread, and at most four: gradients take twice the registers of neurons."""
    return min(16, max(1, block // 64))


@triton.jit(do_not_specialize=["T"])
def _recurrent_backward_kernel(
    grad_spikes_pointer,  # [T, samples, C] float32; stride grad_stride over time
    grad_v_pointer,  # [samples, STATES + 1, C] float32, of the states and spikes after the last step; None: 0
    current_pointer,  # [T, samples, C], what the input makes; stride current_stride over time
    v_pointer,  # [samples, STATES + 1, C] float32, states before the first step, and last the spikes before it
    neuron,  # the neurons' parameters: neuron_steps.py
    sent_pointer,  # float32 [C, C], of which row j has what neuron j sends, or [C]
    received_pointer,  # float32 [C, C], of which row i has what neuron i receives, or [C]
    list_pointer,  # int16 [samples, 2, BLOCK], of a step and of the one before it in the order of work
    before_pointer,  # [T, samples, STATES, C] float32, scratch: the states before each step
    grad_current_pointer,  # [T, samples, C] float32, written; before that, scratch: the sums of both currents
    grad_start_pointer,  # as v_pointer, written
    sums_pointer,  # [1 + PARAMETERS, samples, C] float32, written: gradients of the currents' sum and of the parameters
    T,
    C,
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
    FULL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    size = tl.num_programs(0).to(tl.int64) * C
    channel = tl.arange(0, BLOCK)
    mask = channel < C
    loaded = LOAD(neuron, 0, tl.minimum(channel, C - 1), None)  # a threshold of 0 has no derivative
    surrogate = (first, second, passes)
    own = tl.load(received_pointer + channel, mask=mask, other=0.0)
    lists = list_pointer + sample * (2 * BLOCK)
    which_list = 0

    start_row = v_pointer + sample * ((STATES + 1) * C)
    state = read_states(start_row, C, channel, mask, STATES)
    spike = tl.load(start_row + STATES * C + channel, mask=mask, other=0.0) != 0.0
    current_row = current_pointer + sample * C
    before_row = before_pointer + sample * (STATES * C)
    row = grad_current_pointer + sample * C
    for _ in range(0, T):
        if FULL:
            which_list = 1 - which_list
            feedback = add_rows(spike, lists, which_list, None, sent_pointer, channel, C, BLOCK)
        else:
            feedback = tl.where(spike, own, 0.0)
        current = tl.load(current_row + channel, mask=mask, other=0.0).to(tl.float32) + feedback
        write_states(before_row, C, channel, state, mask, STATES)
        tl.store(row + channel, current, mask=mask)
        state, above_threshold = STEP(state, current, neuron, loaded)
        spike = (above_threshold >= 0.0) & mask
        current_row += current_stride
        before_row += STATES * size
        row += size

    tl.debug_barrier()  # as in _scan_backward_kernel
    if grad_v_pointer is None:
        grad_state = zero_states(state[0], STATES)
        grad_back = tl.zeros((BLOCK,), tl.float32)
    else:
        last_row = grad_v_pointer + sample * ((STATES + 1) * C)
        grad_state = read_states(last_row, C, channel, mask, STATES)
        grad_back = tl.load(last_row + STATES * C + channel, mask=mask, other=0.0)
    grad_row = grad_spikes_pointer + sample * C + T.to(tl.int64) * grad_stride
    total = tl.zeros((BLOCK,), tl.float32)
    sums = (total, total, total, total)
    for _ in range(0, T):
        before_row -= STATES * size
        row -= size
        grad_row -= grad_stride
        state = read_states(before_row, C, channel, mask, STATES)
        current = tl.load(row + channel, mask=mask, other=0.0)
        grad_spike = tl.load(grad_row + channel, mask=mask, other=0.0) + grad_back
        grad, grad_state, grown = BACK(state, current, neuron, loaded, grad_spike, grad_state, surrogate, DERIVATIVE)
        total += grad
        sums = _grown(sums, grown)
        tl.store(row + channel, grad, mask=mask)
        if FULL:
            which_list = 1 - which_list
            sends = (grad != 0.0) & mask
            grad_back = add_rows(sends, lists, which_list, row, received_pointer, channel, C, BLOCK)
        else:
            grad_back = own * grad
    start_row = grad_start_pointer + sample * ((STATES + 1) * C)
    write_states(start_row, C, channel, grad_state, mask, STATES)
    tl.store(start_row + STATES * C + channel, grad_back, mask=mask)
    _write_sums(sums_pointer + sample * C, size, channel, total, sums, mask, PARAMETERS)


def recurrent_scan_backward(
    grad_spikes: Tensor, grad_v: Tensor | None, current: Tensor, v: Tensor, neuron: Neuron, surrogate: Surrogate,
    recurrent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See backends.Backend, for at most MOST_NEURONS neurons a sample: gradients of the currents, of the state before
    the first step, and of the parameters."""
    T, N, _, C = grad_spikes.shape
    grad_current = torch.empty(grad_spikes.shape, dtype=torch.float32, device=v.device)
    start = v.float().contiguous()
    grad_start = torch.empty_like(start)
    grad_v = None if grad_v is None else grad_v.float().contiguous()
    sums = start.new_empty(1 + len(neuron.channels), N, C)
    if T == 0:
        of_v = torch.zeros_like(start) if grad_v is None else grad_v.clone()
        return grad_current, of_v, sums.zero_().sum(1, dtype=torch.float64)
    if start.numel():  # an empty grid is an error of the driver
        grad_spikes, current = by_step(grad_spikes.float()), by_step(current)
        full, block = recurrent.ndim == 2, block_of(C)
        received = recurrent.detach().float().contiguous()
        launch(
            _recurrent_backward_kernel,
            N,
            results=(grad_current, grad_start, sums),
            grad_spikes_pointer=grad_spikes,
            grad_v_pointer=grad_v,
            current_pointer=current,
            v_pointer=start,
            sent_pointer=received.t().contiguous() if full else received,
            received_pointer=received,
            list_pointer=torch.empty(N, 2, block, dtype=torch.int16, device=v.device),
            before_pointer=start.new_empty(T, N, neuron.states, C),
            grad_current_pointer=grad_current,
            grad_start_pointer=grad_start,
            sums_pointer=sums,
            T=T,
            C=C,
            current_stride=current.stride(0) if T > 1 else 0,
            grad_stride=grad_spikes.stride(0) if T > 1 else 0,
            **arguments(neuron),
            **surrogate_arguments(surrogate),
            BACK=back_of(neuron.model),
            PARAMETERS=len(neuron.channels),
            FULL=full,
            BLOCK=block,
            num_warps=warps_of(block),
        )
    return grad_current, grad_start, sums.sum(1, dtype=torch.float64)
