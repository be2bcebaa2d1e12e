"""Large tensors lie in huge pages where the system offers them."""

from pathlib import Path

import pytest
import torch

import proxykernels as pk
from proxykernels.kernels import heap
from proxykernels.spikes import storage

MAPS, OFFERED = Path("/proc/self/smaps"), Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_at(address: int) -> list[str]:
    """The kernel's flags of the mapping that an address lies in."""
    inside = False
    for line in MAPS.read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            start, stop = (int(part, 16) for part in first.split("-"))
            inside = start <= address < stop
        elif inside and first == "VmFlags:":
            return rest
    return []


def test_tensors_of_any_size():
    large, small = heap.empty(5, 1 << 20), heap.empty(100, dtype=torch.uint8)
    assert (large.shape, large.dtype) == ((5, 1 << 20), torch.float32)
    assert (small.shape, small.dtype) == ((100,), torch.uint8)
    large.fill_(1.0)
    assert large.sum() == large.numel()


def test_the_system_is_asked_for_huge_pages():
    large = heap.empty(5, 1 << 20)
    if not OFFERED.exists() or not MAPS.exists() or not flags_at(large.data_ptr()) or heap._glibc() is None:
        pytest.skip("this system has no huge pages, or does not say where they are")
    assert "hg" in flags_at(large.data_ptr() + 4 * (large.numel() // 2))  # the kernel's name of the advice


def test_a_start_at_rest_takes_no_memory():
    start = storage.start(None, (4, 8, 32, 32), torch.device("cpu"), pk.neurons.IFNeuron(v_threshold=1.0, v_reset=None))
    assert start.shape == (4, 1024, 8) and start.untyped_storage().nbytes() == 4 * 8
    states = [pk.if_scan(torch.rand(3, 4, 8, 5, 5), v)[1] for v in (None, 0.25)]
    assert all(state.untyped_storage().nbytes() >= 4 * state.numel() for state in states)  # which users may write to
