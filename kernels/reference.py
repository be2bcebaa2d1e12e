"""The definition: what every kernel must compute, as a loop over time that a person can read.

Equations (T steps, one neuron; ``theta`` is the threshold):

    h[t] = v[t-1] + I[t]
    s[t] = 1 if h[t] >= theta else 0
    v[t] = v_reset if s[t] else h[t]          hard reset
    v[t] = h[t] - theta * s[t]                soft reset (``v_reset`` is None)

Spikes are dense float32 tensors ``[T, N, C, ...]`` of 0 and 1 here; potentials are float32 whatever the input's type.
On exactly representable data every kernel is bit-equal to these functions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .neurons import Neuron


def if_step(v: Tensor, current: Tensor, theta: Tensor, v_reset: float | None) -> tuple[Tensor, Tensor]:
    """One step of integrate-and-fire neurons: returns (spikes, potentials), both shaped like ``v``."""
    h = v + current
    spike = h >= theta
    v = h - theta * spike if v_reset is None else torch.where(spike, v_reset, h)
    return spike.float(), v


def if_scan(
    current: Tensor,
    v: Tensor | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Tensor, Tensor]:
    """Run currents [T, N, C, ...] through IF neurons: spikes [T, N, C, ...] and the last potentials [N, C, ...]."""
    v = torch.zeros_like(current[0], dtype=torch.float32) if v is None else v.float()
    return scan(current, v, Neuron(_per_channel(v_threshold, v), v_reset))


def scan(current: Tensor, v: Tensor, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """The same for neurons whose parameters are of a shape that broadcasts against ``v``."""
    current = current.float()
    spikes = torch.empty_like(current)
    for t in range(current.shape[0]):
        spikes[t], v = if_step(v, current[t], *neuron)
    return spikes, v


class SurrogateSpike(torch.autograd.Function):
    """``h >= theta``; backward, its derivative by ``h`` is a triangle: max(0, theta - |h - theta|) / theta^2."""

    @staticmethod
    def forward(ctx, h: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(h, theta)
        return (h >= theta).float()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        h, theta = ctx.saved_tensors
        return gradient * surrogate_derivative(h, theta), None


def surrogate_derivative(h: Tensor, theta: Tensor) -> Tensor:
    """The triangle that stands for the derivative of ``h >= theta`` by ``h``."""
    return (theta - (h - theta).abs()).clamp(min=0) * surrogate_scale(theta)


def surrogate_scale(theta: Tensor) -> Tensor:
    """1 / theta^2, computed once for every kernel, so that all round alike."""
    return 1 / (theta * theta)


def if_scan_surrogate(current: Tensor, *, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0) -> Tensor:
    """Spikes [T, N, C, ...] of currents, from rest; autograd goes back through all steps, but not through the reset."""
    v = torch.zeros_like(current[0])
    theta = _per_channel(v_threshold, v)
    spikes = []
    for step in current:
        h = v + step
        spikes.append(SurrogateSpike.apply(h, theta))
        fired = spikes[-1].detach()
        v = h - theta * fired if v_reset is None else torch.where(fired.bool(), v_reset, h)
    return torch.stack(spikes)


def if_hold(
    current: Tensor,
    T: int,
    v: Tensor | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Tensor, Tensor]:
    """Run a current [N, C, ...] that is held for ``T`` steps through IF neurons."""
    held = current.unsqueeze(0).expand(T, *current.shape)
    return if_scan(held, v, v_threshold=v_threshold, v_reset=v_reset)


def if_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    v: Tensor | None = None,
    *,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Tensor, Tensor]:
    """Convolve x [T, N, C_in, H, W] at every step, then fire: spikes [T, N, C_out, H_out, W_out] and potentials."""
    bias = None if bias is None else bias.float()
    current = F.conv2d(x.flatten(0, 1).float(), weight.float(), bias, stride, padding, dilation, groups)
    return if_scan(current.unflatten(0, x.shape[:2]), v, v_threshold=v_threshold, v_reset=v_reset)


def if_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    v: Tensor | None = None,
    *,
    v_threshold: float | Tensor = 1.0,
    v_reset: float | None = 0.0,
) -> tuple[Tensor, Tensor]:
    """Multiply x [T, N, in] by weight [out, in] at every step, then fire: spikes [T, N, out] and potentials."""
    current = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    return if_scan(current, v, v_threshold=v_threshold, v_reset=v_reset)


def max_pool2d(x: Tensor, kernel_size, stride=None, padding=0) -> Tensor:
    """Max pooling of every step of x [T, N, C, H, W]; the maximum of spikes is their OR."""
    return F.max_pool2d(x.flatten(0, 1), kernel_size, stride, padding).unflatten(0, x.shape[:2])


def avg_pool2d(x: Tensor, kernel_size, stride=None, padding=0) -> Tensor:
    """Average pooling of every step of x [T, N, C, H, W]; the result is not spikes any more."""
    return F.avg_pool2d(x.flatten(0, 1), kernel_size, stride, padding).unflatten(0, x.shape[:2])


def _per_channel(v_threshold: float | Tensor, v: Tensor) -> Tensor:
    """The threshold as a tensor that broadcasts against potentials [N, C, ...]."""
    theta = torch.as_tensor(v_threshold, dtype=torch.float32, device=v.device)
    return theta if theta.ndim == 0 else theta.view(-1, *[1] * (v.ndim - 2))
