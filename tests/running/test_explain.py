"""Which kernel each layer took and why: every kernel shows up under its name, and the table says what simulate says."""

import copy

import pytest
import torch
from cases import spikes
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends, cpu
from proxykernels.kernels.cpu.fallback import Fallback

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
        (chain(pk.FusedIFConv2d(8, 16, 3)), IMAGE.expand(20, 2, 8, 8, 8).clone(), "unfused", "real-valued"),
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
