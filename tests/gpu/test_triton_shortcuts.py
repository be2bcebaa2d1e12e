"""Residual sums on a GPU: shortcuts take no products but their own, in the launch of the convolution."""

import copy

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import pretend_gpu

import proxykernels as pk
from proxykernels.kernels import reference

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels", "fused")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SUMS = {  # synapses, and the shapes of their inputs
    "identity": ([nn.Conv2d(5, 6, 3, padding=1), nn.Identity()], [(5, 4, 5), (6, 4, 5)]),
    "linear": ([nn.Linear(20, 7), nn.Identity()], [(20,), (7,)]),
    "few-channels": ([nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(3, 6, 1)], [(5, 4, 5), (3, 4, 5)]),
    "more-beside": ([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(20, 6, 1)], [(3, 4, 5), (20, 4, 5)]),
    "whole-blocks": ([nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 32, 1, 2)], [(64, 3, 3), (32, 5, 5)]),
    "both": ([nn.Conv2d(16, 6, 3, padding=1), nn.Conv2d(16, 6, 1), nn.Identity()], [(16, 3, 4), (16, 3, 4), (6, 3, 4)]),
    "same-even": ([nn.Conv2d(4, 6, (2, 4), padding="same"), nn.Conv2d(3, 6, 1)], [(4, 4, 5), (3, 4, 5)]),
    "same-stride": ([nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(3, 6, 1, 2)], [(4, 5, 6), (3, 5, 6)]),
    "dilation": ([nn.Conv2d(4, 6, 3, padding=2, dilation=2), nn.Conv2d(3, 6, 1)], [(4, 5, 5), (3, 5, 5)]),
}


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("T", [4, 33])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_sums(generator, monkeypatch, name, T, v_reset):
    monkeypatch.setattr(pk.FusedIFSum, "_fire_stepwise", None)
    synapses, shapes = copy.deepcopy(SUMS[name])
    for parameter in nn.ModuleList(synapses).parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    x = [spikes(T, 2, *shape, generator=generator) for shape in shapes]
    with torch.no_grad():
        current = sum(s(part.flatten(0, 1)) for s, part in zip(synapses, x, strict=True)).unflatten(0, (T, 2))
    expected, v_expected = reference.if_scan(current, v_threshold=1.5, v_reset=v_reset)
    layer = pk.FusedIFSum(*synapses, v_threshold=1.5, v_reset=v_reset).eval().to(DEVICE)
    y, v = layer.spike([pk.pack(part.to(DEVICE)) for part in x])
    assert equal(y.dense().cpu(), expected) and equal(v.cpu(), v_expected) and 0 < expected.mean() < 1


class Block(nn.Module):
    def __init__(self, C: int, C_out: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(C, C_out, 3, stride, 1)
        self.second = nn.Conv2d(C_out, C_out, 3, padding=1)
        self.shortcut = nn.Conv2d(C, C_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
def test_products_of_a_converted_residual_network(monkeypatch):
    """As many as its ReLU network has behind the first layer, on whose constant input torch's convolution runs once."""
    torch.manual_seed(0)
    relu_net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16),
    ).eval()  # fmt: skip
    x, dense, launched = torch.rand(2, 3, 8, 8), [], []
    net = pk.convert(relu_net, x)
    for module in relu_net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, given, y: dense.append(m.weight.numel() * y[0, 0].numel()))
    relu_net(x)
    with pretend_gpu(monkeypatch, executes=False) as card, torch.no_grad():
        launch = card.launch

        def counted(name: str, kernel, grid, options):
            if name == "_if_conv2d_kernel" and options["H_out"] > 1:
                launched.append(options["C_out"] * options["K"] * options["H_out"] * options["W_out"])
            launch(name, kernel, grid, options)

        monkeypatch.setattr(card, "launch", counted)
        card.moved(net)(card.on_card(x).expand(4, *x.shape))
    assert len(launched) == 6 and sum(launched) == sum(dense[1:])
