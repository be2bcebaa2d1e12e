"""Triton: backpropagation through all T steps of recurrent neurons in one launch: scan_backward.py, with
ds[t-1] += R^T dI[t].

A program owns one sample, as in recurrent_scan.py. It runs its neurons forward again, keeps the states and the currents
before each step, and goes back in time. The gradients of a step's currents are in memory, where all threads read them;
those that are not 0 are listed, and each adds a row of R, what a neuron receives, to the gradients of the spikes of the
step before. A surrogate derivative that is 0 away from the threshold therefore saves work.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import MODELS, Neuron, Surrogate
from .neuron_steps import arguments, read_states, write_states, zero_states
from .neurons_backward import back_of, surrogate_arguments
from .recurrent_scan import add_rows, block_of, by_step, list_channels


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
    list_pointer,  # int32 [samples, 2, BLOCK], of a step and of the one before it in the order of work
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
            which_list = 1 - which_list  # as in recurrent_scan.py
            count = list_channels(spike, channel, lists + which_list * BLOCK)
            tl.debug_barrier()
            feedback = add_rows(lists + which_list * BLOCK, count, None, sent_pointer, channel, C, BLOCK)
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

    tl.debug_barrier()  # as in scan_backward.py
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
        sums = (sums[0] + grown[0], sums[1] + grown[1], sums[2] + grown[2], sums[3] + grown[3])
        tl.store(row + channel, grad, mask=mask)
        if FULL:
            which_list = 1 - which_list
            count = list_channels((grad != 0.0) & mask, channel, lists + which_list * BLOCK)
            tl.debug_barrier()
            grad_back = add_rows(lists + which_list * BLOCK, count, row, received_pointer, channel, C, BLOCK)
        else:
            grad_back = own * grad
    start_row = grad_start_pointer + sample * ((STATES + 1) * C)
    write_states(start_row, C, channel, grad_state, mask, STATES)
    tl.store(start_row + STATES * C + channel, grad_back, mask=mask)
    sums_row = sums_pointer + sample * C
    tl.store(sums_row + channel, total, mask=mask)
    tl.store(sums_row + size + channel, sums[0], mask=mask)
    if PARAMETERS > 1:
        tl.store(sums_row + 2 * size + channel, sums[1], mask=mask)
    if PARAMETERS > 2:
        tl.store(sums_row + 3 * size + channel, sums[2], mask=mask)
    if PARAMETERS > 3:
        tl.store(sums_row + 4 * size + channel, sums[3], mask=mask)


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
        with torch.cuda.device_of(v):
            _recurrent_backward_kernel[(N,)](
                grad_spikes_pointer=grad_spikes,
                grad_v_pointer=grad_v,
                current_pointer=current,
                v_pointer=start,
                sent_pointer=received.t().contiguous() if full else received,
                received_pointer=received,
                list_pointer=torch.empty(N, 2, block, dtype=torch.int32, device=v.device),
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
                PARAMETERS=len(MODELS[neuron.model].channels),
                FULL=full,
                BLOCK=block,
                num_warps=warps_of(block),
                enable_fp_fusion=False,
            )
    return grad_current, grad_start, sums.sum(1, dtype=torch.float64)
