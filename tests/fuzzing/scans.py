"""Neurons on given and on held currents."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels import reference

from . import draw, ways
from .case import Case, same
from .neurons import Neurons

DTYPES = ("float32", "float16", "bfloat16", "float64")


def draw_shape(random: Random) -> tuple[int, ...]:
    """[N, ...] of up to 40,000 neurons, of zero to three dimensions behind N."""
    N, C = draw.samples(random), draw.channels(random)
    height, width = draw.image(random)
    shape = (N, C, height, width)[: random.choice((1, 2, 2, 3, 4, 4, 4))]
    while torch.Size(shape).numel() > 40_000:
        shape = (*shape[:-1], max(1, shape[-1] // 2)) if shape[-1] > 1 else (*shape[:-2], max(1, shape[-2] // 2), 1)
    return shape


def steps_for(random: Random, neurons: int) -> int:
    return max(1, min(draw.steps(random), 1_000_000 // max(1, neurons)))


@dataclass(frozen=True, kw_only=True)
class Scan(Neurons, Case):
    """if_scan and if_hold."""

    T: int = 1
    shape: tuple[int, ...] = (1,)
    held: bool = False
    most: int = 1
    layout: str = draw.LAYOUTS[0]
    dtype: str = "float32"

    @classmethod
    def draw(cls, random: Random, **common) -> "Scan":
        shape, neurons = draw_shape(random), cls.draw_neurons(random)
        T = steps_for(random, torch.Size(shape).numel())
        held = random.random() < 0.4
        if held:
            T = random.choice((T, random.randint(1, 300)))
            neurons["state"] = random.choice(("none", "none", neurons["state"]))
        if len(shape) == 1:  # neurons without channels have one threshold, and one decay
            neurons |= {"theta": "number", "decay": "any"}
        return cls(
            **common, **neurons, T=T, shape=shape, held=held, most=random.choice((1, 4, 16, 100)),
            layout=random.choice(draw.LAYOUTS), dtype=random.choice(DTYPES),
        )  # fmt: skip

    def check(self) -> bool:
        g, u = draw.generator(self.seed), 2.0**-self.unit
        shape = self.shape if self.held else (self.T, *self.shape)
        current = (draw.whole(shape, self.most, g) * u).to(getattr(torch, self.dtype))
        C = self.shape[1] if len(self.shape) > 1 else 1
        theta = draw.thresholds(self.theta, self.factor, current.float(), C, u, g)
        neuron = self.neuron(theta, C, u, g)
        v, v0 = self.start(self.shape, neuron, g)
        v = draw.laid_out(v, self.layout) if isinstance(v, Tensor) else v
        given = draw.laid_out(current, self.layout)
        with ways.use(self.way, self.threads):
            if self.held:
                expected, v_expected = reference.hold(current, self.T, v0, neuron.on(C, current.device))
                actual, v_actual = pk.calls.neuron_ops.hold(given, self.T, v, neuron)
            else:
                expected, v_expected = reference.scan(current, v0, neuron.on(C, current.device))
                actual, v_actual = pk.calls.neuron_ops.scan(given, v, neuron)
            same("spikes", actual.dense(), expected)
        same("v", v_actual, v_expected)
        return bool(expected.any())
