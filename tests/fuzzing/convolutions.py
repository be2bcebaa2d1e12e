"""Convolutions and matrix products of spikes, of real values and of held inputs, with IF neurons."""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels import reference

from . import draw, ways
from .case import Case, Windows, same
from .neurons import Neurons

PERIODIC = ("periods", "part of periods")
GIVEN = ("spikes", "dense", "real", "held", *PERIODIC)
WORK = 1 << 24  # multiplications of a case, mostly; and its input and output values
LARGE = 1 << 27


@dataclass(frozen=True, kw_only=True)
class Convolution(Neurons, Windows, Case):
    given: str = GIVEN[0]
    train: str = draw.TRAINS[0]
    rate: float = 0.5
    plain: float = 0.0  # share of the pixels that are like the first
    most: int = 1  # units of the largest weight
    bias: bool = False
    layout: str = draw.LAYOUTS[0]
    weight_dtype: str = "float32"
    as_linear: bool = False  # by if_linear
    shortcut: bool = False  # spikes of the output's shape that add 1, where the input is spikes

    @classmethod
    def draw(cls, random: Random, **common) -> "Convolution":
        given, forced = random.choice(GIVEN + GIVEN[:1] * 4), common["way"].partition(" ")[2]
        rare = forced == "im2col" and random.random() < 0.6  # of which chance alone draws too few
        sizes = cls.draw_linear(random) if random.random() < 0.25 and not rare else cls.draw_window(random)
        if rare:  # packed spikes of few channels
            given, sizes = GIVEN[0], sizes | {"groups": 1, "c_in": 1 + sizes["c_in"] % 5}
        T, N = draw.steps(random), draw.samples(random)
        groups, c_in, c_out, (height, width) = (sizes[key] for key in ("groups", "c_in", "c_out", "size"))
        inputs = c_in * sizes["kernel_size"][0] * sizes["kernel_size"][1]
        budget = LARGE if random.random() < 0.01 else WORK
        pixel = groups * c_out * inputs + 16 * groups * (c_in + c_out)
        while T * N * height * width * pixel > budget and T * N * height * width > 1:
            if height * width > 12:
                height, width = max(1, height // 2), max(1, width // 2)
            elif T > 3 and T >= 8 * N:
                T //= 2
            elif N > 1:
                N -= 1
            elif T > 1:
                T //= 2
            else:
                height, width = max(1, height // 2), max(1, width // 2)
        sizes["size"] = cls.image_that_fits(height, width, sizes)
        dtype = random.choice(("float32", "float32", "float32", "float16", "bfloat16", "float64"))
        most = random.choice((1, 3, 16, 127, 3000, 8191, 60000))
        most = min(most, 127) if dtype.endswith("16") else most  # what these hold exactly
        most = min(most, 63) if rare and forced == "bytes" else most  # what byte rows hold
        neurons = cls.draw_neurons(random)
        if given in ("held", *PERIODIC):
            neurons["state"] = random.choice(("none", "none", neurons["state"]))
        return cls(
            **common, **sizes, **neurons, T=T, N=N, given=given,
            train=random.choice(draw.TRAINS), rate=draw.rate(random), plain=random.choice((0.0, 0.0, 0.7, 0.95)),
            most=max(1, min(most, draw.EXACT // (T * (4 * inputs + 1)))), bias=random.random() < 0.6,
            layout=random.choice(draw.LAYOUTS),
            weight_dtype=dtype, shortcut=sizes["groups"] == 1 and not rare and random.random() < 0.25,
        )  # fmt: skip

    @staticmethod
    def draw_linear(random: Random) -> dict:
        c_in = random.randint(1, 3000) if random.random() < 0.1 else draw.channels(random)
        return {
            "as_linear": True, "groups": 1, "c_in": c_in, "c_out": draw.channels(random),
            "size": (1, 1), "kernel_size": (1, 1),
        }  # fmt: skip

    @staticmethod
    def draw_window(random: Random) -> dict:
        kind, groups = random.random(), 1
        if random.random() < 0.1:  # of a pixel, whose values have a kernel of their own
            c_in, c_out = draw.channels(random), draw.channels(random)
            return {"groups": 1, "c_in": c_in, "c_out": c_out, "kernel_size": (1, 1), "size": draw.image(random)}
        if kind < 0.55:
            c_in, c_out = draw.channels(random), draw.channels(random)
        elif kind < 0.8:  # depthwise, with a multiplier now and then
            groups, c_in, c_out = draw.channels(random) + random.choice((0, 7)), 1, random.choice((1, 1, 1, 1, 2, 3, 8))
        else:
            groups = random.choice((2, 2, 3, 4, 4, 5, 8, 32))
            c_in, c_out = (random.choice((1, 2, 4, 8, 16, 24, random.randint(1, 40), 32, 64)) for _ in range(2))
            c_in, c_out = max(1, min(c_in, 300 // groups)), max(1, min(c_out, 300 // groups))
        kernel = tuple(random.choice((1, 1, 2, 3, 3, 3, 4, 5, 6, 7)) for _ in range(2))
        kernel = (kernel[0], kernel[0]) if random.random() < 0.6 else kernel
        sizes = {"groups": groups, "c_in": c_in, "c_out": c_out, "kernel_size": kernel, "size": draw.image(random)}
        sizes["dilation"] = tuple(random.choice((1, 1, 1, 2, 3)) for _ in range(2))
        chance = random.random()
        if chance < 0.15:
            return sizes | {"padding": random.choice(("same", "valid"))}
        sizes["stride"] = tuple(random.choice((1, 1, 1, 2, 3, 5)) for _ in range(2))
        most = 2 if chance < 0.8 else 9  # now and then beyond the kernel
        return sizes | {"padding": tuple(random.randint(0, most) for _ in range(2))}

    @staticmethod
    def image_that_fits(height: int, width: int, sizes: dict) -> tuple[int, int]:
        """At least as large as the kernel."""
        padding = sizes.get("padding", (0, 0))
        padding = {"same": sizes["kernel_size"], "valid": (0, 0)}.get(padding, padding)
        spans = zip((height, width), padding, sizes["kernel_size"], sizes.get("dilation", (1, 1)), strict=True)
        return tuple(max(n, d * (k - 1) + 1 - 2 * p, 1) for n, p, k, d in spans)

    def check(self) -> bool:
        g, u = draw.generator(self.seed), 2.0**-self.unit
        C_in, C_out = self.c_in * self.groups, self.c_out * self.groups
        window = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        weight = draw.whole((C_out, self.c_in, *self.kernel_size), self.most, g) * u
        weight = weight.to(getattr(torch, self.weight_dtype))
        bias = draw.whole((C_out,), self.most, g) * u if self.bias else None
        with ways.use(self.way, self.threads):
            x, given = self.inputs((self.T, self.N, C_in, *self.size), g)
            current = F.conv2d(x[:: max(1, self.T // 4)].flatten(0, 1), weight.float(), bias, **window)
            theta = draw.thresholds(self.theta, self.factor, current, C_out, u, g)
            neuron = self.neuron(theta, C_out, u, g)
            v, v0 = self.start((self.N, *current.shape[1:]), neuron, g)
            expected, v_expected = reference.conv2d(x, weight, bias, v0, neuron.on(C_out, x.device), **window)
            shortcut = None
            if self.shortcut and isinstance(given, pk.Spikes):
                added = draw.spikes((self.T, *expected.shape[1:]), self.train, self.rate, g)
                each = F.conv2d(x.flatten(0, 1), weight.float(), None if bias is None else bias.float(), **window)
                current = each.unflatten(0, x.shape[:2]) + added
                expected, v_expected = reference.scan(current, v0, neuron.on(C_out, x.device))
                shortcut = pk.pack(added)
            if self.as_linear:
                expected, v_expected = expected[..., 0, 0], v_expected[..., 0, 0]
                given = pk.spikes.spikes.flatten(given) if isinstance(given, pk.Spikes) else given[..., 0, 0]
                v = v[..., 0, 0] if isinstance(v, Tensor) else v
                actual, v_actual = pk.calls.neuron_ops.linear(
                    given, weight[..., 0, 0], bias, v, neuron, shortcut=shortcut
                )
            else:
                v = draw.laid_out(v, self.layout) if isinstance(v, Tensor) else v
                weight = draw.laid_out(weight, self.layout)
                actual, v_actual = pk.calls.neuron_ops.conv2d(
                    given, weight, bias, v, neuron, **window, shortcut=shortcut
                )
            if isinstance(given, pk.Spikes):
                self.check_moments(x, given, weight[..., 0, 0] if self.as_linear else weight, window)
        same("spikes", actual.dense(), expected)
        same("v", v_actual, v_expected)
        return bool(expected.any())

    def check_moments(self, x: Tensor, given: pk.Spikes, weight: Tensor, window: dict) -> None:
        """Mean and variance of the currents, which batch normalisation takes of the sums that a kernel leaves."""
        kernel = weight if weight.ndim == 4 else weight[..., None, None]
        currents = F.conv2d(x.flatten(0, 1).double(), kernel.double(), **window).transpose(0, 1).flatten(1)
        if currents.shape[1] < 2:
            return
        operands = given, weight, torch.zeros(len(weight)), *window.values()
        mean, variance, count = pk.calls.currents.batch_moments(*operands)
        assert count == currents.shape[1]
        largest = currents.abs().amax(1)
        rounding = 2.0**-24 * (self.T + 64)  # a neuron's squares are added step by step, in float32
        assert ((mean - currents.mean(1)).abs() <= rounding * largest).all(), "mean of the currents"
        off = (variance - currents.var(1, correction=0)).abs()
        assert (off <= rounding * largest**2).all(), "variance of the currents"

    def inputs(self, shape: tuple[int, ...], g) -> tuple[Tensor, Tensor | pk.Spikes]:
        """The input [T, N, C, H, W] of the oracle, and what the library gets."""
        if self.given in ("spikes", "dense"):
            x = draw.with_plain(draw.spikes(shape, self.train, self.rate, g), self.plain, g)
            dense = draw.laid_out(x, self.layout) if self.layout != "strided" else x
            return x, pk.pack(dense) if self.given == "spikes" else dense
        if self.given == "real":
            x = draw.values(shape, 4, g)
            return x, draw.laid_out(x, self.layout)
        current = draw.with_plain(draw.whole(shape[1:], 4, g), self.plain, g)
        if self.given == "held":
            return current.expand(shape), draw.laid_out(current, self.layout).expand(shape)
        begin = 0 if self.given == "periods" else self.seed % 40
        T = begin + self.T + (self.seed % 3 if begin else 0)
        x, v = reference.if_hold(current, T, v_threshold=5.0)
        given, v_given = pk.if_hold(current, T, v_threshold=5.0)
        same("v of the held layer", v_given, v)
        return x[begin : begin + self.T], given[begin : begin + self.T]
