"""Gradients: of neurons on given currents, and of a convolution of spikes with pooling behind it."""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels import reference_gradients

from . import draw, ways
from .case import Case, Mismatch, Windows, same
from .neurons import Neurons
from .scans import draw_shape, steps_for

SURROGATES = {"triangle": pk.Triangle, "atan": pk.ATan, "sigmoid": pk.Sigmoid, "fast sigmoid": pk.FastSigmoid}
TOLERANCE = 1e-4  # of the largest gradient; what passes many resets grows, and its rounding with it


def close(name: str, actual: Tensor, expected: Tensor) -> None:
    """Gradients that differ by rounding alone."""
    if actual.shape != expected.shape:
        raise Mismatch(f"{name}: shape {list(actual.shape)}, expected {list(expected.shape)}")
    if not expected.numel() or not expected.isfinite().all():  # gradients may overflow, as they do in the oracle
        return
    difference = (actual - expected).abs().max().item()
    if not difference <= TOLERANCE * max(expected.abs().max().item(), 1e-6):
        raise Mismatch(f"{name}: differ by {difference}, the largest is {expected.abs().max().item()}")


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """The fields of a case that say what stands for a spike's derivative."""

    surrogate: str = "triangle"
    detached: bool = True

    @staticmethod
    def draw_derivative(random: Random) -> dict:
        return {"surrogate": random.choice(list(SURROGATES)), "detached": random.random() < 0.5}

    def derivative(self):
        return SURROGATES[self.surrogate](detach_reset=self.detached)


@dataclass(frozen=True, kw_only=True)
class ScanGradient(Derivative, Neurons, Case):
    """Of currents, held or not, and of the state."""

    T: int = 1
    shape: tuple[int, ...] = (1, 1)
    held: bool = False
    layout: str = draw.LAYOUTS[0]

    @classmethod
    def draw(cls, random: Random, **common) -> "ScanGradient":
        shape = draw_shape(random)
        shape = shape if len(shape) > 1 else (*shape, 3)
        T = min(40, steps_for(random, 4 * torch.Size(shape).numel()))
        return cls(
            **common, **cls.draw_neurons(random), **cls.draw_derivative(random), T=T, shape=shape,
            held=random.random() < 0.3, layout=random.choice(draw.LAYOUTS),
        )  # fmt: skip

    def check(self) -> bool:
        g, u, C = draw.generator(self.seed), 2.0**-self.unit, self.shape[1]
        shape = self.shape if self.held else (self.T, *self.shape)
        current = draw.whole(shape, 9, g) * u
        neuron = self.neuron(draw.thresholds(self.theta, self.factor, current, C, u, g), C, u, g)
        _, v0 = self.start(self.shape, neuron, g)
        leaves = [x.clone().requires_grad_() for x in (current, v0)]
        currents = leaves[0].expand(self.T, *self.shape)
        parameters, surrogate = neuron.on(C, current.device), self.derivative()
        expected, after = reference_gradients.surrogate_scan(currents, leaves[1], parameters, surrogate.kernel)
        given = [torch.randn(x.shape, generator=g) for x in (expected, after)]
        theirs = torch.autograd.grad([expected, after], leaves, given, allow_unused=True, materialize_grads=True)
        mine = [draw.laid_out(current, self.layout).requires_grad_(), v0.clone().requires_grad_()]
        with ways.use(self.way, self.threads):
            if self.held:
                actual, v = pk.calls.neuron_ops.hold(mine[0], self.T, mine[1], neuron, surrogate)
            else:
                actual, v = pk.calls.neuron_ops.scan(mine[0], mine[1], neuron, surrogate)
            ours = torch.autograd.grad([actual.dense(), v], mine, [draw.laid_out(given[0], self.layout), given[1]])
            same("spikes", actual.dense().detach(), expected.detach())
        same("v", v.detach(), after.detach())
        for name, a, b in zip(("gradient of currents", "gradient of v"), ours, theirs, strict=True):
            close(name, a, b)
        return bool(expected.any())


@dataclass(frozen=True, kw_only=True)
class LayerGradient(Derivative, Windows, Case):
    """Of a convolution's input, weights and bias, with max pooling behind it."""

    pool: tuple[int, int, int] = (1, 1, 0)  # window, stride and padding
    rate: float = 0.5
    soft: bool = False

    @classmethod
    def draw(cls, random: Random, **common) -> "LayerGradient":
        def pair(least: int, most: int) -> tuple[int, int]:
            return random.randint(least, most), random.randint(least, most)

        groups = random.choice((1, 1, 1, 1, 1, 2, 5))
        c_in, c_out = (max(1, draw.channels(random, 80) // groups) for _ in range(2))
        kernel_size, dilation, padding = pair(1, 4), random.choice(((1, 1), (1, 1), pair(1, 3))), pair(0, 4)
        spans = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel_size, padding, strict=True)]
        size = tuple(max(n, span) for n, span in zip(draw.image(random), spans, strict=True))
        window = random.randint(1, 3)
        out = min(n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel_size, strict=True))
        work = torch.Size((c_in, c_out, groups, *size, *kernel_size)).numel()
        return cls(
            **common, **cls.draw_derivative(random), T=max(1, min(draw.steps(random), 12, 10_000_000 // work)),
            N=random.choice((1, 1, 2, 3)), c_in=c_in, c_out=c_out, groups=groups, size=size, kernel_size=kernel_size,
            stride=random.choice(((1, 1), (1, 1), pair(1, 3))), padding=padding, dilation=dilation,
            pool=(window, random.randint(1, 3), random.randint(0, window // 2)) if out >= 12 else (1, 1, 0),
            rate=random.choice((0.1, draw.rate(random))), soft=random.random() < 0.5,
        )  # fmt: skip

    def check(self) -> bool:
        g = draw.generator(self.seed)
        C_in, C_out = self.c_in * self.groups, self.c_out * self.groups
        dense = (torch.rand(self.T, self.N, C_in, *self.size, generator=g) < self.rate).float()
        weight = draw.whole((C_out, self.c_in, *self.kernel_size), 4, g) / 4
        bias, window = draw.whole((C_out,), 4, g) / 4, (self.stride, self.padding, self.dilation, self.groups)
        neuron, surrogate = pk.neurons.IFNeuron(v_threshold=2.0, v_reset=None if self.soft else 0.0), self.derivative()
        x, *parameters = leaves = [part.clone().requires_grad_() for part in (dense, weight, bias)]
        currents = F.conv2d(x.flatten(0, 1), *parameters, *window).unflatten(0, (self.T, self.N))
        parameters_of = neuron.on(C_out, dense.device)
        spikes, _ = reference_gradients.surrogate_scan(currents, None, parameters_of, surrogate.kernel)
        expected = F.max_pool2d(spikes.flatten(0, 1), *self.pool).unflatten(0, (self.T, self.N))
        grad = torch.randn(expected.shape, generator=g)
        theirs = torch.autograd.grad(expected, leaves, grad)
        mine = [part.clone().requires_grad_() for part in (dense, weight, bias)]
        with ways.use(self.way, self.threads):
            fired, _ = pk.calls.neuron_ops.conv2d(*mine, None, neuron, *window, surrogate=surrogate)
            actual = pk.max_pool2d(fired, *self.pool).dense()
            ours = torch.autograd.grad(actual, mine, grad)
            same("spikes", actual.detach(), expected.detach())
        for name, a, b in zip(("input", "weight", "bias"), ours, theirs, strict=True):
            close(f"gradient of the {name}", a, b)
        return bool(expected.any())
