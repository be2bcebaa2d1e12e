"""Sizes that no network has, and that a user may pass all the same: right spikes, no overflow, no division by zero."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.checks import window_checks
from proxykernels.kernels import reference

HUGE = window_checks.LARGEST_WINDOW


@pytest.mark.parametrize("groups", [1, 4, 32], ids=["whole", "groups", "depthwise"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_stride_beyond_the_image(backend, generator, kernel, groups):
    x = spikes(5, 2, 32, 4, 6, generator=generator, rate=0.5)
    weight = dyadic(32, 32 // groups, kernel, kernel, generator=generator)
    actual, v = pk.if_conv2d(pk.pack(x), weight, stride=HUGE, padding=1, groups=groups)
    expected, v_expected = reference.if_conv2d(x, weight, stride=1000, padding=1, groups=groups)
    assert actual.shape == (5, 2, 32, 1, 1)
    assert equal(actual.dense(), expected) and equal(v, v_expected)


def test_a_stride_beyond_the_image_for_periods(backend, generator):
    current, weight = dyadic(2, 5, 4, 6, generator=generator), dyadic(9, 5, 3, 3, generator=generator)
    actual, v = pk.if_conv2d(pk.if_hold(current, 40)[0], weight, stride=HUGE)
    expected, v_expected = reference.if_conv2d(reference.if_hold(current, 40)[0], weight, stride=1000)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)


def test_pooling_windows_beyond_the_image(backend, generator):
    """Two pixels of each window are in the image at most; the others are not walked."""
    x = spikes(3, 2, 9, 2, 3, generator=generator)
    wide = pk.max_pool2d(pk.pack(x), HUGE, stride=HUGE, padding=HUGE // 2)
    assert x.any() and equal(wide.dense(), torch.nn.functional.max_pool2d(x.flatten(0, 1), (2, 3)).view(3, 2, 9, 1, 1))


@pytest.mark.parametrize("groups", [1, 32], ids=["whole", "depthwise"])
@pytest.mark.parametrize("size", [(0, 3), (3, 0)], ids=["no rows", "no columns"])
def test_images_without_pixels(backend, generator, size, groups):
    """Padding makes pixels of them: only the bias is left."""
    bias = dyadic(32, generator=generator)
    weight = dyadic(32, 32 // groups, 1, 1, generator=generator)
    options = {"padding": 1, "groups": groups}
    actual, v = pk.if_conv2d(pk.pack(torch.zeros(9, 2, 32, *size)), weight, bias, **options)
    padded = torch.zeros(9, 2, 32, size[0] + 2, size[1] + 2)
    expected, v_expected = reference.if_conv2d(padded, weight, bias, groups=groups)
    assert expected.any() and equal(actual.dense(), expected) and equal(v, v_expected)
