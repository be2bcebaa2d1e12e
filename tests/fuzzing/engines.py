"""Networks compiled once: the engine, its streams cut anywhere, and its file, against the step loop."""

import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from random import Random

import torch
from oracle import trace
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.engine.engine import Engine
from proxykernels.engine.follow import CannotFollowError, follow

from . import draw, ways
from .case import Case, same
from .graphs import UNIT, Graph
from .networks import Input

GIVEN = ("held", "spikes", "real", "counts")
TARGETS = tuple(target for target in ways.TARGETS if target != "amx")


@dataclass(frozen=True, kw_only=True)
class Compiled(Input, Case):
    """A random network, compiled for an instruction set, run whole, in a stream, with early exit, and from a file."""

    given: str = GIVEN[0]
    plain: bool = True
    sequential: bool = False
    lead: int = 0  # of early exit; 0: none
    target: str = TARGETS[-1]

    @classmethod
    def draw(cls, random: Random, **common) -> "Compiled":
        plain = random.random() < 0.5
        return cls(
            **common, **cls.draw_input(random), plain=plain, given=random.choice(GIVEN),
            sequential=plain and random.random() < 0.5, lead=random.choice((0, 0, 0, random.randint(1, 4))),
            target=random.choice(TARGETS),
        )  # fmt: skip

    def check(self) -> bool:
        g, shape = draw.generator(self.seed), (self.T, *self.shape)
        if self.given == "spikes":
            x = draw.spikes(shape, "mixed", 0.4, g)
        elif self.given == "counts":
            x = draw.whole(shape, 3, g)
        else:
            held = shape[1:] if self.given == "held" else shape
            x = (draw.whole(held, 4, g) * UNIT).expand(shape)
        given = {"spikes": pk.pack, "counts": Tensor.short, "held": lambda x: x[0]}.get(self.given, lambda x: x)(x)
        net = Graph(self.layers, self.seed, self.plain).build(x)
        values, states = trace(net, x)
        tried: nn.Module = net
        if self.sequential:
            tried = nn.Sequential(OrderedDict((name, layer) for name, layer, _ in net.layers()))
        try:
            plan = follow(tried, tuple(self.shape[1:]), self.given != "spikes")
        except CannotFollowError:
            return False
        ways.executed[self.target, "engine"] += 1
        expected, threads = values[list(values)[-1]], torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            engine = Engine(plan, target=self.target)
            self.check_run(engine, given, expected, values)
            self.check_stream(engine, x, given, expected, states)
            if self.seed % 4 == 0:
                self.check_file(engine, given, expected)
            if self.lead and expected.ndim == 3 and expected.shape[2] > 1:
                self.check_stop(engine, given, expected)
        finally:
            torch.set_num_threads(threads)
        return bool(expected.any())

    def check_run(self, engine, given, expected: Tensor, values: dict[str, Tensor]) -> None:
        for turn in range(2):  # the second works on memory that is not new
            result = engine(given, self.T)
            same(f"spikes, run {turn}", result.spikes.dense(), expected)
        for name, rate in result.rates.items():
            wanted = values[name].double().mean().item()
            if abs(rate - wanted) > 1e-9:
                raise AssertionError(f"rate of {name}: {rate}, expected {wanted}")

    def check_stream(self, engine, x: Tensor, given, expected: Tensor, states: dict[str, Tensor]) -> None:
        random, stream, parts, t = Random(self.seed), engine.stream(self.N), [], 0
        while t < self.T:
            steps = min(random.choice((1, 1, 2, 5, 33)), self.T - t)
            if self.given == "held":
                part = given if steps == 1 else given.expand(steps, *given.shape)
            else:
                part = given[t : t + steps]
            parts.append(stream(part).dense())
            t += steps
            if random.random() < 0.2:
                kept, stream = stream.state, engine.stream(self.N)
                stream.state = kept
        same("spikes of a stream", torch.cat(parts), expected)
        for name, v in stream.state.items():
            same(f"state of {name}", v, states[name][-1].float())

    def check_file(self, engine, given, expected: Tensor) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "engine.safetensors")
            engine.save(path)
            same("spikes of a loaded engine", pk.load(path)(given, self.T).spikes.dense(), expected)

    def check_stop(self, engine, given, spikes: Tensor) -> None:
        """By the definition: every 8 steps, samples whose first class leads fall silent."""
        steps = torch.full((self.N,), self.T)
        for t in [*range(8, self.T, 8), self.T]:
            first, second = spikes[:t].sum(0).topk(2).values.unbind(1)
            steps[(first - second >= self.lead) & (steps == self.T)] = t
        running = torch.arange(self.T)[:, None] < steps
        result = engine(given, self.T, stop=pk.margin(self.lead))
        same("steps", result.steps, steps)
        same("spikes of stopped samples", result.spikes.dense(), spikes * running[..., None])
