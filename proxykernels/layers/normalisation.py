"""Batch normalisation of currents: by the statistics of the batch, or folded into the weights in front of it."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import heap, value_checks_cache, weight_cache
from ..kernels.backends import fingerprint
from ..kernels.weight_cache import CONSTANTS, PackedWeights, can_be_kept
from .base import each_step

CACHED_BYTES = 1 << 20  # float64 products at a time
_kept = PackedWeights(fingerprint)
_computed: WeakKeyDictionary[nn.Module, tuple[int, Tensor]] = WeakKeyDictionary()


def fold(
    weight: Tensor, bias: Tensor | None, bn: nn.BatchNorm1d | nn.BatchNorm2d, *, kept: bool = False
) -> tuple[Tensor, Tensor]:
    """Weight and bias that include ``bn`` with its running statistics.

    Computed in float64 by operations that IEEE rounds, so that the result is the same on every machine. In a simulation
    on a CPU, and with ``kept``, the result is cached together with what kernels packed from it, as long as all values
    are the same; it has no gradient then.

    Raises:
        ValueError: ``bn`` keeps no running statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("bn must keep running statistics to be folded into the weights: track_running_stats=True")
    values = weight, bias, *gain_and_offset(bn), bn.running_mean, bn.running_var
    once = (kept or weight_cache.are_kept()) and all(p is None or can_be_kept(p) for p in values)
    return weight_cache.made(_fold_once if once else fold_values, *values, bn.eps)


def gain_and_offset(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The gain and offset of a normalisation with running statistics; 1 and 0 if it has no parameters."""
    if bn.affine:
        return bn.weight, bn.bias
    mean: Any = bn.running_mean
    return torch.ones_like(mean), torch.zeros_like(mean)


def _times(weight: Tensor, scale: Tensor) -> Tensor:
    """The products in float64, rounded to the weight's dtype."""
    return (weight.double() * scale).to(weight.dtype)


def _times_in_parts(weight: Tensor, scale: Tensor) -> Tensor:
    """Multiplies a few channels at a time, so that the float64 products stay in the cache."""
    products = heap.in_huge_pages(torch.empty_like(weight))
    step = max(1, CACHED_BYTES // (8 * max(1, weight[:1].numel())))
    for part, factor, rounded in zip(weight.split(step), scale.split(step), products.split(step), strict=True):
        rounded.copy_(_times(part, factor))
    return products


def fold_values(
    weight: Tensor,
    bias: Tensor | None,
    gain: Tensor,
    offset: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    times: Callable[[Tensor, Tensor], Tensor] = _times,
) -> tuple[Tensor, Tensor]:
    """Weight and bias that give the currents gain (current - mean) / sqrt(variance + eps) + offset.

    ``times``: multiplies weights and scale.
    """
    scale = gain.double() / torch.sqrt(variance.double() + eps)  # a GPU's rsqrt is one ulp off
    shift = offset.double() + ((0 if bias is None else bias.double()) - mean.double()) * scale
    weights = times(weight, scale.view(-1, *[1] * (weight.ndim - 1)))
    return (
        value_checks_cache.computed_from(weights, weight, gain, variance),
        value_checks_cache.computed_from(shift.to(weight.dtype), offset, bias, mean, gain, variance),
    )


def _fold_once(
    weight: Tensor, bias: Tensor | None, gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    def constants_of(
        weight: Tensor, bias: Tensor | None, gain: Tensor, offset: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        folded = fold_values(weight, bias, gain, offset, mean, variance, eps, _times_in_parts)
        CONSTANTS.update(part.untyped_storage() for part in folded)
        return folded

    return _kept.get(eps, constants_of, weight, bias, gain, offset, mean, variance)


def as_before(layer: nn.Module, weight: Tensor) -> Tensor:
    """For a weight that is recomputed at each call: the tensor of an earlier call if the values are the same, so that
    what was derived from it is still cached. Without a gradient."""
    weight = weight.detach()
    if not can_be_kept(weight):
        return weight
    weight = weight.resolve_neg().contiguous()
    now = fingerprint(weight.data_ptr(), weight.nbytes)
    found = _computed.get(layer)
    if found is None or found[0] != now or found[1].shape != weight.shape:
        found = _computed[layer] = now, weight.clone()
        CONSTANTS.add(found[1].untyped_storage())
    return found[1]


def normalised(bn: Any, currents: Tensor) -> Tensor:
    """Currents [T, N, C, ...] after ``bn``, which treats the values of all steps as one batch.

    Constant currents are normalised once, since all steps have the same mean and variance. But ``bn`` then computes the
    unbiased running variance, V * count / (count - 1), with the count of one step; that is corrected to T steps.
    """
    T, count = len(currents), currents[0, :, 0].numel()
    if count == 1 and T > 1:
        currents = currents.contiguous()  # bn refuses a single value, which has no variance
    running = bn.running_var if bn.training else None
    if running is None or T == 1 or not checks.is_constant(currents):
        return each_step(bn, currents)
    before = running.clone()
    y = each_step(bn, currents)
    momentum = 1 / bn.num_batches_tracked if bn.momentum is None else bn.momentum
    with torch.no_grad():
        added = running - (1 - momentum) * before
        running.data.sub_(added * ((T - 1) / (T * count - 1)))  # autograd keeps it, but does not read it
    return y
