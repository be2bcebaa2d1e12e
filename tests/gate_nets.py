"""Networks with gates: functions of values, and products of two results."""

import torch
import torch.nn.functional as F
from torch import nn

FUNCTIONS = {
    "sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish, "silu": F.silu,
    "tanh": torch.tanh, "elu": lambda y: F.elu(y, 0.5), "softplus": F.softplus, "mish": F.mish,
}  # fmt: skip


class Model(nn.Module):
    """Two convolutions, what ``forward`` makes of the first one's ReLU, and a linear layer of the means."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.steps = forward
        for name, module in modules.items():
            self.add_module(name, module)
        self.a, self.b, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.steps(self, self.a(x).relu()).mean((2, 3)))


def convolutions() -> dict[str, nn.Module]:
    return {"down": nn.Conv2d(8, 4, 1), "up": nn.Conv2d(4, 8, 1)}


def gate(m, y, function=torch.sigmoid):
    return function(m.up(m.down(F.adaptive_avg_pool2d(y, 1)).relu()))


def of_features(m, y):
    """SENet's block, with linear layers."""
    N, C = y.shape[:2]
    means = m.down(y.mean((2, 3))).relu()
    return m.b(y * m.up(means).sigmoid().view(N, C, 1, 1).expand_as(y)).relu()


def of_neighbours(m, y):
    """ECA's block, a convolution along the channels."""
    means = y.mean((2, 3)).unsqueeze(1)
    return m.b(y * m.row(means).sigmoid().transpose(1, 2).unsqueeze(-1)).relu()


def of_pixels(m, y):
    """CBAM's gate of pixels."""
    seen = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return m.b(y * m.g(seen).sigmoid()).relu()


ZOO = {
    "squeeze and excitation": lambda: Model(lambda m, y: m.b(gate(m, y) * y).relu(), **convolutions()),
    "in a residual block": lambda: Model(
        lambda m, y: (m.b(y) * gate(m, m.b(y), F.hardsigmoid) + y).relu(), **convolutions()
    ),
    "MobileNetV3": lambda: Model(
        lambda m, y: F.hardswish(m.b(y * gate(m, y, m.h))), h=nn.Hardsigmoid(inplace=True), **convolutions()
    ),
    "of features": lambda: Model(of_features, down=nn.Linear(8, 4), up=nn.Linear(4, 8)),
    "of neighbours": lambda: Model(of_neighbours, row=nn.Conv1d(1, 1, 3, padding=1)),
    "of pixels": lambda: Model(of_pixels, g=nn.Conv2d(2, 1, 3, padding=1)),
    "GLU": lambda: Model(lambda m, y: (lambda a, b: torch.cat([a * b.sigmoid()] * 2, 1))(*m.b(y).chunk(2, 1))),
    **{name: lambda function=function: Model(lambda m, y: function(m.b(y))) for name, function in FUNCTIONS.items()},
}  # fmt: skip


def made(name: str, zoo: dict = ZOO) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network, inputs, and what it gives for them."""
    torch.manual_seed(3)
    ann, x = zoo[name]().eval(), torch.rand(6, 2, 8, 8) * torch.linspace(-2, 3, 6).view(-1, 1, 1, 1)
    with torch.no_grad():
        for convolution in (ann.a, ann.b):
            convolution.weight.mul_(3)
        expected = ann(x)
    assert (expected.std(0) > 1e-2).all()
    return ann, x, expected
