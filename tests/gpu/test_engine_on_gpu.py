"""pk.compile on a GPU that is not there (pretend_gpu.py): a run is one graph, and gives what simulate gives.

Its kernels are run by Triton's interpreter, or with --emulate launched by Triton's own launcher and executed from PTX.
"""

import pytest
import torch
from cases import dyadic, many
from common import nets
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import pretend_gpu

import proxykernels as pk
from proxykernels.running import compiling, replay

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("kernels_can_run"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]

# Launches of a compiled network, the paper's: per chunk, and per run in addition, where int16 and int8 also round the
# inputs.
LAUNCHES_OF_CHUNK, LAUNCHES_OF_RUN = 9, {"float32": 14, "float16": 14, "int16": 32, "int8": 32}


def network(kind: str = "convolutions") -> nn.Sequential:
    """On a dyadic grid."""
    generator = torch.Generator().manual_seed(0)
    if kind == "converted":
        relu = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        return pk.convert(relu.eval(), torch.rand(8, 6, generator=generator))
    if kind == "linear":
        net = nn.Sequential(pk.FusedIFLinear(6, 8), pk.FusedIFLinear(8, 5, v_reset=None))
    elif kind == "readout":
        net = nn.Sequential(pk.FusedIFLinear(6, 8), pk.FusedLILinear(8, 3))
    else:
        net = nn.Sequential(
            pk.FusedIFConv2d(1, 4, 3, padding=1, v_threshold=torch.tensor([1.0, 2.0, 1.5, 0.5])),
            pk.MaxPool2d(2),
            pk.Flatten(),
            pk.FusedIFLinear(16, 4, v_reset=None),
        )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.125
    return net.eval()


def inputs(kind: str, T: int, generator) -> torch.Tensor | pk.Spikes:
    if kind == "images":
        return dyadic(2, 1, 4, 4, generator=generator).abs()
    if kind == "held":
        return dyadic(3, 6, generator=generator).abs()
    if kind == "currents":
        return dyadic(T, 3, 6, generator=generator)
    events = torch.rand(T, 3, 6, generator=generator) < 0.4
    return events if kind == "events" else events.to(torch.uint8)


@pytest.mark.costly
@pytest.mark.parametrize("kind", many(["images", "held", "events", "frames", "currents"], 2))
def test_a_run_is_a_graph_and_equals_simulate(monkeypatch, generator, kind):
    """Of two chunks, a whole and a short one; each of two inputs, and what the first gave is not overwritten."""
    T, net = 75, network("convolutions" if kind == "images" else "linear")
    given = [inputs(kind, T, generator) for _ in range(2)]
    expected = [pk.simulate(net, x, T) for x in given]
    with pretend_gpu(monkeypatch) as card:
        there = [card.on_card(x) for x in given]
        engine = pk.compile(card.moved(net), there[0])
        results = []
        for run, x in enumerate(there):
            card.clear()
            results.append(engine(x, T))
            if run:  # the input's copy, the graph, copies of the output and of the counts; of frames also the look
                assert card.launches["graph"] == 1 and card.launches.total() <= (9 if kind == "frames" else 4)
                assert card.waits.total() <= (3 if kind == "frames" else 1)
                assert not [name for name in card.launches if name.endswith("_kernel")]
        for result, wanted in zip(results, expected, strict=True):
            assert equal(result.spikes.dense().host, wanted.spikes.dense())
            assert equal(result.count().host, wanted.count())
            assert result.rates == pytest.approx(wanted.rates) and result.synops == wanted.synops
            assert 0.01 < wanted.spikes.rate() < 0.95
    assert not torch.equal(expected[0].spikes.dense(), expected[1].spikes.dense())


@pytest.mark.parametrize("kind", ["converted", "readout"])
def test_what_else_a_result_has(monkeypatch, generator, kind):
    net, x = network(kind), inputs("held", 9, generator)
    expected = pk.simulate(net, x, 9)
    with pretend_gpu(monkeypatch) as card:
        engine = pk.compile(card.moved(net), card.on_card(x))
        for _ in range(2):
            result = engine(card.on_card(x), 9)
        if kind == "readout":
            assert expected.potentials.any() and equal(result.potentials.host, expected.potentials)
        else:
            assert result._layer.scale is not None  # all that logits are of; as_tensor would ask the driver
            torch.testing.assert_close(result._last[0].host, list(expected.state.values())[-1][0])
        assert result.relu_joules == expected.relu_joules and bool(result.relu_joules) == (kind == "converted")
        assert result.steps.host.tolist() == [9] * 3
        with pytest.raises(AttributeError, match="keeps no states"):
            result.state  # noqa: B018 - raises
        assert "T = 9 of N = 3" in repr(engine) and "layers of neurons on cuda:0" in repr(engine)


def test_precision(monkeypatch, generator):
    net, x = network("linear"), torch.rand(3, 6, generator=generator)
    expected = pk.simulate(net, x, 40, precision="int8")
    with pretend_gpu(monkeypatch) as card:
        engine = pk.compile(card.moved(net), card.on_card(x), precision="int8")
        for _ in range(2):
            assert equal(engine(card.on_card(x), 40).spikes.dense().host, expected.spikes.dense())


@pytest.mark.usefixtures("fused")
@pytest.mark.slow
@pytest.mark.parametrize("precision, weights", [(None, "float32"), ("int8", "int8")], ids=str)
def test_launches_of_the_papers_network(monkeypatch, precision, weights):
    """What the table of modelled times counts: of a graph of one chunk, and of what is around it."""
    captured = []
    with pretend_gpu(monkeypatch, executes=False) as card:
        there = card.on_card(torch.rand(2, 1, 28, 28))
        engine = pk.compile(card.moved(nets.paper().eval()), there, precision=precision)

        def capture(run, memory):
            card.clear()
            given = card.capture(run)
            captured.append(card.launches.total())
            return given

        monkeypatch.setattr(replay, "capture_graph", capture)
        engine(there, 64)
        card.clear()
        engine(there, 64)
        assert card.launches["graph"] == 1
        around = card.launches.total() - 1
    assert captured[0] + around == LAUNCHES_OF_CHUNK + LAUNCHES_OF_RUN[weights]


def test_weights_are_copied(monkeypatch, generator):
    with pretend_gpu(monkeypatch) as card:
        net, x = card.moved(network("linear")), card.on_card(inputs("held", 7, generator))
        engine = pk.compile(net, x)
        first = engine(x, 7).spikes.dense().host
        net[1].weight.host.mul_(-1)
        assert first.any() and equal(engine(x, 7).spikes.dense().host, first)
        assert not torch.equal(pk.simulate(net, x, 7).spikes.dense().host, first)


def test_values_that_are_not_finite_are_noticed(monkeypatch, generator):
    """At the first run and at later ones; the next run is right again."""
    net, x = network("linear"), inputs("held", 7, generator)
    expected = pk.simulate(net, x, 7).spikes.dense()
    wrong = x.clone()
    wrong[1, 2] = torch.nan
    with pretend_gpu(monkeypatch) as card:
        engine = pk.compile(card.moved(net), card.on_card(x))
        for _ in range(2):
            with pytest.raises(ValueError, match="x must be finite"):
                engine(card.on_card(wrong), 7)
            assert equal(engine(card.on_card(x), 7).spikes.dense().host, expected)


def test_other_ways_to_run(monkeypatch, generator):
    """With a rule to stop by, and with graphs turned off, the layers are launched as simulate launches them."""
    net, x, rule = network("linear"), inputs("held", 64, generator), pk.stop.margin(4)
    with pretend_gpu(monkeypatch, executes=False) as card:
        engine, asked = pk.compile(card.moved(net), card.on_card(x)), []
        monkeypatch.setattr(compiling, "simulate", lambda net, x, T, **options: asked.append((T, options)))
        engine(card.on_card(x), 64, stop=rule)
        monkeypatch.setenv("PROXYKERNELS_CUDA_GRAPHS", "0")
        engine(card.on_card(x), 9)
        rest = {"lengths": None, "precision": None}
        assert asked == [(64, {"stop": rule} | rest), (9, {"stop": None} | rest)]


def test_the_latest_graphs_are_kept(monkeypatch, generator):
    x = inputs("held", 7, generator)
    with pretend_gpu(monkeypatch, executes=False) as card:
        engine = pk.compile(card.moved(network("linear")), card.on_card(x))
        for T in (*range(1, 18), 2, 1):
            engine(card.on_card(x), T)
        assert [shape[0] for shape, _ in engine._graphs] == [*range(4, 18), 2, 1]


class Foreign(nn.Module):
    def forward(self, x):
        return x


def test_what_is_not_taken_is_named(monkeypatch, generator):
    x = inputs("held", 7, generator)
    with pretend_gpu(monkeypatch, executes=False) as card:
        there = card.on_card(x)
        net = card.moved(network("linear"))
        net.insert(1, Foreign())
        with pytest.raises(TypeError, match=r"does not take module 1 \(Foreign\)"):
            pk.compile(net, there)
        net[1] = nn.Identity()
        engine = pk.compile(net, there)
        with pytest.raises(ValueError, match="x must be on cuda:0, where the engine runs, got cpu"):
            engine(x, 7)
        for name in ("stream", "save", "sizes"):
            with pytest.raises(AttributeError, match=f"an engine on a GPU has no '{name}': compile .* on the CPU"):
                getattr(engine, name)
        assert not hasattr(engine, "weights")
