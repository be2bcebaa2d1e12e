"""Whatever the number of threads, and so the cut into tasks, every spike and potential is the oracle's."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.kernels import reference


@pytest.fixture(params=range(1, 9))
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("N, size", [(1, 3), (3, 9)], ids=["spans of channels", "bands of rows"])
@pytest.mark.parametrize("groups", [1, 72], ids=["whole", "depthwise"])
def test_convolution(backend, threads, generator, N, size, groups):
    x = spikes(33, N, 72, size, size, generator=generator)
    weight, bias = dyadic(72, 72 // groups, 3, 3, generator=generator), dyadic(72, generator=generator)
    actual, v = pk.if_conv2d(pk.pack(x), weight, bias, padding=1, groups=groups)
    expected, v_expected = reference.if_conv2d(x, weight, bias, padding=1, groups=groups)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


def test_periods_scans_and_words(backend, threads, generator):
    current, weight = dyadic(3, 20, 5, 4, generator=generator), dyadic(40, 20, 3, 3, generator=generator)
    held = pk.if_hold(current, 50)[0]
    dense = reference.if_hold(current, 50)[0]
    actual, v = pk.if_conv2d(held, weight)
    expected, v_expected = reference.if_conv2d(dense, weight)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)
    assert equal(held.dense(), dense) and equal(pk.pack(dense).count(), dense.sum(0).int())
    assert equal(pk.max_pool2d(held, 2).dense(), reference.max_pool2d(dense, 2))
