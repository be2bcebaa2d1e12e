"""Weights rounded to few bits: the kernel's are the definition's, bit for bit."""

from dataclasses import dataclass
from random import Random

import torch

from proxykernels.kernels import backends, rounding

from . import draw, ways
from .case import Case, Mismatch, same


@dataclass(frozen=True, kw_only=True)
class Rounding(Case):
    """Channels of weights of any size, some of them 0, some on a rounding's edge, some of very different weights."""

    C: int = 1
    inputs: int = 1
    exponent: int = 0  # of the weights' size
    spread: int = 0  # of their exponents
    biased: bool = False
    precision: str = "int16"

    @classmethod
    def draw(cls, random: Random, **common) -> "Rounding":
        inputs = random.choice((random.randint(1, 40), random.randint(1, 3000), 70_000))
        return cls(
            **common, C=random.randint(1, 70), inputs=inputs,
            exponent=random.choice((0, 0, -140, -120, -10, 10, 60, 110)), spread=random.choice((0, 0, 2, 12)),
            biased=random.random() < 0.5, precision=random.choice(list(rounding.PRECISIONS)),
        )  # fmt: skip

    def check(self) -> bool:
        g, precision = draw.generator(self.seed), rounding.PRECISIONS[self.precision]
        C = min(self.C, max(1, 300_000 // self.inputs))
        weight, exponents = torch.randn(2, C, self.inputs, generator=g, dtype=torch.float64)
        weight = (weight * 2.0 ** (self.exponent + self.spread * exponents)).clamp(-1e37, 1e37).float()
        weight[0] = 0
        weight[-1] = torch.randint(-127, 128, (self.inputs,), generator=g) / 2  # halves, which go to even
        bias = weight.flip(1)[:, 0].clone() if self.biased else None
        *expected, unit = rounding.round_weights(weight, bias, precision)
        with ways.use(self.way, self.threads):
            *actual, its_unit = backends.cpu_backend().round_weights(weight, bias, precision)
        for name, values, right in zip(("weights", "bias"), actual, expected, strict=True):
            if (values is None) != (right is None):
                raise Mismatch(f"{name}: {values}, expected {right}")
            if values is not None:
                same(name, values.float(), right.float())
        same("units", its_unit.float(), unit.float())
        return bool(expected[0].any())
