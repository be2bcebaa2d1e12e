"""What a translation makes of given inputs, and of spikes at random that its neurons hand on, at any of the steps."""

import math
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor

from ...layers import Delay, Neurons
from ...network import Network
from ..graph.compare import RATE, Difference, dense, of_steps, sizes_of

SHIFT = 1013  # a prime, so that no two steps and samples have the same spikes
BLOCK = 2**20  # values of a layer that are computed at once


class Random:
    """Spikes [T, N, ...] at random, those of each step times its factor: windows of one drawn row."""

    def __init__(self, shape: Sequence[int], factors: Tensor, generator: torch.Generator):
        T, values = len(factors), math.prod(shape)
        drawn = torch.rand(values + SHIFT * T, generator=generator) < RATE
        inner = torch.empty(shape, device="meta").stride()
        self.bits, self.factors = drawn.as_strided((T, *shape), (SHIFT, *inner)), factors

    def __getitem__(self, steps: slice) -> Tensor:
        bits = self.bits[steps].float()
        return bits * self.factors[steps].view(-1, *[1] * (bits.ndim - 1))


class Given:
    """Potentials that a readout gave, step by step."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def __getitem__(self, steps: slice) -> Tensor:
        return torch.stack(self.values[steps])


class Here:
    """A translation that is run beside its original.

    Attributes:
        x: the input [T, N, ...]. largest: of the sizes of the input's values, without the steps' factors [1, 1, ...].
        factors: of each step [T], by which the input and most spikes are multiplied.
        handed: by layer, what its neurons hand on, once they have been called.
    """

    def __init__(self, net: Network, x: Tensor, largest: Tensor, factors: Tensor):
        self.layers: dict[str, tuple[Any, Sequence[str]]] = {
            name: (layer, sources) for name, layer, sources in net.layers()
        }
        self.x, self.largest, self.factors = x, largest, factors
        self.handed: dict[str, Random | Given] = {}
        self._blocks: dict[str, tuple[int, Tensor]] = {}  # by layer: currents from a step on
        self._sizes: dict[tuple[str, float], float] = {}
        *_, self.last = self.layers

    def currents(self, name: str, start: int, stop: int) -> Tensor:
        """Those of a layer's neurons at some steps. Several steps are computed at once where their spikes are known."""
        first, block = self._blocks.get(name, (0, self.x[:0]))
        if not first <= start <= stop <= first + len(block):
            block = self._currents(name, start, stop)
            number = BLOCK // max(1, block[0].numel())
            known = not any(isinstance(handed, Given) for handed in self.handed.values())
            if known and stop < min(start + number, len(self.x)):
                block = torch.cat([block, self._currents(name, stop, min(start + number, len(self.x)))])
            first = start
            self._blocks[name] = first, block
        return block[start - first : stop - first]

    def _currents(self, name: str, start: int, stop: int) -> Tensor:
        layer, sources = self.layers[name]
        return sum(of_steps(synapse.plain(), part) for synapse, part in layer.terms(self._of(sources, start, stop)))  # type: ignore[return-value]

    def _of(self, sources: Sequence[str], start: int, stop: int) -> Any:
        inputs = tuple(self.value(source, start, stop) for source in sources)
        return inputs if len(inputs) > 1 else inputs[0]

    def value(self, name: str, start: int, stop: int) -> Tensor:
        """What a layer gives at some steps [T, N, ...]; what its neurons hand on is the run's."""
        if name == Network.INPUT:
            return self.x[start:stop]
        if name in self.handed:
            return self.handed[name][start:stop]
        layer, sources = self.layers[name]
        if isinstance(layer, Delay):
            past = max(0, start - layer.steps)
            return layer(self.value(sources[0], past, stop))[start - past :]
        try:
            return dense(layer(self._of(sources, start, stop)))
        except (TypeError, ValueError, RuntimeError) as error:
            raise Difference(name, f"cannot take what it is given there: {error}") from error

    def sizes(self, name: str) -> Tensor:
        """At each step [T], the largest sum of the sizes of all terms of a layer's currents, or of what it gives."""
        delayed = any(isinstance(layer, Delay) for layer, _ in self.layers.values())
        factors = self.factors.cummax(0).values if delayed else self.factors
        return torch.tensor([self._largest(name, factor) for factor in factors.tolist()])

    def _largest(self, name: str, factor: float) -> float:
        if (name, factor) not in self._sizes:
            self._sizes[name, factor] = self._size(name, factor, currents=True).max().item()
        return self._sizes[name, factor]

    def _size(self, name: str, factor: float, currents: bool = False) -> Tensor:
        if name == Network.INPUT:
            return self.largest * factor
        if name in self.handed and not currents:
            handed = self.handed[name]
            if isinstance(handed, Given):
                return handed[:].abs().amax((0, 1), keepdim=True)
            return torch.full((1, 1, *handed.bits.shape[2:]), factor)
        layer, sources = self.layers[name]
        inputs = tuple(self._size(source, factor) for source in sources)
        taken: Any = inputs if len(inputs) > 1 else inputs[0]
        if isinstance(layer, Delay):
            return taken
        return sizes_of(layer, taken) if isinstance(layer, Neurons) and layer.terms(taken) else dense(layer(taken))

    def takes_products(self, watched: Container[str]) -> set[str]:
        """The layers in front of products of spikes, which must stay spikes. ``watched``: those of other neurons."""
        found: set[str] = set()
        for name, (layer, sources) in reversed(self.layers.items()):
            of_spikes = isinstance(layer, Neurons) and layer.neuron.fires and name not in watched
            if of_spikes or (name in found and not isinstance(layer, Neurons)):
                found.update(sources)
        return found
