"""Convolutions of engines: each kernel that an engine chooses from, on windows, groups and rates of every make."""

from dataclasses import dataclass, replace
from random import Random

import torch
import torch.nn.functional as F
from oracle import trace

import proxykernels as pk
from proxykernels.plan.follow import follow
from proxykernels.plan.followed_values import CannotFollowError
from proxykernels.running.engine import Engine

from . import draw, ways
from .case import same
from .convolutions import Convolution


@dataclass(frozen=True, kw_only=True)
class EngineLayer(Convolution):
    """A layer of neurons, run whole and in a stream that is cut once, on the instruction set of the way."""

    @classmethod
    def draw(cls, random: Random, **common) -> "EngineLayer":
        drawn, given = super().draw(random, **common), random.choice(("spikes", "spikes", "spikes", "real", "held"))
        T = random.choice((drawn.T, drawn.T, random.randint(1, 8)))  # few steps have kernels of their own
        return replace(drawn, T=T, given=given, weight_dtype="float32", layout=draw.LAYOUTS[0], as_linear=False)

    def check(self) -> bool:
        g, u = draw.generator(self.seed), 2.0**-self.unit
        x, given = self.inputs((self.T, self.N, self.c_in * self.groups, *self.size), g)
        net = self.network(x, u, g)
        try:
            plan = follow(net, tuple(x.shape[2:]), self.given != "spikes")
        except CannotFollowError:
            return False
        target = self.way.partition(" ")[0]
        engine = Engine(plan, target=target if target in ways.TARGETS else None)
        values, states = trace(net, x)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            same("spikes", engine(given, self.T).spikes.dense(), values["conv"])
            for way in engine.ways.values():
                ways.executed[engine.target, f"engine: {way}"] += 1
            if not self.N:  # of a stream at least one
                return False
            cut, stream = self.seed % self.T, engine.stream(self.N)
            parts = [stream(given[:cut])] if cut else []
            parts.append(stream(given[cut:]))
            same("spikes of a stream", torch.cat([part.dense() for part in parts]), values["conv"])
            same("state", stream.state["conv"], states["conv"][-1].float())
        finally:
            torch.set_num_threads(threads)
        return bool(values["conv"].any())

    def network(self, x: torch.Tensor, u: float, g: torch.Generator) -> pk.Network:
        C_in, C_out = self.c_in * self.groups, self.c_out * self.groups
        window = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        weight = draw.whole((C_out, self.c_in, *self.kernel_size), self.most, g) * u
        bias = draw.whole((C_out,), self.most, g) * u if self.bias else None
        current = F.conv2d(x[:: max(1, self.T // 4)].flatten(0, 1), weight, bias, **window)
        theta = draw.thresholds(self.theta, self.factor, current, C_out, u, g)
        neuron = self.neuron(theta, C_out, u, g)
        layer = pk.FusedConv2d(C_in, C_out, self.kernel_size, bias=self.bias, neuron=neuron, **window)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        net = pk.Network()
        net.append("conv", layer, (pk.Network.INPUT,))
        return net.eval()
