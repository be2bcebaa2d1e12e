"""IF neurons that autograd can go back through: backpropagation through time with a surrogate derivative.

The alternative to :class:`ProxyNet`, for comparison: every step's currents and spikes are kept as float32.
"""

import torch
from torch import Tensor

from .. import checks, ops
from ..channels_last import channels, from_channels_last, to_channels_last
from ..kernels.neurons import Neuron
from ..neurons import IFNeuron
from ..spikes import Spikes


def if_scan_surrogate(current: Tensor, *, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0) -> Tensor:
    """Spikes of IF neurons on given currents, with a surrogate gradient (equations: :mod:`proxykernels.functional`).

    Backward, the derivative of a spike by its neuron's potential h is a triangle around the threshold theta,

        ds/dh = max(0, theta - |h - theta|) / theta^2          (Esser et al., PNAS 2016, arXiv:1603.08270)

    and gradients pass from step to step by dv/dh: 1, or after a hard reset 0 (the reset itself is not differentiated).
    One launch runs all steps forward, and one all steps back.

    Args:
        current: [T, N, ...] of any float dtype; the neurons start at rest.
        v_threshold, v_reset: as in :func:`proxykernels.if_scan`.

    Returns:
        Spikes of 0 and 1, float32 [T, N, ...].

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    neuron = IFNeuron(v_threshold, v_reset)
    neuron.check()
    checks.no_gradient("v_threshold", v_threshold)
    checks.currents(current, "T, N")
    return _Scan.apply(current, neuron.on(channels(current.shape[1:]), current.device))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, current: Tensor, neuron: Neuron) -> Tensor:
        pixels = to_channels_last(current.float(), 2)
        words, _ = ops.if_scan(pixels, pixels.new_zeros(pixels.shape[1:]), neuron)
        ctx.save_for_backward(pixels)
        ctx.neuron, ctx.dtype = neuron, current.dtype
        return Spikes(words, current.shape).dense()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (pixels,) = ctx.saved_tensors
        grad = ops.if_scan_backward(to_channels_last(gradient.float(), 2), pixels, ctx.neuron)
        shape = gradient.shape[0] * gradient.shape[1], *gradient.shape[2:]
        return from_channels_last(grad.flatten(0, 1), shape).view(gradient.shape).to(ctx.dtype), None
