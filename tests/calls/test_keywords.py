"""What comes after the arguments of torch's own module is given by name; for a release, by position with a warning."""

import inspect
import re

import pytest
from torch import nn

import proxykernels as pk
from proxykernels.neurons import (
    ALIFNeuron,
    CubaLIFNeuron,
    IFNeuron,
    LIFNeuron,
    LINeuron,
    LoihiNeuron,
    RefractoryLIFNeuron,
)

BY_POSITION = {
    "LIF": (lambda: pk.LIF(0.9, 0.5), lambda: pk.LIF(decay=0.9, v_threshold=0.5), "decay=0.9, v_threshold=0.5"),
    "IF": (lambda: pk.IF(0.9, None), lambda: pk.IF(v_threshold=0.9, v_reset=None), "v_threshold=0.9, v_reset=None"),
    "LI": (lambda: pk.LI(0.9), lambda: pk.LI(decay=0.9), "decay=0.9"),
    "Population": (
        lambda: pk.Population(IFNeuron(), 0.5), lambda: pk.Population(IFNeuron(), v_init=0.5), "write v_init=0.5"
    ),
    "MaxPool2d": (lambda: pk.MaxPool2d(2, 1, 0, True), lambda: pk.MaxPool2d(2, 1, ceil_mode=True), "ceil_mode=True"),
    "MaxRatePool1d": (
        lambda: pk.layers.MaxRatePool1d(2, 1, 0, True),
        lambda: pk.layers.MaxRatePool1d(2, 1, ceil_mode=True),
        "ceil_mode=True",
    ),
    "ZeroPad2d": (lambda: pk.ZeroPad2d(1, (2, 2)), lambda: pk.ZeroPad2d(1, spread=(2, 2)), r"spread=\(2, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_POSITION)
def test_a_layer_takes_positions_for_a_release(name):
    old, new, shown = BY_POSITION[name]
    with pytest.warns(DeprecationWarning, match=f"^{name} was given .*{shown}") as caught:
        layer = old()
    assert caught[0].filename == __file__ and repr(layer) == repr(new())


@pytest.mark.parametrize(
    "kind", [IFNeuron, LIFNeuron, CubaLIFNeuron, ALIFNeuron, RefractoryLIFNeuron, LINeuron, LoihiNeuron]
)
def test_a_neuron_takes_positions_for_a_release(kind):
    first = kind.names()[0]
    with pytest.warns(DeprecationWarning, match=f"{kind.__name__} was given {first} .*: write {first}=0.75") as caught:
        neuron = kind(0.75)
    assert caught[0].filename == __file__ and neuron == kind(**{first: 0.75})


@pytest.mark.filterwarnings("error")
def test_names_give_no_warning():
    for _, new, _ in BY_POSITION.values():
        new()
    pk.Population(LIFNeuron(decay=0.5).scaled(2.0), v_init=0.25)
    pk.FusedLIFLinear(4, 3, decay=0.9)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: pk.FusedLIFLinear(8, 64, 0.9),
        lambda: pk.FusedIFLinear(8, 64, 1.0),
        lambda: pk.FusedLILinear(8, 64, 1),
        lambda: pk.FusedIFConv2d(8, 64, 3, 1, 1, 1, 1, 2.0),
        lambda: pk.layers.FusedConv1d(8, 64, 3, bias=0.9, neuron=IFNeuron()),
    ],
)
def test_a_bias_is_no_number(layer):
    """nn.Linear takes any value for its bias, and what was meant for the neurons was lost."""
    with pytest.raises(TypeError, match=r"^bias must be True or False, got [\d.]+; .* by name, such as v_threshold"):
        layer()


def test_a_rounding_up_is_no_number():
    """Where nn.MaxPool2d has its dilation."""
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="ceil_mode must be True or False, got 2"):
        pk.MaxPool2d(2, 2, 0, 2)


def test_one_value_for_an_argument():
    with pytest.raises(TypeError, match="LIF got decay by position and by name"):
        pk.LIF(0.9, decay=0.5)
    with pytest.raises(TypeError, match="LI takes decay, v_rest, v_init, got 4 values"):
        pk.LI(1.0, 0.0, 0.0, 1.0)
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="positional arguments"):
        IFNeuron(1.0, 0.0, 0.5)


def test_no_layer_has_more_positions_than_torchs_module():
    """Those of neurons and of pooling: what torch's class of that name has by position, in its order."""
    positional, compared = inspect.Parameter.POSITIONAL_OR_KEYWORD, set[str]()
    for name in pk.__all__:
        kind = getattr(pk, name)
        if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
            continue
        plain = getattr(nn, re.sub(r"^Fused(LIF|IF|LI(?=[A-Z]))?", "", name), None)
        own = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is positional]
        if plain is not None and name != "Unflatten":
            compared.add(name)
            theirs = [p.name for p in inspect.signature(plain).parameters.values() if p.kind is positional]
            assert own == theirs[: len(own)], name
    assert {"FusedLinear", "FusedLILinear", "FusedLIFConv2d", "FusedIFConv1d", "MaxPool2d"} <= compared
