"""Sigma-delta neurons behind convolutions of spikes, of values and of a constant input; max pooling of them and before
them."""

import math
from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F

from proxykernels.kernels import backends, sigma_delta_codes
from proxykernels.kernels.table import Most

from . import draw, ways
from .case import Case, Mismatch, Windows, same
from .convolutions import Convolution
from .words import Pool

GIVEN = ("spikes", "values", "constant", "nothing")
WORK = 1 << 23


@dataclass(frozen=True, kw_only=True)
class SigmaDelta(Windows, Case):
    given: str = GIVEN[0]
    rate: float = 0.5
    most: int = 1  # units of the largest weight
    exponents: int = 8
    threshold: float | None = None  # of graded neurons
    fires: bool = True
    identity: bool = False  # in the place of a ReLU
    clipped: bool = False
    bias: bool = False
    added: bool = False
    goes_on: bool = False  # from where other steps have left the neurons

    @classmethod
    def draw(cls, random: Random, **common) -> "SigmaDelta":
        sizes = Convolution.draw_linear(random) if random.random() < 0.25 else Convolution.draw_window(random)
        sizes = {key: value for key, value in sizes.items() if key != "as_linear"}
        if isinstance(sizes.get("padding"), str):
            del sizes["padding"]
        kernel, (height, width) = sizes["kernel_size"], sizes["size"]
        inputs = sizes["c_in"] * kernel[0] * kernel[1]
        T, N = random.choice((1, 2, 3, 4, 8, random.randint(1, 20))), draw.samples(random)
        pixel = sizes["groups"] * sizes["c_out"] * inputs
        while T * N * height * width * pixel > WORK and T * N * height * width > 1:
            height, width, T, N = (max(1, n // 2) for n in (height, width, T, N))
        sizes["size"] = Convolution.image_that_fits(height, width, sizes)
        most = random.choice((1, 8, 100))
        return cls(
            **common, **sizes, T=T, N=N, given=random.choice(GIVEN[:1] * 4 + GIVEN), rate=draw.rate(random),
            most=max(1, min(most, draw.EXACT // (2048 * T * (inputs + 2)))),
            exponents=random.randint(1, Most.EXPONENTS), threshold=random.choice((None, None, 0.0, 0.5)),
            fires=random.random() < 0.8, identity=random.random() < 0.3, clipped=random.random() < 0.3,
            bias=random.random() < 0.6, added=random.random() < 0.4, goes_on=random.random() < 0.3,
        )  # fmt: skip

    def check(self) -> bool:
        g, C_in, C_out = draw.generator(self.seed), self.c_in * self.groups, self.c_out * self.groups
        window = self.stride, self.padding, self.dilation, self.groups
        unit = 2.0 ** -((self.most * self.c_in * self.kernel_size[0]).bit_length() // 2)  # so that few are beyond 1
        weight, bias = draw.whole((C_out, self.c_in, *self.kernel_size), self.most, g) * unit, None
        if self.bias:
            bias = draw.whole((C_out,), self.most, g) * unit
        steps = 1 if self.given == "constant" else self.T
        most = Most.EXPONENTS
        x = torch.randint(-most, most + 1, (self.N, steps, self.size[0] * self.size[1], C_in), generator=g)
        x = torch.where(torch.rand(x.shape, generator=g) < self.rate, x, 0)
        x = x.to(torch.int8) if self.given == "spikes" else x / 128
        reached, _ = sigma_delta_codes.arriving(x[:, :1], self.size, weight, None, window)
        added = None
        if self.added or self.given == "nothing":
            added = draw.whole((self.N, self.T, *reached.shape[2:]), self.most, g) * unit
        highest = torch.full((C_out,), torch.inf)
        if self.clipped:
            highest = torch.randint(1, 300, (C_out,), generator=g) / 128
        neuron = sigma_delta_codes.Senders(
            self.exponents, -torch.inf if self.identity else 0.0, highest, self.threshold
        )
        operands = x, self.size, weight, bias
        if self.given == "nothing":
            operands = None, self.size, None, None
        operands = *operands, added, self.T, neuron if self.fires else None, window
        states: list[sigma_delta_codes.State | None] = [None, None]
        if self.goes_on and self.fires:
            before = [draw.whole((self.N, *reached.shape[2:]), 256, g) / 128 for _ in range(2)]
            states = [(before[0].clone(), before[1].clone()) for _ in range(2)]
        expected, counts = sigma_delta_codes.sigma_delta(*operands, states[0])
        with ways.use(self.way, self.threads):
            actual, counted = backends.cpu_backend().sigma_delta(*operands, states[1])
        for name, ours, theirs in zip("za", states[1] or (), states[0] or (), strict=False):
            same(f"{name} after the steps", ours, theirs)
        same("codes" if self.fires else "what arrives", actual, expected)
        if counts != counted:
            raise Mismatch(f"{counted}, expected {counts}")
        return bool(expected.any())


@dataclass(frozen=True, kw_only=True)
class SigmaDeltaPool(Pool):
    """Max pooling of what neurons have sent; ``of_rates``: of real values. ``begun``: what was sent before, at most."""

    exponents: int = 0  # of neurons behind it; 0: there are none
    threshold: float | None = None  # of graded neurons
    identity: bool = False  # in the place of a ReLU
    clipped: bool = False
    constant: bool = False  # all comes at the first step

    @classmethod
    def draw(cls, random: Random, **common) -> "SigmaDeltaPool":
        return super().draw(
            random, **common, exponents=random.choice((0, random.randint(1, Most.EXPONENTS))),
            threshold=random.choice((None, None, 0.0, 0.5)),
            identity=random.random() < 0.3, clipped=random.random() < 0.3, constant=random.random() < 0.3,
        )  # fmt: skip

    def check(self) -> bool:
        g, T, most = draw.generator(self.seed), min(self.T, 40), Most.EXPONENTS
        x = torch.randint(-most, most + 1, (self.N, T, self.size[0] * self.size[1], self.C), generator=g)
        x = torch.where(torch.rand(x.shape, generator=g) < self.rate, x, 0)
        x = x / 128 if self.of_rates else x.to(torch.int8)
        shape = F.max_pool2d(
            torch.empty(1, 1, *self.size, device="meta"), self.kernel_size, self.stride, self.padding,
            ceil_mode=self.periods,
        ).shape  # fmt: skip
        size_out = shape[2], shape[3]
        operands = x, self.size, size_out, self.kernel_size, self.stride, self.padding
        states: list[sigma_delta_codes.State | None] = [None, None]
        if self.begun:
            pixels = math.prod(self.size), math.prod(size_out)
            before = [draw.whole((self.N, P, self.C), self.begun, g) / 128 for P in pixels]
            states = [(before[0].clone(), before[1].clone()) for _ in range(2)]
        if self.exponents:
            expected = self._neurons(operands, states, T, g)
        else:
            expected = sigma_delta_codes.running_maximum(*operands, states[0])
            with ways.use(self.way, self.threads):
                actual = backends.cpu_backend().running_maximum(*operands, states[1])
            same("changes", actual, expected)
        for name, ours, theirs in zip(("sent", "maxima"), states[1] or (), states[0] or (), strict=False):
            same(f"{name} after the steps", ours, theirs)
        return bool(expected.any())

    def _neurons(self, operands: tuple, states: list, T: int, g: torch.Generator) -> torch.Tensor:
        """The codes of neurons behind the pooling, which both must send."""
        highest = torch.full((self.C,), torch.inf)
        if self.clipped:
            highest = torch.randint(1, 300, (self.C,), generator=g) / 128
        neuron = sigma_delta_codes.Senders(
            self.exponents, -torch.inf if self.identity else 0.0, highest, self.threshold
        )
        x, *pooling = operands
        x = x[:, :1] if self.constant else x
        expected, spikes = sigma_delta_codes.pooled_sigma_delta(x, *pooling, T, neuron, states[0])
        with ways.use(self.way, self.threads):
            actual, counted = backends.cpu_backend().pooled_sigma_delta(x, *pooling, T, neuron, states[1])
        same("codes", actual, expected)
        if counted != spikes:
            raise Mismatch(f"{counted} spikes, expected {spikes}")
        return expected
