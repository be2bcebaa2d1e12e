"""Neurons over all T steps in one launch, on currents that already exist.

Spikes are written as time-packed words: int32 [ceil(T / 32), N, P, C] for N samples, P pixels and C
channels. Bit ``t % 32`` of ``words[t // 32]`` is the spike of step t; the bits of steps that do not
exist are 0. The equations are in neuron_steps.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron_models import Neuron
from .neuron_steps import arguments, by_sample, by_state, read_states, write_states

# The kernel is limited by memory bandwidth: it reads each current once and writes one bit for it. 512
# neurons on 128 threads are 4 per thread: one 16-byte load per step for float32. Compiled for sm_80 and
# sm_90, a thread takes 32 registers (at most 40 at odd sizes), which allows full occupancy. The loads of
# different steps overlap, because currents do not depend on earlier steps. Larger blocks would not load
# wider, and a small layer (32 samples of 1152 neurons: 72 programs) would have even fewer programs.
BLOCK = 512
NUM_WARPS = 4


# T is not in the specialisation key: otherwise T = 1 and multiples of 16 would be compiled separately.
# The stride and the number of neurons are in it: knowing that they are multiples of 16 allows wide
# loads, and they do not change with T.
@triton.jit(do_not_specialize=["T"])
def _if_scan_kernel(
    current_pointer,  # [T, neurons], float32, float16 or bfloat16; stride current_stride over time
    v_pointer,  # [STATES, neurons] float32, states before the first step
    neuron,  # the neurons' parameters: neuron_steps.py
    spikes_pointer,  # words [ceil(T / 32), neurons] int32
    v_last_pointer,  # [STATES, neurons] float32, states after the last step
    T,
    neurons,
    channels,
    current_stride,
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # The 64-bit part of each address is a scalar, so that the offsets in a block have 32 bits.
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < neurons - start
    channel = ((start % channels).to(tl.int32) + offsets) % channels

    loaded = LOAD(neuron, 0, channel, None)
    state = read_states(v_pointer + start, neurons, offsets, mask, STATES)
    current_row = current_pointer + start
    word_row = spikes_pointer + start
    for first in range(0, T, 32):
        word = tl.zeros((BLOCK,), tl.int32)
        for bit in range(0, tl.minimum(T - first, 32)):  # the last word may have fewer steps
            current = tl.load(current_row + offsets, mask=mask, other=0.0).to(tl.float32)
            state, above_threshold = STEP(state, current, neuron, loaded)
            word |= (above_threshold >= 0.0).to(tl.int32) << bit
            current_row += current_stride
        tl.store(word_row + offsets, word, mask=mask)
        word_row += neurons
    write_states(v_last_pointer + start, neurons, offsets, state, mask, STATES)


def if_scan(current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None) -> tuple[Tensor, Tensor]:
    """Run all T steps of neurons on given currents in one launch.

    The public function has checked the arguments. T may change from call to call without a
    recompilation, and the launch can be captured in a CUDA graph.

    Args:
        current: currents [T, N, P, C], or a constant current [N, P, C]; float32, float16 or bfloat16.
            A time stride of 0 is not copied, nor is any other if each step is contiguous.
        v: states before the first step, float32 [N, P, C] or [N, states, P, C]; not modified.
        neuron: the neurons' model and parameters, for C channels.
        T: the number of steps of a constant current.

    Returns:
        Words int32 [ceil(T / 32), N, P, C], and the states after the last step, float32, of the shape of v. All
        are new and contiguous.
    """
    if T is not None:
        current = current.expand(T, *current.shape)
    T = current.shape[0]
    N, P, channels = v.shape[0], *v.shape[-2:]
    neurons, shape = N * P * channels, (triton.cdiv(T, 32), N, P, channels)
    if T == 0 or v.numel() == 0:  # an empty grid is an error of the driver
        return v.new_zeros(shape, dtype=torch.int32), v.clone(memory_format=torch.contiguous_format)

    if current.stride(0) == 0:
        # Copying the expanded tensor would write the same current T times.
        current = current[0].contiguous().expand(current.shape)
    elif not current[0].is_contiguous():
        current = current.contiguous()
    v = by_state(v, neuron)
    spikes = torch.empty(shape, dtype=torch.int32, device=v.device)
    v_last = torch.empty_like(v)

    # One program owns BLOCK neighbouring neurons for all T steps. Triton launches on the current
    # device, which need not be the tensors' own.
    grid = (triton.cdiv(neurons, BLOCK),)
    with torch.cuda.device_of(v):
        _if_scan_kernel[grid](
            current_pointer=current,
            v_pointer=v,
            spikes_pointer=spikes,
            v_last_pointer=v_last,
            T=T,
            neurons=neurons,
            channels=channels,
            # With one step the stride is irrelevant; 0 reuses the kernel of constant currents.
            current_stride=current.stride(0) if T > 1 else 0,
            **arguments(neuron),
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            # Spikes must not depend on a default that differs between Triton releases.
            enable_fp_fusion=False,
        )
    return spikes, by_sample(v_last, neuron)
