"""Networks of graded neurons in 8 bits: the same bits by rows of bytes, by float32 layers and by the definition."""

import pytest
import torch
from equality import equal
from sigma_delta_nets import by_layers, nets_fixture, pooled_fixture  # noqa: F401 - fixtures
from torch import nn

import proxykernels as pk
from proxykernels.kernels.rounding import Grid, units_of_values
from proxykernels.kernels.table import Kind
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons
from proxykernels.plan.follow_sigma_delta import follow_changes
from proxykernels.plan.quantize import UNIT
from proxykernels.running.engine import Engine

TARGETS = ("portable", "avx2", "avx512", "amx")


class Wide(nn.Module):
    """Rows of bytes of many sizes: 34 to 130 channels, off multiples of all registers, with groups, strides, padding,
    dilation, a sum with other weights, and one pixel."""

    def __init__(self):
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(2, 36, 3, padding=1), nn.Conv2d(36, 34, 3, 2, 1, groups=2)
        self.left, self.right = nn.Conv2d(34, 70, 1), nn.Conv2d(34, 70, 3, padding=2, dilation=2)
        self.pool, self.wide = nn.MaxPool2d(2), nn.Conv2d(70, 130, 3, bias=False)
        self.features, self.last = nn.Linear(130 * 4, 65), nn.Linear(65, 5)

    def forward(self, x):
        x = self.grouped(self.stem(x).relu()).relu()
        x = self.pool((self.left(x) + self.right(x)).relu())
        x = self.wide(x).relu()
        return self.last(self.features(x.flatten(1)).relu())


@pytest.fixture(name="wide")
def wide_fixture(generator):
    return Wide().eval(), torch.randn(6, 2, 16, 16, generator=generator)


@pytest.fixture(name="busy")
def busy_fixture(wide):
    """Most neurons send something, so that codes are multiplied whether they are 0 or not."""
    ann, x = wide
    for module in ann.children():
        if getattr(module, "bias", None) is not None:
            module.bias += 0.7
    return ann, x


class Shortcuts(nn.Module):
    """Sums that read a layer as it is, times a power of two of its unit, and beside two others."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(C, 20, 3, padding=1) for C in (2, 20, 20))
        self.third = nn.Conv2d(20, 20, 1)
        self.last = nn.Linear(20 * 25, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        y = (self.first(x) + x).relu()
        z = (self.second(y) + 0.5 * y).relu()
        return self.last((self.third(z) + z + 2 * y).relu().flatten(1))


@pytest.fixture(name="shortcuts")
def shortcuts_fixture(generator):
    return Shortcuts().eval(), torch.randn(5, 2, 5, 5, generator=generator)


def frames_of(x: torch.Tensor, T: int, generator: torch.Generator) -> torch.Tensor:
    """Frames of which a tenth changes, and the third is as the second."""
    moved = torch.randn(T, *x.shape, generator=generator)
    frames = torch.where(torch.rand(T, *x.shape, generator=generator) < 0.1, moved, x)
    frames[2] = frames[1]
    return frames


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
@pytest.mark.parametrize("net_of", ["nets", "pooled", "wide", "busy", "shortcuts"])
@pytest.mark.parametrize("target", TARGETS)
def test_all_ways_give_the_same_bits(request, target, net_of, threshold, frames, generator):
    ann, x = request.getfixturevalue(net_of)
    net = pk.convert(ann, x, neuron=pk.neurons.Graded(threshold))
    given, T = (frames_of(x, 5, generator), 5) if frames else (x, 1)
    try:
        engine = Engine(follow_changes(net, tuple(x.shape[1:]), "int8"), target=target)
    except RuntimeError:
        pytest.skip(f"this machine has no {target}")
    with pk.use_reference():
        expected = pk.simulate(net, given, T, precision="int8")
    for result in (engine(given, T), by_layers(net, given, T, precision="int8")):
        assert equal(result.potentials, expected.potentials) and result.synops == expected.synops
        assert result.rates == expected.rates and 0 < min(expected.rates.values())
    assert equal(engine(given[:, 2:3] if frames else given[2:3], T).potentials, expected.potentials[:, 2:3])
    plain = pk.simulate(net, given, T)
    error = (plain.potentials - expected.potentials).abs().max() / plain.potentials.abs().max()
    assert 1e-4 < error < 0.2


@torch.no_grad()
def test_what_neurons_send_are_multiples_of_a_unit_and_clipped(wide):
    """A value beyond the largest code is sent as that code, with both signs of change."""
    ann, x = wide
    net = pk.convert(ann, x, neuron=pk.neurons.Graded())
    frames = torch.stack([x, x * 40, x * 0])
    plan = follow_changes(net, tuple(x.shape[1:]), "int8")
    engine = Engine(plan)
    stream, seen = engine.stream(len(x)), []
    for frame in frames:
        stream(frame)
        seen.append({name: state[1].clone() for name, state in stream.state.items() if name})
    sent = seen[1]["grouped"]
    assert equal(sent, (sent / UNIT).round() * UNIT) and sent.amax() == 127 * UNIT and sent.amin() == 0
    assert len(sent.unique()) > 20 and (seen[2]["grouped"] < sent).any()
    first = next(op for op in plan.operations if op.kind == Kind.SEND)
    assert all(len(row.unique()) <= 127 for row in first.windows[0].weight)


@torch.no_grad()
@pytest.mark.parametrize("net_of", ["pooled", "wide"])
def test_streams_files_and_sizes(request, net_of, generator, tmp_path):
    ann, x = request.getfixturevalue(net_of)
    net = pk.convert(ann, x, neuron=pk.neurons.Graded(0.05))
    engine, frames = pk.compile(net, x, precision="int8"), frames_of(x, 6, generator)
    expected = pk.simulate(net, frames, 6, precision="int8", state={})
    engine.save(tmp_path / "net.safetensors")
    loaded = pk.load(tmp_path / "net.safetensors")
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "net.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    for one in (engine, loaded):
        stream = one.stream(len(x))
        assert equal(torch.cat([stream(frames[0]), stream(frames[1:4]), stream(frames[4]), stream(frames[5])]),
                     expected.potentials)  # fmt: skip
        assert all(equal(*pair) for name in expected.state for pair in zip(stream.state[name], expected.state[name],
                                                                            strict=True))  # fmt: skip
    assert engine(x[:0], 1).potentials.shape == (1, 0, 5)
    many = x.repeat(7, 1, 1, 1)
    assert equal(engine(many, 1).potentials, engine(x, 1).potentials.repeat(1, 7, 1))
    assert "int8" in repr(engine) and engine.plan.precision == "int8"
    with pytest.raises(ValueError, match="precision must be None for a network of sigma-delta neurons, None or 'int8'"):
        pk.compile(net, x, precision="int16")


@torch.no_grad()
def test_weights_change(wide):
    """A plan that simulate keeps follows its network."""
    net = pk.convert(*wide, neuron=pk.neurons.Graded(0.05))
    before = pk.simulate(net, wide[1], 1, precision="int8").logits
    next(net.parameters()).mul_(0.75)
    after = pk.simulate(net, wide[1], 1, precision="int8").logits
    assert not torch.equal(before, after)
    assert equal(after, by_layers(net, wide[1], 1, precision="int8").logits)


def test_sums_of_many_large_values_stay_exact():
    """The unit is coarser where 24 bits would not hold a sum otherwise."""
    rows, grid = torch.ones(2, 1 << 14, dtype=torch.float64), Grid(UNIT, 127)
    rows[1, 100:] = 0
    (unit,) = units_of_values([rows], torch.tensor([0.0, 0.5], dtype=torch.float64), [grid], 63)
    assert (rows.sum(1) * 127 / unit <= 2**24).all() and (rows.sum(1) * 127 / unit[1] > 2**24).any()
    assert unit.tolist() == [1 / 4, 1 / 32]
    beside = units_of_values([rows[1:], rows[1:]], torch.tensor([2.0**22]), [grid, Grid(2.0**-7, 512)], 63)
    assert [unit.item() * grid for unit, grid in zip(beside, (UNIT, 2.0**-7), strict=True)] == [0.5, 0.5]
    with pytest.raises(ValueError, match="exact sums of values are for fewer inputs a neuron, got 400000"):
        units_of_values([torch.ones(1, 400_000, dtype=torch.float64)], None, [grid], 63)


@torch.no_grad()
def test_signed_values(generator):
    """Neurons of an identity send values of both signs at once."""

    ann = nn.Sequential(
        nn.Conv2d(2, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 18, 1), nn.Conv2d(18, 40, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(640, 3),
    )  # fmt: skip
    x = torch.randn(4, 2, 6, 6, generator=generator)
    net = pk.convert(ann.eval(), x, neuron=pk.neurons.Graded())
    signed = [layer for layer in net.modules() if isinstance(layer, SigmaDeltaNeurons) and not layer.rectifies]
    assert signed
    with pk.use_reference():
        expected = pk.simulate(net, x, 1, precision="int8")
    assert equal(pk.simulate(net, x, 1, precision="int8").logits, expected.logits) and expected.logits.any()
