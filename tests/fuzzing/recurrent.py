"""Recurrent neurons behind a matrix product: spikes and states bit for bit, gradients but for rounding."""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import reference, reference_gradients

from . import draw, ways
from .case import Case, same
from .gradients import Derivative, close
from .neurons import Neurons

GIVEN = ("spikes", "real", "held")


@dataclass(frozen=True, kw_only=True)
class Recurrent(Derivative, Neurons, Case):
    """``parts``: calls that hand their state on."""

    T: int = 1
    N: int = 1
    c_in: int = 1
    c_out: int = 1
    given: str = GIVEN[0]
    full: bool = True
    most: int = 1  # of the recurrent weights
    rate: float = 0.5
    parts: int = 1
    gradient: bool = False

    @classmethod
    def draw(cls, random: Random, **common) -> "Recurrent":
        gradient = random.random() < 0.3
        T = min(draw.steps(random), 12 if gradient else 300)
        N = random.choice((0, *range(1, 20))) if random.random() < 0.3 else draw.samples(random)
        return cls(
            **common, **cls.draw_neurons(random), **cls.draw_derivative(random), T=T, N=N,
            c_in=draw.channels(random, 60), c_out=draw.channels(random), given=random.choice(GIVEN),
            full=random.random() < 0.8, most=random.choice((1, 4, 16)), rate=draw.rate(random),
            parts=1 if gradient else random.randint(1, 3), gradient=gradient,
        )  # fmt: skip

    def check(self) -> bool:
        g, u, C = draw.generator(self.seed), 2.0**-self.unit, self.c_out
        x = (torch.rand(self.T, self.N, self.c_in, generator=g) < self.rate).float()
        if self.given != "spikes":
            x = draw.whole((1 if self.given == "held" else self.T, self.N, self.c_in), 4, g).expand_as(x)
        weight, bias = draw.whole((C, self.c_in), 4, g) * u, draw.whole((C,), 4, g) * u
        recurrent = draw.whole((C, C) if self.full else (C,), self.most, g) * u
        current = F.linear(x, weight, bias)
        neuron = self.neuron(draw.thresholds(self.theta, self.factor, current, C, u, g), C, u, g)
        v, v0 = self.start((self.N, C), neuron, g)
        before = (torch.rand(self.N, 1, C, generator=g) < 0.5).float() * (self.state == "tensor")
        v0 = torch.cat([v0.view(self.N, neuron.states, C), before], 1)
        v = v0 if self.state == "tensor" else v
        parameters = weight, bias, recurrent
        if self.gradient:
            return self.check_gradient(x, parameters, v0, neuron, g)
        expected, after = reference.recurrent_scan(current, v0, neuron.on(C, x.device), recurrent)
        found = []
        with ways.use(self.way, self.threads):
            for part in x.tensor_split(self.parts):
                if len(part):
                    fired, v = neuron_ops.recurrent_linear(
                        pk.pack(part) if self.given == "spikes" else part, *parameters, v, neuron
                    )
                    found.append(fired.dense())
        same("spikes", torch.cat(found), expected)
        same("v", v, after)
        return bool(expected.any())

    def check_gradient(self, x, parameters, v0, neuron, g) -> bool:
        surrogate, of = self.derivative(), neuron.on(self.c_out, x.device)
        leaves = [part.clone().requires_grad_() for part in (x, *parameters, v0)]
        dense, weight, bias, recurrent, start = leaves
        current = F.linear(dense, weight, bias)
        expected, after = reference_gradients.surrogate_recurrent_scan(current, start, of, recurrent, surrogate.kernel)
        outer = [torch.randn(part.shape, generator=g) for part in (expected, after)]
        theirs = torch.autograd.grad([expected, after], leaves, outer)
        mine = [part.clone().requires_grad_() for part in (x, *parameters, v0)]
        with ways.use(self.way, self.threads):
            fired, v = neuron_ops.recurrent_linear(*mine, neuron, surrogate)
            ours = torch.autograd.grad([fired.dense(), v], mine, outer)
        same("spikes", fired.dense().detach(), expected.detach())
        same("v", v.detach(), after.detach())
        for name, a, b in zip(("input", "weight", "bias", "recurrent weight", "state"), ours, theirs, strict=True):
            close(f"gradient of the {name}", a, b)
        return bool(expected.any())
