"""Packed spikes become the left factor of a product: right in every layout, and shorter where the layout is known."""

import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import triton
from cases import dyadic, spikes, thresholds, words_over_time
from equality import equal

from proxykernels.kernels import reference
from proxykernels.kernels.gpu import block_sizes, if_conv2d
from proxykernels.kernels.gpu.block_sizes import is_of_one_step
from proxykernels.kernels.neuron_models import if_neuron

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TARGET = block_sizes.architecture(DEVICE)


@pytest.mark.triton
@pytest.mark.usefixtures("kernels_can_run")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("T", [16, 33])
@pytest.mark.parametrize("one_step", [False, True])
def test_the_short_code_is_right_where_layouts_were_seen(generator, monkeypatch, one_step, T, dtype):
    """Of the fused kernel, on GPUs too that do not take it. Elsewhere it may give wrong spikes."""
    monkeypatch.setattr(
        if_conv2d, "instructions", lambda target: block_sizes.instructions(target) | {"ONE_STEP": one_step}
    )
    x, weight = spikes(T, 1, 64, 2, 3, generator=generator), dyadic(17, 64, 3, 3, generator=generator)
    theta, v = thresholds(17, generator), torch.zeros(1, 6, 17)
    expected, _ = reference.if_conv2d(x, weight, v_threshold=theta, padding=1)
    assert 0 < expected.mean() < 1
    window = (1, 1), (1, 1), (1, 1), 1
    given = words_over_time(x.flatten(3)).to(DEVICE), T, (2, 3), weight.to(DEVICE, dtype), None, v.to(DEVICE)
    words, _ = if_conv2d.if_conv2d(*given, if_neuron(theta.to(DEVICE), 0.0), *window)
    words, expected = words.cpu(), words_over_time(expected.flatten(3))
    if not one_step or not TARGET or is_of_one_step(TARGET, triton.__version__):
        assert equal(words, expected)
    elif TARGET == "sm_75":  # where all layouts are of single numbers; of those of Triton 3.8 some would do
        assert not equal(words, expected)


@pytest.mark.parametrize(
    "target, version",
    [("sm_75", "3.9.0"), ("sm_100", "3.9.0"), ("sm_90", "3.8.0"), ("sm_90", "3.9.1"), ("sm_130", "3.9.0")]
    + [("gfx942", "3.9.0"), ("", "3.9.0"), ("sm_90", "4.0.0"), ("sm_90", "3.9.0+git")],
)
def test_what_nobody_has_seen_takes_the_code_for_any_layout(monkeypatch, target, version):
    monkeypatch.setattr(triton, "__version__", "3.9.0")
    assert block_sizes.instructions("sm_90")["ONE_STEP"]
    monkeypatch.setattr(triton, "__version__", version)
    assert not block_sizes.instructions(target)["ONE_STEP"]
