"""Forward passes that multiply currents by parameters, or add parameters, one a channel: the same spikes."""

import pytest
import torch
from exchange import images, make_dyadic, snntorch_fires
from torch import nn

import proxykernels as pk

snntorch = pytest.importorskip("snntorch")
pytestmark = pytest.mark.usefixtures("short_proof")


class Net(nn.Module):
    def __init__(self, images: bool, norm: bool, way):
        super().__init__()
        options = {"beta": 0.5, "reset_mechanism": "zero", "init_hidden": True}
        self.fc1, self.lif1 = (
            nn.Conv2d(2, 8, 3) if images else nn.Linear(128, 8),
            snntorch.Leaky(**options, threshold=0.5),
        )
        self.norm = (nn.BatchNorm2d(8) if images else nn.BatchNorm1d(8)) if norm else nn.Identity()
        self.fc2, self.lif2 = nn.Linear(288 if images else 8, 5), snntorch.Leaky(**options, threshold=0.25)
        shape = (8, 1, 1) if images else (8,)
        self.gain = nn.Parameter(torch.tensor([0.5, 1, 2, 1.5, 0.25, 1, -1, 1]).view(shape))
        self.offset = nn.Parameter((torch.arange(8) / 8 - 0.25).view(1, *shape))
        self.rows, self.places = nn.Parameter(torch.rand(6, 1)), nn.Parameter(torch.rand(8, 6, 1))
        self.is_image, self.way = images, way

    def forward(self, x):
        current = self.way(self, self.norm(self.fc1(x if self.is_image else x.flatten(1))))
        return self.lif2(self.fc2(self.lif1(current).flatten(1)))


WAYS = {
    "gain": lambda net, y: y * net.gain,
    "offset": lambda net, y: net.offset + y,
    "both": lambda net, y: net.gain * y + net.offset,
}


@torch.no_grad()
@pytest.mark.parametrize("steps, batch", [(8, 3), (6, 1)])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("is_image", [False, True], ids=["vectors", "images"])
def test_the_same_spikes(generator, is_image, norm, way, steps, batch):
    net, x = make_dyadic(Net(is_image, norm, WAYS[way]), generator, 1 / 16), images(generator)[:batch]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = snntorch_fires(net, x, steps)
    ours = pk.from_snntorch(net, x)
    actual = pk.simulate(ours, x, steps)
    assert torch.equal(actual.spikes.dense(), expected) and expected.any()
    assert all(rate > 0.01 for rate in actual.rates.values())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items() if name in before)
    assert not any("gain" in name or "offset" in name for name, _ in ours.named_parameters())


@pytest.mark.parametrize(
    "way",
    [
        lambda net, y: y * net.rows,  # one value for each row of an image
        lambda net, y: y * net.places,
        lambda net, y: y * net.gain + y,  # two users
    ],
)
def test_others_are_refused(generator, way):
    with pytest.raises(TypeError, match=r"mul\(\) has no counterpart in spikes"):
        pk.from_snntorch(make_dyadic(Net(True, False, way), generator, 1 / 16), images(generator))
