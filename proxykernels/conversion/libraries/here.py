"""What a translation computes from given inputs and from the random spikes that its neurons hand on, at any step."""

import math
from collections.abc import Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import Delay, Neurons
from ...network import Network
from ..graph.compare import RATE, TINY, Difference, as_steps, dense, of_steps, over_time, rounding, sizes_of

SHIFT = 1013  # a prime, so that no two steps and samples have the same spikes
BLOCK = 2**20  # values of a layer that are computed at once


class Random:
    """Random spikes [T, N, ...], each step times its factor: windows of one drawn row."""

    def __init__(self, shape: Sequence[int], factors: Tensor, generator: torch.Generator):
        T, values = len(factors), math.prod(shape)
        drawn = (torch.rand(values + SHIFT * T, generator=generator) < RATE).float()
        inner = torch.empty(shape, device="meta").stride()
        self.bits, self.factors = drawn.as_strided((T, *shape), (SHIFT, *inner)), factors
        self.is_plain = bool((factors == 1).all())

    def __getitem__(self, steps: slice) -> Tensor:
        bits = self.bits[steps]
        return bits if self.is_plain else bits * self.factors[steps].view(-1, *[1] * (bits.ndim - 1))


class Given:
    """Potentials that a readout gave, step by step."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def __getitem__(self, steps: slice) -> Tensor:
        return torch.stack(self.values[steps])


class Made:
    """A translation, prepared to be run beside its original.

    Attributes:
        sizes: by layer, the largest sum of the sizes of all terms of its currents, or of what it gives, on spikes and
            inputs without factors; the input's sizes [1, 1, ...] are by Network.INPUT.
    """

    def __init__(self, net: Network, largest: Tensor):
        """``largest``: the sizes of the input's values [1, 1, ...]."""
        self.layers: dict[str, tuple[Any, Sequence[str]]] = {
            name: (layer, sources) for name, layer, sources in net.layers()
        }
        *_, self.last = self.layers
        self.sizes = {Network.INPUT: largest}
        self._synapses: dict[str, list[nn.Module]] = {}

    def synapses(self, name: str) -> list[nn.Module]:
        """The weights of a layer as torch's modules, one for each of its inputs."""
        if name not in self._synapses:
            layer, sources = self.layers[name]
            terms = layer.terms(sources if len(sources) > 1 else sources[0])
            self._synapses[name] = [synapse.plain() for synapse, _ in terms]
        return self._synapses[name]


class Here:
    """A translation that is run beside its original.

    Attributes:
        x: the input [T, N, ...].
        factors: of each step [T], by which the input and most spikes are multiplied.
        bounds: of each step [T], a factor of all sums of sizes in it.
        handed: by layer, what its neurons hand on, once they have been called.
    """

    def __init__(self, made: Made, x: Tensor, factors: Tensor, bounds: Tensor):
        self.made, self.layers, self.x, self.factors = made, made.layers, x, factors
        delayed = any(isinstance(layer, Delay) for layer, _ in self.layers.values())
        self.bounds = bounds.cummax(0).values if delayed else bounds
        self.handed: dict[str, Random | Given] = {}
        self._blocks: dict[str, tuple[int, Tensor]] = {}  # by layer: currents from a step on

    def begin(self) -> None:
        """A call of the original: its neurons hand on the same spikes again, and its readouts what they give."""
        self.handed = {name: handed for name, handed in self.handed.items() if not isinstance(handed, Given)}

    def currents(self, name: str, start: int, stop: int) -> Tensor:
        """The currents [T, N, ...] of a layer's neurons at some steps; steps of known spikes are computed together."""
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
        inputs = self._of(self.layers[name][1], start, stop)
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        pairs = zip(self.made.synapses(name), parts, strict=True)
        return sum(of_steps(synapse, part) for synapse, part in pairs)  # type: ignore[return-value]

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

    def largest(self, name: str) -> Tensor:
        """At each step [T], the largest sum of the sizes of all terms of a layer's currents, or of what it gives."""
        sizes = self.made.sizes
        if name not in sizes:
            sizes[name] = self._size(name, currents=True).max()
        return self.bounds * sizes[name]

    def _size(self, name: str, currents: bool = False) -> Tensor:
        """The sums at one step of one sample, [1, 1, ...]."""
        if name == Network.INPUT:
            return self.made.sizes[name]
        if name in self.handed and not currents:
            handed = self.handed[name]
            if isinstance(handed, Given):
                return handed[:].abs().amax((0, 1), keepdim=True)
            return torch.ones(1, 1, *handed.bits.shape[2:])
        layer, sources = self.layers[name]
        inputs = tuple(self._size(source) for source in sources)
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


class Outputs:
    """Finds what a network returns of its steps: all of them, or one value for all, made in one way in every run."""

    def __init__(self) -> None:
        self.kinds: set[str] | None = None

    def check(self, y: Tensor, sizes: Tensor, output: Any) -> None:
        """
        Args:
            y: what the translation gives at each step [T, N, ...]. sizes: [T], the largest sums of its terms' sizes.
            output: what the original returned; anything but tensors is not compared.

        Raises:
            Difference: it is of another shape, or differs.
        """
        given = as_steps(output, y)
        if not isinstance(given, Tensor):
            return
        if given.shape == y.shape:
            candidates = {"steps": y}
        elif given.shape == y.shape[1:]:
            candidates = over_time(y)
        elif given.ndim == y.ndim and given.shape[1:] == y.shape[1:]:
            raise Difference("", f"it returns {len(given)} steps, where its neurons run for {len(y)}")
        else:
            raise Difference("", f"its output has the shape {list(given.shape)}, and {list(y.shape)} here, [T, N, ...]")
        limits = rounding(given) * (sizes if "steps" in candidates else sizes.sum()) + TINY
        limits = limits.view(-1, *[1] * (y.ndim - 1)) if limits.ndim else limits
        wrong = {kind: ~((one - given).abs() <= limits) for kind, one in candidates.items()}
        right = {kind for kind in candidates if not bool(wrong[kind].any())}
        kinds = right if self.kinds is None else right & self.kinds
        if kinds:
            self.kinds = kinds
            return
        if "steps" in wrong:
            step = int(wrong["steps"].flatten(1).any(1).byte().argmax())
            far = (y - given)[step].abs().max()
            raise Difference("", f"its output differs by up to {far:.3g} at step {step}")
        least = min((one - given).abs().max().item() for one in candidates.values())
        raise Difference(
            "", f"its output differs by up to {least:.3g} from the mean, the sum and the last of its {len(y)} steps"
        )
