"""What a block of GPU threads has besides registers: memory, barriers, asynchronous copies and tensor cores.

Asynchronous copies and warp-group products happen at the last moment: at the wait for them. An access outside every
tensor, or one that is not aligned to its size, is a Fault, and so is a race (races.py).
"""

from collections import Counter

import numpy as np

from . import tensor_core
from .memory import Fault, GlobalMemory
from .races import Races, TensorRaces

SUMS = {"f2": "f4", "i1": "i4"}  # of tensor cores: float32 of float16, int32 of int8
SHARED_BASE = 1024  # so that an address of 0 is a fault, and the swizzles' alignment holds


class Block:
    """One block of threads (in Triton's words: one program)."""

    def __init__(self, kernel, index: int, blocks: int, parameters, memory: GlobalMemory, shared: int, products: str):
        """The block ``index`` of ``blocks``.

        ``shared``: bytes of shared memory. ``products``: how tensor cores round (tensor_core.multiply).
        """
        self.threads = kernel.threads
        self.warps = self.threads // 32
        self.tid = np.arange(self.threads, dtype="u4")
        self.lane = self.tid % 32
        self.ctaid = [np.array([i], "u4") for i in (index, 0, 0)]
        self.blocks = np.array([blocks], "u4")
        self.parameters, self.memory, self.products = parameters, memory, products
        self.shared_base = np.array([SHARED_BASE], "u8")
        self.shared = np.full(SHARED_BASE + shared + (-shared) % 16, 0xFF, np.uint8)  # 0xFF: not a number, as float16
        self.shared_end = SHARED_BASE + shared
        self.races = Races(len(self.shared), self.warps)
        self.tensor_races = TensorRaces(memory.starts)
        self.copies, self.copy_groups = [], []
        self.multiplications, self.multiplication_groups = [], []
        self.in_flight: Counter[str] = Counter()  # registers that products may still be reading

    def has_work_left(self) -> bool:
        """Whether there is asynchronous work that nobody waited for."""
        return bool(self.copies or any(self.copy_groups) or self.multiplications or self.multiplication_groups)

    def _full(self, value):
        """One element a thread."""
        return value if len(value) == self.threads else np.full(self.threads, value[0])

    def branch(self, condition) -> bool:
        """Whether all threads go; they must agree."""
        if condition is None or condition.all():
            return True
        if condition.any():
            raise Fault("threads of a block go different ways")
        return False

    # ---- plain loads and stores

    def _lanes(self, address, size: int, count: int, mask):
        """Which threads access memory, and the indices of their items of ``size`` bytes, [threads, count]."""
        if mask is not None:
            mask = self._full(mask)
            if not mask.all():
                lanes = np.flatnonzero(mask)
                return lanes, self._items(self._full(address)[lanes], size, count)
        return slice(None), self._items(self._full(address), size, count)

    @staticmethod
    def _items(address, size: int, count: int):
        if (address % (size * count)).any():
            raise Fault(f"an access of {size * count} bytes is not aligned")
        return (address // size)[:, None] + np.arange(count)

    def load_global(self, address, size: int, count: int, mask):
        lanes, items = self._lanes(address, size, count, mask)
        items = self.memory.items(items, size)
        self.tensor_races.note_read(self.tid[lanes], items, size)
        result = np.zeros((count, self.threads), f"u{size}")
        result[:, lanes] = self.memory.bytes.view(f"u{size}")[items].T
        return result

    def store_global(self, address, size: int, values, mask) -> None:
        lanes, items = self._lanes(address, size, len(values), mask)
        items = self.memory.items(items, size)
        self.tensor_races.note_write(self.tid[lanes], items, size)
        values = np.stack([self._full(value)[lanes] for value in values], 1)
        memory = self.memory.bytes.view(f"u{size}")
        memory[items] = values
        if (memory[items] != values).any():
            raise Fault("threads write different values to the same place")

    def _shared_items(self, items, size: int):
        if items.size and (items.min() * size < SHARED_BASE or (items.max() + 1) * size > self.shared_end):
            raise Fault("an access outside shared memory")
        return items

    def load_shared(self, address, size: int, count: int, mask):
        lanes, items = self._lanes(address, size, count, mask)
        self._shared_items(items, size)
        self.races.note_read(self.tid[lanes], items, size)
        result = np.zeros((count, self.threads), f"u{size}")
        result[:, lanes] = self.shared.view(f"u{size}")[items].T
        return result

    def store_shared(self, address, size: int, values, mask) -> None:
        lanes, items = self._lanes(address, size, len(values), mask)
        self._shared_items(items, size)
        self.races.note_write(self.tid[lanes], items, size)
        values = np.stack([self._full(value)[lanes] for value in values], 1)
        memory = self.shared.view(f"u{size}")
        memory[items] = values
        if (memory[items] != values).any():
            raise Fault("threads write different values to the same place")

    def barrier(self) -> None:
        self.races.barrier()
        self.tensor_races.barrier()

    def warp_barrier(self) -> None:
        self.races.warp_barrier()
        self.tensor_races.warp_barrier()

    def proxy_fence(self) -> None:
        self.races.proxy_fence()

    # ---- asynchronous copies

    def copy(self, to, source, size: int, read, mask) -> None:
        """cp.async of ``size`` bytes a thread; bytes from ``read`` on become 0, and are not read from memory."""
        lanes, items = self._lanes(to, 4, 1, mask)
        self._items(self._full(to)[lanes], size, 1)  # aligned to its size
        items = items + np.arange(size // 4)
        self._shared_items(items, 4)
        read = np.full(self.threads, size, "u4") if read is None else self._full(read)
        read = read[lanes]
        if not np.isin(read, (0, size)).all():
            raise NotImplementedError("cp.async of a part")
        thread = self.tid[lanes]
        source = self._full(source)[lanes]
        self.races.note_write(thread, items, 4, copies=1)

        def land():
            data = np.zeros((len(items), size // 4), "u4")
            there = np.flatnonzero(read)
            words = self._items(source[there], size, 1) * (size // 4) + np.arange(size // 4)
            data[there] = self.memory.bytes.view("u4")[self.memory.items(words, 4)]
            self.shared.view("u4")[items] = data
            self.races.note_arrival(thread, items, 4)

        self.copies.append(land)

    def copy_commit(self) -> None:
        self.copy_groups.append(self.copies)
        self.copies = []

    def copy_wait(self, left: int) -> None:
        while len(self.copy_groups) > left:
            for land in self.copy_groups.pop(0):
                land()

    # ---- warps

    def _by_warp(self, value):
        return self._full(value).reshape(self.warps, 32)

    def reduce_warp(self, function, value):
        return np.repeat(function.reduce(self._by_warp(value), axis=1).astype(value.dtype), 32)

    def shuffle(self, mode: str, a, b, c):
        values = self._by_warp(a)
        b, c = self._by_warp(b) & np.uint32(31), self._by_warp(c)
        lane = np.arange(32, dtype="u4")[None, :]
        segment, clamp = (c >> np.uint32(8)) & np.uint32(31), c & np.uint32(31)
        last = (lane & segment) | (clamp & ~segment)
        if mode == "bfly":
            source = lane ^ b
            valid = source <= last
        elif mode == "down":
            source = lane + b
            valid = source <= last
        elif mode == "idx":
            source = (lane & segment) | (b & ~segment)
            valid = source <= last
        elif mode == "up":
            source = lane.astype("i4") - b.astype("i4")
            valid = source >= last.astype("i4")
        else:
            raise NotImplementedError(mode)
        source = np.where(valid, source, lane).astype("i8")
        return np.take_along_axis(values, source, 1).reshape(-1), valid.reshape(-1)

    def ldmatrix(self, address, count: int, transposed: bool):
        """``count`` matrices of 8 rows of 16 bytes; lane 8 i + r of each warp has the address of row r of matrix i."""
        rows = self._by_warp(address)[:, : 8 * count]
        words = self._items(rows.reshape(-1), 16, 1) * 4 + np.arange(4)
        self._shared_items(words, 4)
        warp, row = np.repeat(np.arange(self.warps), 8 * count), np.tile(np.arange(8 * count) % 8, self.warps)
        for word in range(4):  # each goes to one lane
            self.races.note_read(warp * 32 + row * 4 + word, words[:, word : word + 1], 4)
        data = self.shared.view("u4")[words].reshape(self.warps, count, 8, 4)
        if transposed:
            data = np.ascontiguousarray(data.view("u2").swapaxes(2, 3)).view("u4")
        return [np.ascontiguousarray(data[:, i]).reshape(-1) for i in range(count)]

    def stmatrix(self, address, values, transposed: bool) -> None:
        count = len(values)
        rows = self._by_warp(address)[:, : 8 * count]
        words = self._items(rows.reshape(-1), 16, 1) * 4 + np.arange(4)
        self._shared_items(words, 4)
        warp, row = np.repeat(np.arange(self.warps), 8 * count), np.tile(np.arange(8 * count) % 8, self.warps)
        for word in range(4):
            self.races.note_write(warp * 32 + row * 4 + word, words[:, word : word + 1], 4)
        data = np.stack([self._by_warp(value).reshape(self.warps, 8, 4) for value in values], 1)
        if transposed:
            data = np.ascontiguousarray(np.ascontiguousarray(data).view("u2").swapaxes(2, 3)).view("u4")
        self.shared.view("u4")[words] = data.reshape(-1, 4)

    # ---- tensor cores

    def mma(self, kind: str, a, b, c):
        """m16n8 of each warp; ``kind``: of numpy, "f2" or "i1"."""
        a, b, c = ([self._by_warp(register) for register in registers] for registers in (a, b, c))
        matrices = tensor_core.a_matrix(a, kind), tensor_core.b_matrix(b, kind), tensor_core.c_matrix(c, SUMS[kind])
        return tensor_core.c_registers(self._multiply(*matrices))

    def _multiply(self, a, b, c):
        if a.dtype == np.int8:
            return tensor_core.multiply_int8(a, b, c)
        return tensor_core.multiply(a, b, c, self.products)

    def wgmma_fence(self) -> None:
        """Orders registers, which are always in order here."""

    def write_registers(self, names: list[str]) -> None:
        """Registers of spikes are about to be written. Here a product has its copy of them; on a GPU it has not."""
        if taken := [name for name in names if self.in_flight[name]]:
            raise Fault(f"a write to {taken[0]}, which a product in flight may still be reading")

    def wgmma(self, kind: str, columns: int, d, a, b, keeps, transposed, read):
        """m64 x ``columns`` of each group of four warps; what it returns has its numbers from the wait on.

        ``read``: the names of the registers of A, which must be left alone until then.
        """
        a_in_registers = isinstance(a, tuple)
        b_items = self._descriptor_items(kind, b, columns, transposed[1])
        a_items = None if a_in_registers else self._descriptor_items(kind, a, 64, transposed[0])
        keeps = self._full(keeps)
        if keeps.any() != keeps.all():
            raise NotImplementedError("scale-d differs")
        result = [np.full(self.threads, 0x7FC00BAD, "u4") for _ in d]
        self.in_flight.update(read)
        operands = [b_items] if a_in_registers else [a_items, b_items]
        for items in operands:
            self.races.note_product(self._pairs(items, kind))

        def compute():
            memory = self.shared.view(kind)
            if a_in_registers:
                matrix = tensor_core.a_matrix([self._by_warp(register) for register in a], kind)
            else:
                matrix = memory[a_items].reshape(self.warps, 16, -1)
            other = np.repeat(memory[b_items].swapaxes(1, 2), 4, 0)  # [warps, K, columns]
            total = tensor_core.c_matrix([self._by_warp(register) for register in d], SUMS[kind])
            if not keeps.any():
                total = np.zeros_like(total)
            total = self._multiply(matrix, other, total)
            for register, value in zip(result, tensor_core.c_registers(total), strict=True):
                register[:] = value
            self.in_flight.subtract(read)
            for items in operands:
                self.races.note_product_end(self._pairs(items, kind))

        self.multiplications.append(compute)
        return result

    def wgmma_commit(self) -> None:
        self.multiplication_groups.append(self.multiplications)
        self.multiplications = []

    def wgmma_wait(self, left: int) -> None:
        while len(self.multiplication_groups) > left:
            for compute in self.multiplication_groups.pop(0):
                compute()

    def _descriptor_items(self, kind: str, descriptor, rows: int, transposed: int):
        """Indices of numbers in shared memory, [groups of four warps, rows, K]."""
        descriptor = self._full(descriptor).reshape(-1, 128)
        if (descriptor != descriptor[:, :1]).any():
            raise Fault("a descriptor differs within four warps")
        size = np.dtype(kind).itemsize
        addresses = [tensor_core.descriptor_addresses(int(d), rows, transposed, size) for d in descriptor[:, 0]]
        return self._shared_items(np.stack(addresses) // size, size)

    @staticmethod
    def _pairs(items, kind: str):
        """Indices of pairs of bytes, which races.py keeps watch of."""
        return items * np.dtype(kind).itemsize // 2
