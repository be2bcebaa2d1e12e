"""How much a network called as users call it asks of a GPU: launches and waits, on one that is not there.

Kernels are run by Triton's interpreter, so that what is counted is also right.
"""

import copy

import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import OnCard, pretend_gpu

import proxykernels as pk
from proxykernels.spikes.spike_tensor import SpikeTensor

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("fused"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]

T = 16


def three_layers() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1), pk.FusedIFConv2d(8, 8, 3, padding=1), pk.FusedIFConv2d(8, 4, 3)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 4 + 0.03125
    return net.eval()


def given(kind: str, generator) -> torch.Tensor | pk.Spikes:
    if kind == "values":
        return dyadic(T, 1, 2, 5, 5, generator=generator)
    frames = torch.rand(T, 1, 2, 5, 5, generator=generator) < 0.3
    return pk.pack(frames) if kind == "Spikes" else frames if kind == "bool" else frames.float()


@pytest.mark.parametrize(
    "kind, most, waits", [("Spikes", 20, 0), ("bool", 22, 0), ("float 0 and 1", 23, 1), ("values", 25, 1)]
)
def test_a_network_that_is_called(monkeypatch, generator, kind, most, waits):
    """A layer's tensor stays packed until somebody looks, so that the next one is fused. Values of a GPU's own are
    looked at once, where they come in."""
    net, x = three_layers(), given(kind, generator)
    with torch.no_grad():
        expected = net(x)
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        there_x = pk.pack(card.on_card(x.dense(torch.bool))) if isinstance(x, pk.Spikes) else card.on_card(x)
        there(there_x)  # checks the weights, once
        card.clear()
        y = there(there_x)
        assert card.launches.total() <= most and card.waits.total() == waits, (card.launches, card.waits)
        assert card.launches["_if_conv2d_kernel"] == (2 if kind == "values" else 3)
        if kind == "Spikes":
            assert equal(y.dense().host, expected.dense())
            return
        assert type(y) is SpikeTensor and y.packed() is not None and y.dtype == x.dtype and y.is_cuda
        card.clear()
        dense = y + 0 if kind != "bool" else y | False
        assert card.launches["_unpack_kernel"] == 1 and y.packed() is None
        assert isinstance(dense, OnCard) and equal(dense.host, expected + 0 if kind != "bool" else expected | False)
    assert 0.01 < dense.host.float().mean() < 0.9


def test_what_somebody_writes_is_seen(monkeypatch, generator):
    net, x = three_layers(), given("bool", generator)
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        first, *others = card.moved(copy.deepcopy(net))
        y = first(card.on_card(x.float()))
        assert type(y) is SpikeTensor
        y.logical_not_()
        found = nn.Sequential(*others)(y)
        written = y.dense().host
        assert equal(found.dense().host, nn.Sequential(*list(net)[1:])(written))
    with torch.no_grad():
        assert equal(written, 1 - net[0](x.float())) and 0.01 < written.mean() < 0.99


def test_functions_that_keep_the_bits(monkeypatch, generator):
    """Joined in time they are only where whole words are; on a CPU they are copied."""
    net, x = three_layers(), given("bool", generator).float()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        y = card.moved(net[:1])(card.on_card(x))
        assert type(torch.cat([y, y], 2)) is SpikeTensor and type(y.flatten(2)) is SpikeTensor
        assert equal(torch.cat([y, y]).host, y.dense().host.repeat(2, 1, 1, 1, 1))
        assert y.cpu().device.type == "cpu" and equal(y.cpu(), y.dense().host)


def test_a_captured_graph_has_dense_tensors(monkeypatch, generator):
    """Which a replay writes anew: one that was made after the capture would stay as it is."""
    net, x = three_layers(), given("bool", generator).float()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there, there_x = card.moved(net[:1]), card.on_card(x)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert isinstance(there(there_x), OnCard)


def residual() -> tuple[nn.Module, torch.Tensor]:
    class Block(nn.Module):
        def __init__(self, C: int):
            super().__init__()
            self.first, self.second = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.second(torch.relu(self.first(x))) + x)

    torch.manual_seed(0)
    relu_net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Block(4), nn.AvgPool2d(2), Block(4), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    images = torch.rand(2, 1, 8, 8)
    net = pk.convert(relu_net.eval(), images)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 4 + 0.03125
    return net, dyadic(1, 1, 8, 8, generator=generator).abs()


def test_a_converted_residual_network(monkeypatch):
    """Average pools take dense spikes, which one launch makes."""
    net, x = residual()
    with torch.no_grad():
        expected = net(x.expand(T, *x.shape))
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there, there_x = card.moved(copy.deepcopy(net)), card.on_card(x)
        there(there_x.expand(T, *x.shape))
        card.clear()
        y = there(there_x.expand(T, *x.shape))
        assert card.launches.total() <= 40 and card.waits.total() == 1, (card.launches, card.waits)
        assert equal(y.dense().host, expected + 0)
    assert 0.01 < y.dense().host.mean() < 0.99
