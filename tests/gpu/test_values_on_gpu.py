"""Values on a GPU: layers that no Triton kernel runs are run by torch, and say so."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from attention_nets import attentive
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
        rows = pk.explain(there, there_x, 7).rows
    assert rows[-1].kernel == "unfused" and rows[-1].why == "real-valued input"
    if kind == "several spikes a step":
        assert rows[1].kernel == "Triton convolution + Triton scan"


# Layers alone, and what docs/kernels.md says of them.
PAGE = Path(__file__).parents[2] / "docs/kernels.md"
COUNTED = {
    "`IntegerLIFNeuron`": (lambda: several(12, 4), (4, 6), "4 on spikes, 6 on values"),
    "convolutions of values": (lambda: pk.FusedIFConv2d(12, 5, 3), (None, 6), "6"),
    "`layers.Attention`": (lambda: pk.layers.Attention(2), (6, 5), "6 on spikes, 5 on values"),
    "`SumPool2d`": (lambda: pk.AvgPool2d(2), (2, None), "2 on spikes"),
}


@pytest.mark.parametrize("name", COUNTED)
def test_launches_are_those_of_the_page(monkeypatch, generator, name):
    make, expected, said = COUNTED[name]
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith("|") and name in line.split("|")[1]]
    assert line.split("|")[2].strip() == said
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        layer = card.moved(make().eval())
        for T in (4, 40):
            x = card.on_card(dyadic(T, 2, 12, 6, 6, generator=generator))
            for given, most in zip((pk.pack(x > 0), x), expected, strict=True):
                layer(given)
                card.clear()
                layer(given)
                assert most is None or card.launches.total() == most


@pytest.mark.parametrize("T", [3, 9])
def test_launches_of_a_filter(monkeypatch, generator, T):
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        x = card.on_card(dyadic(T, 2, 5, generator=generator))
        card.clear()
        pk.layers.SynapseFilter(4.0)(x)
        assert 5 * T <= card.launches.total() <= 5 * T + 3


@pytest.mark.parametrize("kind", ["linear", "image"])
def test_a_readout_is_one_launch(monkeypatch, generator, kind):
    """In any number of steps, behind the convolution; without a gradient."""
    first, last = pk.FusedIFConv2d(2, 5, 1), pk.FusedConv2d(5, 3, 3, neuron=pk.neurons.LINeuron(decay=0.5))
    net = nn.Sequential(first, last) if kind == "image" else nn.Sequential(first, pk.Flatten(), pk.FusedLILinear(60, 3))
    for parameter in net.eval().parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.25
    x, launches = frames(generator), []
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        for T in (3, 6):
            part = pk.pack(card.on_card(x[:T]))
            there(part)
            card.clear()
            found = there(part)
            launches.append(card.launches.total())
            assert card.launches["_if_scan_kernel"] == 1 and not card.waits
            assert equal(found.host, net(x[:T])) and found.host.any()
        row = pk.explain(there, card.on_card(x), 6).rows[-1]
    assert launches[0] == launches[1] <= 17
    assert row.kernel == "Triton convolution + Triton scan" and row.why == "the only one on a GPU"


@pytest.mark.parametrize("given", ["held", "values", "spikes"])
def test_launches_of_integer_neurons(monkeypatch, generator, given):
    """As many in any number of steps: one is of the neurons."""
    net, launches = network("several spikes a step", generator)[1:2], []
    x = dyadic(8, 2, 12, 3, 4, generator=generator)
    x = x if given == "values" else pk.pack(x > 0) if given == "spikes" else x[0].abs()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        for T in (4, 8):
            part = card.on_card(x) if given == "held" else x[:T]
            part = pk.pack(card.on_card(part.dense())) if given == "spikes" else card.on_card(part)
            pk.simulate(there, part, T)
            card.clear()
            found = pk.simulate(there, part, T).output
            launches.append(card.launches.total())
            assert card.launches["_if_scan_kernel"] == 1 and sum(card.waits.values()) <= 1
            assert (
                equal(found.host, pk.simulate(net, x if given == "held" else x[:T], T).output) and found.host.max() > 1
            )
    assert launches[0] == launches[1] <= 9


@pytest.mark.parametrize("channels, heads, size", [(12, 4, (3, 2)), (33, 1, (1, 5))])
@pytest.mark.parametrize("given", ["spikes", "values"])
def test_attention_and_products_equal_a_cpu_s(monkeypatch, generator, channels, heads, size, given):
    """Also where steps go over a word; torch computes all steps of a chunk at once."""
    net, launches = attentive(channels, heads, generator, real=given == "values"), []
    x = dyadic(33, 2, 3 * channels if given == "values" else 3, *size, generator=generator)
    x = x if given == "values" else pk.pack(x > 0)
    with torch.no_grad():
        expected = pk.simulate(net, x, 33).spikes.dense()
    assert 0.01 < expected.mean() < 0.99
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        for T in (16, 33):
            card.clear()
            part = card.on_card(x[:T]) if given == "values" else pk.pack(card.on_card(x[:T].dense()))
            assert equal(pk.simulate(there, part, T).spikes.dense().host, expected[:T])
            launches.append(card.launches["bmm"] + card.launches["mul"])
    assert launches[0] == launches[1] > 0


def test_a_product_of_spikes_waits_for_nothing(monkeypatch, generator):
    x, y = (torch.rand(33, 2, C, 5, generator=generator) < 0.5 for C in (12, 4))
    with pretend_gpu(monkeypatch) as card:
        spikes = [pk.pack(card.on_card(part)) for part in (x, y)]
        card.clear()
        product = pk.layers.Multiply()(spikes)
        assert not card.waits and card.launches.total() <= 5
        assert equal(product.dense(torch.bool).host, x & y.repeat_interleave(3, 2)) and product.rate() > 0.1


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


def in_a_cycle() -> nn.Module:
    """Convolutions whose spikes come back to the first."""
    rec, neuron = pk.layers.RecurrentGraph(), pk.neurons.LIFNeuron()
    join = pk.layers.FusedSum(nn.Conv2d(12, 8, 1), nn.Conv2d(4, 8, 3, padding=1), neuron=neuron)
    rec.append("first", join, (rec.INPUT, rec.before("second")))
    rec.append("second", pk.layers.FusedConv2d(8, 4, 1, neuron=neuron), ("first",))
    return rec


MIDDLES = {
    "feedback": lambda generator: in_a_cycle(),
    "trace": lambda generator: nn.Sequential(pk.layers.SynapseFilter(4.0), several(12, 4)),
    "mixture": lambda generator: nn.Sequential(
        pk.layers.StepMixture(dyadic(7, 7, generator=generator)), several(12, 4)
    ),
}


@pytest.mark.parametrize("kind", MIDDLES)
def test_layers_that_torch_computes(monkeypatch, generator, kind):
    net = nn.Sequential(pk.FusedIFConv2d(2, 12, 1), MIDDLES[kind](generator), pk.FusedIFConv2d(4, 5, 1)).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.25
    x = dyadic(7, 2, 2, 3, 4, generator=generator)
    with torch.no_grad():
        expected = pk.simulate(net, x, 7).spikes.dense()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there, there_x = card.moved(copy.deepcopy(net)), card.on_card(x)
        found = pk.simulate(there, there_x, 7).spikes.dense()
        assert equal(found.host, expected) and 0.01 < expected.mean() < 0.99
