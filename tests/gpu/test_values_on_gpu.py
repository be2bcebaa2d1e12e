"""Values on a GPU: layers that no Triton kernel runs are run by torch, and say so."""

import copy
import warnings

import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import CARD, pretend_gpu
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import proxykernels as pk
from proxykernels import checks
from proxykernels.kernels.recording import warn_of_dense_frames

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("kernels_can_run", "fused"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


def several(C: int, C_out: int) -> nn.Module:
    return pk.layers.FusedConv2d(C, C_out, 1, neuron=pk.neurons.IntegerLIFNeuron())


def network(kind: str, generator) -> nn.Module:
    middle = {
        "several spikes a step": [several(12, 4)],
        "attention": [pk.layers.Attention(2)],
        "formula": [pk.layers.Formula(Twice()), several(12, 4)],
    }[kind]
    net = nn.Sequential(pk.FusedIFConv2d(2, 12, 1), *middle, pk.FusedIFConv2d(4, 5, 1, v_reset=None))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.25
    return net.eval()


@pytest.mark.parametrize("kind", ["several spikes a step", "attention", "formula"])
def test_values_run_and_say_how(monkeypatch, generator, kind):
    net, x = network(kind, generator), dyadic(2, 2, 3, 4, generator=generator).abs()
    with torch.no_grad():
        expected = pk.simulate(net, x, 7).spikes.dense()
    with pretend_gpu(monkeypatch) as card, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        there, there_x = card.moved(copy.deepcopy(net)), card.on_card(x)
        found = pk.simulate(there, there_x, 7).spikes.dense()
        assert equal(found.host, expected) and 0.01 < expected.mean() < 0.99
        called = there(there_x.expand(7, *x.shape))
        assert equal((called.dense() if isinstance(called, pk.Spikes) else called + 0).host, expected)
        last = str(pk.explain(there, there_x, 7)).splitlines()[-1]
    assert " unfused " in last and "real-valued input" in last


def frames(generator) -> torch.Tensor:
    return (torch.rand(6, 2, 2, 3, 4, generator=generator) < 0.4).float()


def test_float_frames_in_a_captured_graph_say_so_once(monkeypatch, generator):
    net, x = network("attention", generator)[:1], frames(generator)
    warn_of_dense_frames.cache_clear()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there, there_x = card.moved(copy.deepcopy(net)), card.on_card(x)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.warns(RuntimeWarning, match="If they are spikes, give Spikes") as said:
            there(there_x)
            there(there_x)
        assert len(said) == 1
        warn_of_dense_frames.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            there(there_x.bool())


def test_float_frames_in_a_compiled_graph_say_so(monkeypatch):
    """A compiler asks for the shapes of results, of tensors without values."""
    warn_of_dense_frames.cache_clear()
    monkeypatch.setattr(checks, "memory", lambda device: 80 << 30)
    mode = FakeTensorMode()
    x, weight = (FakeTensor(mode, torch.empty(shape, device="meta"), CARD) for shape in ((6, 2, 2, 3, 4), (3, 2, 1, 1)))
    with mode, pytest.warns(RuntimeWarning, match="give Spikes"):
        pk.if_conv2d(x, weight, None)
