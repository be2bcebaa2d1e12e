"""Triton: backpropagation through all T steps of IF neurons in one launch, with reference.py's surrogate derivative.

Each program runs its neurons forward again, the potentials h[t] going where the gradients will be, and then back in
time (the equations: if_scan_backward.h). It is bound by memory: two reads and two writes a neuron and step.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neurons import Neuron
from ..reference import surrogate_scale
from .neurons import arguments

BLOCK = 512
NUM_WARPS = 4


@triton.jit(do_not_specialize=["T"])
def _if_scan_backward_kernel(
    grad_spikes_pointer,  # [T, neurons] float32
    current_pointer,  # [T, neurons] float32
    neuron,  # the neurons' parameters: neurons.py
    scale_pointer,  # [channels] float32
    grad_current_pointer,  # [T, neurons] float32, written
    T,
    neurons,
    channels,
    LOAD: tl.constexpr,
    STEP: tl.constexpr,
    STATES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < neurons - start
    channel = ((start % channels).to(tl.int32) + offsets) % channels
    loaded = LOAD(neuron, 0, channel, None)
    theta, v_reset = loaded[0], neuron[0]
    scale = tl.load(scale_pointer + channel)

    state = (tl.zeros((BLOCK,), tl.float32),)
    row = start
    for _ in range(0, T):
        current = tl.load(current_pointer + row + offsets, mask=mask, other=0.0)
        # Each thread reads back, in the second loop, what it wrote itself: no barrier is needed.
        tl.store(grad_current_pointer + row + offsets, state[0] + current, mask=mask)
        state, _spike = STEP(state, current, neuron, loaded)
        row += neurons
    grad = tl.zeros((BLOCK,), tl.float32)
    for _ in range(0, T):
        row -= neurons
        h = tl.load(grad_current_pointer + row + offsets, mask=mask, other=0.0)
        grad_spikes = tl.load(grad_spikes_pointer + row + offsets, mask=mask, other=0.0)
        g = tl.maximum(theta - tl.abs(h - theta), 0.0) * scale
        kept = grad
        if v_reset is not None:
            kept = tl.where(h >= theta, 0.0, grad)
        grad = grad_spikes * g + kept
        tl.store(grad_current_pointer + row + offsets, grad, mask=mask)


def if_scan_backward(grad_spikes: Tensor, current: Tensor, neuron: Neuron) -> Tensor:
    """The gradient of the currents, float32 [T, N, P, C], of neurons that started at rest.

    Args:
        grad_spikes: gradient of the spikes [T, N, P, C]. current: the currents [T, N, P, C]. neuron: what a step needs.
    """
    grad_spikes, current = grad_spikes.float().contiguous(), current.float().contiguous()
    grad_current = torch.empty_like(current)
    if not current.numel():
        return grad_current
    neurons = current[0].numel()
    with torch.cuda.device_of(current):
        _if_scan_backward_kernel[(triton.cdiv(neurons, BLOCK),)](
            grad_spikes_pointer=grad_spikes,
            current_pointer=current,
            scale_pointer=surrogate_scale(neuron.theta),
            grad_current_pointer=grad_current,
            T=current.shape[0],
            neurons=neurons,
            channels=current.shape[-1],
            **arguments(neuron),
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return grad_current
