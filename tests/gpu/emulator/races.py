"""Who read and wrote which bytes of shared memory, and of the tensors, since the last barrier; whether that is a race.

The model is strict where a GPU is merely lucky. A Fault is

* a read of what nobody wrote, or whose asynchronous copy was not waited for;
* accesses of two warps to the same bytes, one of them a write, without a barrier between them, or a read of another
  lane's write without one;
* tensor cores that read what no proxy fence has passed; a write to what tensor cores may still be reading.

Of the tensors only reads of what another thread of the block wrote are looked at. A write may meet a read of another
warp: Triton lets several threads load a number that one of them needs, adds to and stores.
"""

from typing import NamedTuple

import numpy as np

from .memory import Fault


class Races:
    """The shadow of ``size`` bytes of shared memory: what happened to each pair of bytes, a granule."""

    def __init__(self, size: int, warps: int):
        granules = size // 2
        self.epoch = self.warp_epoch = 1  # barriers so far, of the block and of warps
        self.clock, self.fenced = 1, 0
        self.writer = np.full(granules, -1, np.int32)  # the thread
        self.written = np.zeros(granules, np.int32)  # the epoch
        self.warp_written = np.zeros(granules, np.int32)
        self.write_time = np.zeros(granules, np.int64)
        self.pending = np.zeros(granules, np.int32)  # copies on their way
        self.in_product = np.zeros(granules, np.int32)  # warp-group products that read it now
        self.read = np.zeros((warps, granules), np.int32)  # the epoch of each warp's last read

    def barrier(self) -> None:
        self.epoch += 1
        self.warp_epoch += 1

    def warp_barrier(self) -> None:
        self.warp_epoch += 1

    def proxy_fence(self) -> None:
        self.fenced = self.clock

    def note_read(self, thread, items, size: int) -> None:
        """Items [threads, n] of ``size`` bytes are read by threads [threads]."""
        if items.size:
            granules, thread = _granules(thread, items, size)
            self._check_reads(granules, thread)
            self.read[thread // 32, granules] = self.epoch

    def note_write(self, thread, items, size: int, copies: int = 0) -> None:
        """Items [threads, n] of ``size`` bytes are written by threads [threads], or will be by asynchronous copies."""
        if not items.size:
            return
        granules, thread = _granules(thread, items, size)
        warp = thread // 32
        if self.in_product[granules].any():
            raise Fault("a write to what tensor cores may still be reading")
        if self.pending[granules].any():
            raise Fault("a write to where an asynchronous copy is on its way")
        readers = (self.read[:, granules] == self.epoch).sum(0) - (self.read[warp, granules] == self.epoch)
        if readers.any():
            raise Fault("a write to what another warp read, without a barrier between them")
        if ((self.written[granules] == self.epoch) & (self.writer[granules] // 32 != warp)).any():
            raise Fault("two warps write to the same place, without a barrier between them")
        self._mark_written(granules, thread)
        if copies:
            self.pending[granules] += copies

    def note_arrival(self, thread, items, size: int) -> None:
        """Asynchronous copies to items [threads, n] were waited for."""
        if items.size:
            granules, thread = _granules(thread, items, size)
            self.pending[granules] = 0
            self._mark_written(granules, thread)

    def note_product(self, items) -> None:
        """Tensor cores begin to read float16 items [groups of four warps, rows, 16]."""
        for group, group_items in enumerate(items):
            granules = group_items.reshape(-1)
            for thread in range(128 * group, 128 * group + 128, 32):
                self._check_reads(granules, np.full(granules.shape, thread, np.int64))
            if (self.write_time[granules] > self.fenced).any():
                raise Fault("tensor cores read what no proxy fence has passed")
            self.in_product[granules] += 1

    def note_product_end(self, items) -> None:
        for group, group_items in enumerate(items):
            granules = group_items.reshape(-1)
            self.in_product[granules] -= 1
            for warp in range(4 * group, 4 * group + 4):
                self.read[warp, granules] = self.epoch

    def _check_reads(self, granules, thread) -> None:
        writer = self.writer[granules]
        if (writer < 0).any():
            raise Fault("a read of shared memory that nobody wrote")
        if self.pending[granules].any():
            raise Fault("a read of shared memory before its asynchronous copy was waited for")
        same_warp = writer // 32 == thread // 32
        recent = np.where(
            same_warp, self.warp_written[granules] == self.warp_epoch, self.written[granules] == self.epoch
        )
        if (recent & (writer != thread)).any():
            raise Fault("a read of what another thread wrote, without a barrier between them")

    def _mark_written(self, granules, thread) -> None:
        self.clock += 1
        self.writer[granules] = thread
        self.written[granules], self.warp_written[granules] = self.epoch, self.warp_epoch
        self.write_time[granules] = self.clock


class Access(NamedTuple):
    """Items [threads, n] of ``size`` bytes of a tensor, which threads [threads] read or write."""

    thread: np.ndarray
    items: np.ndarray
    size: int

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Granules, and the threads of each."""
        granules, thread = _granules(self.thread, self.items, self.size)
        return granules.reshape(-1), thread.reshape(-1)


class TensorRaces:
    """What a block's threads wrote to each tensor since its last barrier."""

    def __init__(self, starts):
        """``starts``: the first byte of each tensor, in rising order."""
        self.starts = np.asarray(starts)
        self.barrier()

    def barrier(self) -> None:
        self.written: dict[int, list[Access]] = {}  # before the last barrier of the warps
        self.just_written: dict[int, list[Access]] = {}

    def warp_barrier(self) -> None:
        for tensor, accesses in self.just_written.items():
            self.written.setdefault(tensor, []).extend(accesses)
        self.just_written = {}

    def note_read(self, thread, items, size: int) -> None:
        if not items.size:
            return
        tensor, access = self._tensor(items, size), Access(thread, items, size)
        if _meet(access, self.just_written.get(tensor, []), 1) or _meet(access, self.written.get(tensor, []), 32):
            raise Fault("a read of what another thread wrote to a tensor, without a barrier between them")

    def note_write(self, thread, items, size: int) -> None:
        if items.size:
            self.just_written.setdefault(self._tensor(items, size), []).append(Access(thread, items, size))

    def _tensor(self, items, size: int) -> int:
        return int(np.searchsorted(self.starts, items.min() * size, "right"))


def _meet(access: Access, others: list[Access], threads: int) -> bool:
    """Whether one of the others is to the same place, by another of so many threads together."""
    if not others:
        return False
    granules, thread = access.places()
    theirs, other = (np.concatenate(parts) for parts in zip(*(one.places() for one in others), strict=True))
    common = np.intersect1d(granules, theirs)
    if not common.size:
        return False
    places, who = np.concatenate([granules, theirs]), np.concatenate([thread, other]) // threads
    in_common = np.isin(places, common)
    return np.unique(np.stack([places[in_common], who[in_common]]), axis=1).shape[1] > common.size


def _granules(thread, items, size: int):
    """Granules [threads, n] of items of ``size`` bytes, and their threads in the same shape."""
    if size == 1:
        granules = items // 2
    else:
        pairs = size // 2
        granules = (items[..., None] * pairs + np.arange(pairs)).reshape(len(items), -1)
    return granules, np.broadcast_to(thread.astype(np.int64)[:, None], granules.shape)
