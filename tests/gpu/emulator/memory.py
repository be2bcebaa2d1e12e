"""Memory of a launch: the tensors, each in a place of its own, and nothing between them."""

import ctypes

import numpy as np

GUARD = 4096  # bytes that belong to no tensor, around each


class Fault(Exception):
    """The kernel did what a GPU does not promise to do right."""


class GlobalMemory:
    """Copies of the tensors of a launch, at addresses of their own."""

    BASE = 0x7F00_0000_0000

    def __init__(self, spans: dict[int, int]):
        """``spans``: address and bytes of each tensor on the host."""
        self.places, size = {}, GUARD
        for address, count in spans.items():
            size += (address - size) % 256  # the alignment that the launch saw
            self.places[address] = (size, count)
            size += count + GUARD
        self.starts = [place for place, _ in self.places.values()]  # of the tensors
        self.bytes = np.zeros(size + (-size) % 16, np.uint8)
        self.exists = np.zeros(len(self.bytes), bool)
        for address, (place, count) in self.places.items():
            self.bytes[place : place + count] = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
            self.exists[place : place + count] = True

    def items(self, items, size: int):
        """Indices of items of ``size`` bytes from the first byte on, of addresses counted in items; all must exist."""
        items = items - self.BASE // size
        exists = self.exists
        if items.size and (items.min() < 0 or items.max() >= len(exists) // size or not exists[items * size].all()):
            raise Fault("an access outside every tensor")
        return items

    def address(self, host: int) -> int:
        return self.BASE + self.places[host][0]

    def copy_back(self) -> None:
        for address, (place, count) in self.places.items():
            ctypes.memmove(address, self.bytes[place : place + count].ctypes.data, count)
