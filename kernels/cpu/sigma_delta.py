"""The C++ kernels of sigma-delta neurons: tensors in, tensors out."""

import torch
from torch import Tensor

from .. import heap, sigma_delta
from ..sigma_delta import Counts, SigmaDelta, Window
from ..unfused import output_size
from ..weight_cache import PackedWeights
from . import abi

ROW, FILLED = 64, 16  # output channels of a row of weights, and what the last one is filled up to a multiple of
NO_WINDOW: Window = ((1, 1), (0, 0), (1, 1), 1)


def pack_rows(weight: Tensor) -> Tensor:
    """Weights [C_out, C_in, kh, kw] in rows: src/sigma_delta/synapses.h."""
    taps = weight.flatten(2).permute(2, 1, 0)
    taps = torch.nn.functional.pad(taps, (0, -len(weight) % FILLED))
    return torch.cat([block.flatten() for block in taps.split(ROW, 2)])


def pack_taps(weight: Tensor) -> Tensor:
    """Weights [C, 1, kh, kw] of a depthwise convolution: [tap][C, a multiple of FILLED]."""
    return torch.nn.functional.pad(weight.flatten(1).t(), (0, -len(weight) % FILLED)).contiguous()


class SigmaDeltas:
    """The part of backend.CpuKernels that runs sigma-delta neurons."""

    _table: abi.Kernels
    _packed: PackedWeights

    def sigma_delta(
        self, x: Tensor | None, size: tuple[int, int], weight: Tensor | None, bias: Tensor | None,
        added: Tensor | None, T: int, neuron: SigmaDelta | None, window: Window = NO_WINDOW,
    ) -> tuple[Tensor, Counts]:  # fmt: skip
        """kernels/sigma_delta.py has arguments and results."""
        stride, padding, dilation, groups = window
        depthwise = x is not None and weight is not None and 1 < groups == x.shape[3] == len(weight)
        additions = 0
        if x is not None and groups > 1 and not depthwise:
            brought, additions = sigma_delta.arriving(x, size, weight, bias, window)
            brought = torch.nn.functional.pad(brought, (0, 0, 0, 0, 0, T - brought.shape[1]))
            added = brought if added is None else brought + added
            x = weight = bias = None
        if x is None:
            assert added is not None
            N, _, P, C = added.shape
            steps, C_in, kernel, width = 0, 1, (0, 0), max(P, 1)
        else:
            assert weight is not None
            kernel = tuple(weight.shape[2:])
            height, width = output_size(size, kernel, stride, padding, dilation)
            (N, steps, _, C_in), P, C = x.shape, height * width, len(weight)
        held = [None if t is None else t.contiguous() for t in (x, bias, added)]
        packed = None
        if weight is not None:
            kept = self._packed.of(weight)
            packed = kept.get("sigma-delta taps", pack_taps) if depthwise else kept.get("sigma-delta rows", pack_rows)
        highest = torch.empty(0) if neuron is None else neuron.highest.float().contiguous()
        given = (N, T, P, C)
        y = heap.empty(*given, dtype=torch.float32 if neuron is None else torch.int8)
        counts = torch.zeros(2, dtype=torch.int64)
        if neuron is None:
            highest = torch.zeros(C)
        pointers = [None if t is None else t.data_ptr() for t in (held[0], packed, held[1], held[2], highest)]
        call = abi.SigmaDelta(
            *pointers, None if neuron is None else y.data_ptr(), y.data_ptr() if neuron is None else None,
            counts.data_ptr(), neuron.lowest if neuron else 0.0, neuron.exponents if neuron else 1,
            held[0] is not None and held[0].dtype != torch.int8, N, T, min(steps, T), P, C, C_in, *size, width,
            *kernel, *stride, *padding, *dilation,
        )  # fmt: skip
        (self._table.sigma_delta_depthwise if depthwise else self._table.sigma_delta_conv2d)(call)
        del held, packed, highest  # the memory behind the pointers lived until here
        return y, Counts(int(counts[0]), additions + int(counts[1]))
