"""Networks compiled once: the engine, its streams cut anywhere, and its file, against the step loop."""

import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import layerwise
import torch
from oracle import trace
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.plan.follow import follow
from proxykernels.plan.followed_values import CannotFollowError
from proxykernels.plan.plan import Plan
from proxykernels.running.engine import Engine

from . import draw, ways
from .case import Case, Mismatch, dense, same
from .graphs import UNIT, Graph
from .networks import Input
from .neurons import INTEGERS, MODELS, described, draw_model

GIVEN = ("held", "spikes", "real", "counts")
MOVES = (
    "pad",
    "upsample",
    "shuffle",
    "twice",
    "rates",
    "maxima",
    "unflatten",
    "adaptive",
    "recurrent",
    "delay",
    "pooled",
    "pixels",
    "attention",
    "product",
)  # between graph and last layer


@dataclass(frozen=True, kw_only=True)
class Compiled(Input, Case):
    """A random network, compiled for an instruction set, run whole, in a stream, with early exit, and from a file."""

    given: str = GIVEN[0]
    plain: bool = True
    sequential: bool = False
    few: float = 0  # as of a camera, such a part of all spikes; 0: many
    lead: int = 0  # of early exit; 0: none
    moves: tuple[str, ...] = ()
    large: int = 0  # units of one weight of each output
    precision: str | None = None  # then against simulate, with weights that are not exact
    target: str = ways.TARGETS[-1]
    models: ClassVar[tuple[str, ...]] = tuple(MODELS)

    @classmethod
    def draw(cls, random: Random, **common) -> "Compiled":
        plain = random.random() < 0.5
        drawn = cls(
            **common, **cls.draw_input(random), plain=plain, given=random.choice(GIVEN),
            sequential=plain and random.random() < 0.5, lead=random.choice((0, 0, 0, random.randint(1, 4))),
            moves=tuple(random.choices(MOVES, k=random.choice((0, 0, 1, 2, 3)))),
            precision=random.choice((None, None, None, "int16", "int8")), target=random.choice(ways.TARGETS),
            few=random.choice((0, 0, 0.003, 0.02, 0.1)),
        )  # fmt: skip
        if random.random() < 0.15:
            drawn = drawn.of_a_camera(random)
        if drawn.given != "spikes":
            return drawn
        digits_4 = 8_370_000 if drawn.layers == 1 and not drawn.moves else 0  # whose sums are exact of spikes alone
        return replace(drawn, large=random.choice((0, 2000, 100_000, digits_4)))

    def of_a_camera(self, random: Random) -> "Compiled":
        """The same for few spikes of an image that threads share, in bands of 1024 pixels or more (64 in the checked
        build)."""
        return replace(
            self, given="spikes", few=random.choice((0.001, 0.003, 0.01)), C=random.choice((1, 2, 2, 3)),
            size=(random.randint(30, 70), random.randint(40, 70)), N=random.choice((1, 1, 1, 2)),
            T=random.choice((1, 2, 5, 12, 33)), layers=random.choice((1, 1, 2, 3)), moves=(),
            threads=random.choice((1, 2, 2, 3)),
        )  # fmt: skip

    def check(self) -> bool:
        g, shape = draw.generator(self.seed), (self.T, *self.shape)
        if self.given == "spikes":
            train, rate = ("few", self.few) if self.few else ("mixed", (0.1, 0.4, 0.4, 0.8)[self.seed // 4 % 4])
            x = draw.spikes(shape, train, rate, g)
        elif self.given == "counts":
            x = draw.whole(shape, 3, g)
        else:
            held = shape[1:] if self.given == "held" else shape
            x = (draw.values(held, 4, g) * UNIT).expand(shape)
        given = {"spikes": pk.pack, "counts": Tensor.short, "held": lambda x: x[0]}.get(self.given, lambda x: x)(x)
        net = Graph(self.layers, self.seed, self.plain, large=self.large, models=self.models).build(x)
        if self.moves:
            self.add_moves(net, x)
        if self.precision:
            return self.check_precision(net, given)
        values, states = trace(net, x)
        tried: nn.Module = net
        if self.sequential:
            tried = nn.Sequential(OrderedDict((name, layer) for name, layer, _ in net.layers()))
        try:
            plan = follow(tried, tuple(self.shape[1:]), self.given != "spikes" or self.seed % 3 > 0)
        except CannotFollowError:
            return False
        ways.executed[self.target, "engine"] += 1
        expected, threads = values[list(values)[-1]], torch.get_num_threads()
        self.check_layers(tried, given, expected)
        torch.set_num_threads(self.threads)
        try:
            engine = Engine(plan, target=self.target)
            self.check_run(engine, given, expected, values)
            self.count_ways(engine)
            self.check_operations(engine, tried, given)
            self.check_stream(engine, given, expected, {name: v[-1:] for name, v in states.items()})
            if self.seed % 4 == 0:
                self.check_file(engine, given, expected)
            if self.lead and expected.ndim == 3 and expected.shape[2] > 1 and not plan.last.real:
                self.check_stop(engine, given, expected)
                self.check_lead(plan, given, expected)
        finally:
            torch.set_num_threads(threads)
        return bool(expected.any())

    def check_layers(self, net: nn.Module, given, expected: Tensor) -> None:
        """Layers called one by one, which networks of spikes have in a kind of their own."""

    def count_ways(self, engine: Engine) -> None:
        for way in engine.ways.values():
            ways.executed[self.target, f"engine: {way}"] += 1

    def add_moves(self, net: pk.Network, x: Tensor) -> None:
        """What moves values behind the graph, and neurons that take what these give."""
        random, g = Random(f"{self.seed}/moves"), draw.generator(self.seed)
        name, last = list(net._modules)[-1], trace(net, x[:6])[0]
        y = last[name]
        for k, move in enumerate(self.moves):
            C, *size = y.shape[2:]
            images, spiking = len(size) == 2, bool(((y == 0) | (y == 1)).all())
            layer: nn.Module | None = None
            if move == "pad" and images:
                layer = pk.ZeroPad2d(
                    tuple(random.randint(0, 2) for _ in range(4)), spread=(random.randint(1, 2), random.randint(1, 3))
                )
            elif move == "upsample" and images:
                layer = pk.Upsample(size=tuple(n + random.randint(0, n) for n in size))
            elif move == "shuffle":
                layer = pk.Channels(torch.randint(-1, C, (random.choice((C, 2 * C, 7)),), generator=g))
            elif move == "twice":
                layer = pk.Concatenate()
            elif move == "delay":
                most = random.choice((1, 3, 20))
                layer = pk.Delay(
                    random.randint(0, most)
                    if random.random() < 0.5
                    else torch.randint(0, most + 1, (C,), generator=g).tolist()
                )
            elif move in ("rates", "maxima") and images and (spiking or move == "maxima"):
                kind = pk.MaxRatePool2d if move == "rates" else pk.RunningMaxPool2d
                kernel = min(random.choice((2, 3)), *size)
                layer = kind(
                    kernel, random.randint(1, 2), random.randint(0, kernel // 2), ceil_mode=random.random() < 0.5
                )
            elif move == "unflatten" and not size and C % 2 == 0:
                layer = pk.Unflatten((C // 2, 2, 1) if random.random() < 0.5 else (2, C // 2))
            elif move == "adaptive" and images:
                powers = [2 ** random.randint(0, 1) for _ in size]  # whose averages are exact
                if all(n % p == 0 for n, p in zip(size, powers, strict=True)):
                    layer = pk.AdaptiveAvgPool2d(tuple(n // p for n, p in zip(size, powers, strict=True)))
            elif move == "pooled" and images and min(size) > 1:
                for part, layer in self.pooled(C, size, random, g).items():
                    net.append(f"{part}{k}", layer.eval(), (name,))
                    name = f"{part}{k}"
                y = trace(net, x[:6])[0][name]
                continue
            elif move == "recurrent" and not size:
                layer = self.recurrent(C, random, g)
            elif move == "pixels" and size:
                layer = pk.layers.Pixels((-1,) if images or len(size) == 1 and random.random() < 0.3 else (size[0], 1))
            elif move in ("attention", "product") and spiking and size and not self.sequential:
                name = self.multiplied(net, move, name, C, random, g)
                y = trace(net, x[:6])[0][name]
                continue
            if layer is None or y[0, 0].numel() > 20_000 or (move == "twice" and self.sequential):
                continue
            sources = (name, name) if move == "twice" else (name,)
            name = f"move{k}"
            net.append(name, layer.eval(), sources)
            y = trace(net, x[:6])[0][name]
        C, *size = y.shape[2:]
        make = (pk.FusedIFLinear, pk.FusedIFConv1d, pk.FusedIFConv2d)[len(size)]
        last_layer = make(C, random.choice((3, 20, 140)), *[1] * bool(size), v_threshold=4 * UNIT)
        with torch.no_grad():
            for parameter in last_layer.parameters():
                parameter.copy_(draw.whole(tuple(parameter.shape), 4, g) * UNIT)
        net.append("last", last_layer, (name,))
        net.eval()

    @staticmethod
    def multiplied(net: pk.Network, move: str, name: str, C: int, random: Random, g: torch.Generator) -> str:
        """Products of what a layer of spikes gives with itself, its channels in other orders. Returns the last name."""

        def channels(number: int) -> str:
            chosen = torch.randint(-1, C, (number,), generator=g)
            net.append(made := f"channels{len(net._modules)}", pk.Channels(chosen), (name,))
            return made

        heads, features = random.choice((1, 1, 2, 3)), random.choice((1, 3, 8, 17))
        last = f"{move}{len(net._modules)}"
        if move == "attention":
            net.append(last, pk.layers.Attention(heads), (channels(3 * heads * features),))
        else:
            net.append(last, pk.layers.Multiply(), (channels(heads * features), channels(heads)))
        return last

    @staticmethod
    def pooled(C: int, size: list[int], random: Random, g: torch.Generator) -> dict[str, nn.Module]:
        """Neurons on the largest currents of a convolution."""
        outputs, pad, window = random.choice((1, 5, 33, 140)), random.randint(0, 1), random.randint(1, min(3, *size))
        conv = pk.FusedConv2d(
            C, outputs, random.randint(1, min(size)), padding=pad, neuron=pk.neurons.LINeuron(decay=0.0)
        )
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(draw.whole(tuple(parameter.shape), 3, g) * UNIT)
        height, width = (n + 2 * pad - conv.kernel_size[0] + 1 for n in size)
        window = min(window, height, width)
        pool = pk.MaxPool2d(
            window, window + random.choice((-1, 0, 0, 0, 1)) or 1, random.choice((0, 0, window // 2)),
            ceil_mode=random.random() < 0.3,
        )  # fmt: skip
        model = draw_model(random, dict.fromkeys(MODELS, 1))
        neuron = described(theta=random.choice((2, 8)) * UNIT, C=outputs, unit=UNIT, g=g, **model)
        return {"conv": conv, "pool": pool, "neurons": pk.Population(neuron=neuron)}

    @staticmethod
    def recurrent(C: int, random: Random, g: torch.Generator) -> pk.FusedRecurrentLinear:
        outputs, kind = random.choice((1, 5, 33, 140)), random.choice(("full", "full", "elementwise"))
        model = draw_model(random, dict.fromkeys(MODELS, 1))
        neuron = described(theta=random.choice((2, 8)) * UNIT, C=outputs, unit=UNIT, g=g, **model)
        made = pk.FusedRecurrentLinear(C, outputs, neuron=neuron, recurrence=kind, v_init=0.0)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.copy_(draw.whole(tuple(parameter.shape), 3, g) * UNIT)
        return made

    @torch.no_grad()
    def check_precision(self, net: pk.Network, given) -> bool:
        """Rounded weights have the same sums in any order: simulate's spikes, whatever the weights are."""
        g = draw.generator(self.seed)
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=g)
        if isinstance(given, Tensor) and given.is_floating_point():
            given = given * 0.7
        try:
            simulated = layerwise.simulate(net, given, self.T, precision=self.precision)
            plan = follow(net, tuple(self.shape[1:]), self.given != "spikes", self.precision)
        except (TypeError, ValueError):  # an identity beside large weights, a readout
            return False
        expected = simulated.spikes.dense()
        ways.executed[self.target, "engine"] += 1
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            engine = Engine(plan, target=self.target)
            same("spikes", dense(engine(given, self.T).output), expected)
            self.count_ways(engine)
            if self.given in ("spikes", "counts"):  # values are rounded for all steps of a call together
                neurons = [name for name, layer, _ in net.layers() if isinstance(layer, pk.layers.Neurons)]
                self.check_stream(engine, given, expected, {name: simulated.state[name] for name in neurons})
        finally:
            torch.set_num_threads(threads)
        return bool(expected.any())

    def check_run(self, engine, given, expected: Tensor, values: dict[str, Tensor]) -> None:
        for turn in range(2):  # the second works on memory that is not new
            result = engine(given, self.T)
            same(f"spikes, run {turn}", dense(result.output), expected)
        for name, rate in result.rates.items():
            wanted = values[name].double().mean().item()
            if abs(rate - wanted) > 1e-9:
                raise AssertionError(f"rate of {name}: {rate}, expected {wanted}")

    def check_operations(self, engine, net: nn.Module, given) -> None:
        got, wanted = engine(given, self.T).synops, layerwise.simulate(net, given, self.T).synops
        if got != wanted:
            raise Mismatch(f"operations: {got}, of simulate {wanted}")

    def check_stream(self, engine, given, expected: Tensor, states) -> None:
        """``states``: of layers at the end, [1, N, ...]."""
        random, stream, parts, t = Random(self.seed), engine.stream(self.N), [], 0
        while t < self.T:
            steps = min(random.choice((1, 1, 2, 5, 33)), self.T - t)
            if self.given == "held":
                part = given if steps == 1 else given.expand(steps, *given.shape)
            else:
                part = given[t : t + steps]
            parts.append(dense(stream(part)))
            t += steps
            if random.random() < 0.2:
                kept, stream = stream.state, engine.stream(self.N)
                if random.random() < 0.5:  # of which nothing is left
                    stream(part)
                stream.state = kept
        same("spikes of a stream", torch.cat(parts), expected)
        gives_spikes = not engine.plan.last.real
        if gives_spikes:
            same("counts of a stream", stream.count(), expected.sum(0, dtype=torch.int32))
        for name, v in states.items():
            same(f"state of {name}", stream.state[name], v[0].float())
        if self.N and random.random() < 0.3:
            n = random.randrange(self.N)
            stream.reset(samples=[n])
            part = given.expand(self.T, *given.shape) if self.given == "held" else given
            same("spikes of a sample that was reset", dense(stream(part))[:, n], expected[:, n])
            if gives_spikes:
                same("its counts", stream.count()[n], expected[:, n].sum(0, dtype=torch.int32))

    def check_file(self, engine, given, expected: Tensor) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "engine.safetensors")
            engine.save(path)
            same("spikes of a loaded engine", dense(pk.load(path)(given, self.T).output), expected)

    def check_stop(self, engine, given, spikes: Tensor) -> None:
        """By the definition: every 8 steps, samples whose first class leads fall silent."""
        steps = torch.full((self.N,), self.T)
        for t in [*range(8, self.T, 8), self.T]:
            first, second = spikes[:t].sum(0).topk(2).values.unbind(1)
            steps[(first - second >= self.lead) & (steps == self.T)] = t
        running = torch.arange(self.T)[:, None] < steps
        result = engine(given, self.T, stop=pk.stop.margin(self.lead))
        same("steps", result.steps, steps)
        same("spikes of stopped samples", dense(result.output), spikes * running[..., None])

    def check_lead(self, plan: Plan, given, spikes: Tensor) -> None:
        """By the definition: after 1, 4, 16, ... steps, samples fall silent whose first logit leads."""
        last = plan.shaped
        if last.neurons is None or last.neurons.model != "SoftReset":
            return
        scaled = replace(last, neurons=replace(last.neurons, scale=torch.tensor(1.0)))
        plan = replace(plan, operations=tuple(scaled if op is last else op for op in plan.operations))
        engine = Engine(plan, target=self.target)
        leads = {}
        rule = pk.stop.margin(1, of="logits")
        for t in rule.runs(self.T):
            logits = engine(given if self.given == "held" else given[:t], t).logits
            leads[t] = logits.topk(2, dim=1).values.diff(dim=1).abs().flatten() * t
        lead = leads[1].median().item() or 1.0
        steps = torch.full((self.N,), self.T)
        for t in reversed(list(leads)[:-1]):
            steps[leads[t] >= lead] = t
        result = engine(given, self.T, stop=replace(rule, lead=lead))
        same("steps of a rule on logits", result.steps, steps)
        running = torch.arange(self.T)[:, None] < steps
        same("spikes of samples that logits stop", result.spikes.dense(), spikes * running[..., None])
        ways.executed[self.target, "engine: logits"] += 1


class Integers(Compiled):
    """Some of whose neurons fire several times in a step: also layer by layer, and by simulate."""

    models = tuple(INTEGERS)

    @classmethod
    def draw(cls, random: Random, **common) -> "Compiled":
        return replace(super().draw(random, **common), precision=None)

    def check_layers(self, net: nn.Module, given, expected: Tensor) -> None:
        with ways.use(self.way, self.threads):
            by_layers = layerwise.simulate(net, given, self.T, chunk=1 + self.seed % 40)
            same("output layer by layer", dense(by_layers.output), expected)
            same("output of simulate", dense(pk.simulate(net, given, self.T).output), expected)
