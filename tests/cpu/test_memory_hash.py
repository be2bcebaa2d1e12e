"""The hash by which weights are compared: any change of any byte changes it, and threads do not."""

import pytest
import torch

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan.library import PIECE, Memory

LENGTHS = [*range(1, 70), 127, 128, 129, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77]


def hashed(*parts: torch.Tensor) -> int:
    return Memory([(part.data_ptr(), part.nbytes) for part in parts]).hashed()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_bit_changes_it(length, generator):
    values = torch.randint(0, 256, (length,), dtype=torch.uint8, generator=generator)
    seen, places = {hashed(values)}, {0, 1, length // 3, length // 2, length - 2, length - 1} & {*range(length)}
    for place in places:
        for bit in range(8):
            values[place] ^= 1 << bit
            seen.add(hashed(values))
            values[place] ^= 1 << bit
    assert len(seen) == 1 + 8 * len(places) and hashed(values) in seen


def test_values_that_change_places_change_it(generator):
    """Sums of words stay as they are: values, lines of 64 bytes, pieces that threads take, and tensors."""
    values = torch.randn(3 * PIECE // 4, generator=generator)
    seen = {hashed(values)}
    for size in (1, 2, 4, 8, 16, 64, 1024, PIECE // 4):
        for first, second in ((0, size), (0, 16 * size), (size, len(values) - 2 * size)):
            if second + size > len(values):
                continue
            other = values.clone()
            other[first : first + size] = values[second : second + size]
            other[second : second + size] = values[first : first + size]
            seen.add(hashed(other))
    halves = values.chunk(2)
    assert hashed(halves[0], halves[1]) != hashed(halves[1], halves[0]) and len(seen) > 20


def test_small_changes_of_equal_weights_change_it():
    """Constant memory in which one value grows a little and another shrinks by as much."""
    seen = {hashed(torch.full((4096,), 0.5))}
    for first in range(0, 64, 3):
        for second in range(64, 4096, 611):
            values = torch.full((4096,), 0.5)
            values[first] += 2**-20
            values[second] -= 2**-20
            seen.add(hashed(values))
    assert len(seen) == 1 + 22 * 7


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_give_the_same(threads, generator):
    values = [torch.randn(size, generator=generator) for size in (5, 2_000_003, 0, 700_001)]
    memory = Memory([(part.data_ptr(), part.nbytes) for part in values])
    session = pk.compile(torch.nn.Sequential(pk.FusedIFLinear(3, 2)), torch.rand(1, 3)).new_session()
    expected = memory.hashed()
    assert all(memory.hashed(session, threads) == expected for _ in range(20))
    values[1][-1] += 1
    assert memory.hashed(session, threads) != expected


@pytest.mark.parametrize("target", [target for target in cpu.TARGETS if cpu.load(target)])
def test_the_hash_in_files_stays(target):
    """Every instruction set has it; files that were written before are read."""
    kernels = cpu.load(target)
    assert kernels.fingerprint(torch.arange(100_003, dtype=torch.float32)) == 0x4361E907C17A23F0
    assert kernels.fingerprint(torch.arange(7, dtype=torch.float32)) == 0x1F592993548CCF06
