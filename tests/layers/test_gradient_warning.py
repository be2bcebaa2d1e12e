"""A layer in training gives no gradient, and says so: once, and only where somebody may have expected one."""

import warnings

import pytest
import torch
from torch import nn

import proxykernels as pk
from proxykernels.layers import base


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(base, "_warned", set())


LAYERS = {
    "conv": (lambda: pk.FusedIFConv2d(2, 3, 3), lambda: torch.rand(4, 1, 2, 5, 5)),
    "linear": (lambda: pk.FusedIFLinear(3, 2), lambda: torch.rand(4, 1, 3)),
    "neurons": (pk.IF, lambda: torch.rand(4, 1, 3, requires_grad=True)),
    "sum": (lambda: pk.FusedIFSum(nn.Linear(3, 3), nn.Identity()), lambda: (torch.rand(4, 1, 3), torch.rand(4, 1, 3))),
    "spikes": (lambda: pk.FusedIFLinear(3, 2), lambda: pk.pack(torch.ones(4, 1, 3))),
}


@pytest.mark.parametrize("layer, x", LAYERS.values(), ids=LAYERS)
def test_said_once(layer, x):
    layer, x = layer(), x()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer(x), layer(x)
    (said,) = caught
    assert said.category is UserWarning
    assert all(word in str(said.message) for word in (type(layer).__name__, "ProxyNet", "eval()", "no_grad()"))


@pytest.mark.parametrize("layer, x", LAYERS.values(), ids=LAYERS)
def test_nothing_is_said_where_no_gradient_is_wanted(layer, x):
    layer, x = layer(), x()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.eval()(x)
        layer.train()
        with torch.no_grad():
            layer(x)
        if not isinstance(x, tuple):
            pk.simulate(layer, x.detach() if isinstance(x, torch.Tensor) else x, 4)
        layer.requires_grad_(False)
        layer(x.detach() if isinstance(x, torch.Tensor) else x)
        if isinstance(layer, pk.FusedIFLinear):
            pk.ProxyNet(layer.requires_grad_(), 4).train()(torch.rand(1, 3)).sum().backward()
