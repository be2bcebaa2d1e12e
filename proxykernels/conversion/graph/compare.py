"""Computes a translated network beside its original, layer by layer: equal currents, and spikes where they belong.

Each layer takes the input that its counterpart had in the original, not the output of the translated layers before it.
So the first wrong layer is found, and a silent layer in front of it hides nothing.
"""

import copy
import math
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...kernels import reference
from ...kernels.neuron_models import Neuron
from ...layers import Delay, Neurons, RecurrentGraph, StepAffine, StepAttention, StepMixture, SynapseFilter
from ...layers.all_steps import OfAllSteps
from ...layers.recurrent_graph import given_by, is_before
from ...network import Network
from ...spikes import Spikes

RATE = 0.3  # of the random spikes that neurons hand on
TINY = 1e-30
PROBED = 101  # steps for which neurons are run by themselves
MOST_PIXELS = 4  # pixels along an axis that are run by themselves, at most
MOST_NEURONS = 2048  # neurons that are run by themselves, at most, unless a pixel has more
PER_STEP = 16  # steps that round a potential as much as one sum does
ROUNDING = 2.0**-17  # relative to the sum of all terms' sizes; float32 sums of thousands of terms err less
SHIFT = 1013  # a prime, so that no two steps and samples have the same spikes
SPIKES = 4  # times tau: more than a trace of random spikes adds up
BLOCK = 2**20  # values of a layer that are computed at once


class Difference(Exception):
    """The layer of this name computes something else. ``what`` says what; ``alone``: only its neurons do."""

    def __init__(self, layer: str, what: str, alone: bool = False):
        super().__init__(what)
        self.layer, self.what, self.alone = layer, what, alone


class Layer(NamedTuple):
    """A layer of neurons in the translation ("here"), and its counterpart in the original ("there").

    Attributes:
        path: of the neurons there.
        gain: factor by which the weights in front of them were multiplied here.
        shift: a constant current [C] that is added here; None: none.
        viewed: whether the same neurons have another shape there.
        takes: the layer whose output the neurons there take, where their layer here does more than fire, or takes what
            others made of it; None: their currents are those of their layer here.
        mixed: the weight of a StepMixture between that layer and the neurons here; None: there is none.
        gives_values: whether they hand on values, not spikes.
    """

    path: str
    gain: float = 1.0
    shift: Tensor | None = None
    viewed: bool = False
    takes: str | None = None
    mixed: Tensor | None = None
    gives_values: bool = False

    def here(self, current: Tensor) -> Tensor:
        """Currents [T, N, C, ...] of the original as the layer's neurons have them."""
        if self.mixed is not None:
            current = torch.tensordot(self.mixed.double(), current.double(), 1).to(current)
        return current * self.gain + self._shift(current)

    def there(self, current: Tensor) -> Tensor:
        """The reverse."""
        current = current if self.shift is None else current - self._shift(current)
        return current if self.gain == 1 else current / self.gain

    def _shift(self, current: Tensor) -> Tensor | float:
        return 0.0 if self.shift is None else self.shift.view(-1, *[1] * (current.ndim - 3))


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
        sizes: for each layer, the largest sum of the sizes of all terms of its currents, or of its output, on spikes
            and inputs without factors; those of the input [1, 1, ...] are under Network.INPUT.
        back: by source, the shape of a sample of what comes back in the step after.
    """

    def __init__(self, net: Network | RecurrentGraph, largest: Tensor):
        """``largest``: the sizes of the input's values [1, 1, ...]."""
        self.layers: dict[str, tuple[Any, Sequence[str]]] = {
            name: (layer, sources) for name, layer, sources in net.layers()
        }
        *_, self.last = self.layers
        self.sizes = {Network.INPUT: largest}
        self._synapses: dict[str, list[nn.Module]] = {}
        self.back: dict[str, tuple[int, ...]] = {}
        if isinstance(net, RecurrentGraph):
            self.back = net.sizes(tuple(largest.shape[2:]), largest.device)[1]

    def synapses(self, name: str) -> list[nn.Module]:
        """The weights of a layer as torch's modules, one for each of its inputs."""
        if name not in self._synapses:
            layer, sources = self.layers[name]
            self._synapses[name] = [synapse.plain() for synapse, _ in layer.terms(single(sources))]
        return self._synapses[name]


class Here:
    """A translation that is run beside its original, on given inputs and given spikes of its neurons.

    Attributes:
        x: the input [T, N, ...].
        factors: for each step [T], the factor of the input and of most spikes.
        bounds: for each step [T], an upper bound of the factors that its sums contain.
        handed: for each layer, what its neurons hand on [T, N, ...], once they have been called.
    """

    def __init__(self, made: Made, x: Tensor, factors: Tensor, bounds: Tensor):
        self.made, self.layers, self.x, self.factors = made, made.layers, x, factors
        self.recurrent: frozenset[str] = frozenset()  # layers whose currents there have what comes back from themselves
        self.cut: frozenset[str] = frozenset()  # layers whose modules there bring back their spikes, which was cut
        layers = [layer for layer, _ in self.layers.values()]
        delayed = any(isinstance(layer, Delay) for layer in layers)
        self.bounds = bounds.cummax(0).values if delayed else bounds
        if any(isinstance(layer, StepAttention) for layer in layers):
            self.bounds = bounds.amax().expand_as(bounds)
        self.handed: dict[str, Random | Given | Tensor] = {}
        self._sought: set[str] = set()  # what comes back, while its size is computed
        self._blocks: dict[str, tuple[int, Tensor]] = {}  # by layer: currents from a step on
        self._traces: dict[str, tuple[Tensor, Tensor]] = {}  # by layer: all that it gave so far, and its state
        self._whole: dict[str, Tensor] = {}  # by layer: what it made of all steps

    def begin(self) -> None:
        """Prepare for another call of the original: spikes are handed on again, potentials of readouts are not."""
        given = [name for name, handed in self.handed.items() if isinstance(handed, Given)]
        self._blocks = {} if given else self._blocks  # which may have been computed from these
        for name in given:
            del self.handed[name]
        self._traces, self._whole = {}, {}

    def currents(self, name: str, start: int, stop: int) -> Tensor:
        """The currents [T, N, ...] of a layer's neurons at some steps, computed in blocks where spikes are known."""
        first, block = self._blocks.get(name, (0, self.x[:0]))
        if not first <= start <= stop <= first + len(block):
            block = self._currents(name, start, stop)
            number = BLOCK // max(1, block[0].numel())
            known = not any(isinstance(handed, Given) for handed in self.handed.values())
            known = known and (name not in self.recurrent or name in self.handed)
            back = (given_by(source) for source in self.layers[name][1] if is_before(source))
            known = known and all(giver in self.handed or giver in self.cut for giver in back)
            if known and stop < min(start + number, len(self.x)):
                block = torch.cat([block, self._currents(name, stop, min(start + number, len(self.x)))])
            first = start
            self._blocks[name] = first, block
        return block[start - first : stop - first]

    def _currents(self, name: str, start: int, stop: int) -> Tensor:
        inputs = [self.value(source, start, stop) for source in self.layers[name][1]]
        pairs = zip(self.made.synapses(name), inputs, strict=True)
        current: Any = sum(of_steps(synapse, part) for synapse, part in pairs)
        return current + self._returning(name, start, stop) if name in self.recurrent else current

    def _returning(self, name: str, start: int, stop: int) -> Tensor | float:
        """What comes back to a layer's neurons at some steps, of what they handed on in the steps before."""
        if name not in self.handed:  # in the first step
            return 0.0
        before = self.value(name, max(0, start - 1), stop - 1)
        before = before if start else torch.cat([torch.zeros_like(self.value(name, 0, 1)), before])
        ((synapse, _),) = self.layers[name][0].returning(before)
        return of_steps(synapse.plain(), before)

    def value(self, name: str, start: int, stop: int) -> Tensor:
        """The output of a layer at some steps [T, N, ...], which for neurons is what they hand on."""
        if name == Network.INPUT:
            return self.x[start:stop]
        if is_before(name):
            return self._before(name, start, stop)
        if name in self.handed:
            return self.handed[name][start:stop]
        layer, sources = self.layers[name]
        if isinstance(layer, Delay):
            past = max(0, start - layer.steps)
            return layer(self.value(sources[0], past, stop))[start - past :]
        if isinstance(layer, StepAffine):
            x = self.value(sources[0], start, stop)
            return dense(layer(x, x.new_full((x.shape[1],), start))[0])
        if isinstance(layer, OfAllSteps):
            if name not in self._whole:
                self._whole[name] = dense(layer(self.value(sources[0], 0, len(self.x))))
            return self._whole[name][start:stop]
        if isinstance(layer, SynapseFilter):
            return self._trace(name, layer, sources[0], stop)[start:stop]
        try:
            return dense(layer(single([self.value(source, start, stop) for source in sources])))
        except (TypeError, ValueError, RuntimeError) as error:
            raise Difference(name, f"cannot take what it is given there: {error}") from error

    def _before(self, source: str, start: int, stop: int) -> Tensor:
        """What a layer handed on in the steps before; 0 where the original's own was cut."""
        zeros = self.x.new_zeros(stop - start, self.x.shape[1], *self.made.back[source])
        name = given_by(source)
        if name in self.cut or stop < 2:
            return zeros
        before = self.value(name, max(0, start - 1), stop - 1)
        return before if start else torch.cat([zeros[:1], before])

    def _trace(self, name: str, layer: SynapseFilter, source: str, stop: int) -> Tensor:
        """What a layer that remembers all steps gave until ``stop``."""
        if name not in self._traces:
            first = self.value(source, 0, 1)
            self._traces[name] = first[:0], torch.zeros_like(first[0])
        given, state = self._traces[name]
        if len(given) < stop:
            y, state = layer(self.value(source, len(given), stop), state)
            given = torch.cat([given, y])
            self._traces[name] = given, state
        return given

    def largest(self, name: str) -> Tensor:
        """At each step [T], the largest sum of the sizes of all terms of a layer's currents, or of its output."""
        sizes = self.made.sizes
        if name not in sizes:
            sizes[name] = self._size(name, currents=True).max()
        return self.bounds * sizes[name]

    def _size(self, name: str, currents: bool = False) -> Tensor:
        """These sums at one step of one sample, [1, 1, ...]."""
        if name == Network.INPUT:
            return self.made.sizes[name]
        if is_before(name):
            return self._size_before(name)
        if name in self.handed and not currents:
            handed = self.handed[name]
            if isinstance(handed, Random):
                return torch.ones(1, 1, *handed.bits.shape[2:])
            return handed[:].abs().amax((0, 1), keepdim=True)
        layer, sources = self.layers[name]
        taken = single([self._size(source) for source in sources])
        if isinstance(layer, Delay | StepAttention):  # whose gates are at most 1
            return taken
        if isinstance(layer, StepAffine):
            parts = (None if p is None else p.detach().abs().amax(0)[None] for p in (layer.weight, layer.bias))
            return dense(StepAffine(*parts)(taken))
        if isinstance(layer, StepMixture):
            return taken * layer.weight.detach().abs().sum(1).max()
        if isinstance(layer, SynapseFilter):
            return taken * min(len(self.x), SPIKES * layer.tau)
        terms = list(layer.terms(taken)) if isinstance(layer, Neurons) else []
        if name in self.recurrent and name in self.handed:
            terms += layer.returning(torch.ones(1, 1, *self.handed[name][:1].shape[2:]))  # type: ignore[index]
        return sizes_of(terms) if terms else dense(layer(taken))

    def _size_before(self, source: str) -> Tensor:
        """The size of what comes back: that of its giver, and at least that of spikes."""
        ones = torch.ones(1, 1, *self.made.back[source])
        if source in self._sought:  # it comes back to itself
            return ones
        self._sought.add(source)
        size = ones.maximum(self._size(given_by(source)))
        self._sought.remove(source)
        return size

    def takes_products(self, watched: Container[str]) -> set[str]:
        """The layers in front of products of spikes and of synapses with a memory, which take only spikes. ``watched``:
        layers of other neurons."""
        found: set[str] = set()
        for name, (layer, sources) in reversed(self.layers.items()):
            of_spikes = isinstance(layer, Neurons) and layer.neuron.fires and name not in watched
            of_spikes |= isinstance(layer, SynapseFilter)
            if of_spikes or (name in found and not isinstance(layer, Neurons)):
                found.update(sources)
        return found


class Outputs:
    """Finds how a network reduces its steps: it returns all, or one value, computed in the same way in every run."""

    def __init__(self) -> None:
        self.kinds: set[str] | None = None

    def check(self, y: Tensor, sizes: Tensor, output: Any) -> None:
        """
        Args:
            y: the translation's output at each step [T, N, ...]. sizes: [T], the largest sums of its terms' sizes.
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


def check_currents(key: str, here: Tensor, there: Tensor, limits: Tensor, start: int = 0) -> None:
    """Compare the currents [T, N, ...] of a layer, both in the original's units.

    ``limits``: by how much they may differ at each step [T]. ``start``: the number of the first step.

    Raises:
        Difference: they differ by more, or have other shapes.
    """
    if here.shape != there.shape:
        raise Difference(
            key,
            f"its neurons take currents of the shape {list(there.shape[2:])} there, and {list(here.shape[2:])} here"
            if here.shape[2:] != there.shape[2:]
            else f"its neurons take {there.shape[1]} samples there, and {here.shape[1]} here",
        )
    far = (here - there).abs_()
    if bool((far.flatten(1).amax(1) <= limits).all()):
        return
    wrong = ~(far <= limits.view(-1, *[1] * (there.ndim - 1)))
    step = int(wrong.flatten(1).any(1).byte().argmax())
    k = int(wrong[step].flatten().byte().argmax())
    raise Difference(
        key,
        f"at step {start + step} {share_of(wrong[step])} of the currents that its neurons take differ, for example "
        f"{there[step].flatten()[k]:.6g} there and {here[step].flatten()[k]:.6g} here",
    )


def single(values: Sequence[Any]) -> Any:
    """What a layer takes: its one input, or a tuple of several."""
    return tuple(values) if len(values) > 1 else values[0]


def dense(x: Spikes | Tensor) -> Tensor:
    return (x.dense() if isinstance(x, Spikes) else x).float()


def of_steps(module: nn.Module, x: Tensor) -> Tensor:
    if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
        module = copy.deepcopy(module).float()  # the layer has the same parameters
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def sizes_of(terms: Sequence[tuple[Any, Any]]) -> Any:
    """The sums [T, N, ...] of the sizes of all terms of a layer's currents; ``terms``: synapses and input sizes."""
    return sum(of_steps(_absolute(synapse.plain()), dense(part)) for synapse, part in terms)


def shifted(given: Tensor) -> Tensor:
    """Spikes [T, N, ...] one step later, as recurrent connections bring them back."""
    return torch.cat([torch.zeros_like(given[:1]), given[:-1]])


def _absolute(module: nn.Module) -> nn.Module:
    """A copy of a module with the absolute values of its weights."""
    absolute = copy.copy(module)
    absolute._parameters = {
        key: None if value is None else nn.Parameter(value.detach().float().abs(), False)
        for key, value in module._parameters.items()
    }
    return absolute


def check_neurons(name: str, layer: Neurons, current: Tensor, fired: Tensor) -> None:
    """Check that a layer's neurons fire (or integrate) on these currents [T, N, ...] as the original's have ``fired``.

    Computed in float64 with the original's spikes: each must be where the potential reaches the threshold, except for
    rounding.
    """
    neuron = layer.neuron.on(current.shape[2], current.device).detach()
    channels = neuron.channels.double().view(*neuron.channels.shape, *[1] * (current.ndim - 3))
    neuron = neuron._replace(channels=channels)
    start = torch.as_tensor(layer.v_init, dtype=torch.float64, device=current.device)
    start = start.view(-1, *[1] * (current.ndim - 3)) if start.ndim else start
    unit = rounding(current) * (1 + len(current) / PER_STEP)
    current = current.double()
    states = (torch.zeros_like(current[0]) + start, *[torch.zeros_like(current[0])] * (neuron.states - 1))
    if not layer.neuron.fires:
        potentials = _integrate(current, states[0], neuron)
        scale = potentials.abs().cummax(0).values + current.abs().cummax(0).values
        wrong = ~((potentials - fired).abs() <= unit * scale + TINY)
    else:
        wrong = torch.stack(_misplaced(current, states, neuron, fired, unit))
    if bool(wrong.any()):
        what = "spikes" if layer.neuron.fires else "potentials"
        step = int(wrong.flatten(1).any(1).byte().argmax())
        raise Difference(
            name, f"{share_of(wrong)} of its {what} differ, on the same currents, first at step {step}", alone=True
        )


def check_values(name: str, layer: Any, current: Tensor, given: Tensor) -> None:
    """Check that a layer of neurons that hand on values gives on these currents [T, N, C, ...] what the original's have
    ``given``: the same operations, so that no spike may differ.
    """
    y = dense(layer(current))
    wrong = ~((y - given).abs() <= rounding(current) * given.abs().amax() + TINY)
    if bool(wrong.any()):
        step = int(wrong.flatten(1).any(1).byte().argmax())
        what = f"{share_of(wrong)} of its values differ, on the same currents, first at step {step}"
        raise Difference(name, what, alone=True)


def drive(layer: Any, like: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Currents of the shape of ``like``, before the layer's gain, on which its neurons fire."""
    threshold = torch.as_tensor(getattr(layer, "v_threshold", 1.0)).detach().float().abs().mean().item()
    return ((torch.randn(like.shape, generator=generator) + 0.3) * threshold).to(like) / gain


def pixels(values: Tensor) -> tuple:
    """An index of some pixels of values [T, N, C, ...], from edge to edge; neurons of a channel are alike."""
    sizes = values.shape[3:]
    most = int((MOST_NEURONS / max(1, values.shape[1:3].numel())) ** (1 / max(1, len(sizes))))
    at = [torch.linspace(0, size - 1, min(size, MOST_PIXELS, max(1, most))).long() for size in sizes]
    return (..., *torch.meshgrid(*at, indexing="ij")) if at else (...,)


def _integrate(current: Tensor, v: Tensor, neuron: Neuron) -> Tensor:
    potentials = []
    for step in current:
        v = reference.leak(v, step, neuron.channels[1], neuron.scalar("v_rest") or 0.0)
        potentials.append(v)
    return torch.stack(potentials)


def _misplaced(current: Tensor, states, neuron: Neuron, fired: Tensor, unit: float) -> list[Tensor]:
    """For each step, where a spike is below the threshold, or missing."""
    wrong: list[Tensor] = []
    largest = current.abs().cummax(0).values
    for step, spikes, size in zip(current, fired, largest, strict=True):
        resting = states[1] > 0 if neuron.model.startswith("Refractory") else torch.zeros_like(spikes, dtype=torch.bool)

        def fire(h, theta, v_reset, subtracted=None, whole=None, spikes=spikes, size=size, resting=resting):
            if whole is not None:
                far = unit * (h.abs() + theta.abs() + size)
                wrong.append((spikes < whole((h - far) / theta)) | (spikes > whole((h + far) / theta)))
                wrong[-1] |= spikes != spikes.round()
                return spikes, h - theta * spikes
            distance = torch.where(spikes != 0, theta - h, h - theta)  # above 0 where it is wrong, except if h == theta
            wrong.append((distance > unit * (h.abs() + theta.abs() + size)) & ~(resting & (spikes == 0)))
            spike = spikes != 0
            subtracted = theta if subtracted is None else subtracted
            return spike, h - subtracted * spike if v_reset is None else torch.where(spike, v_reset, h)

        _, states = reference.step(states, step, neuron, fire)
        if not neuron.counts:
            wrong[-1] |= ((spikes != 0) & (spikes != 1)) | (resting & (spikes != 0))
    return wrong


def as_steps(output: Any, y: Tensor) -> Any:
    """An output as one tensor: a list of steps shaped like y's is stacked; of several results the first is taken."""
    parts = [part for part in output if isinstance(part, Tensor)] if isinstance(output, list | tuple) else []
    if len(parts) == len(y) and all(part.shape == y.shape[1:] for part in parts):
        return torch.stack(parts)  # of a readout's potentials
    return parts[0] if parts else output


def over_time(y: Tensor) -> dict[str, Tensor]:
    """The reductions of all steps to one value that networks and SpikingJelly's readouts use."""
    most, least = y.amax(0), y.amin(0)
    farthest = torch.where(most.abs() > least.abs(), most, least)
    return {"mean": y.mean(0), "sum": y.sum(0), "last": y[-1], "largest": most, "farthest from 0": farthest}


def rounding(values: Tensor) -> float:
    """The relative rounding error of values that others compute in their type, and this package in float32."""
    single = torch.finfo(torch.float32).eps
    return ROUNDING * max(torch.finfo(values.dtype).eps, single) / single


def share_of(wrong: Tensor) -> str:
    share = wrong.double().mean().item()
    return f"{100 * share:.3g} %"
