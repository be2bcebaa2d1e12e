"""Whole networks: `simulate` and calls against the step loop; rounded weights against themselves; proxy gradients."""

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from random import Random

import layerwise
import torch
import torch.nn.functional as F
from oracle import trace
from torch import Tensor, nn

import proxykernels as pk

from . import draw, ways
from .case import Case, Mismatch, same
from .graphs import UNIT, Graph

GIVEN = ("held", "spikes", "dense", "real", "counts", "dropped")


@dataclass(frozen=True, kw_only=True)
class Input:
    """The fields of a case that say what goes into a network."""

    T: int = 1
    N: int = 1
    C: int = 1
    size: tuple[int, ...] | None = None  # (H, W) of images, (L,) of a sequence; None: [T, N, C]
    layers: int = 1

    @staticmethod
    def draw_input(random: Random) -> dict:
        C, (height, width) = min(draw.channels(random), 40), draw.image(random)
        size = random.choice((None, *[(min(height, 10), min(width, 10))] * 3, (max(height, width),)))
        N, T = random.choice((1, 1, 2, 3, 5)), random.choice((1, 2, 4, 7, 20, 33, 40, 70, random.randint(1, 100)))
        while size and T > 8 and T * N * C * prod(size) > 60_000:
            T //= 2
        return {"T": T, "N": N, "C": C, "size": size, "layers": random.choice((1, 2, 3, 4, 5))}

    @property
    def shape(self) -> tuple[int, ...]:
        return self.N, self.C, *(self.size or ())


@dataclass(frozen=True, kw_only=True)
class Network(Input, Case):
    """A network, simulated whole or in two calls, or called directly, against the step loop."""

    given: str = GIVEN[0]
    plain: bool = True
    chunk: int | None = None
    by_layers: bool = False
    cut: int = 0  # steps of a first call, whose state the second goes on from
    sequential: bool = False
    record: bool = False
    lead: int = 0  # of early exit; 0: none
    precision: str | None = None

    @classmethod
    def draw(cls, random: Random, **common) -> "Network":
        sizes, plain = cls.draw_input(random), random.random() < 0.5
        kind = random.random()
        return cls(
            **common, **sizes, plain=plain, given=random.choice(GIVEN),
            chunk=random.choice((None, None, random.randint(1, 40))), by_layers=random.random() < 0.4,
            cut=random.randint(0, sizes["T"] - 1) if kind < 0.4 else 0, sequential=plain and random.random() < 0.5,
            record=kind > 0.7, lead=random.randint(1, 4) if 0.4 < kind < 0.55 else 0,
            precision=random.choice((None, None, "int16")) if plain else None,
        )  # fmt: skip

    def check(self) -> bool:
        g, shape = draw.generator(self.seed), (self.T, *self.shape)
        if self.given in ("spikes", "dense", "dropped"):
            x = draw.spikes(shape, "mixed", 0.4, g)
        elif self.given == "counts":
            x = draw.whole(shape, 3, g)
        elif self.given == "real":
            x = draw.values(shape, 4, g) * UNIT
        else:
            x = (draw.whole(shape[1:], 4, g) * UNIT).expand(shape)
        given = {"spikes": pk.pack, "counts": Tensor.short, "dropped": self.dropped}.get(self.given, lambda x: x)(x)
        x = given.dense() if self.given == "dropped" else x
        graph = Graph(self.layers, self.seed, self.plain)
        net = graph.build(x)
        values, states = trace(net, x)
        last = list(values)[-1]
        tried = net
        if self.sequential:
            tried = nn.Sequential(OrderedDict((name, layer) for name, layer, _ in net.layers()))
        with ways.use(self.way, self.threads):
            called = tried(given)
            called = called.dense() if isinstance(called, pk.Spikes) else called.float()
            same("spikes of a call", called, values[last])
            if self.lead and values[last].ndim == 3 and values[last].shape[2] > 1:
                self.check_stop(tried, given, values[last], states)
            else:
                self.check_simulation(tried, given, values, states)
        return bool(values[last].any())

    def dropped(self, x: Tensor) -> pk.Spikes:
        """Behind a Dropout: each of the spikes that are left counts twice."""
        torch.manual_seed(self.seed)
        return pk.Dropout(0.5)(pk.pack(x))

    def check_simulation(self, net, given, values: dict[str, Tensor], states: dict[str, Tensor]) -> None:
        neurons = list(states)
        record = [*neurons, *(f"{name}.v" for name in neurons)] if self.record else []
        state, parts = None, []
        for begin, end in (0, self.cut), (self.cut, self.T):
            if begin == end:
                continue
            part = given[0] if self.given == "held" else given[begin:end]
            result = self.simulated(net, part, end - begin, state=state, record=record)
            state = result.state
            parts.append(result.spikes.dense())
            for name in neurons:
                rate = values[name][begin:end].double().mean().item()
                if abs(result.rates[name] - rate) > 1e-9:
                    raise Mismatch(f"rate of {name}: {result.rates[name]}, expected {rate}")
                same(f"state of {name}", state[name][0].float(), states[name][end - 1])
                if self.record:
                    same(f"record of {name}", result.records[name].dense(), values[name][begin:end])
                    potentials = states[name][begin:end]
                    if potentials.ndim > values[name].ndim:  # of several states
                        potentials = potentials[:, :, 0]
                    same(f"record of {name}.v", result.records[f"{name}.v"].float(), potentials)
        same("spikes", torch.cat(parts), values[list(values)[-1]])

    def simulated(self, net, x, T: int, **options):
        """By the plan, or by the layers."""
        simulate = layerwise.simulate if self.by_layers else pk.simulate
        return simulate(net, x, T, chunk=self.chunk, precision=self.precision, **options)

    def check_stop(self, net, given, spikes: Tensor, states: dict[str, Tensor]) -> None:
        """By the definition: after every chunk, samples whose first class leads fall silent."""
        chunk = self.chunk or 8
        steps = torch.full((self.N,), self.T)
        for t in [*range(chunk, self.T, chunk), self.T]:
            first, second = spikes[:t].sum(0).topk(2).values.unbind(1)
            steps[(first - second >= self.lead) & (steps == self.T)] = t
        running = torch.arange(self.T)[:, None] < steps
        x = given[0] if self.given == "held" else given
        stop = pk.stop.margin(self.lead)
        result = self.simulated(net, x, self.T, stop=stop)
        same("steps", result.steps, steps)
        same("spikes of stopped samples", result.spikes.dense(), spikes * running[..., None])
        for name, v in states.items():
            same(f"state of {name}", result.state[name][0].float(), v[steps - 1, torch.arange(self.N)])


@dataclass(frozen=True, kw_only=True)
class Invariance(Input, Case):
    """A precision with any weights: the same spikes by another kernel, batch, chunk and number of threads."""

    chunk: int = 1
    other: str = ways.FALLBACK
    T: int = 1
    precision: str = "int16"

    @classmethod
    def draw(cls, random: Random, **common) -> "Invariance":
        sizes, precision = cls.draw_input(random), random.choice(("int16", "int8"))
        return cls(
            **common, **sizes, chunk=random.randint(1, 40), other=random.choice(ways.WAYS), precision=precision
        )  # fmt: skip

    def check(self) -> bool:
        g = draw.generator(self.seed)
        x = torch.randn(self.shape, generator=g)
        net = Graph(self.layers, self.seed, plain=True, exact=False).build(x.expand(self.T, *x.shape))
        with ways.use(self.other):
            expected = pk.simulate(net, x, self.T, precision=self.precision).spikes.dense()
        with ways.use(self.way, self.threads):
            parts = x.split(1 + self.seed % 3)
            parts = [
                layerwise.simulate(net, part, self.T, chunk=self.chunk, precision=self.precision) for part in parts
            ]
            same("spikes", torch.cat([part.spikes.dense() for part in parts], 1), expected)
        return bool(expected.any())


@dataclass(frozen=True, kw_only=True)
class Proxy(Input, Case):
    """ProxyNet: the spikes of the step loop forward, the gradients of the plain ReLU network back."""

    plain: bool = True
    clip: bool = False

    @classmethod
    def draw(cls, random: Random, **common) -> "Proxy":
        sizes, clip = cls.draw_input(random), random.random() < 0.4
        # So few that float32 is exact: else a current of 0, where ReLU has its kink, is not 0 in both networks.
        sizes["layers"] = min(sizes["layers"], 2 if clip else 3)
        return cls(**common, **sizes, plain=random.random() < 0.5, clip=clip)

    def check(self) -> bool:
        g = draw.generator(self.seed)
        x = draw.whole(self.shape, 4, g) * UNIT
        # Thresholds that no activation meets: there the clipped ReLU has no derivative.
        graph = Graph(
            self.layers,
            self.seed,
            self.plain,
            theta="just above",
            resets=("zero", "below"),
            models=("IFNeuron",),
            batch_norm=False,
        )
        net = graph.build(x.expand(self.T, *x.shape))
        values, _ = trace(net, x.expand(self.T, *x.shape))
        counts = list(values.values())[-1].sum(0)
        weight = draw.whole(tuple(counts.shape), 3, g)
        parameters = dict(net.named_parameters())
        doubles = {name: p.detach().double().requires_grad_() for name, p in parameters.items()}
        twin = relu_network(net, doubles, x.double(), self.clip)
        weight = torch.where(twin.detach().abs() < 1e-4, -weight.abs(), weight)  # rounding decides what is below zero
        lowered = (twin < 0) & (weight > 0) if self.clip else torch.zeros_like(weight, dtype=torch.bool)
        with ways.use(self.way, self.threads):
            output = pk.ProxyNet(net.train(), self.T, clip=self.clip)(x)
            same("counts", output.detach(), counts)
            if not twin.requires_grad:  # no weights, or none that reach the output
                return bool(counts.any())
            ours = torch.autograd.grad((output * weight).sum(), list(parameters.values()), allow_unused=True)
        theirs = torch.autograd.grad(
            (twin * weight.masked_fill(lowered, 0)).sum(), list(doubles.values()), allow_unused=True
        )
        for name, a, b in zip(parameters, ours, theirs, strict=True):
            a, b = (torch.zeros_like(parameters[name]) if grad is None else grad.float() for grad in (a, b))
            # Of whole numbers times activations up to a threshold that is no whole multiple of a unit; they may cancel.
            if (a - b).abs().max() > 2e-6 * max(1.0, b.abs().max().item()):
                raise Mismatch(f"gradient of {name}: off by {(a - b).abs().max()} of {b.abs().max()}")
        return bool(counts.any())


def relu_network(net: pk.Network, parameters: dict[str, Tensor], x: Tensor, clip: bool) -> Tensor:
    """The plain ReLU network, without this library's layers; its last layer of neurons is linear."""
    values = {pk.Network.INPUT: x}
    last = [name for name, layer, _ in net.layers() if isinstance(layer, pk.layers.Neurons)][-1]
    for name, layer, sources in net.layers():
        inputs = [values[source] for source in sources]
        parts = layer.synapses if isinstance(layer, pk.FusedSum) else [layer]
        if isinstance(layer, pk.Flatten):
            y = inputs[0].flatten(1)
        elif isinstance(layer, pk.MaxPool2d | pk.MaxRatePool2d):
            y = F.max_pool2d(inputs[0], layer.kernel_size)
        elif isinstance(layer, pk.AvgPool2d):
            y = F.avg_pool2d(inputs[0], layer.kernel_size, divisor_override=layer.divisor_override)
        else:
            prefixes = [f"{name}.synapses.{k}." if len(parts) > 1 else f"{name}." for k in range(len(parts))]
            y = sum(map(_affine, parts, inputs, [parameters] * len(parts), prefixes))
            if name != last:
                theta = torch.as_tensor(layer.v_threshold).double()
                theta = theta.view(-1, *[1] * (y.ndim - 2)) if theta.ndim else theta
                y = torch.minimum(y.relu(), theta) if clip else y.relu()
        values[name] = y
    return y


def _affine(layer: nn.Module, x: Tensor, parameters: dict[str, Tensor], prefix: str) -> Tensor:
    weight, bias = parameters.get(f"{prefix}weight"), parameters.get(f"{prefix}bias")
    if weight is None:
        return x
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    convolve = F.conv2d if x.ndim == 4 else F.conv1d
    return convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
