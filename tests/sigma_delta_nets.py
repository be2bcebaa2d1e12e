"""ReLU networks with all that becomes sigma-delta neurons, networks of them whose sums are exact, and a step loop."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons
from proxykernels.running import kept_plans


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


class Skip(nn.Module):
    """A max pooling whose input is also taken by a layer or a pooling of its own, or is of real values."""

    def __init__(self, taken: str):
        super().__init__()
        self.taken, self.pool, self.flat = taken, nn.MaxPool2d(2), nn.Flatten()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(64, 3)
        self.beside = nn.Linear(256, 3)

    def forward(self, x):
        x = self.first(x)
        x = x if self.taken == "real values" else x.relu()
        y = self.pool(self.pool(x)) if self.taken == "a pooling" else self.pool(x)
        y = nn.functional.pad(y, (1, 1, 1, 1)) if self.taken == "a pooling" else y
        y = self.second(self.flat(y))
        return y + self.beside(self.flat(x)) if self.taken == "a layer" else y


class Pooled(nn.Module):
    """Max pooling of which neurons come behind it: of an activation with a limit, of a sum, of a concatenation with
    windows beyond the image, and before the ReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.windows = nn.MaxPool2d(3, 2, 1)
        self.left, self.right, self.same = nn.Conv2d(12, 10, 3, padding=1), nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 1)
        self.beyond = nn.MaxPool2d(2, ceil_mode=True)
        self.last = nn.Sequential(
            nn.Conv2d(16, 12, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(),
            nn.Linear(48, 9), nn.ReLU(), nn.Linear(9, 5),
        )  # fmt: skip

    def forward(self, x):
        x = self.windows(self.stem(x))
        x = torch.cat([self.left(x).relu(), (self.right(x) + self.same(x)).relu()], 1)
        return self.last(self.beyond(x))


def prepared(ann: nn.Module) -> nn.Module:
    """In evaluation mode, with normalisations that change something."""
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.uniform_(module.bias, -0.2, 0.2)
    return ann.eval()


@pytest.fixture(name="nets")
def nets_fixture(generator):
    return prepared(Residual()), torch.randn(8, 2, 16, 16, generator=generator)


@pytest.fixture(name="pooled")
def pooled_fixture(generator):
    return prepared(Pooled()), torch.randn(8, 2, 18, 18, generator=generator)


def step_loop(net: pk.Network, x: torch.Tensor, T: int) -> torch.Tensor:
    """What the last layer's values add up to after each step [T, N, ...], of frames [T, N, ...], by plain torch."""
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    values = {"": x - before}
    for name, layer, sources in net.layers():
        inputs = [values[source] for source in sources]
        flat = [part.flatten(0, 1) for part in inputs]
        if isinstance(layer, SigmaDeltaNeurons):
            arrived = 0
            for synapse, part in zip(layer.synapses, flat, strict=True):
                y = synapse(part).unflatten(0, (T, -1))
                if getattr(synapse, "bias", None) is not None:
                    y[1:] -= synapse.bias.view(-1, *[1] * (y.ndim - 3))
                arrived = arrived + y
            if layer.fires:
                highest = torch.inf if layer.limit is None else layer.limit / layer.scale
                highest = torch.as_tensor(highest).expand(arrived.shape[2])
                lowest = 0.0 if layer.rectifies else -torch.inf
                pool = {} if layer.pool is None else {"pool": layer.pool.affine}
                arrived = reference.sigma_delta(arrived, layer.neuron.exponents, lowest=lowest, highest=highest, **pool)
            values[name] = arrived
        elif isinstance(layer, pk.RunningMaxPool2d):
            sums = inputs[0].cumsum(0).flatten(0, 1)
            most = F.max_pool2d(sums, layer.kernel_size, layer.stride, layer.padding).unflatten(0, (T, -1))
            values[name] = most - torch.cat([torch.zeros_like(most[:1]), most[:-1]])
        else:
            values[name] = layer(tuple(inputs) if len(inputs) > 1 else inputs[0])
    return values[name].cumsum(0)


def by_layers(net: pk.Network, x: torch.Tensor, T: int, **options):
    """simulate layer by layer, as on a GPU."""
    with mock.patch.object(kept_plans, "run_changes", return_value=None):
        return pk.simulate(net, x, T, **options)


def exact(ann: nn.Module, x: torch.Tensor, neuron) -> tuple[pk.Network, torch.Tensor]:
    """A network and inputs of which no sum is rounded."""
    net = pk.convert(ann, x, neuron=neuron)
    for parameter in net.parameters():
        parameter.data = (parameter * 16).round() / 16
    for layer in net.modules():
        if isinstance(layer, SigmaDeltaNeurons):
            layer.scale.fill_(1)
    return net, (x * 4).round() / 4
