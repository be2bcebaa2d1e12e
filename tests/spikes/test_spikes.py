"""Spikes: packing, counting, cutting."""

import pytest
import torch
from cases import spikes
from equality import equal

import proxykernels as pk

SHAPES = [(1, 1), (7, 3), (5, 0, 4), (33, 2, 9), (4, 2, 3, 11), (31, 2, 5, 7, 5), (64, 1, 64, 4, 4), (32, 2, 130, 2, 3)]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip(instruction_set, generator, shape, dtype):
    dense = spikes(*shape, generator=generator).to(dtype)
    dense.view(-1)[:1] = 1  # the smallest too holds a spike
    packed = pk.pack(dense)
    assert packed.shape == shape and packed.T == shape[0] and packed.device == torch.device("cpu")
    assert equal(packed.dense(dtype), dense)
    assert packed.dense().dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_and_rate(instruction_set, generator, shape):
    dense = spikes(*shape, generator=generator)
    dense.view(-1)[:1] = 1
    packed = pk.pack(dense)
    for until in (None, 0, 1, shape[0] // 2, shape[0]):
        expected = dense[:until].sum(0).int()
        assert packed.count(until).dtype == torch.int32 and equal(packed.count(until), expected)
    assert packed.rate() == pytest.approx(dense.mean().item(), nan_ok=True, abs=1e-6)


def test_counts_of_more_steps_than_a_byte_holds(instruction_set, generator):
    dense = torch.ones(700, 2, 37, 2, 1)
    dense[:, 1] = spikes(700, 37, 2, 1, generator=generator)
    for until in (255, 256, 510, 511, 700):
        assert equal(pk.pack(dense).count(until), dense[:until].sum(0).int())


def test_cut_in_time(instruction_set, generator):
    dense = spikes(50, 2, 9, 3, 4, generator=generator)
    packed = pk.pack(dense)
    for cut in (slice(0, 1), slice(3, 40), slice(-10, None), slice(None), slice(31, 33)):
        assert equal(packed[cut].dense(), dense[cut])
    for wrong in (3, slice(0, 10, 2)):
        with pytest.raises(TypeError, match="slice"):
            packed[wrong]
    with pytest.raises(ValueError, match="no step"):
        packed[50:60]


def test_about_one_bit_a_spike(generator):
    dense = spikes(64, 2, 64, 8, 8, generator=generator)
    assert pk.pack(dense).nbytes == dense.numel() // 8


def test_to_the_same_device(generator):
    packed = pk.pack(spikes(5, 2, 3, 4, 4, generator=generator))
    assert equal(packed.to("cpu").dense(), packed.dense())


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, float("nan"), float("inf")])
def test_only_zeros_and_ones(value):
    dense = torch.zeros(4, 2, 3)
    dense[1, 1, 2] = value
    with pytest.raises(ValueError, match="dense must hold spikes"):
        pk.pack(dense)


def test_shape_and_until_are_checked():
    with pytest.raises(TypeError, match="dense must be a torch.Tensor"):
        pk.pack([[0, 1]])
    for shape in ((), (3,), (0, 2, 3)):
        with pytest.raises(ValueError, match=r"\[T, N, \.\.\.\]"):
            pk.pack(torch.zeros(shape))
    for until in (-1, 4):
        with pytest.raises(ValueError, match="until must be within"):
            pk.pack(torch.zeros(3, 2)).count(until)
