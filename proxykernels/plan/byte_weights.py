"""Weights of at most 7 bits and a sign, which an int8 network's file has in bytes: codes times a unit of their row."""

import torch
from torch import Tensor

UNIT = ".unit"  # what follows a tensor's name in that of its units
BITS = 7  # of the largest code of a row, without its sign


def in_bytes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, where this loses nothing as int8 codes and a power of two for each row, NAME.unit, float32 [rows].

    A tensor of one dimension, or that has other values, stays as it is.
    """
    found = {}
    for name, tensor in tensors.items():
        pair = _codes(tensor) if tensor.dtype == torch.float32 and tensor.ndim > 1 and tensor.numel() else None
        if pair is None:
            found[name] = tensor
        else:
            found[name], found[name + UNIT] = pair
    return found


def in_floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`in_bytes` was given."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int8:
            found[name] = _times(tensor, tensors[name + UNIT])
        elif tensors.get(name.removesuffix(UNIT), tensor).dtype != torch.int8:
            found[name] = tensor
    return found


def _codes(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """int8 codes and units; None: they are not exact."""
    largest = tensor.flatten(1).abs().amax(1)
    _, exponent = torch.frexp(largest)  # largest < 2 ** exponent
    unit = torch.ldexp(torch.ones_like(largest), exponent - BITS)
    codes = tensor / unit.view(-1, *[1] * (tensor.ndim - 1))
    if not codes.abs().le(2**BITS - 1).all():  # also NaN and infinity
        return None
    codes = codes.to(torch.int8)
    return (codes, unit) if torch.equal(_times(codes, unit), tensor) else None


def _times(codes: Tensor, unit: Tensor) -> Tensor:
    return codes.float() * unit.view(-1, *[1] * (codes.ndim - 1))
