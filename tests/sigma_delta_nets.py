"""A ReLU network with all that becomes sigma-delta neurons, and networks of them whose sums are exact."""

import pytest
import torch
from torch import nn

import proxykernels as pk
from proxykernels.layers.sigma_delta import SigmaDeltaNeurons


class Residual(nn.Module):
    """All that conversion makes of others: shortcuts, linear bottlenecks, depthwise and grouped convolutions, ReLU6,
    normalisation, max and average pooling, concatenation, a leaky ReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU6())
        self.bottleneck = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.expand = nn.Sequential(nn.Conv2d(6, 12, 1), nn.ReLU6())
        self.grouped = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=3)
        self.leaky, self.pool = nn.LeakyReLU(0.25), nn.MaxPool2d(2)
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24 * 4, 9), nn.ReLU(), nn.Linear(9, 5))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.expand(self.bottleneck(self.depthwise(x)))
        x = torch.relu(self.grouped(x) + x)
        return self.last(torch.cat([self.pool(x), self.leaky(self.pool(x) - 0.5)], 1))


@pytest.fixture(name="nets")
def nets_fixture(generator):
    ann = Residual()
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.uniform_(module.bias, -0.2, 0.2)
    return ann.eval(), torch.randn(8, 2, 16, 16, generator=generator)


def exact(ann: nn.Module, x: torch.Tensor, neuron) -> tuple[pk.Network, torch.Tensor]:
    """A network and inputs of which no sum is rounded."""
    net = pk.convert(ann, x, neuron=neuron)
    for parameter in net.parameters():
        parameter.data = (parameter * 16).round() / 16
    for layer in net.modules():
        if isinstance(layer, SigmaDeltaNeurons):
            layer.scale.fill_(1)
    return net, (x * 4).round() / 4
