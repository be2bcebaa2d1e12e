"""Modules with forward passes of their own: their layers fire on dyadic data, and some equal others of layers only."""

from collections.abc import Callable

import torch
from torch import nn

import proxykernels as pk

SIZES = {"a": (2, 4), "b": (4, 4), "c": (4, 4), "wide": (8, 4)}


def dyadic(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-2, 4, layer.weight.shape) / 16)
        layer.bias.copy_(torch.randint(-1, 2, layer.bias.shape) / 8)
    return layer


class Layers(nn.Module):
    """What the forward passes below call."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name, (before, after) in SIZES.items():
            self.add_module(name, dyadic(pk.FusedIFConv2d(before, after, 3, padding=1)))
        self.blocks = nn.ModuleList(dyadic(pk.FusedIFConv2d(4, 4, 3, padding=1)) for _ in range(2))
        self.names = nn.ModuleDict({"pool": pk.MaxPool2d(2), "average": pk.AvgPool2d(2)})
        self.currents = pk.FusedConv2d(4, 4, 3, padding=1, neuron=pk.neurons.LINeuron(decay=0.0))
        dyadic(self.currents)
        self.neurons, self.join = pk.IF(), pk.FusedIFSum(nn.Identity(), nn.Identity())
        self.beside = pk.Concatenate()
        self.flat, self.last, self.whole = pk.Flatten(), dyadic(pk.FusedIFLinear(36, 64)), None
        self.twice = True

    def end(self, x):
        return self.last(self.flat(self.names["pool"](x)))


FORWARDS: dict[str, Callable] = {}
LIKE: dict[str, str] = {}  # a forward pass -> one that gives the same by layers only


def forward(name: str, like: str | None = None) -> Callable:
    def note(function: Callable) -> Callable:
        FORWARDS[name] = function
        if like:
            LIKE[name] = like
        return function

    return note


def network(name: str) -> nn.Module:
    return type("Own", (Layers,), {"forward": FORWARDS[name]})().eval()


@forward("chain")
def chain(net, x):
    return net.end(net.b(net.a(x)))


@forward("loop")
def loop(net, x):
    x = net.a(x)
    for block in net.blocks:
        x = block(x)
    if net.twice:
        x = net.b(x)
    return net.end(x)


@forward("neurons of a sum of layers")
def joined(net, x):
    x = net.a(x)
    return net.end(net.join((x, net.b(x))))


@forward("neurons of a sum", like="neurons of a sum of layers")
def neurons_of_a_sum(net, x):
    x = net.a(x)
    return net.end(net.neurons(x + net.b(x)))


@forward("a sum by sum()", like="neurons of a sum of layers")
def by_sum(net, x):
    x = net.a(x)
    return net.end(net.neurons(sum([x, net.b(x)])))


@forward("a residual sum")
def residual(net, x):
    x = net.a(x)
    return net.end(net.c(x + net.b(x)))


@forward("sums of sums")
def sums(net, x):
    x = net.a(x)
    for block in net.blocks:
        x = block(x) + x
    return net.end(net.c(x - 0.5 * net.b(x)))


@forward("currents and spikes")
def currents(net, x):
    x = net.a(x)
    return net.end(net.neurons(net.currents(x) + x))


@forward("a maximum of a sum")
def maximum(net, x):
    x = net.a(x)
    return net.end(x + net.b(x))


@forward("an average of a sum")
def average(net, x):
    x = net.a(x)
    return net.last(net.flat(net.names["average"](x + net.b(x))))


@forward("side by side by a layer")
def beside(net, x):
    x = net.a(x)
    return net.end(net.wide(net.beside((x, net.b(x)))))


@forward("side by side", like="side by side by a layer")
def cat(net, x):
    x = net.a(x)
    return net.end(net.wide(torch.cat([x, net.b(x)], 2)))


@forward("side by side, from the end", like="side by side by a layer")
def cat_from_the_end(net, x):
    x = net.a(x)
    return net.end(net.wide(torch.cat((x, net.b(x)), dim=-3)))


@forward("side by side, scaled")
def cat_scaled(net, x):
    x = net.a(x)
    return net.end(net.wide(torch.cat([2 * x, net.b(x) / 2], 2)))


@forward("a product")
def product(net, x):
    return net.end(net.b(net.a(x) * 0.5))


@forward("a product before neurons")
def product_of_neurons(net, x):
    return net.end(net.neurons(0.5 * net.a(x)))


@forward("flatten", like="short")
def flatten(net, x):
    return net.last(net.names["pool"](net.a(x)).flatten(2))


@forward("torch.flatten", like="short")
def torch_flatten(net, x):
    return net.last(torch.flatten(net.names["pool"](net.a(x)), start_dim=2))


@forward("reshape", like="short")
def reshape(net, x):
    x = net.names["pool"](net.a(x))
    return net.last(x.reshape(x.shape[0], x.shape[1], -1))


@forward("view", like="short")
def view(net, x):
    x = net.names["pool"](net.a(x))
    return net.last(x.view(*x.shape[:2], 36))


@forward("there and back", like="short")
def there_and_back(net, x):
    x = net.a(x)
    x = x.flatten(2).reshape(*x.shape[:2], 4, *x.shape[3:])
    return net.end(x)


@forward("short")
def short(net, x):
    return net.end(net.a(x))


def image(samples: int = 3) -> torch.Tensor:
    return torch.randint(0, 9, (samples, 2, 6, 6), generator=torch.Generator().manual_seed(1)) / 4


def inputs(T: int, samples: int = 3) -> dict[str, torch.Tensor | pk.Spikes]:
    """An image, and sequences of T steps."""
    x = image(samples)
    generator = torch.Generator().manual_seed(2)
    spikes = (torch.rand(T, samples, 2, 6, 6, generator=generator) < 0.5).float()
    return {"image": x, "values": torch.stack([x] * (T - 1) + [2 * x]), "Spikes": pk.pack(spikes)}
