"""Sigma-delta neurons over all T steps in one launch; torch's convolution computes their input.

The host does not wait for the device: counts stay there, as tensors.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from .. import sigma_delta_codes as definition
from ..sigma_delta_codes import Counts, Pair, Senders, State, Window
from ..unfused import exact
from .sigma_delta_kernels import _running_sums_kernel, _sigma_delta_kernel, _values_kernel

# As in if_scan.py: a thread has four neurons, so one 16-byte load per step.
BLOCK = 512
NUM_WARPS = 4


def scan(
    arrived: Tensor, T: int, neuron: Senders, state: tuple[Tensor | None, Tensor] | None = None,
    bias: Tensor | None = None, added: Tensor | None = None, is_z: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Run all T steps of neurons on their input ``arrived``, float32 [N, T_in, P, C].

    Returns codes int8 [N, T, P, C], and the number of spikes. ``state``: as in ../sigma_delta_codes.py. ``bias`` [C] is
    added at the first step, ``added`` [N, steps, P, C] at every step. ``is_z``: ``arrived`` is the sum of all input up
    to each step, and only a of the state is used.
    """
    N, T_in, P, C = arrived.shape
    codes = torch.empty((N, T, P, C), dtype=torch.int8, device=arrived.device)
    programs = N * triton.cdiv(P * C, BLOCK)
    fired = torch.empty(programs, dtype=torch.int32, device=arrived.device)
    z, a = state or (None, None)
    if codes.numel():  # an empty grid is an error of the driver
        # One program owns BLOCK neighbouring neurons of a sample for all steps.
        with torch.cuda.device_of(arrived):
            _sigma_delta_kernel[(programs,)](
                arrived_pointer=arrived.contiguous(),
                bias_pointer=None if bias is None else bias.float().contiguous(),
                added_pointer=None if added is None else added.contiguous(),
                highest_pointer=neuron.highest.to(arrived.device).contiguous(),
                codes_pointer=codes,
                fired_pointer=fired,
                z_pointer=z,
                a_pointer=a,
                T=T,
                T_in=T_in,
                T_added=0 if added is None else added.shape[1],
                places=P * C,
                channels=C,
                exponents=neuron.exponents,
                lowest=float(neuron.lowest),
                IS_Z=is_z,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
                # Spikes must not depend on a default that differs between Triton releases.
                enable_fp_fusion=False,
            )
    return codes, fired.sum()


def values(x: Tensor, fan_out: int, reach: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The values of codes (or of values in float32), [N, steps, P, C] of any strides, made contiguous; and the number
    of weights that are added for them.

    Args:
        fan_out: neurons that each input of a window reaches.
        reach: int32 [P], how many windows contain each pixel; None: 1.
    """
    N, steps, P, C = x.shape
    found = x if x.dtype == torch.float32 and x.is_contiguous() else None
    made = torch.empty(x.shape, dtype=torch.float32, device=x.device) if found is None else found
    programs = triton.cdiv(x.numel(), BLOCK)
    additions = torch.empty(programs, dtype=torch.int64, device=x.device)
    if programs:
        with torch.cuda.device_of(x):
            _values_kernel[(programs,)](
                x_pointer=x,
                values_pointer=made if found is None else None,
                reach_pointer=reach,
                additions_pointer=additions,
                rows=N * steps * P,
                steps=steps,
                P=P,
                C=C,
                stride_n=x.stride(0),
                stride_t=x.stride(1),
                stride_p=x.stride(2),
                stride_c=x.stride(3),
                fan_out=fan_out,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
                enable_fp_fusion=False,
            )
    return made, additions.sum()


def sums_so_far(x: Tensor, sent: Tensor | None, T: int | None = None) -> Tensor:
    """The sums of all that was sent up to each of T steps: ../sigma_delta_codes.py."""
    (N, steps, P, C), x = x.shape, x.contiguous()
    T = steps if T is None else T
    sums = torch.empty(N, T, P, C, dtype=torch.float32, device=x.device)
    if sums.numel():
        with torch.cuda.device_of(x):
            _running_sums_kernel[(N * triton.cdiv(P * C, BLOCK),)](
                x_pointer=x,
                sums_pointer=sums,
                sent_pointer=sent,
                T=T,
                T_in=steps,
                places=P * C,
                BLOCK=BLOCK,
                num_warps=NUM_WARPS,
                enable_fp_fusion=False,
            )
    return sums


def sigma_delta(
    x: Tensor | None, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None, added: Tensor | None, T: int,
    neuron: Senders | None, window: Window, state: State | None = None,
) -> tuple[Tensor, Counts]:  # fmt: skip
    """../sigma_delta_codes.py documents arguments and results."""
    additions: int | Tensor = 0
    given = added if x is None else x
    if x is None:
        assert added is not None
        arrived, added = added, None
    elif weight is None:
        arrived, additions = values(x, 1)
    else:
        arrived, additions = _convolved(x, size, weight, window)
    if neuron is not None:
        codes, spikes = scan(arrived, T, neuron, state, bias, added)
        return codes, Counts(spikes, additions)
    if bias is not None:  # only a convolution has one, and its result is a new tensor
        arrived[:, :1].add_(bias.float())
    if added is not None:
        arrived = definition.padded(arrived, added.shape[1]) + added
    arrived = definition.padded(arrived, T).contiguous()
    return arrived.clone() if arrived is given else arrived, Counts(0, additions)


def _convolved(x: Tensor, size: Pair, weight: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The result of a convolution, [N, steps, P_out, C_out], and the number of weights that are added for it."""
    reach = _reach(size, tuple(weight.shape[2:]), window, x.device)
    dense, additions = values(x, len(weight) // window[3], reach)
    images = dense.flatten(0, 1).unflatten(1, size).permute(0, 3, 1, 2)  # channels last in memory
    with exact(x.device):
        y = F.conv2d(images, weight.float(), None, *window)
    return y.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2]), additions


@lru_cache(256)
def _reach(size: Pair, kernel: tuple[int, ...], window: Window, device: torch.device) -> Tensor:
    """How many windows contain each pixel, int32 [P], on a device. Callers must not modify it."""
    with torch.inference_mode(False):
        return definition.windows_of_pixels(size, kernel, *window[:3]).flatten().int().to(device)


def pooled_sigma_delta(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int, neuron: Senders,
    state: State | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """../sigma_delta_codes.py documents arguments and results; torch pools."""
    z, a = state or (None, None)
    maxima = definition.maxima_of(sums_so_far(x, z), size, size_out, kernel, stride, padding)
    return scan(maxima, T, neuron, None if a is None else (None, a), is_z=True)


def running_maximum(
    x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, state: State | None
) -> Tensor:
    """../sigma_delta_codes.py documents arguments and results."""
    sums = sums_so_far(x, None if state is None else state[0])
    return definition.changes_of(definition.maxima_of(sums, size, size_out, kernel, stride, padding), state)
