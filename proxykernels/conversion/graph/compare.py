"""A translated network against what it was made of, layer by layer: the same currents, and spikes where they belong.

Each layer is given what its neurons' counterpart was given there, and not what the layers before it made of it. So the
first one that is wrong is found, and no silence in front of a layer hides it.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import reference
from ...kernels.neurons import Neuron
from ...layers import Neurons
from ...network import Network
from ...spikes import Spikes, pack

STEPS = 3  # that a network is run for; one that loops over time itself takes its own number
RATE = 0.3  # of the spikes that are handed on
TINY = 1e-30
PROBED = 8  # steps that neurons are run for alone
MOST_PIXELS = 4  # along an axis, for that: neurons of a channel are alike
ROUNDING = 2.0**-17  # of the sum of all terms' sizes: float32 sums of thousands of terms err less


@dataclass
class Watched:
    """Inputs and outputs [T, N, ...] of neurons in the original.

    Attributes:
        current: what they were given.
        fired: their spikes, or of a readout their potentials.
        given: what was handed on in the place of these.
        gain: what the weights in front of them have been multiplied by here.
    """

    current: Tensor
    fired: Tensor
    given: Tensor
    gain: float = 1.0


class Difference(Exception):
    """An error: the layer of this name computes something else. ``what`` says what; ``alone``: its neurons alone do."""

    def __init__(self, layer: str, what: str, alone: bool = False):
        super().__init__(what)
        self.layer, self.what, self.alone = layer, what, alone


@torch.no_grad()
def compare(net: Network, x: Tensor, watched: Mapping[str, Watched]) -> tuple[Tensor, Tensor]:
    """The output of ``net`` for x [T, N, ...], where each layer in ``watched`` gets the inputs that are given there.

    Also the sums of the sizes of all terms of that, of which rounding is a part.

    Raises:
        Difference: a layer's currents or spikes differ by more than rounding.
    """
    values: dict[str, Spikes | Tensor] = {Network.INPUT: x}
    sizes: dict[str, Tensor] = {Network.INPUT: x.float().abs()}
    layer: Any
    for name, layer, sources in net.layers():
        inputs, its_sizes = (_of(sources, of_each) for of_each in (values, sizes))
        try:
            if name in watched:
                there = watched[name]
                _check_currents(name, layer, inputs, its_sizes, there)
                check_neurons(name, layer, there.current[:, :1] * there.gain, there.fired[:, :1])  # one sample does
                values[name] = pack(there.given) if layer.neuron.fires else there.given
            else:
                values[name] = layer(inputs)
            if name in watched or isinstance(layer, Neurons) and layer.neuron.fires:
                sizes[name] = _dense(values[name]).abs()
            else:  # real values, carried on
                sizes[name] = _sizes(layer, its_sizes) if isinstance(layer, Neurons) else _dense(layer(its_sizes))
        except (TypeError, ValueError, RuntimeError) as error:
            raise Difference(name, f"cannot take what it is given there: {error}") from error
    return _dense(values[name]), sizes[name]


def _of(sources: Sequence[str], values: Mapping[str, Any]) -> Any:
    inputs = tuple(values[source] for source in sources)
    return inputs if len(inputs) > 1 else inputs[0]


def _check_currents(name: str, layer: Any, x: Any, sizes: Any, there: Watched) -> None:
    """``sizes``: of the inputs."""
    current: Any = sum(_of_steps(synapse.plain(), _dense(part)) for synapse, part in layer.terms(x)) / there.gain
    if current.shape != there.current.shape:
        raise Difference(
            name, f"its neurons take currents of the shape {_shape(there.current)} there, and {_shape(current)} here"
        )
    difference = (current - there.current).abs()
    if not bool(difference.any()):
        return
    size = _sizes(layer, sizes) / abs(there.gain)
    limit = _rounding(there.current) * (size + size.max()) + TINY  # a folded bias has terms that do not show
    if bool((difference > limit).any()) or not bool(difference.isfinite().all()):
        k = int((difference / limit).argmax())
        raise Difference(
            name,
            f"{_share(~(difference <= limit))} of the currents that its neurons take differ, for example "
            f"{there.current.flatten()[k]:.6g} there and {current.flatten()[k]:.6g} here",
        )


def _dense(x: Spikes | Tensor) -> Tensor:
    return (x.dense() if isinstance(x, Spikes) else x).float()


def _of_steps(module: nn.Module, x: Tensor) -> Tensor:
    if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
        module = copy.deepcopy(module).float()  # the layer has the same parameters
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _sizes(layer: Any, sizes: Any) -> Any:
    """The sums [T, N, ...] of the sizes of all terms of a layer's currents, of inputs of those ``sizes``."""
    return sum(_of_steps(_absolute(synapse.plain()), part) for synapse, part in layer.terms(sizes))


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

    In float64, with the others' spikes: each must be where the potential reaches the threshold, but for rounding.
    """
    neuron = layer.neuron.on(current.shape[2], current.device).detach()
    channels = neuron.channels.double().view(*neuron.channels.shape, *[1] * (current.ndim - 3))
    neuron = neuron._replace(channels=channels)
    start = torch.as_tensor(layer.v_init, dtype=torch.float64, device=current.device)
    start = start.view(-1, *[1] * (current.ndim - 3)) if start.ndim else start
    unit = _rounding(current) * len(current)
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
        raise Difference(name, f"{_share(wrong)} of its {what} differ, on the same currents", alone=True)


def check_alone(name: str, layer: Any, there: Watched, fires: Callable[[Tensor], Tensor]) -> None:
    """Compare the neurons on currents on which they fire; ``fires``: the other library's spikes for these currents."""
    like = there.current
    threshold = torch.as_tensor(getattr(layer, "v_threshold", 1.0)).detach().float().abs().mean().item()
    shape = PROBED, 1, like.shape[2], *(min(n, MOST_PIXELS) for n in like.shape[3:])
    current = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.3) * threshold
    current = current.to(like) / there.gain
    check_neurons(name, layer, current * there.gain, fires(current))


def _integrate(current: Tensor, v: Tensor, neuron: Neuron) -> Tensor:
    potentials = []
    for step in current:
        v = reference.leak(v, step, neuron.channels[1], neuron.scalar("v_rest") or 0.0)
        potentials.append(v)
    return torch.stack(potentials)


def _misplaced(current: Tensor, states, neuron: Neuron, fired: Tensor, unit: float) -> list[Tensor]:
    """Of each step, the spikes that are where the potential is below the threshold, and those that are missing."""
    wrong: list[Tensor] = []
    largest = current.abs().cummax(0).values
    for step, spikes, size in zip(current, fired, largest, strict=True):
        resting = states[1] > 0 if neuron.model.startswith("Refractory") else torch.zeros_like(spikes, dtype=torch.bool)

        def fire(h, theta, v_reset, subtracted=None, spikes=spikes, size=size, resting=resting):
            distance = torch.where(spikes != 0, theta - h, h - theta)  # above 0, but for h == theta, where it is wrong
            wrong.append((distance > unit * (h.abs() + theta.abs() + size)) & ~(resting & (spikes == 0)))
            spike = spikes != 0
            subtracted = theta if subtracted is None else subtracted
            return spike, h - subtracted * spike if v_reset is None else torch.where(spike, v_reset, h)

        _, states = reference.step(states, step, neuron, fire)
        wrong[-1] |= ((spikes != 0) & (spikes != 1)) | (resting & (spikes != 0))
    return wrong


def check_output(y: Tensor, sizes: Tensor, there: Any) -> None:
    """Whether the original's output is y [T, N, ...], or what it may be over time; outputs of other shapes say nothing.

    Raises:
        Difference: it is of such a shape, and differs.
    """
    parts = [part for part in there if isinstance(part, Tensor)] if isinstance(there, list | tuple) else []
    if len(parts) == len(y) and all(part.shape == y.shape[1:] for part in parts):
        there = torch.stack(parts)  # the list of a readout's potentials
    elif parts:
        there = parts[0]
    if not isinstance(there, Tensor):
        return
    candidates = [y] if there.shape == y.shape else _over_time(y) if there.shape == y.shape[1:] else []
    limit = _rounding(there) * sizes.sum(0) + TINY
    if candidates and not any(bool(((one - there).abs() <= limit).all()) for one in candidates):
        raise Difference("", f"its output differs by up to {(candidates[0] - there).abs().max():.3g}")


def _over_time(y: Tensor) -> list[Tensor]:
    """One value for all steps, as networks and SpikingJelly's readouts give it."""
    most, least = y.amax(0), y.amin(0)
    return [y.mean(0), y.sum(0), y[-1], most, torch.where(most.abs() > least.abs(), most, least)]


def _rounding(values: Tensor) -> float:
    """The rounding error of values that others compute in their type, and this package in float32."""
    single = torch.finfo(torch.float32).eps
    return ROUNDING * max(torch.finfo(values.dtype).eps, single) / single


def _share(wrong: Tensor) -> str:
    share = wrong.double().mean().item()
    return f"{100 * share:.2g} %"


def _shape(values: Tensor) -> str:
    return str(list(values.shape[2:]))
