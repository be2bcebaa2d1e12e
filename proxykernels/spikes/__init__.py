"""Spikes at one bit each: how they are kept, seen as tensors, and given a gradient."""

from .packing import is_binary, pack, pack_if_binary
from .spikes import COUNTERPARTS, Spikes
from .word_ops import pack_words

__all__ = ["COUNTERPARTS", "Spikes", "is_binary", "pack", "pack_if_binary", "pack_words"]
