"""Compares imported networks with their originals before they are returned."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ... import checks
from ...network import Network
from ..graph.compare import Compared, Difference, Watched, check_output, compare
from ..graph.fx_calls import path_of
from ..graph.graph_values import ModelPopulation
from ..graph.samples import sample_of
from ..graph.state_between_calls import CALLS, Changed, State
from .port_repeats import NeuronsThere, Repeats
from .port_runs import Original


@dataclass
class Proof:
    """A comparison: the original, and the modules that each layer stands for.

    Attributes:
        model, caller: names for messages.
        paths: of each layer of neurons, the path of the module that they are; products of spikes have none.
        gains: of each, what the weights in front of it have been multiplied by.
        shifts: of some, a constant current [C] that they have here besides.
        steps: that both run.
        memory: what a module keeps that is one of the library's neurons.
    """

    model: str
    caller: str
    original: Original
    populations: Mapping[str, ModelPopulation]
    paths: Mapping[str, str]
    gains: Mapping[str, float]
    shifts: Mapping[str, Tensor]
    steps: int
    memory: Callable[[nn.Module], frozenset[str]]

    def check(self, net: Network, sample: Tensor | None) -> None:
        """Compare all layers of ``net``; a warning says where no input for it is found.

        Raises:
            ValueError: they differ by more than rounding; or the original cannot run ``sample``.
            TypeError: the original has a state of its own.
        """
        x = self._input(net, sample)
        if x is None:
            self._warn("no input was found that it takes")
            return
        try:
            x, watched, output = self.original.watched(x, self.paths, self.gains)
        except Exception as error:  # whatever another library raises
            if sample is not None:
                raise ValueError(f"sample: {self.model} cannot run {list(sample.shape)}: {error}") from error
            self._warn(f"it does not run on a made-up input [N, {', '.join(map(str, x.shape[2:]))}]: {error}")
            return
        watched = self._with_shifts(watched)
        try:
            compared, different = compare(net, x, watched), None
            output = check_output(compared, output)
        except Difference as difference:
            compared, output, different = None, None, difference
        try:
            self._repeat(net, x, watched, compared, output)
            if different:
                raise different
        except Difference as difference:
            raise ValueError(self._said(difference, x)) from difference

    def _with_shifts(self, watched: Mapping[str, Watched]) -> dict[str, Watched]:
        return {key: replace(there, shift=self.shifts.get(key)) for key, there in watched.items()}

    def _repeat(
        self, net: Network, x: Tensor, watched: Mapping[str, Watched], compared: Compared | None, output: Tensor | None
    ) -> None:
        """``compared``: None: there was a difference, and only a state of its own may be the reason. Delays are left
        out: by them currents are not those of the same step's spikes."""
        original = self.original
        if original.delay:
            original, output = original.undelayed(), None
            _, watched, _ = original.watched(x, self.paths, self.gains)
            watched = self._with_shifts(watched)
        if any(hasattr(self.populations[key].neuron, "decode") for key in watched):
            output = None  # of other currents
        samples = x.shape[1]
        for number in dict.fromkeys((1, samples)):  # all, where the network takes no other number
            neurons = {}
            for key, there in watched.items():
                limit = compared.limits[key][:, :number] if compared else None
                layer, states = net.get_submodule(key), original.states
                neurons[self.paths[key]] = NeuronsThere(key, layer, there.of_samples(number), limit, states)
            repeats = Repeats(original, x[:, :number], neurons, compared, output)
            try:
                repeats.check(lambda copy: State(copy, self.model, self.memory))
                return
            except (Difference, Changed):
                raise
            except Exception as error:  # whatever another library raises
                why = error
        if compared:
            self._warn(f"it does not run for {CALLS} steps: {why}")

    def _input(self, net: Network, sample: Tensor | None) -> Tensor | None:
        """Steps [T, N, ...] for the original."""
        like = next((p for p in self.original.net.parameters() if p.is_floating_point()), torch.empty(0))
        if sample is not None:
            return sample.detach().to(like).expand(self.steps, *sample.shape)
        x = sample_of(net)
        return None if x is None else x.to(like)[torch.arange(self.steps) % len(x)]

    def _warn(self, why: str) -> None:
        warnings.warn(
            f"{self.model} was taken over and not compared with the original: {why}; {self.caller}(net, sample) takes "
            "an input [N, ...] to compare them on",
            UserWarning,
            stacklevel=7,
        )

    def _said(self, difference: Difference, x: Tensor) -> str:
        """The first module that differs: one that has a forward of its own, or those of the layer."""
        place = difference.layer and f"layer '{difference.layer}'"
        if difference.layer in self.populations:
            population = self.populations[difference.layer]
            place = path_of(population.node) if difference.alone else population.current.path
        where = f"{self.model}: {place}" if place else self.model
        own = self.original.with_a_forward_of_its_own(x, self.paths)
        if own is not None:
            path, kind, base = own
            return (
                f"{self.model}: module '{path}' is a {kind}, whose forward gives something else than {base}'s, for "
                f"which it was taken; put {base} there, with weights that make up for it. Found at {place or 'its end'}"
                f": {difference.what}"
            )
        return (
            f"{where} is not what was made of it: {difference.what}; take it out or write it with the library's own "
            "layers. check=False leaves this comparison out"
        )


def check_sample(sample: Tensor | None) -> None:
    """A caller's input [N, ...] of one step."""
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
