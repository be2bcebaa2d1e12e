"""Operations on spikes packed over channels, uint8 [N, T, P, ceil(C / 8)], that need no kernel."""

import torch
from torch import Tensor

UNSIGNED = torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64
SIGNED = torch.int8, torch.int16, torch.int32, torch.int64
PACKABLE = {  # dtypes that can be packed without a conversion -> the bits of 1
    **dict.fromkeys(UNSIGNED + SIGNED, 1),
    torch.float16: 0x3C00,
    torch.bfloat16: 0x3F80,
    torch.float32: 0x3F800000,
    torch.float64: 0x3FF << 52,
}


def pixel_bytes(C: int) -> int:
    """Bytes of the spikes of one pixel."""
    return (C + 7) // 8


def cut(words: Tensor, T: int, start: int, stop: int) -> Tensor:
    """The steps start .. stop - 1."""
    return words[:, start:stop].contiguous()


def cat(words: list[Tensor], steps: list[int]) -> Tensor:
    """Concatenates spikes in time."""
    return words[0] if len(words) == 1 else torch.cat(words, 1)
