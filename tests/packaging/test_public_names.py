"""``help(pk)``: every public name is listed, and its docstring says what goes in, what comes out and what is raised."""

import inspect

import pytest
from torch import nn

import proxykernels as pk

FUNCTIONS = {name: getattr(pk, name) for name in pk.__all__ if inspect.isfunction(getattr(pk, name))} | {
    f"{module.__name__.removeprefix('proxykernels.')}.{name}": function
    for module in (pk.plot, pk.encode)
    for name in module.__all__
    if inspect.isfunction(function := getattr(module, name))
}
NO_TENSORS = ("plot.rates", "plot.conversion", "from_nir", "from_spikingjelly", "from_snntorch", "to_nir")
CLASSES = {name: getattr(pk, name) for name in pk.__all__ if inspect.isclass(getattr(pk, name))}


@pytest.mark.parametrize("name", pk.__all__)
def test_name_is_listed(name):
    assert name in pk.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_described(name):
    text = inspect.getdoc(FUNCTIONS[name])
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert parameter in text, parameter
    assert "Raises:" in text
    assert "[" in text or "(T, N" in text or name in NO_TENSORS


@pytest.mark.parametrize("name", CLASSES)
def test_class_is_described(name):
    cls = CLASSES[name]
    text = inspect.getdoc(cls)
    if issubclass(cls, nn.Module):
        assert "Shapes:" in text or name == "Flatten"
        for parameter in inspect.signature(cls).parameters.values():
            assert parameter.name in text or parameter.kind is not parameter.KEYWORD_ONLY, parameter
    assert "Raises:" in text or name in ("Flatten", "Network", "Spikes")
    for key, member in vars(cls).items():
        if not key.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), key
