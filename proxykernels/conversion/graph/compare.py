"""A translated network against what it was made of, layer by layer: the same currents, and spikes where they belong.

Each layer gets the input that its counterpart had in the original, not the output of the translated layers before it:
the first wrong layer is found, and a silent layer in front of it hides nothing. If no sample input is given, one is
made up.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import reference
from ...kernels.neuron_models import Neuron
from ...layers import Flatten, Neurons
from ...layers.synapses import Convolution, Convolution1d, Product
from ...network import Network
from ...spikes import Spikes, pack

STEPS = 3  # that a network is run for; one that loops over time itself takes its own number
RATE = 0.3  # of the spikes that are handed on
TINY = 1e-30
PROBED = 101  # steps for which neurons are run without the rest
MOST_PIXELS = 4  # along an axis, for that
MOST_NEURONS = 2048  # for that, if a pixel has fewer
PER_STEP = 16  # steps that round a potential as much as that
ROUNDING = 2.0**-17  # of the sum of all terms' sizes: float32 sums of thousands of terms err less
SAMPLES = 2  # of a generated input
USUAL = (32, 28, 16, 64, 8, 34, 12, 48, 24, 128, 96, 224, 256)  # pixels along an axis; the first are of small networks
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8000, 16000)
MOST = 300  # pixels along an axis that are tried


@dataclass
class Watched:
    """Inputs and outputs [T, N, ...] of neurons in the original.

    Attributes:
        current: what they were given.
        fired: their spikes, or of a readout their potentials.
        given: what was handed on instead of these.
        gain: what the weights in front of them have been multiplied by here.
        before: spikes that come back to them at each step, of recurrent neurons; ``current`` is with these.
        shift: a constant current [C] that their layer adds here; None: none.
    """

    current: Tensor
    fired: Tensor
    given: Tensor
    gain: float = 1.0
    before: Tensor | None = None
    shift: Tensor | None = None

    def of_samples(self, number: int) -> "Watched":
        """The same of the first samples."""
        current, fired, given = (part[:, :number] for part in (self.current, self.fired, self.given))
        before = None if self.before is None else self.before[:, :number]
        return replace(self, current=current, fired=fired, given=given, before=before)

    def here(self, current: Tensor) -> Tensor:
        """Currents [T, N, C, ...] of the original as the layer's neurons have them."""
        shift = 0.0 if self.shift is None else self.shift.view(-1, *[1] * (current.ndim - 3))
        return current * self.gain + shift


@dataclass
class Compared:
    """What a translation has computed, where it was equal to the original.

    Attributes:
        output: [T, N, ...]. sizes: the sums of the sizes of all terms of that, of which rounding is a part.
        limits: of each layer in ``watched``, how far currents may be from those there, by rounding.
    """

    output: Tensor
    sizes: Tensor
    limits: dict[str, Tensor]


class Difference(Exception):
    """An error: the layer of this name computes something else. ``what`` says what; ``alone``: only its neurons do."""

    def __init__(self, layer: str, what: str, alone: bool = False):
        super().__init__(what)
        self.layer, self.what, self.alone = layer, what, alone


@torch.no_grad()
def compare(net: Network, x: Tensor, watched: Mapping[str, Watched]) -> Compared:
    """Run ``net`` on x [T, N, ...], where each layer in ``watched`` gets the inputs that are given there.

    Raises:
        Difference: a layer's currents or spikes differ by more than rounding.
    """
    values: dict[str, Spikes | Tensor] = {Network.INPUT: x}
    sizes: dict[str, Tensor] = {Network.INPUT: x.float().abs()}
    limits: dict[str, Tensor] = {}
    layer: Any
    for name, layer, sources in net.layers():
        inputs, its_sizes = (_of(sources, of_each) for of_each in (values, sizes))
        try:
            if name in watched:
                there = watched[name]
                limits[name] = _check_currents(name, layer, inputs, its_sizes, there)
                check_neurons(name, layer, there.here(there.current[:, :1]), there.fired[:, :1])  # one sample does
                values[name] = pack(there.given) if layer.neuron.fires else there.given
            else:
                values[name] = layer(inputs)
            if name in watched or isinstance(layer, Neurons) and layer.neuron.fires:
                sizes[name] = dense(values[name]).abs()
            else:  # real values, carried on
                sizes[name] = sizes_of(layer, its_sizes) if isinstance(layer, Neurons) else dense(layer(its_sizes))
        except (TypeError, ValueError, RuntimeError) as error:
            raise Difference(name, f"cannot take what it is given there: {error}") from error
    return Compared(dense(values[name]), sizes[name], limits)


def _of(sources: Sequence[str], values: Mapping[str, Any]) -> Any:
    inputs = tuple(values[source] for source in sources)
    return inputs if len(inputs) > 1 else inputs[0]


def _check_currents(name: str, layer: Any, x: Any, sizes: Any, there: Watched) -> Tensor:
    """``sizes``: of the inputs. Returns by how much rounding may change the currents."""
    current: Any = sum(of_steps(synapse.plain(), dense(part)) for synapse, part in _terms(layer, x, there.before))
    if there.shift is not None:
        current = current - there.shift.view(-1, *[1] * (current.ndim - 3))
    current = current / there.gain
    if current.shape != there.current.shape:
        raise Difference(
            name, f"its neurons take currents of the shape {_shape(there.current)} there, and {_shape(current)} here"
        )
    size = sizes_of(layer, sizes, there.before) / abs(there.gain)
    limit = rounding(there.current) * (size + size.max()) + TINY  # a folded bias has terms that do not show
    wrong = ~((current - there.current).abs() <= limit)
    if bool(wrong.any()):
        k = int(wrong.flatten().byte().argmax())
        raise Difference(
            name,
            f"{share_of(wrong)} of the currents that its neurons take differ, for example "
            f"{there.current.flatten()[k]:.6g} there and {current.flatten()[k]:.6g} here",
        )
    return limit


def dense(x: Spikes | Tensor) -> Tensor:
    return (x.dense() if isinstance(x, Spikes) else x).float()


def of_steps(module: nn.Module, x: Tensor) -> Tensor:
    if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
        module = copy.deepcopy(module).float()  # the layer has the same parameters
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _terms(layer: Any, x: Any, before: Tensor | None) -> list[tuple[Any, Any]]:
    """The synapses of a layer and what they take; ``before``: the spikes that come back to it."""
    return layer.terms(x) if before is None else [*layer.terms(x), *layer.returning(before)]


def sizes_of(layer: Any, sizes: Any, before: Tensor | None = None) -> Any:
    """The sums [T, N, ...] of the sizes of all terms of a layer's currents, of inputs of those ``sizes``."""
    return sum(of_steps(_absolute(synapse.plain()), dense(part)) for synapse, part in _terms(layer, sizes, before))


def shifted(given: Tensor) -> Tensor:
    """What comes back at each step, of spikes [T, N, ...]: those of the step before."""
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
    """Whether a layer's neurons would fire, or integrate, on those currents [T, N, ...] as others have done.

    In float64, with the others' spikes: each must be where the potential reaches the threshold, except for rounding.
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


def check_alone(name: str, layer: Any, there: Watched, fires: Callable[[Tensor], Tensor]) -> None:
    """Compare the neurons on currents on which they fire; ``fires``: the other library's spikes for these currents."""
    like = there.current[:1, :1][pixels(there.current)].expand(PROBED, *[-1] * (there.current.ndim - 1))
    current = drive(layer, like, there.gain, torch.Generator().manual_seed(1))
    check_neurons(name, layer, there.here(current), fires(current))


def drive(layer: Any, like: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    """Currents of the shape of ``like`` on which a layer's neurons fire, as they are before its gain."""
    threshold = torch.as_tensor(getattr(layer, "v_threshold", 1.0)).detach().float().abs().mean().item()
    return ((torch.randn(like.shape, generator=generator) + 0.3) * threshold).to(like) / gain


def pixels(values: Tensor) -> tuple:
    """Where some of [T, N, C, ...] are, from edge to edge: neurons of a channel are alike."""
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
    """For each step, the spikes where the potential is below the threshold, and the spikes that are missing."""
    wrong: list[Tensor] = []
    largest = current.abs().cummax(0).values
    for step, spikes, size in zip(current, fired, largest, strict=True):
        resting = states[1] > 0 if neuron.model.startswith("Refractory") else torch.zeros_like(spikes, dtype=torch.bool)

        def fire(h, theta, v_reset, subtracted=None, spikes=spikes, size=size, resting=resting):
            distance = torch.where(spikes != 0, theta - h, h - theta)  # above 0 where it is wrong, except if h == theta
            wrong.append((distance > unit * (h.abs() + theta.abs() + size)) & ~(resting & (spikes == 0)))
            spike = spikes != 0
            subtracted = theta if subtracted is None else subtracted
            return spike, h - subtracted * spike if v_reset is None else torch.where(spike, v_reset, h)

        _, states = reference.step(states, step, neuron, fire)
        wrong[-1] |= ((spikes != 0) & (spikes != 1)) | (resting & (spikes != 0))
    return wrong


def check_output(compared: Compared, there: Any) -> Tensor | None:
    """Whether the original's output is that of the translation, or what it may be over time, which is returned.

    None: it is no tensor, nor a list of them.

    Raises:
        Difference: it is of another shape, or differs.
    """
    there, y = as_steps(there, compared.output), compared.output
    if not isinstance(there, Tensor):
        return None
    candidates = [y] if there.shape == y.shape else [*over_time(y).values()] if there.shape == y.shape[1:] else []
    if not candidates:
        raise Difference("", f"its output has the shape {list(there.shape)}, and {list(y.shape)} here, [T, N, ...]")
    if not any(bool(((one - there).abs() <= output_limit(compared, there)).all()) for one in candidates):
        raise Difference("", f"its output differs by up to {(candidates[0] - there).abs().max():.3g}")
    return there


def as_steps(output: Any, y: Tensor) -> Any:
    """An output in one tensor: of a list of steps [N, ...], as y's are, these; of several results, the first."""
    parts = [part for part in output if isinstance(part, Tensor)] if isinstance(output, list | tuple) else []
    if len(parts) == len(y) and all(part.shape == y.shape[1:] for part in parts):
        return torch.stack(parts)  # of a readout's potentials
    return parts[0] if parts else output


def output_limit(compared: Compared, there: Tensor) -> Tensor:
    """How far an output may be from the original's, by rounding."""
    return rounding(there) * compared.sizes.sum(0) + TINY


def over_time(y: Tensor) -> dict[str, Tensor]:
    """One value for all steps, as networks and SpikingJelly's readouts give it."""
    most, least = y.amax(0), y.amin(0)
    farthest = torch.where(most.abs() > least.abs(), most, least)
    return {"mean": y.mean(0), "sum": y.sum(0), "last": y[-1], "largest": most, "farthest from 0": farthest}


def rounding(values: Tensor) -> float:
    """The rounding error of values that others compute in their type, and this package in float32."""
    single = torch.finfo(torch.float32).eps
    return ROUNDING * max(torch.finfo(values.dtype).eps, single) / single


def share_of(wrong: Tensor) -> str:
    share = wrong.double().mean().item()
    return f"{100 * share:.3g} %"


def _shape(values: Tensor) -> str:
    return str(list(values.shape[2:]))


def sample_of(net: Network) -> Tensor | None:
    """Random values [T, N, ...] from 0 to 1, of a shape that the layers take; None: none was found."""
    shape = next((shape for shape in _shapes(net) if _takes(net, shape)), None)
    if shape is None:
        return None
    return torch.rand(STEPS, SAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _shapes(net: Network) -> Iterator[tuple[int, ...]]:
    """Candidate shapes of one sample and step for the first layers with weights."""
    for kind, channels in dict.fromkeys(_first_weights(net)):
        if kind is Product:
            yield (channels,)
        elif kind is Convolution1d:
            yield from ((channels, n) for n in (*LENGTHS, *range(1, 2 * MOST)))
        else:
            yield from ((channels, n, n) for n in (*USUAL, *range(1, MOST)))
            yield from ((channels, *size) for size in itertools.permutations((*USUAL, 10, 20, 40, 80), 2))


def _first_weights(net: Network) -> Iterator[tuple[type, int]]:
    """The first layers with weights and their input channels; behind a Flatten the features."""
    from_input = {Network.INPUT}
    layer: Any
    sources: Any
    for name, layer, sources in net.layers():
        if not from_input.intersection(sources):
            continue
        synapses = [s for s, _ in layer.terms(sources)] if isinstance(layer, Neurons) else []
        weighted = [synapse for synapse in synapses if synapse.fan_in]
        for synapse in weighted:
            if isinstance(synapse, Convolution):
                yield type(synapse), synapse.module.in_channels
            else:
                yield Product, synapse.module.in_features
        if not weighted:
            from_input.add(name)


def _takes(net: Network, shape: tuple[int, ...]) -> bool:
    """Whether all layers accept a sample of that shape."""
    values = {Network.INPUT: _zeros(1, 1, *shape)}
    try:
        for name, layer, sources in net.layers():
            inputs = tuple(values[source] for source in sources)
            values[name] = _given(layer, inputs if len(inputs) > 1 else inputs[0])
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return True


def _given(layer: nn.Module, x: Any) -> Tensor:
    if not isinstance(layer, Neurons):
        return x.flatten(2) if isinstance(layer, Flatten) else layer(x)
    shapes = set()
    for synapse, part in layer.terms(x):
        shapes.add(tuple(synapse.output_shape(tuple(part.shape))))
    (shape,) = shapes
    if min(shape[2:]) < 1:
        raise ValueError("nothing left")
    return _zeros(*shape)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(()).expand(shape)  # no memory; torch's meta device takes seconds to load
