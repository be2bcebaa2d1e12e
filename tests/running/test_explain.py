"""What a network says of itself: which kernel each layer took and why, and a result at a glance."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from cases import spikes
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu.words import Fallback

KEYS = ("a", "b")


def chain(*layers):
    net = nn.Sequential()
    for name, layer in zip(KEYS, layers, strict=False):
        net.add_module(name, layer)
    for parameter in net.parameters():
        parameter.data = (parameter.data * 256).round() / 64  # of few bits, and strong enough to fire
    return net


def row(net, x, T=20):
    """The row of the last layer, which must have been at work: it has fired."""
    last = pk.explain(net, x, T).rows[-1]
    assert last.rate > 0 and last.measured_ms > 0
    return last


def test_a_forced_kernel_is_named(monkeypatch, generator):
    backend = cpu.load(None, "dense")
    monkeypatch.setattr(backends, "cpu_backend", lambda: backend)
    x = pk.pack(spikes(20, 2, 32, 6, 6, generator=generator, rate=0.3))
    found = row(chain(pk.FusedIFConv2d(32, 40, 3)), x)
    assert (found.kernel, found.why) == ("unfused", "most inputs fire")
    assert found.input_rate == pytest.approx(x.rate())


IMAGE = torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "net, x, kernel, why",
    [
        (chain(pk.FusedIFConv2d(8, 16, 3)), IMAGE, "unfused", "constant"),
        (chain(pk.FusedIFConv2d(8, 16, 3)), IMAGE.expand(20, 2, 8, 8, 8).clone(), "values", "real-valued"),
        (chain(pk.FusedIFConv2d(8, 16, 3), pk.FusedIFConv2d(16, 16, 3)), IMAGE, "rows", "fastest"),
        (chain(pk.IF(v_threshold=0.5)), IMAGE, "scan", "neurons alone"),
        (chain(pk.IF(v_threshold=0.5)), IMAGE.expand(20, 2, 8, 8, 8).clone(), "scan", "neurons alone"),
        (
            chain(pk.IF(v_threshold=0.5, v_reset=None), pk.FusedIFConv2d(8, 8, 3, groups=8)),
            IMAGE,
            "depthwise",
            "fastest",
        ),
        (chain(pk.IF(v_threshold=0.5, v_reset=None), pk.MaxRatePool2d(2)), IMAGE, "torch", "torch"),
    ],
)
def test_a_layer_s_form_decides(net, x, kernel, why):
    found = row(net, x)
    assert found.kernel == kernel and why in found.why
    assert (found.input_rate is None) == (len(net) == 1)


class Added(nn.Module):
    """The sum of two layers' spikes goes to a third, as in SEW-ResNets."""

    def __init__(self):
        super().__init__()
        self.first, self.second = chain(*(pk.FusedIFConv2d(8, 8, 3, padding=1) for _ in KEYS))
        self.third = chain(pk.FusedIFConv2d(8, 8, 3))[0]

    def forward(self, x):
        x = self.first(x)
        return self.third(x + self.second(x))


def test_layers_behind_sums_are_told_as_simulate_runs_them(monkeypatch):
    found = pk.explain(Added(), IMAGE, 20)
    assert found.by_layers is None
    kernel = {row.layer: row.kernel for row in found.rows}
    assert kernel["third"] == "patterns" and "sum of spikes" in found.rows[2].why
    assert all(row.rate > 0 and row.measured_ms > 0 for row in found.rows)
    monkeypatch.setattr(pk.running.explain, "timed_plan", lambda *given: None)
    assert {row.layer: row.kernel for row in pk.explain(Added(), IMAGE, 20).rows}["third"] == "values"


@pytest.mark.parametrize("neuron, precision", [("sigma-delta", None), ("graded", None), ("graded", "int8")])
@pytest.mark.parametrize("frames", [False, True])
def test_changes_are_explained(generator, neuron, precision, frames):
    """The layers of a network of sigma-delta or graded neurons, with the rates and the way of simulate."""
    conv, last = nn.Conv2d(2, 8, 3), nn.Linear(72, 4)
    ann = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), last).eval()
    x = torch.rand(40, 2, 8, 8, generator=generator)  # more than are run at a time
    net, T = pk.convert(ann, x, neuron=neuron), 35  # and more steps
    x = torch.cat([x[None], torch.zeros(T - 1, *x.shape)]) if frames else x
    found, result = pk.explain(net, x, T, precision=precision), pk.simulate(net, x, T, precision=precision)
    first, last = found.rows
    assert found.by_layers is None and {row.kernel for row in found.rows} == {"sigma-delta"}
    assert [first.layer, last.layer] == [*result.places] and min(first.measured_ms, last.measured_ms) > 0
    assert first.rate == pytest.approx(result.rates["0"]) and first.rate > 0 and last.rate is None
    assert first.input_rate == pytest.approx((2 if frames else 1) / T, rel=0.01)
    assert last.input_rate == pytest.approx(first.rate)


def test_the_choice_by_time_is_explained(generator):
    if not cpu.load():
        pytest.skip("the C++ kernels are not built here")
    found = row(chain(pk.FusedIFConv2d(32, 40, 3)), pk.pack(spikes(20, 2, 32, 6, 6, generator=generator, rate=0.3)))
    assert found.kernel in ("rows", "tables", "tiles") and "fastest" in found.why


def test_the_reference_code_says_so(monkeypatch, generator):
    monkeypatch.setattr(backends, "cpu_backend", lambda: Fallback())
    found = row(chain(pk.FusedIFConv2d(32, 40, 3)), pk.pack(spikes(20, 2, 32, 6, 6, generator=generator, rate=0.3)))
    assert (found.kernel, found.why) == ("unfused", "no C++ kernels here")


def network():
    net = chain(pk.FusedIFConv2d(8, 16, 3, v_reset=None, batch_norm=True), pk.FusedIFConv2d(16, 16, 3))
    return net.train()


def test_rates_are_those_of_simulate_and_the_net_stays_as_it_is():
    net = network()
    pk.simulate(net, IMAGE, 1)  # which makes what layers keep
    before, modules = copy.deepcopy(net.state_dict()), {name: dict(vars(m)) for name, m in net.named_modules()}
    found = pk.explain(net, IMAGE, 100)
    rates = pk.simulate(net, IMAGE, 100).rates
    assert {r.layer: r.rate for r in found.rows} == rates and min(rates.values()) > 0
    assert found.rows[1].input_rate == pytest.approx(found.rows[0].rate)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert {name: vars(m).keys() for name, m in net.named_modules()} == {k: v.keys() for k, v in modules.items()}
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize("columns", [200, 80, 70, 40])
def test_the_table_fits_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    net = nn.Sequential()
    net.add_module("a_name_of_a_layer_that_is_long", network())
    lines = str(pk.explain(net, IMAGE, 5)).split("\n")
    assert max(map(len, lines)) <= columns
    assert any("is_long" in line for line in lines) and any("unfused" in line for line in lines)


@pytest.mark.parametrize(
    "net, x, T, message",
    [
        (network(), IMAGE, 0, "T must be"),
        (network(), IMAGE[0], 5, "x is a sequence of 8 steps, and T is 5|x must be a constant input"),
        (nn.ReLU(), IMAGE, 5, "net must have at least one layer of neurons"),
        (network(), torch.rand(2, 3, 8, 8), 5, "layer a: "),
    ],
)
def test_bad_input_is_refused_in_a_sentence(net, x, T, message):
    with pytest.raises(ValueError, match=message):
        pk.explain(net, x, T)


class Own(nn.Module):
    """Of which no plan takes the forward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = pk.FusedIFLinear(4, 6, v_threshold=0.1), pk.FusedIFLinear(6, 3)

    def forward(self, x):
        return self.last(self.first(x if len(x) else x))


def test_it_says_why_a_simulation_runs_layer_by_layer(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    x = torch.rand(2, 4)
    explained = pk.explain(Own(), x, 5)
    assert explained.by_layers == (
        "the engine does not take net (Own): its forward pass takes __len__ of a value, which a plan does not know "
        "before it runs"
    )
    told = str(explained).split("\n")[len(explained.rows) + 1 :]
    assert " ".join(told) == f"simulate runs it layer by layer: {explained.by_layers}" and max(map(len, told)) <= 80
    plain = pk.explain(nn.Sequential(Own().first, Own().last), x, 5)
    assert plain.by_layers is None and "layer by layer" not in str(plain)


def simulated(**options):
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, v_threshold=0.5), pk.Flatten(), pk.FusedIFLinear(64, 3, v_threshold=0.1)
    )
    net[2].weight.data.abs_()
    return pk.simulate(net, torch.rand(2, 1, 6, 6), 20, **options)


def test_a_row_for_each_layer():
    result = simulated(record=["0", "0.v"])
    lines = str(result).splitlines()
    assert lines[0] == "Result of T = 20 steps, N = 2 samples: spikes (20, 2, 3) on cpu"
    assert lines[1].split() == ["layer", "rate", "accumulates", "multiply-accumulates"]
    rows = [line.split() for line in lines[2:4]]
    assert [row[:2] for row in rows] == [[name, f"{rate:.4f}"] for name, rate in result.rates.items()]
    counts = [int(cell.replace(",", "")) for row in rows for cell in row[2:]]
    assert counts == [0, 2 * 64 * 9, result.synops.accumulates["2"], 0] and counts[2] > 0
    assert f"{result.synops.total:,} synaptic operations" in lines[4] and lines[5] == "records of 0, 0.v"
    assert len(lines) == 6 and len({len(line) for line in lines[1:4]}) == 1 and repr(result) == str(result)


def test_samples_that_stopped_early():
    result = simulated(stop=lambda counts, t: counts.sum(1) >= counts.sum(1).max(), chunk=4)
    steps = result.steps
    assert steps.min() < 20
    expected = f"stopped after {steps.min()} to {steps.max()} steps, {steps.float().mean():.1f} on average"
    assert expected in str(result).splitlines()


def test_no_samples():
    net = nn.Sequential(pk.FusedIFLinear(4, 3))
    shown = repr(pk.simulate(net, torch.zeros(0, 4), 5))
    assert "N = 0 samples" in shown and re.search(r"^0 +nan", shown, re.MULTILINE)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.short = nn.Conv2d(4, 4, 1, stride=2)
        self.head = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((self.grouped(x) + self.short(x)).relu().flatten(1))


@pytest.mark.parametrize("neuron", [None, "sigma-delta"])
@torch.no_grad()
def test_the_energy_of_the_relu_network(generator, neuron):
    """Its multiply-accumulates are those of ones by ones: padding adds nothing."""
    ann, x = Residual().eval(), torch.rand(6, 2, 8, 8, generator=generator)
    net = pk.convert(ann, x, **({} if neuron is None else {"neuron": neuron}))
    products, taken = 0, []
    hooks = [
        module.register_forward_hook(lambda module, given, _: taken.append((module, given[0])))
        for module in ann.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    ann(x)
    for hook in hooks:
        hook.remove()
    for module, given in taken:
        ones, weight = torch.ones_like(given), torch.ones_like(module.weight)
        if isinstance(module, nn.Linear):
            products += F.linear(ones, weight).sum().item()
        else:
            products += F.conv2d(ones, weight, None, module.stride, module.padding, 1, module.groups).sum().item()
    stop = pk.stop.settled() if neuron else pk.stop.margin(1)
    options: list[dict] = [{}, {"chunk": 2}, {"chunk": 2, "stop": stop}]
    results = [pk.simulate(net, x, 9, **each) for each in options]
    assert results[2].steps.min() < 9
    results.append(pk.simulate(net, x, 9, state=results[0].state))
    for result in results:
        assert result.relu_joules == pytest.approx(4.6e-12 * products)
        expected = f"one pass of the ReLU network, zeros not skipped: about {4.6e-12 * products:.2g} J"
        assert expected in str(result).splitlines()


def test_where_the_relu_network_is_not_known():
    result = simulated()
    assert result.relu_joules is None and "ReLU" not in str(result)
    net = pk.convert(nn.Sequential(nn.Linear(4, 3)), torch.rand(8, 4))
    assert pk.simulate(net, torch.rand(2, 4), 5).relu_joules > 0
    moving = pk.simulate(net, torch.rand(5, 2, 4), 5)
    assert moving.relu_joules is None and "ReLU" not in str(moving)


def test_silent_layers_and_real_values_are_marked():
    """Also in an engine's result; without samples nothing is said."""
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFLinear(4, 8, v_threshold=0.5), pk.FusedLILinear(8, 6, decay=0.0),
        pk.FusedIFLinear(6, 5, v_threshold=9.0), pk.FusedIFLinear(5, 3, bias=False),
    )  # fmt: skip
    x = torch.rand(3, 4)
    for result in (pk.simulate(net, x, 12), pk.compile(net, x)(x, 12)):
        rows = str(result).splitlines()[2:6]
        ends = [row.split(maxsplit=4)[4:] for row in rows]
        assert [*result.rates] == ["0", "2", "3"] and list(result.places) == ["0", "1", "2", "3"]
        assert result.rates["0"] > 0 and ends == [[], ["real values, no spikes"], ["silent"], ["silent"]]
    assert "silent" not in str(pk.simulate(net, x[:0], 12))
