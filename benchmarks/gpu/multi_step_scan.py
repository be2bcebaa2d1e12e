"""The neurons of a rival that runs layer by layer: all steps in one launch, spikes written over the currents.

What SpikingJelly's multi-step neurons do in half precision, without their autograd: currents and spikes are float16 (or
as wide as the weights), potentials stay in float32 in registers from step to step.
"""

import torch
import triton
import triton.language as tl
from common.stages import Stage
from torch import Tensor

BLOCK, NUM_WARPS = 1024, 4


@triton.jit(do_not_specialize=["T"])
def _scan_kernel(
    current_pointer,  # [T, neurons], or [neurons] with a stride of 0
    v_pointer,  # [neurons] float32, before the first step and after the last
    spikes_pointer,  # [T, neurons]; may be the currents
    T,
    neurons,
    current_stride,
    v_threshold,
    decay,
    HARD: tl.constexpr,  # reset to 0; else by subtraction
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < neurons
    v = tl.load(v_pointer + place, mask=mask)
    for _ in range(T):
        h = v * decay + tl.load(current_pointer + place, mask=mask).to(tl.float32)
        fires = h >= v_threshold
        v = tl.where(fires, 0.0 if HARD else h - v_threshold, h)
        tl.store(spikes_pointer + place, fires.to(spikes_pointer.dtype.element_ty), mask=mask)
        current_pointer += current_stride
        spikes_pointer += neurons
    tl.store(v_pointer + place, v, mask=mask)


def scan(currents: Tensor, v: Tensor, part: Stage, spikes: Tensor, *, held: bool = False) -> Tensor:
    """Spikes of T steps, written to ``spikes``, which may be ``currents``.

    Args:
        currents: [T * N, ...], dense in memory; ``held``: [N, ...], the same at every step.
        v: float32 potentials in the order of the currents' memory, changed in place.
        spikes: [T * N, ...], in memory as the currents.
    """
    neurons = v.numel()
    T = spikes.numel() // neurons
    with torch.cuda.device_of(v):
        _scan_kernel[(triton.cdiv(neurons, BLOCK),)](
            current_pointer=currents,
            v_pointer=v,
            spikes_pointer=spikes,
            T=T,
            neurons=neurons,
            current_stride=0 if held else neurons,
            v_threshold=part.v_threshold,
            decay=part.decay,
            HARD=part.v_reset is not None,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
            enable_fp_fusion=False,
        )
    return spikes
