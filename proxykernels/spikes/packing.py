"""Packs tensors of 0 and 1 into Spikes."""

import torch
from torch import Tensor

from ..kernels import ops, value_checks_cache
from ..kernels.backends import CpuBackend, gpu_backend
from ..kernels.cpu.words import PACKABLE
from ..kernels.ops import direct
from .spikes import Spikes
from .storage import pack_words

_NOT_BINARY = (
    "dense must hold spikes, nothing but 0 and 1, and holds other values. Layers take sums of spikes and integers as "
    "tensors, without packing; real-valued currents go to if_scan, if_hold or a layer"
)


def pack(dense: Tensor) -> Spikes:
    """Pack a tensor of 0 and 1 into :class:`Spikes`, one bit per spike.

    Args:
        dense: [T, N, ...] of 0 and 1, of any dtype, with at least one step.

    Returns:
        Spikes (T, N, ...) on the same device. ``.dense()`` unpacks them.

    Raises:
        TypeError: ``dense`` is not a tensor.
        ValueError: it has fewer than two dimensions, no step, or values other than 0 and 1 (NaN included).
    """
    if not isinstance(dense, Tensor):
        raise TypeError(f"dense must be a torch.Tensor [T, N, ...], got {type(dense).__name__}")
    if dense.is_meta or dense.layout != torch.strided or dense.is_nested or dense.is_quantized:
        kinds = {"on meta": dense.is_meta, "that is nested": dense.is_nested, str(dense.dtype): dense.is_quantized}
        got = next((kind for kind, true in kinds.items() if true), dense.layout)
        raise TypeError(f"dense must be a tensor that holds its values, got one {got}")
    if dense.ndim < 2 or dense.shape[0] < 1:
        raise ValueError(f"dense must have the shape [T, N, ...] with T >= 1, got {list(dense.shape)}")
    bits = dense.packed() if hasattr(dense, "packed") else None  # a SpikeTensor, which this module cannot import
    if bits is not None:
        return bits
    if not value_checks_cache.can_be_read(dense):
        if torch.compiler.is_compiling():  # the graph checks the values when it runs
            torch._assert_async(((dense == 0) | (dense == 1)).all(), _NOT_BINARY)
        return Spikes(pack_words(dense.bool()), dense.shape)
    spikes = pack_if_binary(dense)
    if spikes is None:
        raise ValueError(_NOT_BINARY)
    return spikes


def pack_if_binary(dense: Tensor) -> Spikes | None:
    """:func:`pack`, or None if the values [T, N, ...] are not all 0 and 1; found and packed in one pass."""
    return pack_and_look(dense, direct(dense))[0]


def pack_and_look(dense: Tensor, kernels: CpuBackend | None = None) -> tuple[Spikes | None, bool]:
    """:func:`pack_if_binary`, and whether the values are known to be finite, which the same pass finds on a GPU.

    ``kernels``: what :func:`proxykernels.kernels.ops.direct` returned.
    """
    if dense.dtype in PACKABLE and (kernels is not None or _packs_in_one_pass(dense)):
        images = dense.detach()[(..., *[None] * (5 - dense.ndim))]
        images = images if images.ndim == 5 else images.flatten(4)
        if dense.is_cuda:
            words, binary, finite = gpu_backend().pack_and_look(images)
        else:
            words, binary = (kernels or ops).pack_binary(images)
            finite = binary
        return (Spikes(words, dense.shape) if binary else None), finite
    binary = dense.dtype == torch.bool or is_binary(dense)  # a compiler cannot follow the latter
    return (Spikes(pack_words(dense.bool()), dense.shape) if binary else None), binary


def _packs_in_one_pass(dense: Tensor) -> bool:
    # On a GPU, bool is packed without a look at the values, which would have to wait for the GPU.
    known = dense.is_cuda and dense.dtype == torch.bool
    can = dense.device.type in ("cpu", "cuda") and not known and value_checks_cache.can_be_read(dense)
    return can and value_checks_cache.plain(dense) is dense and not torch.jit.is_tracing()


def is_binary(dense: Tensor) -> bool:
    """Whether a tensor holds nothing but 0 and 1."""
    dense = value_checks_cache.plain(dense)
    if dense.dtype == torch.bool:
        return True
    first = dense[:1] if dense.ndim else dense  # enough to reject most real values
    return all(torch.equal(part, part.ne(0).to(dense.dtype)) for part in (first, dense))
