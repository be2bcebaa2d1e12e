"""Sigma-delta neurons on a CPU, as plans of one operation: kernels/sigma_delta_codes.py has arguments and results."""

import math
from ctypes import addressof, c_int64, pointer
from functools import lru_cache, partial

import torch
from torch import Tensor

from .. import heap, sigma_delta_codes
from ..sigma_delta_codes import Counts, Pair, Senders, State, Window, sums_so_far
from ..table import TALLIES
from ..unfused import output_size
from ..weight_cache import CONSTANTS, PackedWeights
from ..weight_layouts import require_finite
from . import abi
from .layer_plans import MOST_KEPT, LayerPlan, LayerPlans


class SigmaDeltas:
    """The part of backend.CpuKernels that runs sigma-delta neurons."""

    _packed: PackedWeights
    _plans: LayerPlans
    sums_so_far = staticmethod(sums_so_far)

    def sigma_delta(
        self, x: Tensor | None, size: Pair, weight: Tensor | None, bias: Tensor | None, added: Tensor | None, T: int,
        neuron: Senders | None, window: Window, state: State | None = None,
    ) -> tuple[Tensor, Counts]:  # fmt: skip
        """A convolution, or each input by itself, and neurons."""
        given = x if x is not None else added
        assert given is not None
        N, _, P, C = given.shape
        if weight is not None:
            C, P = len(weight), math.prod(output_size(size, weight.shape[2:], *window[:3]))
        if not P * given.numel():  # plans have no images without pixels
            return sigma_delta_codes.sigma_delta(x, size, weight, bias, added, T, neuron, window, state)
        if weight is None:
            weight, size, window = _ones(C), (1, P), ((1, 1), (0, 0), (1, 1), C)
        if bias is not None:
            require_finite("bias", bias)
            bias = bias.float().contiguous()
        real = neuron is None or neuron.threshold is not None
        make = partial(self._plans.sigma_delta, size, window=window, gives_values=real)
        plan = self._packed.get(("sigma-delta", size, window, real), make, weight, most=MOST_KEPT)
        return _run(plan, x, bias, added, (N, T, P, C), neuron, state)

    def running_maximum(
        self, x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, state: State | None
    ) -> Tensor:
        """Max pooling of what was sent."""
        if not x.numel():
            return sigma_delta_codes.running_maximum(x, size, size_out, kernel, stride, padding, state)
        (N, T, _, C), P = x.shape, math.prod(size_out)
        plan = _maxima(self._plans, C, size, size_out, kernel, stride, padding, True)
        return _run(plan, x, None, None, (N, T, P, C), None, state)[0]

    def pooled_sigma_delta(
        self, x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int,
        neuron: Senders, state: State | None = None,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """Neurons behind a max pooling."""
        if not x.numel():
            return sigma_delta_codes.pooled_sigma_delta(x, size, size_out, kernel, stride, padding, T, neuron, state)
        N, _, _, C = x.shape
        plan = _maxima(self._plans, C, size, size_out, kernel, stride, padding, neuron.threshold is not None)
        y, counts = _run(plan, x, None, None, (N, T, math.prod(size_out), C), neuron, state)
        return y, int(counts.spikes)


@lru_cache(64)
def _maxima(plans: LayerPlans, *layer) -> LayerPlan:
    return plans.sigma_delta_maxima(*layer)


@lru_cache(64)
def _ones(C: int) -> Tensor:
    """The weights by which each of C channels passes its input on."""
    with torch.inference_mode(False):
        ones = heap.zeros(C, 1, 1, 1).add_(1)
    CONSTANTS.add(ones.untyped_storage())
    return ones


def _run(
    plan: LayerPlan, x: Tensor | None, bias: Tensor | None, added: Tensor | None, shape: tuple[int, int, int, int],
    neuron: Senders | None, state: State | None,
) -> tuple[Tensor, Counts]:  # fmt: skip
    """What a layer gives, [N, T, P, C], and the counts of the call."""
    N, T, _, C = shape
    y = heap.empty(*shape, dtype=torch.float32 if neuron is None else neuron.type)
    highest = (heap.zeros(C) if neuron is None else neuron.highest).contiguous()
    x, added = (None if t is None else t.contiguous() for t in (x, added))
    written = (None, y) if y.is_floating_point() else (y, None)
    x_, bias_, *pointers = _pointers(x, bias, added, highest, *written, *(state or (None, None)))
    lowest, threshold, unit, exponents = 0.0, math.inf, math.inf, 1
    if neuron is not None:
        lowest, exponents = neuron.lowest, neuron.exponents
        threshold, unit = (math.inf if value is None else value for value in (neuron.threshold, neuron.unit))
    steps, real = 0 if x is None else x.shape[1], x is not None and x.dtype != torch.int8
    scalars = (1.0, lowest, threshold, unit, exponents)  # the first is of `added`
    changes = abi.SigmaDelta(x_, None, bias_, *pointers, *scalars, real, N, T, steps)
    tally = (c_int64 * TALLIES)()
    plan.run(T, N, changes=pointer(changes), tally=addressof(tally))
    spikes, *additions = tally
    return y, Counts(spikes, sum(additions))


# Of the pointers of abi.SigmaDelta, in their order: what C++ takes each for.
POINTERS: dict[str, tuple[torch.dtype, ...]] = {
    "x": (torch.int8, torch.float32), "bias": (torch.float32,), "added": (torch.float32,), "limit": (torch.float32,),
    "codes": (torch.int8,), "arrived": (torch.float32,), "z": (torch.float32,), "a": (torch.float32,),
}  # fmt: skip


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    """The addresses of tensors, or None. C++ does not see types: of another one it would read other numbers."""
    addresses: list[int | None] = []
    for (name, dtypes), tensor in zip(POINTERS.items(), tensors, strict=True):
        if tensor is not None and not (tensor.dtype in dtypes and tensor.is_cpu and tensor.is_contiguous()):
            raise TypeError(
                f"{name} must be a contiguous tensor of {' or '.join(map(str, dtypes))} on the CPU, got {tensor.dtype} "
                f"{list(tensor.shape)} with strides {tensor.stride()} on {tensor.device}"
            )
        addresses.append(None if tensor is None else tensor.data_ptr())
    return addresses
