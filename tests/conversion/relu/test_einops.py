"""einops in ReLU networks: Rearrange puts values elsewhere, and what is not taken is refused with a remedy."""

import pytest
import torch
from torch import nn

import proxykernels as pk


@pytest.fixture
def layers():
    return pytest.importorskip("einops.layers.torch")


def images() -> torch.Tensor:
    return torch.rand(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def networks(layers) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "flattened": nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), layers.Rearrange("n c h w -> n (h w c)"), nn.Linear(144, 5)
        ),
        "patches": nn.Sequential(
            layers.Rearrange("n c (h a) (w b) -> n (c a b) h w", a=2, b=2), nn.Conv2d(8, 4, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 5),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["flattened", "patches"])
def test_rearranged_values(layers, name):
    net, x = networks(layers)[name].eval(), images()
    logits = pk.simulate(pk.convert(net, x, neuron="sigma-delta"), x, 24).logits
    with torch.no_grad():
        expected = net(x)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=5e-3)


def test_what_is_refused(layers):
    einops = pytest.importorskip("einops")

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 3), nn.Linear(144, 5)

        def forward(self, x):
            return self.b(einops.rearrange(torch.relu(self.a(x)), "n c h w -> n (c h w)"))

    reduced = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), layers.Reduce("n c h w -> n c", "mean"), nn.Linear(4, 5))
    with pytest.raises(TypeError, match=r"module '2' is a Reduce, .*; write it with mean\(\) or a pooling of torch$"):
        pk.convert(reduced, images())
    with pytest.raises(TypeError, match="of Function, .*; make a layer of it, einops.layers.torch.Rearrange$"):
        pk.convert(Function(), images())
