"""Plans: their fields, how they are handed over, units of rounded weights, and averages that a product takes over."""

import dataclasses
import json
import math
import shutil
import subprocess

import layerwise
import pytest
import torch
from cases import dyadic
from equality import equal
from test_engine_file import change, refused
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels import cpu, rounding, table
from proxykernels.kernels.cpu import sources
from proxykernels.kernels.rounding import LARGEST_SUM, PRECISIONS
from proxykernels.kernels.table import NEURONS, OPERATION, WINDOW, Kind
from proxykernels.plan import file
from proxykernels.plan.description import described, plan_of
from proxykernels.plan.follow import follow
from proxykernels.plan.operations import Operation, PlannedNeurons, Window
from proxykernels.plan.plan import Plan
from proxykernels.running.engine import Engine


@pytest.mark.parametrize("of, fields", [(Window, WINDOW), (PlannedNeurons, NEURONS), (Operation, OPERATION)])
def test_python_has_them(of, fields):
    names = {field.name for field in dataclasses.fields(of)}
    others = {"model", "scalars"}, {"kind", "name", "shape", "windows", "neurons", "senders", "parameters"}
    assert names - {field.name for field in fields} in (set(), *others)
    assert {field.name for field in fields} <= names


def changed_table() -> dict:
    """The table with two more fields: a gain of each channel of DELAY, and a number of each window."""
    text = (sources.FOLDER.parents[1] / "table.py").read_text()
    for place, field in {
        "OPERATION = (\n": 'Field("gain", "floats", "[C]", kinds=(Kind.DELAY,), size="C"),',
        "WINDOW = (\n": 'Field("offset", "whole", least=2, default="5"),',
    }.items():
        assert text.count(place) == 1
        text = text.replace(place, f"{place}    {field}\n")
    names: dict = {}
    exec(text, names)
    return names


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_a_field_that_is_added_to_the_table_alone(tmp_path):
    """C++ has it, and the reader of plans reads it: whatever uses it need not be told."""
    folder = tmp_path / "cpu"
    shutil.copytree(sources.LIBRARY, folder / "c")
    shutil.copytree(sources.FOLDER, folder / "src")
    changed = changed_table()
    changed["write_headers"](folder / "src")
    assert changed["HASH"] != table.HASH
    text = (folder / "src" / "table.h").read_text()
    assert f"FLOATS(gain, 0, 0, 0, {1 << list(Kind).index(Kind.DELAY)})" in text and "WHOLE(offset, 2, 0, 0, 0)" in text
    assert "FLOATS(gain, C)" in text  # its size is checked, and a plan has a copy
    uses = "static_assert(engine::Window{}.offset == 5 && !engine::Operation{}.gain);\n"
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-DPK_TARGET=any"]
    for line, compiles in ((uses, True), (uses.replace("5", "6"), False)):
        with (folder / "c" / "read_plan.cpp").open("a") as file:
            file.write(line)
        done = subprocess.run([*command, folder / "c" / "read_plan.cpp"], capture_output=True, text=True)
        assert (done.returncode == 0) == compiles, done.stderr


def test_what_is_written_is_read():
    window = Window(0, (2, 3), (2, 1), (1, 0), (1, 2), torch.rand(4, 2, 2, 3), averages=7)
    neurons = PlannedNeurons(
        "SoftReset", torch.rand(1, 4), (), torch.rand(4), torch.rand(1, 4), limit=0.5, rectifies=True
    )
    fire = Operation(Kind.FIRE, "fire", (window,), (4, 5, 5), neurons=neurons)
    delay = Operation(Kind.DELAY, "delay", (Window(1),), (4, 5, 5), delays=torch.tensor([0, 3, 1, 2]))
    plan = Plan((2, 9, 9), False, "int8", [fire, delay], (0.0, 1.0))
    text, tensors = described(plan)
    again = plan_of(json.loads(text), tensors)
    assert described(again)[0] == text
    assert again.operations[0].windows[0].averages == 7 and again.operations[0].neurons.limit == 0.5
    assert again.operations[1].delays.tolist() == [0, 3, 1, 2]


IMAGE = (4, 6, 6)


def pool(**fields) -> Operation:
    window = Window(0, kernel=(2, 2), stride=(2, 2))
    return Operation(Kind.MAX_POOL, "pool", (window,), (4, 3, 3), **fields)


def plan_of_layer(layer: torch.nn.Module, shape: tuple[int, ...] = IMAGE) -> Plan:
    return follow(torch.nn.Sequential(layer), shape, False)


def test_a_layer_without_neurons(tmp_path):
    """The engine runs it, and a file that holds it is refused."""
    plan = Plan(IMAGE, False, None, [pool()])
    x = torch.rand(5, 2, *IMAGE) < 0.2
    found = Engine(plan)(pk.pack(x), 5).spikes.dense()
    expected = torch.nn.functional.max_pool2d(x.float().flatten(0, 1), 2).unflatten(0, (5, 2))
    assert equal(found, expected) and expected.any()
    file.save(plan, tmp_path / "pool")
    with pytest.raises(ValueError, match="it has no neurons"):
        file.read(tmp_path / "pool")


def test_weights_that_only_files_refuse(tmp_path):
    """They were looked at when the network was followed."""
    plan = plan_of_layer(pk.FusedIFConv2d(4, 8, 1))
    plan.operations[0].windows[0].weight[3] = torch.nan
    fired = Engine(plan)(pk.pack(torch.ones(3, 1, *IMAGE)), 3).spikes.dense()
    assert not fired[:, :, 3].any() and fired.any()
    file.save(plan, tmp_path / "conv")
    with pytest.raises(ValueError, match="a weight holds NaN"):
        file.read(tmp_path / "conv")


def test_weights_that_do_not_lie_as_a_file_has_them():
    conv = pk.FusedIFConv2d(4, 8, 3)
    x = pk.pack(torch.rand(6, 2, *IMAGE) < 0.3)
    expected = Engine(plan_of_layer(conv))(x, 6).spikes.dense()
    conv.to(memory_format=torch.channels_last)
    assert not conv.weight.is_contiguous()
    assert equal(Engine(plan_of_layer(conv))(x, 6).spikes.dense(), expected) and expected.any()


def test_a_plan_that_reads_other_memory_is_not_made():
    """Its maker is wrong, and no user."""
    with pytest.raises(RuntimeError, match="the plan cannot be made: a pooling changes the channels"):
        Engine(Plan((5, 6, 6), False, None, [pool()]))
    with pytest.raises(RuntimeError, match="the plan cannot be made: an operation gives other values"):
        Engine(Plan(IMAGE, False, None, [pool(real=True)]))


WAYS = {
    "definition": rounding.round_weights,
    **{name: kernels.round_weights for name in ("amx", "avx512", "avx2", "portable") if (kernels := cpu.load(name))},
}
ROOM_OF_HALF = {"int16": math.inf, "int8": 2**15 - 1}
LARGEST = {"int16": 8191, "int8": 63}


GRID = 2.0**-9


def smallest_unit(weight: Tensor, bias: int, precision: str) -> float:
    """The smallest power of two that keeps all bounds, of one channel's whole numbers of GRID: int64 [inputs].

    Rounding may add half a unit to each term, for which room is left.
    """
    bounds = [(weight.abs().max(), LARGEST[precision]), (weight.abs().sum() + abs(bias), LARGEST_SUM - len(weight) - 1)]
    half = ROOM_OF_HALF[precision] - len(weight) / 2
    if 0 < half < math.inf:
        bounds += [(weight.clamp(min=0).sum(), half), (-weight.clamp(max=0).sum(), half)]
    unit = 2.0**-30
    while any(int(size) > room * unit for size, room in bounds):
        unit *= 2
    return unit * GRID


def channels(inputs: int, generator: torch.Generator) -> Tensor:
    """Whole numbers; of all signs, of one sign each, large ones of one sign among small ones of the other."""
    whole = torch.randint(1, 127, (inputs,), generator=generator)
    small = torch.randint(1, 3, (inputs,), generator=generator)
    alone = torch.zeros(inputs, dtype=torch.int64)
    alone[inputs // 2] = -96
    signs = torch.randint(0, 2, (inputs,), generator=generator) * 2 - 1
    mostly = torch.where(torch.arange(inputs) % 8 > 0, whole, -1)
    same = torch.full((inputs,), 63)
    return torch.stack([whole, -whole, whole * signs, mostly, -mostly, small, alone, same, -same, -2 * same])


@pytest.mark.parametrize("inputs", [1, 9, 300, 520, 1040, 3000, 65_533, 65_536])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
def test_the_smallest_unit_that_keeps_the_bounds(generator, precision, way, inputs, with_bias):
    """Of positive sums and of negative ones; one way is as the other, and no channel looks at another."""
    weight = channels(inputs, generator)
    bias = torch.randint(-(2**12), 2**12, (len(weight),), generator=generator) * int(with_bias)
    given = bias * GRID if with_bias else None
    rounded, rounded_bias, unit = WAYS[way](weight * GRID, given, PRECISIONS[precision])
    expected = [smallest_unit(row, int(b), precision) for row, b in zip(weight, bias, strict=True)]
    assert unit.tolist() == expected and (inputs == 1 or len(set(expected)) > 1)
    units = torch.tensor(expected, dtype=torch.float64)[:, None]
    whole = rounded.double() / units
    assert equal(whole, torch.round(weight * GRID / units))
    assert whole.abs().max() <= LARGEST[precision] and whole.abs().sum(1).max() < 2**24
    if inputs / 2 < ROOM_OF_HALF[precision]:
        assert max(whole.clamp(min=0).sum(1).max(), -whole.clamp(max=0).sum(1).min()) <= ROOM_OF_HALF[precision]
    if with_bias:
        assert equal(rounded_bias.double(), (torch.round(bias * GRID / units[:, 0]) * units[:, 0]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_signs_change_no_unit(generator, precision, way):
    weight = torch.randn(40, 700, generator=generator) + torch.linspace(-3, 3, 40)[:, None]
    bias = torch.randn(40, generator=generator)
    rounded, rounded_bias, unit = WAYS[way](weight, bias, PRECISIONS[precision])
    negated, negated_bias, same_unit = WAYS[way](-weight, -bias, PRECISIONS[precision])
    assert rounded.any() and equal(negated, -rounded) and equal(negated_bias, -rounded_bias) and equal(same_unit, unit)


@pytest.mark.parametrize("negative", [False, True])
def test_half_of_int8_binds(negative):
    """516 weights of 63 units, and half a unit for each, are all of the room but 1; one more doubles the unit."""
    sign = -1.0 if negative else 1.0
    for inputs, expected in [(516, 1.0), (517, 2.0)]:
        _, _, unit = rounding.round_weights(sign * torch.full((1, inputs), 63.0), None, PRECISIONS["int8"])
        assert unit.item() == expected
    halves = sign * 63.0 * torch.tensor([1.0, -1.0]).repeat(1, 300)  # together 37,800
    assert rounding.round_weights(halves, None, PRECISIONS["int8"])[2].item() == 1.0


def test_ones_beside_the_weights_take_room():
    """Of the sum, not of a half; a unit above 1 is none of theirs."""
    rows = torch.full((1, 2048), 8000.0).double()
    units = [rounding.unit_of(rows * 2**-13, None, PRECISIONS["int16"], ones=n).item() for n in (0, 1, 2**12)]
    assert units == [2.0**-13, 2.0**-13, 2.0**-11]
    with pytest.raises(ValueError, match="beside an identity, .* at most 8191, got up to 16000"):
        rounding.unit_of(2 * rows[:, :8], None, PRECISIONS["int16"], ones=1)


def test_more_inputs_than_sums_are_for():
    for inputs, biases in [(LARGEST_SUM - 1, 0), (LARGEST_SUM - 1, 1), (LARGEST_SUM - 3, 3)]:
        with pytest.raises(
            ValueError, match=f"exact sums are for at most {LARGEST_SUM - 2} inputs a neuron, got {inputs}"
        ):
            rounding.room_for(inputs, biases)
    assert [rounding.room_for(LARGEST_SUM - 4, biases) for biases in (0, 1, 3)] == [3, 3, 1]


def test_powers_of_two():
    for exponent in (-126, -60, -1, 0, 1, 24, 100):
        power = 2.0**exponent
        values = torch.tensor(
            [power, math.nextafter(power, math.inf), math.nextafter(2 * power, 0)], dtype=torch.float64
        )
        assert rounding.power_of_two(values).tolist() == [power, 2 * power, 2 * power]
    assert rounding.power_of_two(torch.zeros(1, dtype=torch.float64)).item() == torch.finfo(torch.float32).tiny


def make_net(pool: nn.Module, features: int, v_reset: float | None = None) -> nn.Sequential:
    """Weights and thresholds whose sums are exact, also those of averages of powers of two."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1, v_reset=v_reset),
        pool,
        pk.Flatten(),
        pk.FusedIFLinear(features, 12, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    net[3].weight.data *= 0.25
    return net


POOLS = {
    "larger": (pk.AdaptiveAvgPool2d(4), 2, 8 * 16),
    "larger, overlapping": (pk.AdaptiveAvgPool2d((3, 7)), 2, 8 * 21),
    "larger, height as it is": (pk.AdaptiveAvgPool2d((None, 4)), 2, 8 * 8),
    "one pixel": (pk.AdaptiveAvgPool2d(3), 1, 8 * 9),
    "as it is": (pk.AdaptiveAvgPool2d(2), 2, 8 * 4),
    "window": (pk.AvgPool2d(2, 1, 1), 2, 8 * 9),
    "smaller": (pk.AvgPool2d(2), 4, 8 * 4),
    "divisor": (pk.AvgPool2d(2, 1, 1, divisor_override=2), 3, 8 * 16),
    "half a window": (pk.AvgPool2d(2, 1, 1, ceil_mode=True, count_include_pad=False), 2, 8 * 9),
}


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("name", POOLS)
def test_spikes_are_those_with_averages(generator, name, v_reset):
    pool, size, features = POOLS[name]
    net = make_net(pool, features, v_reset)
    x = dyadic(3, 2, size, size, generator=generator, span=8)
    found, expected = pk.simulate(net, x, 33), layerwise.simulate(net, x, 33)
    assert 0 < expected.spikes.dense().mean() < 1
    assert equal(found.spikes.dense(), expected.spikes.dense())
    assert equal(found.state["3"][0], expected.state["3"][0])
    assert found.synops == expected.synops and found.relu_joules == expected.relu_joules
    assert (expected.synops.accumulates["3"] == 0) == (name != "as it is")


@pytest.mark.parametrize("name", ["larger", "window"])
def test_a_file_keeps_what_is_counted(generator, tmp_path, name):
    pool, size, features = POOLS[name]
    net, x = make_net(pool, features), dyadic(3, 2, size, size, generator=generator, span=8)
    engine = pk.compile(net, x)
    assert [op.kind for op in engine.plan.operations] == [Kind.FIRE, Kind.FIRE]
    engine.save(tmp_path / "net.safetensors")
    found = pk.load(tmp_path / "net.safetensors")(x, 20).synops
    assert found == engine(x, 20).synops == layerwise.simulate(net, x, 20).synops


@pytest.mark.parametrize("window, value", [((1, 0), 0), ((1, 0), -1), ((1, 0), "many"), ((1, 0), 1 << 30), ((0, 0), 8)])
def test_averages_that_no_weight_can_have_are_refused(generator, tmp_path, window, value):
    """A number that is none; and of values, which the first layer reads."""
    pool, size, features = POOLS["larger"]
    path, x = tmp_path / "net", dyadic(3, 2, size, size, generator=generator, span=8)
    pk.compile(make_net(pool, features), x).save(path)
    assert refused(path) is False
    change(path, lambda plan: plan["operations"][window[0]]["windows"][window[1]].update(averages=value))
    assert refused(path)


def test_what_else_reads_an_average_still_has_it(generator):
    net = pk.Network()
    net.append("conv", pk.FusedIFConv2d(2, 8, 3, padding=1), ("",))
    net.append("mean", pk.AdaptiveAvgPool2d(4), ("conv",))
    net.append("flatten", pk.Flatten(), ("mean",))
    net.append("linear", pk.FusedIFLinear(128, 12), ("flatten",))
    x = (2, 2, 2)
    assert [op.kind for op in follow(net, x, True).operations] == [Kind.FIRE, Kind.FIRE]
    net.append("other", pk.FusedIFSum(nn.Linear(128, 12), nn.Identity()), ("flatten", "linear"))
    kinds = [op.kind for op in follow(net, x, True).operations]
    assert kinds == [Kind.FIRE, Kind.AVERAGE_POOL, Kind.FIRE, Kind.FIRE]


def test_weights_that_change_are_merged_anew(generator):
    net = make_net(pk.AdaptiveAvgPool2d(4), 8 * 16)
    x = dyadic(3, 2, 2, 2, generator=generator, span=8)
    before = pk.simulate(net, x, 20).count()
    weight = net[3].weight.data.clone()
    net[3].weight.data.neg_()
    assert not torch.equal(pk.simulate(net, x, 20).count(), before)
    net[3].weight.data.copy_(weight)
    assert equal(pk.simulate(net, x, 20).count(), before) and before.any()


def test_a_wrong_number_of_features_is_an_error_as_ever():
    net = make_net(pk.AdaptiveAvgPool2d(4), 8 * 15)
    with pytest.raises(ValueError, match=r"layer 3: x must have .* features, as weights .* got 128"):
        pk.simulate(net, torch.zeros(1, 2, 2, 2), 3)
