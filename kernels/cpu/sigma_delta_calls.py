"""The C++ kernels of sigma-delta neurons: tensors in, tensors out."""

import math
from functools import partial

import torch
from torch import Tensor

from .. import heap
from ..sigma_delta_codes import Counts, Pair, Senders, State, Window, sums_so_far
from ..unfused import output_size
from ..weight_cache import PackedWeights
from ..weight_layouts import require_finite
from . import abi
from .weight_packing import pack_taps

FILLED = 16  # what the output channels of a group's rows of weights are filled up to a multiple of


class SigmaDeltas:
    """The part of backend.CpuKernels that runs sigma-delta neurons."""

    _table: abi.Kernels
    _packed: PackedWeights
    sums_so_far = staticmethod(sums_so_far)

    def sigma_delta(
        self, x: Tensor | None, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None,
        added: Tensor | None, T: int, neuron: Senders | None, window: Window, state: State | None = None,
    ) -> tuple[Tensor, Counts]:  # fmt: skip
        """kernels/sigma_delta_codes.py has arguments and results."""
        stride, padding, dilation, groups = window
        if x is not None and weight is None:  # each input by itself
            weight = heap.zeros(x.shape[3], 1, 1, 1).add_(1)
        launch, kernel, packed = self._table.sigma_delta_conv2d, (0, 0), None
        if x is not None and weight is not None:
            kernel = weight.shape[2], weight.shape[3]
            height, width = output_size(size, kernel, stride, padding, dilation)
            (N, steps, _, C_in), P, C = x.shape, height * width, len(weight)
            if 1 < groups == C_in == C:  # each output channel sees one input channel of its own
                launch, packed = self._table.sigma_delta_depthwise, self._packed.get("taps", pack_taps, weight)
                groups = 1  # of its kernel
            else:
                packed = self._packed.get(("sigma-delta", groups), partial(self._pack_rows, groups), weight)
        else:
            assert added is not None
            (N, _, P, C), steps, C_in, width, groups = added.shape, 0, 1, max(1, added.shape[2]), 1
        if bias is not None:
            require_finite("bias", bias)
            bias = bias.float()
        highest = heap.zeros(C) if neuron is None else neuron.highest
        y = heap.empty(N, T, P, C, dtype=torch.float32 if neuron is None else neuron.type)
        counts = heap.zeros(2, dtype=torch.int64)
        given = [None if t is None else t.contiguous() for t in (x, packed, bias, added, highest)]
        written = (None, y) if y.is_floating_point() else (y, None)
        pointers = _pointers(*given, *written, *(state or (None, None)), counts)
        real = x is not None and x.dtype != torch.int8
        sizes = N, T, steps, P, C, C_in, *size, width, *kernel, *stride, *padding, *dilation, groups
        launch(abi.SigmaDelta(*pointers, *_scalars(neuron), real, *sizes))
        del given  # the memory behind the pointers lived until here
        return y, Counts(int(counts[0]), int(counts[1]))

    def _pack_rows(self, groups: int, weight: Tensor) -> Tensor:
        C, inputs, taps = weight.flatten(2).shape
        filled = groups * -(-(C // groups) // FILLED) * FILLED
        packed = heap.empty(filled * inputs * taps)
        self._table.pack_sigma_delta(weight.data_ptr(), packed.data_ptr(), C, inputs, taps, groups)
        return packed

    def running_maximum(
        self, x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, state: State | None
    ) -> Tensor:
        """kernels/sigma_delta_codes.py has arguments and results."""
        x = x.contiguous()
        (N, T, _, C), P, real = x.shape, size_out[0] * size_out[1], x.dtype != torch.int8
        y, counts = heap.empty(N, T, P, C, dtype=torch.float32), heap.zeros(2, dtype=torch.int64)
        pointers = _pointers(x, None, None, None, None, None, y, *(state or (None, None)), counts)
        sizes = N, T, T, P, C, C, *size, size_out[1], *kernel, *stride, *padding, 1, 1, 1
        self._table.sigma_delta_maximum(abi.SigmaDelta(*pointers, *_scalars(None), real, *sizes))
        return y

    def pooled_sigma_delta(
        self, x: Tensor, size: Pair, size_out: Pair, kernel: Pair, stride: Pair, padding: Pair, T: int,
        neuron: Senders, state: State | None = None,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """kernels/sigma_delta_codes.py has arguments and results."""
        x, highest = x.contiguous(), neuron.highest.contiguous()
        (N, steps, _, C), P, real = x.shape, size_out[0] * size_out[1], x.dtype != torch.int8
        y, counts = heap.empty(N, T, P, C, dtype=neuron.type), heap.zeros(2, dtype=torch.int64)
        written = (None, y) if y.is_floating_point() else (y, None)
        pointers = _pointers(x, None, None, None, highest, *written, *(state or (None, None)), counts)
        sizes = N, T, steps, P, C, C, *size, size_out[1], *kernel, *stride, *padding, 1, 1, 1
        self._table.sigma_delta_maximum(abi.SigmaDelta(*pointers, *_scalars(neuron), real, *sizes))
        return y, int(counts[0])


def _scalars(neuron: Senders | None) -> tuple[float, float, int]:
    """The lowest activation, the threshold of graded neurons, and the exponents of others."""
    if neuron is None:
        return 0.0, math.inf, 1
    return neuron.lowest, math.inf if neuron.threshold is None else neuron.threshold, neuron.exponents


# Of the pointers of abi.SigmaDelta, in their order: what C++ takes each for.
POINTERS: dict[str, tuple[torch.dtype, ...]] = {
    "x": (torch.int8, torch.float32), "weight": (torch.float32,), "bias": (torch.float32,), "added": (torch.float32,),
    "limit": (torch.float32,), "codes": (torch.int8,), "arrived": (torch.float32,), "z": (torch.float32,),
    "a": (torch.float32,), "counts": (torch.int64,),
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
