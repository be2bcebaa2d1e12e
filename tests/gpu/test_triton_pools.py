"""Max pooling of spikes and of spike counts on a GPU: one launch over all steps, on packed words."""

import copy

import pytest
import torch
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import words_over_time
from pretend_gpu import pretend_gpu

import proxykernels as pk
from proxykernels.kernels.by_reference import ByReference
from proxykernels.kernels.gpu import pools
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.gpu.backend import REFERENCE

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WINDOWS = {  # image, kernel, stride, padding
    "2": ((6, 8), (2, 2), (2, 2), (0, 0)),
    "rows-left-over": ((7, 5), (2, 2), (2, 2), (0, 0)),
    "overlapping-padded": ((7, 5), (3, 3), (2, 2), (1, 1)),
    "asymmetric": ((7, 9), (3, 2), (1, 3), (1, 0)),
    "subsampling": ((7, 9), (1, 1), (3, 2), (0, 0)),
    "whole-image": ((7, 7), (7, 7), (7, 7), (0, 0)),
}


def fired(generator, T: int, N: int, C: int, size: tuple[int, int]) -> torch.Tensor:
    """Spikes [T, N, C, P] of rates that differ, so that the input with the most changes."""
    rates = torch.rand(N, C, size[0] * size[1], generator=generator)
    return (torch.rand(T, *rates.shape, generator=generator) < rates).to(DEVICE)


def check(dense, counts, size, kernel_size, stride, padding):
    words, T = words_over_time(dense), len(dense)
    found, after = gpu.max_rate_pool2d(words, T, counts, size, kernel_size, stride, padding)
    expected = ByReference.max_rate_pool2d(REFERENCE, words, T, counts, size, kernel_size, stride, padding)
    assert equal(found, expected[0]) and equal(after, expected[1]) and after.is_contiguous()
    return found


@pytest.mark.parametrize("T", (1, 7, 32, 33, 64))
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("begun", [False, True], ids=["from-rest", "begun"])
def test_max_rate_pool2d(generator, T, window, begun):
    size, *windows = WINDOWS[window]
    dense = fired(generator, T, 2, 3, size)
    before = torch.zeros(()).expand(2, 3, size[0] * size[1])
    if begun:
        before = torch.randint(0, 5, before.shape, generator=generator).float()
    assert check(dense, before.to(DEVICE).transpose(1, 2), size, *windows).any()


@pytest.mark.parametrize("C, size", [(70, (4, 5)), (1, (40, 30))], ids=["channels", "pixels"])
def test_several_programs(generator, C, size):
    """An image's outputs in several programs, and its counts in several blocks."""
    dense = fired(generator, 34, 2, C, size)
    assert check(dense, torch.zeros(2, size[0] * size[1], C, device=DEVICE), size, (2, 2), (1, 1), (1, 1)).any()


@pytest.mark.parametrize("begun", [False, True], ids=["from-rest", "begun"])
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_by_rows_and_columns(generator, monkeypatch, window, begun):
    """As those of more inputs than a program holds."""
    size, *windows = WINDOWS[window]
    monkeypatch.setattr(pools, "LARGEST_WINDOW", max(windows[0]))
    dense, before = fired(generator, 34, 2, 3, size), torch.zeros(2, 3, size[0] * size[1])
    if begun:
        before = torch.randint(0, 5, before.shape, generator=generator).float()
    assert check(dense, before.to(DEVICE).transpose(1, 2), size, *windows).any()


def test_a_window_of_more_inputs_than_a_program_holds(generator):
    size, padding = (92, 90), (1, 3)
    assert size[0] * size[1] > pools.LARGEST_WINDOW
    dense = fired(generator, 3, 1, 2, size)
    assert check(dense, torch.zeros(1, size[0] * size[1], 2, device=DEVICE), size, size, (1, 1), padding).any()


def test_a_side_that_no_program_holds(generator, monkeypatch):
    monkeypatch.setattr(pools, "LARGEST_WINDOW", 1)
    monkeypatch.setattr(pools, "_max_rate_pool2d", None)
    assert check(
        fired(generator, 3, 1, 2, (4, 4)), torch.zeros(1, 16, 2, device=DEVICE), (4, 4), (2, 2), (2, 2), (0, 0)
    ).any()


def test_no_samples():
    dense = torch.zeros(3, 0, 2, 16, dtype=torch.bool, device=DEVICE)
    check(dense, torch.ones(0, 16, 2, device=DEVICE), (4, 4), (2, 2), (2, 2), (0, 0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
def test_launches_do_not_grow_with_the_steps(generator):
    """No spikes are unpacked: as bools they take eight times the memory of the words."""
    net = nn.Sequential(pk.MaxRatePool2d(2), pk.MaxRatePool2d(3, 1, 1))
    totals = []
    for T in (4, 64):
        x = pk.pack(fired(generator, T, 1, 2, (8, 8)).unflatten(3, (8, 8)))
        dense, expected = x.dense(), net(x).dense()
        with pytest.MonkeyPatch.context() as monkeypatch, pretend_gpu(monkeypatch) as card:
            there = pk.pack(card.on_card(dense))
            card.clear()
            y = copy.deepcopy(net)(there)
            assert card.launches["_max_rate_pool_kernel"] == 2 and "_unpack_kernel" not in card.launches
            totals.append(card.launches.total())
            assert equal(y.dense().host, expected) and expected.any()
    assert totals[0] == totals[1] <= 6, totals
