"""The functions: IF neurons, convolutions and matrix products with IF neurons, over all time steps in one call.

One neuron, for t = 0 .. T-1 (theta is ``v_threshold``; the neuron of arXiv:2109.13208):

    h[t] = v[t-1] + I[t]                  I[t] = (W * x[t]) + b, summed in any order, in float32
    s[t] = 1 if h[t] >= theta else 0
    v[t] = v_reset if s[t] else h[t]      hard reset (v_reset is a number)
    v[t] = h[t] - theta s[t]              soft reset (v_reset is None)

v[-1] is 0 or the state ``v`` that is passed in. Potentials are float32 whatever the input's type. Of these
functions :func:`if_scan_surrogate` alone is differentiable; networks are trained by :class:`proxykernels.ProxyNet` or
:class:`proxykernels.SurrogateNet`.
"""

from collections.abc import Sequence

from torch import Tensor

from . import checks
from .calls import neuron_ops
from .calls.spike_ops import max_pool2d
from .layers.base import check_function
from .neurons import IFNeuron
from .spikes import Spikes, pack
from .surrogates import Triangle

__all__ = ["if_conv2d", "if_hold", "if_linear", "if_scan", "if_scan_surrogate", "max_pool2d", "pack"]


def if_scan(
    current: Tensor,
    v: Tensor | float | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """IF neurons on given currents (equations: :mod:`proxykernels.functional`).

    Args:
        current: [T, N, ...] of any float dtype, in units of the threshold. A channels-last memory order,
            [T, N, H, W, C] inside, saves a copy.
        v: potentials to start from, [N, ...] or one number for all; default: at rest, 0.
        v_threshold: threshold > 0, a number or one value per channel [C].
        v_reset: potential after a spike, below the threshold; None subtracts the threshold instead.

    Returns:
        Spikes (T, N, ...) and the float32 potentials [N, ...] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    check_function("if_scan", "IF", v)
    return neuron_ops.scan(current, v, IFNeuron(v_threshold=v_threshold, v_reset=v_reset))


def if_hold(
    current: Tensor,
    T: int,
    v: Tensor | float | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """IF neurons on a current that is the same at every step.

    Args:
        current: [N, ...] of any float dtype, in units of the threshold.
        T: number of steps.
        v, v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes (T, N, ...) and the float32 potentials [N, ...] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    check_function("if_hold", "IF", v)
    return neuron_ops.hold(current, T, v, IFNeuron(v_threshold=v_threshold, v_reset=v_reset))


def if_conv2d(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    v: Tensor | float | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """Convolution and IF neurons over all steps (equations: :mod:`proxykernels.functional`).

    Args:
        x: Spikes (T, N, C_in, H, W), or a tensor of that shape: spikes or real values. One image repeated by
            ``image.expand(T, ...)`` is convolved once.
        weight: [C_out, C_in / groups, kernel_h, kernel_w], taken as float32; if it is float64, real-valued x are
            convolved in float64.
        bias: [C_out], added at every step.
        v: potentials to start from, [N, C_out, H_out, W_out] or one number for all; default: at rest, 0.
        stride, padding, dilation, groups: as in torch.nn.functional.conv2d, 'same' and 'valid' included.
        v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes (T, N, C_out, H_out, W_out) and the float32 potentials [N, C_out, H_out, W_out] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    check_function("if_conv2d", "FusedIFConv2d", v)
    window = stride, padding, dilation, groups
    return neuron_ops.conv2d(x, weight, bias, v, IFNeuron(v_threshold=v_threshold, v_reset=v_reset), *window)


def if_linear(
    x: Spikes | Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    v: Tensor | float | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Spikes, Tensor]:
    """Matrix product and IF neurons over all steps (equations: :mod:`proxykernels.functional`).

    Args:
        x: Spikes (T, N, in), or a tensor of that shape: spikes or real values.
        weight: [out, in], as in :func:`if_conv2d`.
        bias: [out], added at every step.
        v: potentials to start from, [N, out] or one number for all; default: at rest, 0.
        v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes (T, N, out) and the float32 potentials [N, out] after the last step.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    check_function("if_linear", "FusedIFLinear", v)
    return neuron_ops.linear(x, weight, bias, v, IFNeuron(v_threshold=v_threshold, v_reset=v_reset))


def if_scan_surrogate(current: Tensor, *, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0) -> Tensor:
    """Spikes of IF neurons on given currents, with a surrogate gradient (equations: :mod:`proxykernels.functional`).

    Backward, the derivative of a spike by its neuron's potential h is a triangle around the threshold theta,

        ds/dh = max(0, theta - |h - theta|) / theta^2          (Esser et al., PNAS 2016, arXiv:1603.08270)

    and gradients do not pass through the reset: ``Triangle(1.0, detach_reset=True)``. One launch runs all steps
    forward, and one all steps back.

    Args:
        current: [T, N, ...] of any float dtype; the neurons start at rest.
        v_threshold, v_reset: as in :func:`if_scan`.

    Returns:
        Spikes of 0 and 1, float32 [T, N, ...].

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, device or value; the message names it.
    """
    check_function("if_scan_surrogate", "IF", takes_state=False)
    checks.no_gradient("v_threshold", v_threshold)
    neuron = IFNeuron(v_threshold=v_threshold, v_reset=v_reset)
    return neuron_ops.scan(current, None, neuron, Triangle(detach_reset=True))[0].dense()
