"""A layer called again and again, whose plan, sessions and memory are kept: each call finds what the last one left.

From call to call steps, samples, image, input, states, threads and neurons change, and now and then the weights.
The results of all calls are kept and compared at the end as well: a call must not write where an earlier result lies.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference

from . import draw, ways
from .case import Case, Windows, dense, same
from .convolutions import Convolution
from .neurons import Neurons

WORK = 1 << 22  # multiplications of a call, mostly
KINDS = ("conv", "linear", "recurrent", "real", "currents")
LONG = (63, 64, 65, 128, 129, 200)  # steps: a segment has at most 64

Found = tuple[str, Tensor | pk.Spikes, Tensor]  # what was called, and the expected value


@dataclass(frozen=True, kw_only=True)
class Calls(Neurons, Windows, Case):
    """``T``, ``N`` and ``size``: the largest of all calls. ``given``: what the layer is."""

    kind: str = KINDS[0]
    calls: int = 2
    most: int = 1  # units of the largest weight
    rate: float = 0.5
    train: str = draw.TRAINS[0]
    bias: bool = False
    changes: bool = False  # the weights, in place, now and then
    at_once: bool = False  # all calls again, by two threads at the same time

    @classmethod
    def draw(cls, random: Random, **common) -> "Calls":
        kind = random.choice(KINDS[:1] * 4 + KINDS)
        sizes = Convolution.draw_window(random) if kind in ("conv", "currents") else Convolution.draw_linear(random)
        sizes.pop("as_linear", None)
        if kind == "recurrent":
            sizes["c_in"], sizes["c_out"] = min(sizes["c_in"], 60), min(sizes["c_out"], 150)
        T, N = (random.choice(LONG) if random.random() < 0.4 else draw.steps(random)), random.randint(1, 6)
        groups, c_in, c_out, (height, width) = (sizes[key] for key in ("groups", "c_in", "c_out", "size"))
        if kind == "real":  # a product of every pixel
            height, width = draw.image(random)
        inputs = c_in * sizes["kernel_size"][0] * sizes["kernel_size"][1]
        pixel = groups * c_out * inputs + 16 * groups * (c_in + c_out)
        while T * N * height * width * pixel > WORK and T * N * height * width > 1:
            height, width, N = (max(1, n * 2 // 3) for n in (height, width, N))
            T = T if height * width * N > 1 else max(1, T // 2)
        sizes["size"] = Convolution.image_that_fits(height, width, sizes)
        most = random.choice((1, 3, 16, 127, 3000))
        neurons = cls.draw_neurons(random)
        if kind == "currents":
            neurons |= {"model": "IFNeuron", "state": "none"}
        return cls(
            **common, **sizes, **neurons, T=T, N=N, kind=kind, calls=random.randint(2, 7),
            most=max(1, min(most, draw.EXACT // (T * (4 * inputs + 1)))), rate=draw.rate(random),
            train=random.choice(draw.TRAINS), bias=random.random() < 0.6, changes=random.random() < 0.4,
            at_once=random.random() < 0.15,
        )  # fmt: skip

    def check(self) -> bool:
        g, u = draw.generator(self.seed), 2.0**-self.unit
        C = self.c_out * self.groups
        weight = draw.whole((C, self.c_in, *self.kernel_size), self.most, g) * u
        bias = draw.whole((C,), self.most, g) * u if self.bias else None
        recurrent = draw.whole((C, C), 4, g) * u if self.kind == "recurrent" else None
        kept: list[Found] = []
        with ways.use(self.way, self.threads):
            for k in range(self.calls):
                random = Random(f"{self.seed}/{k}")
                torch.set_num_threads(random.choice((self.threads, random.randint(1, self.threads))))
                if k and self.changes and random.random() < 0.5:
                    changed = random.choice([part for part in (weight, bias, recurrent) if part is not None])
                    changed[random.randrange(len(changed))].mul_(-1).add_(u)
                call, expected = self.one(random, weight, bias, recurrent, draw.generator(1000 * self.seed + k))
                for name, actual, right in self.named(f"call {k}", call(), expected):
                    same(name, dense(actual), right)
                    kept.append((name, actual, right))
            for name, actual, right in kept:
                same(f"{name}, later", dense(actual), right)
            if self.at_once:
                self.together(weight, bias, recurrent)
        return any(bool(right.any()) for name, _, right in kept if "spikes" in name or "currents" in name)

    def together(self, weight: Tensor, bias: Tensor | None, recurrent: Tensor | None) -> None:
        """Calls by two threads at the same time."""
        prepared = [
            self.one(Random(f"{self.seed}/{k}"), weight, bias, recurrent, draw.generator(1000 * self.seed + k))
            for k in range(self.calls)
        ]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda each: each[0](), [*prepared, *prepared]))
        for k, (actual, (_, expected)) in enumerate(zip(found, [*prepared, *prepared], strict=True)):
            for name, ours, right in self.named(f"call {k} of two threads", actual, expected):
                same(name, dense(ours), right)

    def named(self, call: str, actual: tuple, expected: tuple) -> Iterator[Found]:
        names = ("currents",) if self.kind == "currents" else ("spikes", "v")
        for name, ours, right in zip(names, actual, expected, strict=True):
            yield f"{name} of {call}", ours, right

    def one(
        self, random: Random, weight: Tensor, bias: Tensor | None, recurrent: Tensor | None, g: torch.Generator
    ) -> tuple[Callable[[], tuple], tuple[Tensor, ...]]:
        """A call of the layer, and what it must give."""
        T = self.T if random.random() < 0.4 else random.randint(1, self.T)
        N = random.choice((self.N, self.N, random.randint(0, self.N)))
        height, width = self.size
        if random.random() < 0.3 and self.kernel_size == (1, 1):
            height, width = random.randint(1, height), random.randint(1, width)
        shape, u, C = (T, N, self.c_in * self.groups, height, width), 2.0**-self.unit, len(weight)
        window = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        real = self.kind == "real" or (self.kind == "recurrent" and random.random() < 0.3)
        x = draw.whole(shape, 4, g) if real else draw.spikes(shape, self.train, random.choice((self.rate, 0.02)), g)
        given = x if real or random.random() < 0.2 else pk.pack(x)
        current = F.conv2d(x.flatten(0, 1), weight, bias, **window).unflatten(0, (T, N))
        if self.kind == "currents":
            readout = pk.neurons.LINeuron(decay=0.0)
            return lambda: neuron_ops.conv2d(given, weight, bias, None, readout, **window)[:1], (current,)
        neuron = self.neuron(draw.thresholds(self.theta, self.factor, current, C, u, g), C, u, g)
        if self.kind == "recurrent":
            return self.recurrent_call(x[..., 0, 0], current[..., 0, 0], weight[..., 0, 0], bias, recurrent, neuron, g)
        v, v0 = self.start((N, *current.shape[2:]), neuron, g)
        shortcut = None
        if self.kind == "conv" and self.groups == 1 and isinstance(given, pk.Spikes) and random.random() < 0.25:
            added = draw.spikes((T, N, *current.shape[2:]), self.train, self.rate, g)
            current, shortcut = current + added, pk.pack(added)
        expected = reference.scan(current, v0, neuron.on(C, x.device))
        if self.kind == "linear":
            flat = given.dense()[..., 0, 0] if isinstance(given, pk.Spikes) else given[..., 0, 0]
            flat = pk.pack(flat) if isinstance(given, pk.Spikes) else flat
            v = v[..., 0, 0] if isinstance(v, Tensor) else v
            matrix = weight[..., 0, 0]
            right = tuple(part[..., 0, 0] for part in expected)
            return lambda: neuron_ops.linear(flat, matrix, bias, v, neuron, shortcut=None), right
        return lambda: neuron_ops.conv2d(given, weight, bias, v, neuron, **window, shortcut=shortcut), expected

    def recurrent_call(self, x, current, weight, bias, recurrent, neuron, g):
        N, C = x.shape[1], len(weight)
        v, v0 = self.start((N, C), neuron, g)
        before = (torch.rand(N, 1, C, generator=g) < 0.5).float() * (self.state == "tensor")
        v0 = torch.cat([v0.view(N, neuron.states, C), before], 1)
        v = v0 if self.state == "tensor" else v
        expected = reference.recurrent_scan(current, v0, neuron.on(C, x.device), recurrent)
        given = pk.pack(x) if bool(((x == 0) | (x == 1)).all()) else x
        return lambda: neuron_ops.recurrent_linear(given, weight, bias, recurrent, v, neuron), expected
