"""A converted network says once that its input is far from the calibration data, or that none of its neurons fires."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

import proxykernels as pk

FAR = r"x has values from .* to .*, and the network was calibrated on values from .* to .*: {}. Scale x"
FEW, MANY = "hardly any neuron will fire", "neurons will fire at nearly every step"
SILENT = r"no neuron of the network fired in \d+ steps. It was calibrated on values from"


def images(largest: float = 1.0) -> torch.Tensor:
    return largest * torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5, bias=False)
    return nn.Sequential(*layers).eval()


def frames(x):
    return x.expand(16, *x.shape)


def streamed(net, x):
    stream = pk.compile(net, images(255)).stream(len(x))
    for _ in range(16):
        stream(x)


WAYS = {
    "simulate": lambda net, x: pk.simulate(net, x, 16),
    "with a record": lambda net, x: pk.simulate(net, x, 16, record=[net.layers()[0][0]]),
    "a sequence": lambda net, x: pk.simulate(net, frames(x), 16),
    "call": lambda net, x: net(frames(x)),
    "engine": lambda net, x: pk.compile(net, images(255))(x, 16),
    "stream": streamed,
}


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in found]


@pytest.mark.parametrize("neuron", ["if", "sigma-delta"])
@pytest.mark.parametrize("way", WAYS)
def test_an_input_of_another_range(way, neuron):
    if neuron == "sigma-delta" and way in ("with a record", "call"):
        pytest.skip("not for them")
    net, run = pk.convert(model(), images(255), neuron=neuron), WAYS[way]
    assert not said(lambda: run(net, images(255)))
    with pytest.warns(UserWarning, match=FAR.format(FEW)) as found:
        run(net, images())
    assert len(found) == 1 and found[0].filename == __file__
    if "compile" not in run.__code__.co_names and way != "stream":
        assert not said(lambda: run(net, images()))  # once for each network
        assert said(lambda: run(copy.deepcopy(net), images()))


@pytest.mark.parametrize("way", ["simulate", "a sequence", "call"])
def test_an_input_that_is_too_large(way):
    net = pk.convert(model(), images())
    with pytest.warns(UserWarning, match=FAR.format(MANY)):
        WAYS[way](net, images(255))


def test_other_kinds_of_input():
    net = pk.convert(model(), images(255))
    with pytest.warns(UserWarning, match=FAR.format(FEW)):
        pk.simulate(net, pk.encode.rate(images(), 16), 16)
    counts = frames(images(200).to(torch.uint8))
    assert not said(lambda: pk.simulate(net, counts, 16))
    net = pk.convert(model(), images())
    with pytest.warns(UserWarning, match=FAR.format(MANY)):
        pk.simulate(net, counts, 16)


@pytest.mark.parametrize("way", WAYS)
def test_silent_networks(way):
    """Values of the same range, to which no weight of the first layer is positive."""
    net = pk.convert(model(), images(255))
    for layer in net.modules():
        if isinstance(layer, pk.FusedIFConv2d | pk.FusedIFLinear):
            with torch.no_grad():
                layer.weight.copy_(-layer.weight.abs())
            layer.v_init = 0.0
    with pytest.warns(UserWarning, match=SILENT) as found:
        WAYS[way](net, images(255))
    assert len(found) == 1


def test_nothing_is_said_of_few_steps_blank_images_and_networks_of_ones_own():
    net = pk.convert(model(), images(255))
    for run in (
        lambda: pk.simulate(net, torch.zeros(2, 2, 8, 8), 16), lambda: pk.simulate(net, images(30), 2),
        lambda: net(torch.zeros(16, 2, 2, 8, 8)), lambda: pk.simulate(net, images(255)[:0], 16),
    ):  # fmt: skip
        assert not said(run)
    by_hand = nn.Sequential(pk.FusedIFLinear(4, 3, v_threshold=1e6))
    assert not said(lambda: pk.simulate(by_hand, torch.rand(2, 4), 16))


def test_engines_keep_the_range_in_files(tmp_path):
    net = pk.convert(model(), images(255))
    pk.compile(net, images(255)).save(tmp_path / "engine")
    engine = pk.load(tmp_path / "engine")
    assert engine.plan.calibrated == net.calibrated and 250 < net.calibrated[1] <= 255
    with pytest.warns(UserWarning, match=FAR.format(FEW)):
        engine(images(), 16)
    torch.save(net, tmp_path / "net")
    with pytest.warns(UserWarning, match=FAR.format(FEW)):
        pk.simulate(torch.load(tmp_path / "net", weights_only=False), images(), 16)


@pytest.mark.parametrize("damage", ["x", [1], [1, "x"], {"a": 1}, [True, False], [10**400, 0]])
def test_damaged_ranges(tmp_path, damage, monkeypatch):
    net = pk.convert(model(), images())
    engine, dumps = pk.compile(net, images()), json.dumps

    def damaged(value, **options):
        return dumps(value | {"calibrated": damage} if "calibrated" in value else value, **options)

    monkeypatch.setattr(json, "dumps", damaged)
    engine.save(tmp_path / "engine")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="engine cannot be loaded: it"):
        pk.load(tmp_path / "engine")
