"""Kernels that a network lacks are compiled side by side, before any of them is launched; on a GPU that is not there.

With --emulate Triton compiles them, its launcher launches them, and they are executed from PTX.
"""

import threading

import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_compiler import pretend_compiler
from pretend_gpu import pretend_gpu

import proxykernels as pk
from proxykernels.kernels import rehearsal

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("kernels_can_run"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]

LOOKED_AT = {"_pack_kernel", "_unpack_kernel"}  # whose results decide what is done next: compiled when launched


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, padding=1, v_threshold=torch.tensor([1.0, 2.0, 1.5, 0.5])),
        pk.FusedIFConv2d(4, 5, 3, padding=1),
        pk.MaxPool2d(2),
        pk.MaxPool2d(2, stride=1),
        pk.FusedIFConv2d(5, 3, 1, v_reset=None),
        pk.Flatten(),
        pk.FusedIFLinear(3, 4),
    )


def network(kind: str) -> nn.Module:
    """On a dyadic grid."""
    generator = torch.Generator().manual_seed(0)
    if kind in ("sigma-delta", "graded"):
        relu = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5))
        neuron = "sigma-delta" if kind == "sigma-delta" else pk.neurons.Graded(threshold=0.25)
        return pk.convert(relu.eval(), torch.rand(4, 1, 4, 4, generator=generator), neuron=neuron)
    if kind == "recurrent":
        neuron = pk.neurons.LIFNeuron(v_threshold=0.5)
        net = nn.Sequential(nn.Flatten(), pk.FusedRecurrentLinear(16, 9, neuron=neuron), pk.FusedLILinear(9, 4))
        net[0] = pk.Flatten()
    else:
        net = convolutions()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.125
    return net.eval()


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    "kind, T, precision",
    [
        ("convolutions", 4, None),
        ("convolutions", 16, None),
        pytest.param("convolutions", 75, None, marks=pytest.mark.costly),  # two chunks, of kernels of their own
        pytest.param("convolutions", 9, "int8", marks=pytest.mark.costly),
        ("recurrent", 5, None),
        ("sigma-delta", 3, None),
        pytest.param("graded", 3, None, marks=pytest.mark.costly),
    ],
)
def test_all_are_compiled_before_one_is_launched(monkeypatch, generator, kind, T, precision):
    """The results are those of a CPU, and a second run compiles nothing."""
    net, x = network(kind), dyadic(2, 1, 4, 4, generator=generator).abs()
    expected = pk.simulate(net, x, T, precision=precision)
    with pretend_gpu(monkeypatch) as card, pretend_compiler(monkeypatch) as compilations:
        there = card.moved(net)
        result = pk.simulate(there, card.on_card(x), T, precision=precision)
        compiled = list(compilations)
        launched = {name for name in card.launches if name.endswith("_kernel")}
        assert {one.kernel for one in compiled if one.ahead} == launched - LOOKED_AT != set()
        assert {one.kernel for one in compiled if not one.ahead} == launched & LOOKED_AT
        assert len(compiled) == len(set(compiled)) >= (6 if kind == "convolutions" else 2)
        if kind in ("sigma-delta", "graded", "recurrent"):
            torch.testing.assert_close(result.potentials.host, expected.potentials)
        else:
            assert equal(result.spikes.dense().host, expected.spikes.dense())
            assert 0.01 < expected.spikes.rate() < 0.95
        assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops
        del compilations[:]
        card.clear()
        again = pk.simulate(there, card.on_card(x), T, precision=precision)
        assert not compilations and card.launches.total()
        assert again.rates == result.rates and again.synops == result.synops


@pytest.mark.usefixtures("fused")
def test_an_engine_is_compiled_side_by_side(monkeypatch, generator):
    net, x = network("convolutions"), dyadic(2, 1, 4, 4, generator=generator).abs()
    expected = pk.simulate(net, x, 3)
    with pretend_gpu(monkeypatch) as card, pretend_compiler(monkeypatch) as compilations:
        engine = pk.compile(card.moved(net), card.on_card(x))
        result = engine(card.on_card(x), 3)
        assert {one.kernel for one in compilations if not one.ahead} <= LOOKED_AT
        assert equal(result.spikes.dense().host, expected.spikes.dense())


class Doubles(nn.Module):
    """Not of this package, and it may do anything."""

    def forward(self, x):
        return x


def test_a_network_with_modules_of_others_is_not_rehearsed(monkeypatch, generator):
    net, x = nn.Sequential(network("recurrent"), Doubles()), dyadic(2, 1, 4, 4, generator=generator).abs()
    expected = pk.simulate(net, x, 3)
    with pretend_gpu(monkeypatch) as card, pretend_compiler(monkeypatch) as compilations:
        result = pk.simulate(card.moved(net), card.on_card(x), 3)
        assert compilations and not any(one.ahead for one in compilations)
        torch.testing.assert_close(result.potentials.host, expected.potentials)


@pytest.mark.usefixtures("fused")
def test_a_kernel_that_does_not_compile_is_named(monkeypatch, generator):
    net, x = network("convolutions"), dyadic(2, 1, 4, 4, generator=generator).abs()
    with pretend_gpu(monkeypatch) as card, pretend_compiler(monkeypatch, "_if_conv2d_kernel"):
        with pytest.raises(RuntimeError, match="cannot compile the kernel _if_conv2d_kernel .* no such instruction"):
            pk.simulate(card.moved(net), card.on_card(x), 4)
        assert not card.launches["_if_conv2d_kernel"]


def test_what_a_rehearsal_does(generator):
    """It works once where nothing is missing; else again after all is compiled, whatever the rehearsal came to."""
    said = []

    def work() -> str:
        now = rehearsal.under_way()
        said.append("rehearsed" if now else "done")
        if now is not None and lacks:
            for key in lacks:
                now.compile(key, lambda: said.append(threading.current_thread().name.rpartition("_")[0]))
            with rehearsal.interrupted():
                assert rehearsal.under_way() is None
            raise ValueError("of zeros")
        return "result"

    lacks: list[int] = []
    assert rehearsal.rehearsed(work, lambda: said.append("undone")) == "result"
    assert said == ["rehearsed"]
    lacks, said[:] = [1, 2, 1], []
    assert rehearsal.rehearsed(work, lambda: said.append("undone"), lambda: said.append("rest")) == "result"
    assert said == ["rehearsed", "proxykernels-compile", "proxykernels-compile", "undone", "done"]


def test_errors_and_interrupts_of_a_rehearsal():
    def fails() -> None:
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        rehearsal.rehearsed(fails, lambda: None)

    def interrupts() -> None:
        rehearsal.under_way().compile("key", lambda: None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rehearsal.rehearsed(interrupts, lambda: None)
    assert rehearsal.under_way() is None
