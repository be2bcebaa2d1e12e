"""Recurrent layers of any weights, float32 and rounded: steps run by whoever can, each from the state that the one
before leaves, against one loop in float64."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import layerwise
import torch
import torch.nn.functional as F
from oracle import recurrent_loop
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

from . import draw, ways
from .case import Case, Mismatch, same
from .neurons import MODELS, Neurons, described, draw_model

GIVEN = ("spikes", "counts", "real", "held", "any")  # any: values of 24 bits, of which a call rounds all steps together
RUNNERS = ("layers", "simulate", "chunks", "stream")
EACH = dict.fromkeys(MODELS, 1)  # as often as any other
State = dict[str, Tensor]  # of a layer, [N, states + 1, C]


@dataclass(frozen=True, kw_only=True)
class RecurrentNetwork(Neurons, Case):
    """One recurrent layer, or two; ``runners``: who runs the steps, in turn."""

    T: int = 1
    N: int = 1
    c_in: int = 1
    c_out: int = 1
    given: str = GIVEN[0]
    full: bool = True
    most: int = 1  # of the recurrent weights
    one_sign: bool = False  # of them: their sums are the largest that there are
    rate: float = 0.5
    second: int = 0  # neurons of a second layer; 0: there is none
    precision: str | None = None
    chunk: int = 1
    runners: tuple[str, ...] = RUNNERS[:1]

    @classmethod
    def draw(cls, random: Random, **common) -> "RecurrentNetwork":
        large = random.random() < 0.1  # so that an engine takes its weights for far away
        precision = random.choice((None, "int16", "int8"))
        given = random.choice(GIVEN if precision else GIVEN[:-1])
        several, T = random.choices(RUNNERS, k=random.randint(1, 5)), min(draw.steps(random), 80)
        return cls(
            **common, **cls.draw_neurons(random, EACH), T=random.randint(1, 9) if large else T,
            N=random.choice((1, 1, 2, 3, 5, 9)), c_in=draw.channels(random, 60),
            c_out=random.randint(410, 900) if large else draw.channels(random), given=given,
            full=large or random.random() < 0.75, most=random.choice((1, 4, 16)), one_sign=random.random() < 0.2,
            rate=draw.rate(random), second=random.choice((0, 0, random.randint(1, 40))), precision=precision,
            chunk=random.randint(1, 40), runners=tuple(several[: 1 if given == "any" else 5]),
        )  # fmt: skip

    def check(self) -> bool:
        g = draw.generator(self.seed)
        x = self.inputs(g)
        net = nn.Sequential(*self.layers(x, g)).eval()
        start = self.states(net, g)
        expected, after, y = [], {}, x
        for name, layer in net.named_children():
            y, after[name] = recurrent_loop(layer, y, self.precision, start[name])
            expected.append(y)
        target = self.way.partition(" ")[0]
        plan = follow(net, (self.c_in,), self.given != "spikes", self.precision)
        engine = Engine(plan, target=target if target in ways.TARGETS else None)
        ways.executed[engine.target, "engine"] += 1
        with ways.use(self.way, self.threads):
            found, state = self.run(net, engine, x, start)
            same("spikes", found, y)
            for name, v in after.items():
                same(f"state of {name}", state[name], v)
            if self.state != "tensor":
                self.check_from_rest(net, engine, x, expected)
        return bool(y.any())

    def inputs(self, g: torch.Generator) -> Tensor:
        shape = self.T, self.N, self.c_in
        if self.given == "spikes":
            return (torch.rand(shape, generator=g) < self.rate).float()
        if self.given == "counts":
            return draw.whole(shape, 3, g).abs()
        if self.given == "any":
            return torch.randn(shape, generator=g)
        return draw.whole((1 if self.given == "held" else self.T, *shape[1:]), 4, g).expand(shape)

    def layers(self, x: Tensor, g: torch.Generator) -> Iterator[pk.FusedRecurrentLinear]:
        u, random, fed = 2.0**-self.unit, Random(self.seed), x
        for k, C in enumerate((self.c_out, self.second) if self.second else (self.c_out,)):
            model = {"model": self.model, "reset": self.reset, "decay": self.decay, "rest": self.rest}
            full, inputs = self.full, fed.shape[2]
            if k:
                model, full = draw_model(random, EACH), random.random() < 0.7
            weight, bias = self.weights((C, inputs), 4, u, g), self.weights((C,), 4, u, g)
            back = self.weights((C, C) if full else (C,), self.most, u, g)
            theta = draw.thresholds(self.theta, self.factor, F.linear(fed, weight, bias), C, u, g)
            neuron = described(theta=theta, C=C, unit=u, g=g, **model)
            layer = pk.FusedRecurrentLinear(
                inputs, C, neuron=neuron, recurrence="full" if full else "elementwise",
                v_init=2 * u if self.state == "number" else None,
            )  # fmt: skip
            with torch.no_grad():
                layer.weight.copy_(weight), layer.bias.copy_(bias)
                layer.recurrent_weight.copy_(back.abs() if self.one_sign else back)
            yield layer
            fed = recurrent_loop(layer, fed[:6], self.precision)[0]

    def weights(self, shape: tuple[int, ...], most: int, u: float, g: torch.Generator) -> Tensor:
        """Whole multiples of a unit; those that are to be rounded are multiples of nothing."""
        return torch.randn(shape, generator=g) * (most / 2 * u) if self.precision else draw.whole(shape, most, g) * u

    def states(self, net: nn.Sequential, g: torch.Generator) -> State:
        """Where each layer starts from, what fired a step before included."""
        start = {}
        for name, layer in net.named_children():
            shape = self.N, layer.out_features
            v = self.start(shape, layer.neuron, g)[1].view(self.N, layer.neuron.states, -1)
            fired = (torch.rand(self.N, 1, shape[1], generator=g) < 0.4).float() * (self.state == "tensor")
            start[name] = torch.cat([v, fired], 1)
        return start

    def part(self, x: Tensor, held: bool = False) -> pk.Spikes | Tensor:
        """Some steps as the library gets them; ``held``: where one is enough, that one."""
        if self.given == "held" and held:
            return x[0]
        return {"spikes": pk.pack, "counts": Tensor.short}.get(self.given, lambda x: x)(x)

    def run(self, net: nn.Sequential, engine: Engine, x: Tensor, start: State) -> tuple[Tensor, State]:
        """Spikes, and the states in the end."""
        random = Random(self.seed)
        cuts = sorted(random.randint(0, self.T) for _ in self.runners[1:])
        state, found = start if self.state == "tensor" else None, []
        for runner, first, last in zip(self.runners, [0, *cuts], [*cuts, self.T], strict=True):
            if first < last:
                spikes, state = self.run_part(runner, net, engine, x[first:last], state, random)
                found.append(spikes)
        assert state is not None
        return torch.cat(found), state

    def run_part(self, runner: str, net, engine: Engine, x: Tensor, state: State | None, random: Random):
        if runner == "stream":
            return self.in_a_stream(engine, x, state, random)
        if runner == "layers" and not self.precision:
            y, after = self.part(x), {}
            for name, layer in net.named_children():
                y, after[name] = layer.spike(y, None if state is None else state[name])
            return y.dense(), after
        simulate = pk.simulate if runner == "simulate" else layerwise.simulate
        options = {} if runner == "simulate" else {"chunk": self.chunk}
        given = None if state is None else {name: [v] for name, v in state.items()}
        result = simulate(net, self.part(x, held=True), len(x), precision=self.precision, state=given, **options)
        return result.spikes.dense(), {name: result.state[name][0] for name in result.state}

    def in_a_stream(self, engine: Engine, x: Tensor, state: State | None, random: Random) -> tuple[Tensor, State]:
        stream, parts = engine.stream(self.N), []
        if state is not None:
            stream.state = state
        while len(x):
            steps = len(x) if self.given == "any" else min(random.choice((1, 1, 2, 5, 33)), len(x))
            parts.append(stream(self.part(x[:steps])).dense())
            x = x[steps:]
        return torch.cat(parts), stream.state

    def check_from_rest(self, net: nn.Sequential, engine: Engine, x: Tensor, expected: list[Tensor]) -> None:
        """What has no state to start from: a call of the network, a run of an engine, one from a file."""
        if not self.precision:
            called = net(self.part(x))
            same("spikes of a call", called.dense() if isinstance(called, pk.Spikes) else called.float(), expected[-1])
        given = self.part(x, held=True)
        for turn in range(2):  # the second works on memory that is not new
            result = engine(given, self.T)
            same(f"spikes of an engine, run {turn}", result.spikes.dense(), expected[-1])
        for name, spikes in zip(result.rates, expected, strict=True):
            if abs(result.rates[name] - spikes.double().mean().item()) > 1e-9:
                raise Mismatch(f"rate of {name}: {result.rates[name]}, expected {spikes.double().mean().item()}")
        wanted = layerwise.simulate(net, given, self.T, precision=self.precision).synops
        if result.synops != wanted:
            raise Mismatch(f"operations: {result.synops}, of layers {wanted}")
        if self.seed % 4 == 0:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "engine.safetensors")
                engine.save(path)
                same("spikes of a loaded engine", pk.load(path)(given, self.T).spikes.dense(), expected[-1])
