"""A call says which Triton kernel it took: one, whatever that kernel's launcher calls."""

import pytest
import torch
from cases import dyadic, spikes
from torch import nn

import proxykernels as pk
from proxykernels.kernels.gpu.backend import KERNELS
from proxykernels.kernels.recording import Choice, recording

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels", "fused")]
REASON = "the only one on a GPU"


@pytest.fixture
def x(generator):
    return pk.pack(spikes(3, 1, 2, 4, 4, generator=generator))


def taken(function, *arguments, **options) -> list[str]:
    """The names of the kernels that a call took."""
    with recording() as choices:
        y, *_ = function(*arguments, **options)
    assert y.rate() > 0
    assert all(choice.reason == REASON for choice in choices if choice.kernel != "dense")
    return [choice.kernel for choice in choices]


def test_each_kernel_is_named_once(x, generator):
    weight = dyadic(3, 2, 3, 3, generator=generator).abs()
    assert taken(pk.if_conv2d, x, weight, padding=1) == ["Triton convolution"]
    assert taken(pk.calls.neuron_ops.conv2d, x, weight, None, None, pk.IF().neuron, padding=1, pool_follows=True) == [
        "pooled Triton convolution"
    ]
    assert taken(pk.if_linear, pk.calls.spike_ops.flatten(x), weight.new_ones(3, 32)) == ["Triton convolution"]
    assert taken(pk.if_scan, x.dense()) == taken(pk.if_hold, x.dense()[0] + 1, 5) == ["Triton scan"]
    assert taken(pk.if_conv2d, x.dense() * 1.5, weight) == ["dense", "Triton scan"]


def test_functions_keep_their_names_and_errors_are_theirs(x):
    assert KERNELS.if_scan.__name__ == "if_scan" and "Run all T steps" in KERNELS.if_scan.__doc__
    with recording() as choices:
        with pytest.raises(TypeError):
            KERNELS.if_conv2d(x._words)
        pk.if_scan(x.dense())
    assert [choice.kernel for choice in choices] == ["Triton convolution", "Triton scan"]
    assert choices[1] == Choice("Triton scan", REASON)


def test_explain_names_them(generator):
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3, padding=1, v_threshold=0.2), pk.FusedIFConv2d(3, 4, 3, v_threshold=0.1)
    )
    table = pk.explain(net.eval(), torch.rand(1, 1, 4, 4, generator=generator), 4)
    assert [row.kernel for row in table.rows] == ["unfused", "Triton convolution"] and table.rows[1].rate > 0
    assert table.rows[1].why == REASON
