"""The neuron models of the Triton kernels: how one model's parameters are loaded, and one step of it.

A kernel takes the neurons as one tuple (:func:`arguments`), and the model's two functions as constexprs, which it
inlines: so a new model is a new pair in this file (beside its C++ twin and its lines in reference.py), and never a new
kernel. A step may not touch memory: the kernel keeps v in registers for all T steps.

    LOAD(neuron, first, channel, mask) -> loaded            blocks, one value a channel; once, before the steps
    STEP(v, current, neuron, loaded) -> (v, spike)
"""

import triton
import triton.language as tl

from ..neurons import Neuron


def arguments(neuron: Neuron) -> dict:
    """A launch's arguments for a layer's neurons."""
    v_reset = None if neuron.v_reset is None else float(neuron.v_reset)
    return {"neuron": (neuron.theta.contiguous(), v_reset), "LOAD": load_if, "STEP": if_step}


@triton.jit
def load_if(neuron, first, channel, mask):
    """The thresholds of integrate-and-fire neurons, shaped like ``channel``.

    Alone: in Triton 3.6 a function cannot return the None of a soft reset.

    Args:
        neuron: pointer to thresholds [channels] float32, and v_reset, a float32 scalar, or None for a soft reset.
        first, channel: channels first + channel, a scalar of any width and a block; apart, since a block of 64-bit
            numbers takes registers (150 in place of 119 a thread on sm_90).
        mask: which of them there are; None: all.
    """
    if mask is None:
        theta = tl.load(neuron[0] + first + channel)
    else:
        theta = tl.load(neuron[0] + first + channel, mask=mask, other=0.0)
    return theta


@triton.jit
def if_step(v, current, neuron, theta):
    """One step of integrate-and-fire neurons.

        h = v + current
        spike = h >= theta
        v = v_reset where spike else h           hard reset
        v = h - theta where spike else h         soft reset (v_reset is None)

    Args:
        v: potentials after the previous step, float32 block.
        current: input currents of this step, float32 block.
        neuron, theta: taken and given by :func:`load_if`.

    Returns:
        The new potentials, float32, and the spikes, int1; both shaped like ``v``.
    """
    v_reset = neuron[1]
    h = v + current
    spike = h >= theta
    if v_reset is None:
        v = tl.where(spike, h - theta, h)
    else:
        v = tl.where(spike, v_reset, h)
    return v, spike
