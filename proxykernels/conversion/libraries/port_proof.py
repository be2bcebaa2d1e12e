"""Compares an imported network with its original before it is returned: both run, side by side.

Recurrent modules are also compared by themselves: their spikes must follow from the input and the spikes of the step
before, through the recurrent weights of the imported layer.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ... import checks
from ...network import Network
from ..graph.compare import PROBED, RATE, Difference, Layer, check_neurons, drive, of_steps, shifted
from ..graph.fx_calls import path_of
from ..graph.graph_values import ModelPopulation
from ..graph.sample_runs import sample_of
from ..graph.state_between_calls import Changed, Unsteady, generators_kept
from .library_neurons import Recurrence, gain, reset
from .spikingjelly_neurons import of_population
from .step_by_step import Beside, Original, Steps, first, takes_all_steps
from .time_loops import ONE_STEP

DRIVES = 1, 4, 16, -1, -4, -16  # factors of inputs; some of them make neurons fire
SHORT, LONG = 40, 128  # steps of two runs
IMAGE = 9  # height and width of the currents of a recurrent convolution
BATCH = 4  # samples of the shorter run; the longer run has one
FACTORS = torch.tensor([1.0, 16.0, 100.0])  # of the currents that occur
AGAIN, FEW = 16, 2  # calls of one copy, and their steps
TRIED = 5  # steps of a first run
CALLS = 64  # to find a state
BATCHES = (BATCH, 2, 3, 5, 6, 7, 8, 10, 12, 16, 20, 32, 50, 64, 1)  # tried until the network takes one


@torch.no_grad()
def check_recurrence(name: str, layer: Any, recurrence: Recurrence, shift: Tensor | None = None) -> None:
    """Run a recurrent module by itself, from rest, on an input on which it fires.

    ``shift``: a constant current [C] that ``layer``, the imported one, adds; None: none.

    Raises:
        Difference: the module's spikes do not follow from the input and its spikes of the step before.
    """
    module: Any = copy.deepcopy(recurrence.module).eval()
    if hasattr(module, "step_mode") and not of_population(module):
        module.step_mode = "s"
    synapse, weight = recurrence.synapse, recurrence.weight
    inputs: Any = (len(weight), IMAGE, IMAGE) if weight.ndim > 2 else (len(layer.weight),)
    inputs = inputs if synapse is None else (synapse.in_features,)
    drawn = drive(layer, weight.new_zeros(PROBED, 1, *inputs), 1.0, torch.Generator().manual_seed(1)).to(weight)
    for factor in DRIVES:
        reset(module)
        x = factor * drawn
        if of_population(module):  # which takes all steps, and adds to them
            module.T = len(x)
            fired = module(x.clone()).float()
        else:
            fired = torch.stack([first(module, (step,), module(step)) for step in x]).float()
        if fired.any():
            break
    else:
        raise Difference(name, "it gives no spike on any input, so that what comes back cannot be compared", alone=True)
    bias = recurrence.bias
    current = x if bias is None else x + bias.view(-1, *[1] * (len(inputs) - 1))
    current = layer.affine(x) if synapse is not None else gain(layer) * current
    current = current if shift is None else current + shift.view(-1, *[1] * (len(inputs) - 1))
    if weight.ndim > 2:
        returned = of_steps(layer.synapses[-1], shifted(fired)) - of_steps(layer.synapses[-1], torch.zeros_like(x))
    else:
        (back, before), *_ = layer.returning(shifted(fired))
        returned = back.plain()(before)
    check_neurons(name, layer, current + returned, fired)


@dataclass
class Proof:
    """A comparison with an original.

    Attributes:
        model, caller: names for messages.
        populations: the layers of neurons. layers: those whose neurons are modules of the model; products of spikes
            are not.
        steps: the steps that a call of the original always runs; None: as many as the input has, or a first run finds
            their number.
        loops: whether its forward pass loops over the steps.
        batch: the number of samples that it takes. takes_one: whether it also takes a single one.
    """

    model: str
    caller: str
    original: Original
    populations: Mapping[str, ModelPopulation]
    layers: Mapping[str, Layer]
    steps: int | None
    loops: bool
    batch: int = field(default=BATCH, init=False)
    takes_one: bool = field(default=True, init=False)

    def check(self, net: Network, sample: Tensor | None) -> None:
        """Run ``net`` beside the original; a warning says where no input for it is found.

        Raises:
            ValueError: they differ by more than rounding; or the original cannot run ``sample``.
            TypeError: the original has a state of its own.
        """
        inputs = _inputs(net, self.original, sample)
        if inputs is None:
            self._warn("no input was found that it takes")
            return
        with generators_kept():
            why = self._try(inputs)
            if why is not None and self.loops and self._runs_for_more_steps(inputs):
                why = None
            if why is not None and sample is not None:
                raise ValueError(f"sample: {self.model} cannot run {list(sample.shape)}: {why}") from why
            if why is not None:
                self._warn(f"it does not run on a made-up input [N, {', '.join(map(str, inputs.shape))}]: {why}")
                return
            self._compare(net, inputs)

    def _runs_for_more_steps(self, inputs: "_Inputs") -> bool:
        """Whether a loop runs on an input of more steps than it was followed for.

        A loop over half of the steps that was followed for one step has none left in an input of one.
        """
        followed, self.steps = self.steps, None
        if followed is not None and self._try(inputs) is None:
            return True
        self.steps = followed
        return False

    def _compare(self, net: Network, inputs: "_Inputs") -> None:
        runs = self._runs(inputs)
        total = len(self.layers) * sum(steps.x.shape[:2].numel() for run in runs for steps in run)
        with _progress(total) as told:
            found = ((key, population.recurrence) for key, population in self.populations.items())
            own = frozenset(key for key, back in found if back is not None and back.is_own)
            cut = frozenset(
                key for key, p in self.populations.items() if p.recurrence is not None and not p.recurrence.is_own
            )
            beside = Beside(self.original, net, self.layers, inputs.largest, told, own, cut)
            try:
                for run in runs:
                    self._run(beside, run)
            except Difference as difference:
                raise self._said(difference, inputs) from difference

    def _run(self, beside: Beside, run: list[Steps]) -> None:
        """A run that fails on large values, which the original may refuse, is repeated without the factors."""
        try:
            try:
                beside.run(run)
            except Difference:
                raise
            except Exception:  # whatever another library raises
                if all(bool((steps.factors == 1).all()) for steps in run):
                    raise
                beside.run([steps.quiet() for steps in run])
        except Difference:
            raise
        except Exception as error:
            T, N = run[0].x.shape[:2]
            raise ValueError(
                f"{self.model} cannot be compared with what was made of it, since it does not run for {T} steps of "
                f"{N} sample{'s' * (N > 1)}: {error}; check=False leaves this comparison out"
            ) from error

    def _runs(self, inputs: "_Inputs") -> list[list[Steps]]:
        """Lists of inputs: a few samples; one sample for longer, with larger currents; many calls of two inputs."""
        delay, takes_steps = self.original.delay, self.original.takes_steps or not self.original.one_call
        short, long, few = (self.steps or steps + delay for steps in (SHORT, LONG, FEW))
        one = 1 if self.takes_one else self.batch
        generator = torch.Generator().manual_seed(1)
        ones, factors = torch.ones(short), FACTORS[torch.randint(3, (long,), generator=generator)]
        runs = [
            [inputs.steps(short, self.batch, ones, takes_steps, generator)],
            [inputs.steps(long, one, factors, takes_steps, generator)],
        ]
        if self.original.one_call:
            calls = min(AGAIN, max(3, LONG // few))
            two = [inputs.steps(few, one, torch.ones(few), takes_steps, generator) for _ in range(2)]
            runs.append(Random(0).choices(two, k=calls))
        return runs

    def _try(self, inputs: "_Inputs") -> Exception | None:
        """Find how many samples it takes, and how many steps a call runs; returns an error if it does not run."""
        why, net = None, self.original.fresh()
        given = () if inputs.sample is None else (len(inputs.sample),)
        for batch in dict.fromkeys((BATCH, *given, *BATCHES)):
            try:
                self._count(net, inputs, batch)
                self.batch = batch
                break
            except Exception as error:  # whatever another library raises
                why = why or error
        else:
            return why
        try:
            self.takes_one = self.batch != BATCH or self._count(net, inputs, 1) is None
        except Exception:
            self.takes_one = False
        self.takes_one &= self.batch in (BATCH, 1)
        return None

    @torch.no_grad()
    def _count(self, net: nn.Module, inputs: "_Inputs", batch: int) -> None:
        """Run the original, of which ``net`` is a copy, for a few steps."""
        original = self.original
        T = self.steps or (TRIED if original.one_call else 1)
        x = inputs.steps(T, batch, torch.ones(T), True, torch.Generator().manual_seed(0)).x
        counts = dict.fromkeys((layer.path for layer in self.layers.values()), 0)

        def count(path: str) -> Callable:
            def of_call(module: nn.Module, arguments: tuple, _: Any) -> None:
                counts[path] += len(arguments[0]) if takes_all_steps(module) else 1

            return of_call

        reset(net)
        with ExitStack() as hooks:
            for path in counts:
                hooks.enter_context(net.get_submodule(path).register_forward_hook(count(path)))
            original.call(net, x) if original.one_call else net(x[0])
        numbers = set(counts.values())
        if original.one_call and self.steps is None and numbers != {T} and len(numbers) == 1:
            self.steps = numbers.pop()

    def _warn(self, why: str) -> None:
        warnings.warn(
            f"{self.model} was taken over and not compared with the original: {why}; {self.caller}(net, sample) takes "
            "an input [N, ...] to compare them on",
            UserWarning,
            stacklevel=7,
        )

    def _said(self, difference: Difference, inputs: "_Inputs") -> Exception:
        """The error to raise: it names a module with a state or a forward of its own, or the layer that differs."""
        place = difference.layer and f"layer '{difference.layer}'"
        if difference.layer in self.layers and difference.layer not in self.populations:
            place = f"module '{self.layers[difference.layer].path}'"
        if difference.layer in self.populations:
            population = self.populations[difference.layer]
            place = path_of(population.node) if difference.alone else population.current.path
        where = f"{self.model}: {place}" if place else self.model
        T, generator = self.steps or (3 if self.original.one_call else 1), torch.Generator().manual_seed(2)
        first, second = (inputs.steps(T, self.batch, torch.ones(T), True, generator).x for _ in range(2))
        blame = Blame(self.original, (first, second), [layer.path for layer in self.layers.values()])
        own = blame.with_a_forward_of_its_own()
        found = f"Found at {place or 'its end'}: {difference.what}"
        stateful = blame.has_a_state()
        if stateful is not None:
            where = f"module '{stateful}'" if stateful else "its own code"
            return Changed(
                f"{self.model}: {where} has a state: it does not always give the same for the same input, where a "
                f"translation would stay as in the first call; take it out. {found}"
            )
        if own is not None:
            path, kind, base = own
            if "forward" in vars(self.original.source.get_submodule(path)):
                return ValueError(
                    f"{self.model}: module '{path}' is a {kind}, whose forward gives something else than its class's, "
                    f"since another one was assigned to it; remove that: del module.forward. {found}"
                )
            return ValueError(
                f"{self.model}: module '{path}' is a {kind}, whose forward gives something else than {base}'s, for "
                f"which it was taken; put {base} there, with weights that make up for it. {found}"
            )
        remedy = "take it out or write it with the library's own layers"
        if self.loops and difference.alone:
            remedy = f"let its potentials go from step to step as it gives them, with the same neurons, or {ONE_STEP}"
        elif self.loops:
            remedy = f"let every step do the same with its own input, and return all of them, or {ONE_STEP}"
        return ValueError(
            f"{where} is not what was made of it: {difference.what}; {remedy}. check=False leaves this comparison out"
        )


@dataclass
class _Inputs:
    """Inputs for a network, which change from step to step.

    Attributes:
        shape: the shape of one step of one sample. like: a tensor of the inputs' type and device.
        sample: the caller's sample [N, ...], or None.
    """

    shape: tuple[int, ...]
    like: Tensor
    sample: Tensor | None

    @property
    def largest(self) -> Tensor:
        """The largest sizes of the values without factors, [1, 1, ...]."""
        sizes = torch.ones(1, 1, *self.shape)
        return sizes if self.sample is None else self.sample.float().abs().amax(0)[None, None].cpu()

    def steps(self, T: int, N: int, factors: Tensor, change: bool, generator: torch.Generator) -> Steps:
        """Values [T, N, ...] from 0 to 1, or of the caller's sample; ``change``: whether each step has its own."""
        x = torch.rand(T if change else 1, N, *self.shape, generator=generator)
        if self.sample is not None:
            x = self.sample[torch.arange(N) % len(self.sample)].cpu() * (x < 0.7)
        steps = Steps(x.to(self.like).expand(T, *x.shape[1:]), factors, change)
        by = steps.bounds.view(-1, *[1] * (x.ndim - 1)).to(self.like)
        return steps._replace(x=steps.x * by)


def _inputs(net: Network, original: Original, sample: Tensor | None) -> _Inputs | None:
    like = next((p for p in original.source.parameters() if p.is_floating_point()), torch.empty(0))
    if sample is not None:
        return _Inputs(tuple(sample.shape[1:]), like.detach(), sample.detach())
    x = sample_of(net)
    return None if x is None else _Inputs(tuple(x.shape[2:]), like.detach(), None)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], Any]]:
    """A progress bar, which appears after two seconds."""
    from tqdm import tqdm

    with tqdm(total=total, desc="comparing with the original", unit="steps", delay=2, leave=False) as bar:
        yield bar.update


def check_sample(sample: Tensor | None) -> None:
    """Check a caller's input [N, ...] of one step."""
    if sample is None:
        return
    checks.real("sample", sample)
    checks.strided("sample", sample)
    if not sample.ndim or not sample.numel():
        raise ValueError(f"sample must hold at least one sample [N, ...], got the shape {list(sample.shape)}")
    if sample.is_floating_point():
        checks.finite("sample", sample)


def neuron_paths(model: nn.Module, populations: Mapping[str, ModelPopulation]) -> dict[str, str]:
    """The path of each layer's neurons in the model that they are taken from."""
    names = {id(module): name for name, module in model.named_modules()}
    return {key: names[id(p.neuron)] for key, p in populations.items() if id(p.neuron) in names}


def has_own_forward(module: nn.Module) -> bool:
    """Whether the module's forward is not that of its library's class."""
    definer = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    own = not definer.__module__.startswith(("torch.", "spikingjelly.", "snntorch."))
    return own or "forward" in vars(module)


class Blame:
    """Finds the module that makes a network differ, by calls on one of two inputs, each with fixed random spikes.

    Attributes:
        x: the two inputs [T, N, ...]. paths: the paths of the neurons.
    """

    def __init__(self, original: Original, x: tuple[Tensor, Tensor], paths: Iterable[str]):
        self.original, self.x, self.paths = original, x, list(paths)
        self.spikes: dict[tuple, Tensor] = {}
        self.turn = 0  # which of the inputs is used
        self.called: dict[str, int] = {}  # calls of each neuron module in this call of the network, by path

    @torch.no_grad()
    def has_a_state(self) -> str | None:
        """The path of the first module that gives different outputs for the same input; "" is the network itself."""
        net = self.original.fresh()
        found = Unsteady()
        with found.watching(net, apart_from=self.paths), self._known_spikes(net):
            for turn in Random(0).choices((0, 1), k=CALLS):
                self._call(net, turn)
                if found.unsteady:
                    return found.unsteady[0]
        return None

    @torch.no_grad()
    def with_a_forward_of_its_own(self) -> tuple[str, str, str] | None:
        """The first called module with a forward of its own whose output differs from its torch base class's.

        Returns its path, its class and the base class.
        """
        net = self.original.fresh()
        found: list[tuple[str, str, str]] = []

        def hook(path: str, base: Any) -> Callable:
            def compare(module: Any, arguments: tuple, given: Any) -> None:
                taken = arguments[0]
                steps = getattr(module, "step_mode", "s") == "m"
                try:
                    plain = base.forward(module, taken.flatten(0, 1) if steps else taken)
                    plain = plain.unflatten(0, taken.shape[:2]) if steps else plain
                    same = plain.shape == given.shape and torch.allclose(plain, given, 1e-4, 1e-5)
                except Exception:  # torch's class does not even run
                    same = False
                if not same:
                    found.append((path, type(module).__name__, base.__name__))

            return compare

        with ExitStack() as hooks:
            asks = False
            for path, module in net.named_modules():
                kinds = (kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules"))
                base = next(kinds, None)
                if base not in (None, nn.Module, nn.Sequential, nn.ModuleList) and has_own_forward(module):
                    hooks.enter_context(module.register_forward_hook(hook(path, base)))
                    asks = True
            if asks:
                hooks.enter_context(self._known_spikes(net))
                self._call(net, 0)
        return found[0] if found else None

    def _call(self, net: nn.Module, turn: int) -> None:
        self.turn = turn
        self.called.clear()
        if self.original.one_call:
            reset(net)
        self.original.call(net, self.x[turn])

    @contextmanager
    def _known_spikes(self, net: nn.Module) -> Iterator[None]:
        """Neurons hand on the same spikes in each call on the same input."""

        def hook(path: str) -> Callable:
            def hand_on(module: Any, arguments: tuple, given: Any) -> Any:
                if hasattr(module, "decode"):
                    return None
                fired, number = first(module, arguments, given), self.called.get(path, 0)
                self.called[path] = number + 1
                at = path, self.turn, number, fired.shape
                if at not in self.spikes:
                    generator = torch.Generator().manual_seed(len(self.spikes))
                    self.spikes[at] = (torch.rand(fired.shape, generator=generator) < RATE).to(fired)
                spikes = self.spikes[at].clone()
                return (spikes, *given[1:]) if self.original.states and isinstance(given, tuple) else spikes

            return hand_on

        with ExitStack() as hooks:
            for path in self.paths:
                hooks.enter_context(net.get_submodule(path).register_forward_hook(hook(path)))
            yield
