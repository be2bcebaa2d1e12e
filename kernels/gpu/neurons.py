"""The neuron models of the Triton kernels: one function here is one step of one model.

Every Triton kernel takes its step as a constexpr argument and inlines it, so a new neuron model is
a new step in this file (beside its C++ twin and its lines in reference.py) and never a new kernel.
A step has the signature

    step(v, current, theta, v_reset, SOFT_RESET) -> (v, spike)

and may not touch memory: the kernel keeps ``v`` in registers for all T steps.
"""

import triton
import triton.language as tl


@triton.jit
def if_step(v, current, theta, v_reset, SOFT_RESET: tl.constexpr):
    """One step of integrate-and-fire neurons.

        h = v + current
        spike = h >= theta
        v = v_reset where spike else h           hard reset
        v = h - theta where spike else h         soft reset (SOFT_RESET; v_reset is not read)

    Args:
        v: potentials after the previous step, float32 block.
        current: input currents of this step, float32 block.
        theta: thresholds, float32 block or scalar.
        v_reset: the potential after a spike, float32 scalar.
        SOFT_RESET: subtract theta after a spike instead of resetting to v_reset.

    Returns:
        The new potentials, float32, and the spikes, int1; both shaped like ``v``.
    """
    h = v + current
    spike = h >= theta
    if SOFT_RESET:
        v = tl.where(spike, h - theta, h)
    else:
        v = tl.where(spike, v_reset, h)
    return v, spike
