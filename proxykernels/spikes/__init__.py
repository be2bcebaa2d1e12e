"""Spikes at one bit each: how they are stored, seen as tensors, and carry gradients."""

from .operators import COUNTERPARTS
from .packing import is_binary, pack, pack_if_binary
from .spikes import Spikes
from .storage import pack_words

__all__ = ["COUNTERPARTS", "Spikes", "is_binary", "pack", "pack_if_binary", "pack_words"]
