"""Sigma-delta neurons by Triton against the definition, bit for bit; and a network of them on a pretended GPU."""

import math

import pytest
import torch
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import dyadic
from pretend_gpu import pretend_gpu

import proxykernels as pk
from proxykernels.kernels import reference, sigma_delta_codes
from proxykernels.kernels.gpu import sigma_delta as gpu
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("kernels_can_run")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def definition(arrived: torch.Tensor, T: int, neuron: sigma_delta_codes.Senders, state=None) -> torch.Tensor:
    steps = sigma_delta_codes.padded(arrived, T).permute(1, 0, 3, 2)
    state = state and tuple(part.transpose(1, 2) for part in state)
    options = {"lowest": neuron.lowest, "highest": neuron.highest, "state": state}
    if neuron.threshold is not None:
        return reference.graded(steps, neuron.threshold, unit=neuron.unit, **options).permute(1, 0, 3, 2)
    return sigma_delta_codes.codes_of(reference.sigma_delta(steps, neuron.exponents, **options)).permute(1, 0, 3, 2)


def senders(exponents: int | None, lowest: float, highest: torch.Tensor) -> sigma_delta_codes.Senders:
    """Sigma-delta neurons; without exponents graded ones, and for 0 those of 8 bits."""
    if exponents == 0:
        return sigma_delta_codes.Senders(1, max(lowest, -63 / 16), highest.clamp(max=63 / 16), 0.3, 1 / 16)
    return sigma_delta_codes.Senders(exponents or 1, lowest, highest, None if exponents else 0.3)


@pytest.mark.parametrize("T, T_in", [(1, 1), (4, 4), (8, 1), (7, 3)])
@pytest.mark.parametrize("exponents", [1, 3, 8, None, 0])
@pytest.mark.parametrize("lowest", [0.0, -math.inf])
@pytest.mark.parametrize("places", [(1, 1), (5, 7), (3, 300), (2, 256)])
def test_scan_of_any_floats(T, T_in, exponents, lowest, places, generator):
    """Sums go on in one order: all data give equal bits."""
    arrived = (torch.randn(2, T_in, *places, generator=generator) * 0.6).to(DEVICE)
    highest = torch.where(torch.rand(places[1], generator=generator) < 0.5, math.inf, 0.8).to(DEVICE)
    neuron = senders(exponents, lowest, highest)
    codes, spikes = gpu.scan(arrived, T, neuron)
    expected = definition(arrived, T, neuron)
    assert expected.any() or places == (1, 1)
    assert equal(codes, expected) and spikes.sum() == expected.count_nonzero()
    states = [[torch.randn(2, *places, generator=generator).to(DEVICE) for _ in range(2)]] * 2
    states[1] = [part.clone() for part in states[0]]
    codes, _ = gpu.scan(arrived, T, neuron, tuple(states[0]))  # they go on from there
    assert equal(codes, definition(arrived, T, neuron, states[1]))
    assert all(map(torch.equal, *states))


def test_what_lies_on_an_edge(generator):
    """Three quarters of each power, and one number below and above: of both signs."""
    edges = 0.75 * 2.0 ** -torch.arange(10)
    values = torch.cat([edges, edges.nextafter(torch.tensor(0.0)), edges.nextafter(torch.tensor(1.0))])
    values = torch.cat([values, -values, torch.tensor([0.0, -0.0, 1e30, -1e30, math.inf])]).to(DEVICE)
    for exponents in range(1, 13):
        neuron = sigma_delta_codes.Senders(exponents, -math.inf, torch.full((1,), math.inf, device=DEVICE))
        codes, _ = gpu.scan(values.view(1, 1, -1, 1), 1, neuron)
        assert equal(codes, definition(values.view(1, 1, -1, 1), 1, neuron))


@pytest.mark.parametrize("given", ["spikes", "values", "one step of values", "nothing"])
@pytest.mark.parametrize("sends", ["powers", "values", "nothing"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_layers_equal_the_definition(given, sends, groups, generator):
    steps, size, window = 1 if given.startswith("one") else 5, (6, 5), ((2, 1), (1, 2), (1, 1), groups)
    x = torch.randint(-12, 13, (2, steps, 30, 6), generator=generator)
    x = x.to(torch.int8) if given == "spikes" else x / 8
    weight, bias = dyadic(12, 6 // groups, 3, 3, generator=generator), dyadic(12, generator=generator)
    added = dyadic(2, 5, 21, 12, generator=generator)
    neuron = None if sends == "nothing" else senders(6 if sends == "powers" else None, 0.0, torch.full((12,), 1.5))
    operands = (None, size, None, None) if given == "nothing" else (x, size, weight, bias)
    expected, counts = sigma_delta_codes.sigma_delta(*operands, added, 5, neuron, window)
    on_device = [part.to(DEVICE) if isinstance(part, torch.Tensor) else part for part in (*operands, added)]
    actual, counted = gpu.sigma_delta(*on_device, 5, neuron, window)
    assert expected.any() and equal(actual.cpu(), expected)
    assert [int(torch.as_tensor(count).sum()) for count in counted] == [*counts]


@pytest.mark.parametrize("given", ["spikes", "values", "one step of values"])
@pytest.mark.parametrize("lowest", [0.0, -math.inf])
@pytest.mark.parametrize("exponents", [4, None])
def test_neurons_behind_maxima_equal_the_definition(given, lowest, exponents, generator):
    steps, pooling = 1 if given.startswith("one") else 5, ((7, 5), (4, 3), (2, 3), (2, 2), (0, 1))
    x = torch.randint(-9, 10, (2, steps, 35, 20), generator=generator)
    x = x.to(torch.int8) if given == "spikes" else x / 8
    neuron = senders(exponents, lowest, torch.full((20,), 1.5, device=DEVICE))
    states = [[torch.randint(-9, 10, (2, P, 20), generator=generator) / 8 for P in (35, 12)]] * 2
    states[1] = [part.clone().to(DEVICE) for part in states[0]]
    on_cpu = neuron._replace(highest=neuron.highest.cpu())
    for of_definition, ours in ((None, None), map(tuple, states)):
        T = 5 if exponents else steps
        expected, spikes = sigma_delta_codes.pooled_sigma_delta(x, *pooling, T, on_cpu, of_definition)
        codes, counted = gpu.pooled_sigma_delta(x.to(DEVICE), *pooling, T, neuron, ours)
        assert equal(codes.cpu(), expected) and counted.sum() == spikes > 0
    assert all(torch.equal(theirs, ours.cpu()) for theirs, ours in zip(*states, strict=True))


def test_of_nothing():
    neuron = sigma_delta_codes.Senders(8, 0.0, torch.ones(3, device=DEVICE))
    codes, spikes = gpu.scan(torch.zeros(0, 2, 4, 3, device=DEVICE), 5, neuron)
    assert codes.shape == (0, 5, 4, 3) and spikes.sum() == 0


def converted(generator, neuron="sigma-delta") -> tuple[nn.Module, torch.Tensor]:
    """A network of sigma-delta neurons on a dyadic grid, and images."""
    ann = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 4, 1), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    x = dyadic(3, 2, 8, 8, generator=generator)
    net = pk.convert(ann.eval(), x, neuron=neuron)
    for parameter in net.parameters():
        parameter.data = (parameter.data * 16).round() / 16
    for layer in net.modules():
        if isinstance(layer, SigmaDeltaNeurons):
            layer.scale.fill_(1)
    return net, x


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
@pytest.mark.parametrize("samples", [3, 32])
def test_launches_and_waits(monkeypatch, generator, samples):
    """A simulation waits once, for the look at x, and its counts once, when they are read. More samples, no more."""
    net, x = converted(generator)
    x = x.repeat(samples, 1, 1, 1)[:samples]
    with pretend_gpu(monkeypatch, executes=False) as card:
        there, there_x = card.moved(net), card.on_card(x)
        result = pk.simulate(there, there_x, 4)
        assert card.launches.total() <= 60 and card.waits.total() == 1, (card.launches, card.waits)
        assert not card.launches["sum"]
        result.rates, result.synops  # noqa: B018 - are read
        assert card.waits.total() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
@pytest.mark.parametrize("neuron", ["sigma-delta", "graded"])
def test_explain_counts_the_launches_of_each_layer(monkeypatch, generator, neuron):
    net, x = converted(generator, neuron)
    expected, run, launched = pk.explain(net, x, 4), SigmaDeltaNeurons.run, []
    with pretend_gpu(monkeypatch) as card:

        def counted(*operands):
            before = card.launches.total()
            result = run(*operands)
            launched.append(card.launches.total() - before)
            return result

        there, there_x = card.moved(net), card.on_card(x)
        pk.simulate(there, there_x, 4)  # which makes what layers keep
        monkeypatch.setattr(SigmaDeltaNeurons, "run", counted)
        found = pk.explain(there, there_x, 4)
    assert [row.why.split("; ")[-1] for row in found.rows] == [f"{count} launches" for count in launched]
    assert all(row.why.startswith("torch convolves the changes") for row in found.rows)
    sends = ["Triton values + unfused + Triton sums + Triton scan"] + ["Triton values + unfused + Triton scan"] * 2
    assert [row.kernel for row in found.rows if row.rate is not None] == sends
    assert {row.kernel for row in found.rows if row.rate is None} == {"Triton values + unfused"}
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert (one.layer, one.input_rate, one.rate) == (other.layer, other.input_rate, other.rate)


@pytest.mark.parametrize("values", ["codes", "floats"])
@pytest.mark.parametrize("T", [None, 6])
@pytest.mark.parametrize("before", [False, True])
def test_sums_so_far(generator, values, T, before):
    """In float32 and in order: of any floats."""
    x = torch.randint(-12, 13, (2, 4, 21, 30), generator=generator).to(torch.int8)
    x = x if values == "codes" else torch.randn(x.shape, generator=generator)
    sent = [torch.randn(2, 21, 30, generator=generator) for _ in range(2)] if before else [None, None]
    sent[1] = sent[0] if sent[0] is None else sent[0].clone().to(DEVICE)
    expected = sigma_delta_codes.sums_so_far(x, sent[0], T)
    assert equal(gpu.sums_so_far(x.to(DEVICE), sent[1], T).cpu(), expected) and expected.shape[1] == (T or 4)
    assert not before or equal(sent[1].cpu(), expected[:, -1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
@pytest.mark.parametrize("neuron", ["sigma-delta", pk.neurons.Graded(0.25)], ids=str)
def test_a_network_on_a_gpu_is_the_network_on_a_cpu(monkeypatch, neuron, generator):
    net, x = converted(generator, neuron)
    expected = pk.simulate(net, x, 5)
    with pretend_gpu(monkeypatch) as card:
        result = pk.simulate(card.moved(net), card.on_card(x), 5)
        assert equal(result.potentials.host, expected.potentials) and expected.potentials.any()
        assert result.rates == expected.rates
        assert result.synops.accumulates == expected.synops.accumulates
        assert card.launches["_sigma_delta_kernel"] == 3
        state: dict = {}
        for t in range(5):
            result = pk.simulate(card.moved(net), card.on_card(x), 1, state=state)
            assert equal(result.potentials.host[0], expected.potentials[t])
            state = result.state
