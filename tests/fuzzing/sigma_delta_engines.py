"""Networks of sigma-delta neurons compiled: whole, in a stream cut anywhere, with early exit, and from a file."""

import os
import tempfile
import warnings
from dataclasses import dataclass
from math import isclose
from random import Random

import torch
from sigma_delta_nets import by_layers
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels.table import Kind
from proxykernels.layers.of_sums import OfSums
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons
from proxykernels.plan.follow_sigma_delta import follow_changes
from proxykernels.plan.followed_values import CannotFollowError
from proxykernels.plan.plan import Plan
from proxykernels.running.engine import Engine

from . import draw, ways
from .case import Case, Mismatch, same
from .models import Drawn
from .translations import SIZES

AVERAGES = pk.layers.AvgPool1d, pk.AvgPool2d, pk.layers.AdaptiveAvgPool1d, pk.AdaptiveAvgPool2d


def all_on_grids(plan: Plan) -> bool:
    """Whether all weights are multiplied by multiples of a unit, so that no sum is rounded."""
    grids: list[bool] = []
    for op in plan.operations:
        read = all(grids[window.slot - 1] for window in op.windows if window.slot)
        if op.kind == Kind.SEND and not read:
            return False
        moved = op.kind not in (Kind.SEND, Kind.AVERAGE_POOL) and read
        grids.append(op.grid is not None or moved)
    return True


@dataclass(frozen=True, kw_only=True)
class SigmaDeltaEngine(Case):
    operations: int = 1
    size: tuple[int, ...] = SIZES[0]
    T: int = 1
    N: int = 1
    exponents: int = 8
    signed: bool = False
    threshold: float | None = None  # of graded neurons, in the place of sigma-delta neurons
    rounds: bool = False  # of graded neurons: in 8 bits
    exact: bool = True  # weights whose sums are not rounded; then the oracle is the definition
    moving: float = 0.0  # share of the input that changes from frame to frame; 0: held
    lead: int = 0  # of early exit; 0: none
    gates: bool = False  # also draws functions and products of values
    target: str = ways.TARGETS[-1]

    @classmethod
    def draw(cls, random: Random, **common) -> "SigmaDeltaEngine":
        return cls(
            **common | {"seed": random.randint(0, 10_000_000)}, operations=random.choice((1, 2, 3, 4, 5, 6, 8, 10)),
            size=random.choice(SIZES), T=random.choice((1, 2, 3, 4, 7, 12, 40)), N=random.choice((1, 1, 2, 5, 70)),
            exponents=random.choice((1, 4, 8, 12)), signed=random.random() < 0.5,
            threshold=random.choice((None, None, 0.0, 0.125, 1.0)), rounds=random.random() < 0.5,
            exact=random.random() < 0.5,
            moving=random.choice((0.0, 0.02, 0.3)), lead=random.choice((0, 0, 1, 4)),
            target=random.choice(ways.TARGETS), gates=random.random() < 0.4,
        )  # fmt: skip

    @torch.no_grad()
    def check(self) -> bool:
        g = draw.generator(self.seed)
        x = torch.rand(max(6, self.N), *self.size, generator=g) * 2 - 0.5
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                net = pk.convert(Drawn(self.operations, self.seed, x, gates=self.gates), x, neuron=self.neuron)
            plan = follow_changes(net, self.size, self.precision)
        except (TypeError, ValueError) as error:
            named = isinstance(error, CannotFollowError) or "Drawn" in str(error) or "give precision=None" in str(error)
            if not named:
                raise Mismatch(f"refused without the place: {error}") from None
            return False
        if self.exact:
            x = self.make_exact(net, x)
            plan = follow_changes(net, self.size, self.precision)
        given = self.frames(x[: self.N], g) if self.moving else x[: self.N]
        oracle = self.target
        sums = not any(isinstance(layer, (*AVERAGES, OfSums)) for layer in net.modules())
        rounded = sums and self.exact and self.threshold is None
        if rounded or (self.precision and all_on_grids(plan)):  # else products of values of graded neurons are rounded
            oracle = ways.FALLBACK
        with ways.use(oracle, self.threads):
            expected = by_layers(net, given, self.T, state={}, precision=self.precision)
            stops = self.stops(expected)
            stopped = by_layers(net, given, self.T, stop=self.stop, precision=self.precision) if stops else None
        ways.executed[self.target, "engine"] += 1
        with ways.use(self.target, self.threads):
            engine = Engine(plan, target=self.target)
            for turn in range(2):  # the second works on memory that is not new
                self.compare(f"run {turn}", engine(given, self.T), expected)
            if stopped is not None:
                self.compare("early exit", engine(given, self.T, stop=self.stop), stopped)
            self.check_stream(engine, given, expected)
            if self.seed % 4 == 0:
                self.check_file(engine, given, expected)
        return bool(expected.potentials.any())

    @property
    def neuron(self) -> pk.neurons.SigmaDelta | pk.neurons.Graded:
        if self.threshold is not None:
            return pk.neurons.Graded(self.threshold)
        return pk.neurons.SigmaDelta(self.exponents, signed=self.signed)

    @property
    def precision(self) -> str | None:
        return "int8" if self.rounds and self.threshold is not None else None

    @property
    def stop(self):
        return pk.stop.settled(self.lead)

    def stops(self, expected) -> bool:
        return bool(self.lead) and expected.potentials.ndim == 3 and expected.potentials.shape[2] > 1

    def make_exact(self, net: pk.Network, x: Tensor) -> Tensor:
        for parameter in net.parameters():
            parameter.copy_((parameter * 8).round().clamp(-16, 16) / 8)
        for layer in net.modules():
            if isinstance(layer, SigmaDeltaNeurons):
                layer.scale.fill_(1)
        return (x * 4).round() / 4

    def frames(self, x: Tensor, g: torch.Generator) -> Tensor:
        moved = torch.randint(-2, 7, (self.T, *x.shape), generator=g) / 4
        return torch.where(torch.rand(self.T, *x.shape, generator=g) < self.moving, moved, x)

    def compare(self, what: str, actual, expected) -> None:
        same(f"potentials, {what}", actual.potentials, expected.potentials)
        same(f"steps, {what}", actual.steps, expected.steps)
        if actual.synops != expected.synops:
            raise Mismatch(f"{what}: {actual.synops}, of simulate {expected.synops}")
        rates = [{name: rate for name, rate in result.rates.items() if rate == rate} for result in (actual, expected)]
        alike = rates[0].keys() == rates[1].keys() and all(isclose(rates[0][name], rates[1][name]) for name in rates[0])
        joules = [result.relu_joules or 0.0 for result in (actual, expected)]
        if not alike or not isclose(*joules):  # quotients and products of the same integers, up to their rounding
            raise Mismatch(f"{what}: {rates[0]}, {actual.relu_joules}, of simulate {rates[1]}, {expected.relu_joules}")

    def check_stream(self, engine: Engine, given: Tensor, expected) -> None:
        random, stream, parts, t = Random(self.seed), engine.stream(self.N), [], 0
        while t < self.T:
            steps = min(random.choice((1, 1, 1, 2, 5)), self.T - t)
            part = given[t : t + steps] if self.moving else given.expand(steps, *given.shape)
            parts.append(stream(part[0] if steps == 1 else part))
            t += steps
            if random.random() < 0.3:
                kept, stream = stream.state, engine.stream(self.N)
                stream.state = kept
        same("potentials of a stream", torch.cat(parts), expected.potentials)
        kept = stream.state
        if kept.keys() != expected.state.keys():
            raise Mismatch(f"a state of {sorted(kept)}, of simulate {sorted(expected.state)}")
        for name, states in expected.state.items():
            for number, state in enumerate(states):
                same(f"state {number} of {name!r}", kept[name][number], state)
        n = random.randrange(self.N)
        stream.reset(samples=[n])
        part = given if self.moving else given.expand(self.T, *given.shape)
        same("potentials of a sample that was reset", stream(part)[:, n], expected.potentials[:, n])

    def check_file(self, engine: Engine, given: Tensor, expected) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "engine.safetensors")
            engine.save(path)
            loaded = Engine(pk.load(path).plan, target=self.target)  # products are rounded as there
            self.compare("from a file", loaded(given, self.T), expected)
