"""Random networks whose neurons fire: layer by layer, each with weights and thresholds drawn for what it is fed."""

from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from oracle import run_layer
from torch import Tensor, nn

import proxykernels as pk

from . import draw
from .case import same
from .neurons import INTEGERS, MODELS, described, draw_model

UNIT = 1 / 16  # of weights, and what all currents are multiples of, but for average pooling's quarters
STEPS = 6  # that thresholds are chosen by
POOLS = {
    "max pool": pk.MaxPool2d, "max rate pool": pk.MaxRatePool2d, "avg pool": pk.AvgPool2d, "sum pool": pk.SumPool2d
}  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """What a network is drawn from; a prefix of its layers is a network too.

    ``plain``: no layers that take several inputs and no pooling of rates. ``exact``: weights are multiples of UNIT,
    else any. ``large``: each output has one weight of about so many units, which matrix tiles hold in more digits.
    ``theta``, ``resets``, ``models``: of the neurons.
    """

    layers: int
    seed: int
    plain: bool
    exact: bool = True
    most: int = 8  # units of the largest weight
    large: int = 0
    theta: str = "any"
    resets: tuple[str, ...] = draw.RESETS
    models: tuple[str, ...] = tuple(MODELS)
    batch_norm: bool = True

    def build(self, x: Tensor) -> pk.Network:
        """The network for an input like x [T, N, ...]."""
        net, values = pk.Network(), {pk.Network.INPUT: x[:STEPS]}
        fires = set[str]()  # layers that give spikes, whatever they are fed; averages may be 0 and 1 by chance
        for k in range(self.layers):
            random, g = Random(f"{self.seed}/{k}"), draw.generator(self.seed + k)
            name = f"layer{k}"
            layer, sources = self._draw_layer(random, g, values, fires, last=k == self.layers - 1)
            net.append(name, layer, sources)
            passes = isinstance(layer, pk.Flatten | pk.MaxPool2d) and fires.issuperset(sources)
            if passes or (isinstance(layer, pk.layers.Neurons) and not layer.neuron.counts):
                fires.add(name)
            if isinstance(layer, pk.MaxRatePool2d):
                fires.add(name)
            values[name] = run_layer(layer.eval(), tuple(values[source] for source in sources))
        return net.eval()

    def _draw_layer(
        self, random, g, values: dict[str, Tensor], fires: set[str], last: bool
    ) -> tuple[nn.Module, tuple[str, ...]]:
        names = list(values)
        source = names[-1] if self.plain or random.random() < 0.8 else random.choice(names)
        x = values[source]
        kinds = ["linear", "IF"] if x.ndim == 3 else ["conv", "conv", "conv", "IF", "flatten"]
        kinds += ["max pool", "avg pool", "sum pool"] if x.ndim == 5 else []
        if not self.plain and source != pk.Network.INPUT:
            kinds += ["sum", "sum"]
        if not self.plain and source in fires and x.ndim == 5:
            kinds.append("max rate pool")
        kind = random.choice(kinds)
        sequences = x.ndim == 4 and source == pk.Network.INPUT  # a convolution says that [N, C, L] is held
        if sequences or (last and kind in ("max pool", "avg pool", "sum pool", "flatten")):
            kind = "conv"
        if kind == "flatten":
            return pk.Flatten(), (source,)
        if kind in POOLS:
            return POOLS[kind](tuple(min(2, n) for n in x.shape[3:])), (source,)
        if kind == "sum":
            return self._sum(random, g, values, source)
        if kind == "IF":
            return self._neurons(random, g, pk.Population, (x,)), (source,)
        if kind == "linear":
            sizes = x.shape[2], random.choice((2, 5, 10, 33, 64)), random.random() < 0.5
            return self._neurons(random, g, partial(pk.FusedLinear, *sizes), (x,)), (source,)
        C, C_out = x.shape[2], random.choice((1, 3, 8, 16, 20, 33))
        window = self._window(random, x)
        if random.random() < 0.3:
            groups = random.choice([n for n in (C, C, 2, 3, 4, 8) if C % n == 0])
            window["groups"], C_out = groups, groups * random.choice((1, 1, 2, 8) if groups < 20 else (1, 1, 2))
        norm = {"batch_norm": self.batch_norm and random.random() < 0.3, "bias": random.random() < 0.6}

        layer = pk.FusedConv2d if x.ndim == 5 else pk.layers.FusedConv1d
        return self._neurons(random, g, partial(layer, C, C_out, **window, **norm), (x,)), (source,)

    @staticmethod
    def _window(random: Random, x: Tensor) -> dict:
        kernel = random.choice((1, 2, 3, 3, 5))
        padding = max(random.randint(0, kernel // 2), (kernel - min(x.shape[3:]) + 1) // 2)
        return {"kernel_size": kernel, "padding": padding, "stride": random.choice((1, 1, 1, 2))}

    def _sum(self, random, g, values: dict[str, Tensor], source: str) -> tuple[nn.Module, tuple[str, ...]]:
        x = values[source]
        if x.ndim == 3:
            fits = [n for n, value in values.items() if value.ndim == 3]
        else:
            fits = [n for n, value in values.items() if value.ndim == x.ndim and value.shape[3:] == x.shape[3:]]
        other = random.choice(fits)
        y = values[other]
        if x.ndim == 3:
            main = nn.Linear(x.shape[2], random.choice((y.shape[2], 12)))
            same_size = main.out_features == y.shape[2]
            side = nn.Identity() if same_size else nn.Linear(y.shape[2], main.out_features, bias=random.random() < 0.5)
        else:
            C_out, convolution = random.choice((y.shape[2], 9)), nn.Conv2d if x.ndim == 5 else nn.Conv1d
            main = convolution(x.shape[2], C_out, 3, padding=1, bias=random.random() < 0.5)
            kernel = random.choice((1, 3))
            same_size = C_out == y.shape[2] and kernel == 1
            side = nn.Identity() if same_size else convolution(y.shape[2], C_out, kernel, padding=kernel // 2)
        parts = (main, side) if random.random() < 0.8 else (side, main)
        sources = (source, other) if parts[0] is main else (other, source)
        fed = tuple(values[name] for name in sources)
        return self._neurons(random, g, partial(pk.FusedSum, *parts), fed), sources

    def _neurons(self, random, g, make, fed: tuple[Tensor, ...]) -> nn.Module:
        """A layer of neurons with thresholds of the scale of its currents."""
        seed, factor = random.randint(0, 10_000), random.choice((0.5, 1.0, 2.0))
        kind = random.choice(draw.THETAS[:2]) if self.theta == "any" else self.theta
        layer = self._with_weights(make(neuron=pk.neurons.IFNeuron()), seed)
        current = _currents(layer, fed)
        C = current.shape[1]
        theta = draw.thresholds(kind, factor, current, C, UNIT, g)
        model = draw_model(random, {name: (INTEGERS | MODELS)[name] for name in self.models})
        if model["reset"] not in self.resets:
            model |= {"reset": random.choice(self.resets)}
        neuron = described(theta=theta, C=C, unit=UNIT, g=g, **model)
        v_init = random.choice((None, None, 2 * UNIT))
        return self._with_weights(make(neuron=neuron, v_init=v_init), seed)

    @torch.no_grad()
    def _with_weights(self, layer: nn.Module, seed: int) -> nn.Module:
        g = draw.generator(seed)
        for parameter in layer.parameters():
            values = (
                draw.whole(tuple(parameter.shape), self.most, g)
                if self.exact
                else torch.randn(parameter.shape, generator=g)
            )
            if self.large and parameter.ndim > 1:
                place = torch.randint(values[0].numel(), (len(values), 1), generator=g)
                values.view(len(values), -1).scatter_(
                    1, place, self.large - draw.whole(tuple(place.shape), 100, g).abs()
                )
            parameter.copy_(values * UNIT)
        bn = getattr(layer, "bn", None)
        if bn is None:
            return layer
        if not self.exact:
            bn.running_mean.normal_(0, 0.3, generator=g), bn.running_var.uniform_(0.2, 3, generator=g)
            bn.weight.normal_(0, 1, generator=g)
            return layer
        # Powers of two, so that folding is exact.
        bn.eps, scale = 1 / 8, 2.0 ** torch.randint(-1, 2, bn.weight.shape, generator=g)
        variance = 4.0 ** torch.randint(-1, 2, bn.weight.shape, generator=g)
        bn.running_var.copy_(variance - bn.eps)
        bn.weight.copy_(scale * variance.sqrt())
        bn.running_mean.copy_(draw.whole(tuple(bn.weight.shape), 8, g) * UNIT)
        weight = layer.weight.detach()
        same("folded weights", layer.folded()[0].detach(), weight * scale.view(-1, *[1] * (weight.ndim - 1)))
        return layer


@torch.no_grad()
def _currents(layer: nn.Module, fed: tuple[Tensor, ...]) -> Tensor:
    """[T N, C, ...], normalised."""
    flat = tuple(part.flatten(0, 1).contiguous() for part in fed)
    current = layer.affine(flat if isinstance(layer, pk.FusedSum) else flat[0])
    return current if getattr(layer, "bn", None) is None else layer.bn.eval()(current)
