"""A translated network against what it was made of, layer by layer: the same currents, and spikes where they belong.

Each layer is given what its neurons' counterpart was given there, and not what the layers before it made of it. So the
first one that is wrong is found, and no silence in front of a layer hides it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import reference
from ..kernels.neurons import Neuron
from ..layers import Neurons
from ..network import Network
from ..spikes import Spikes, pack

ROUNDING = 2.0**-17  # of the sum of all terms' sizes: float32 sums of thousands of terms err less


@dataclass
class Watched:
    """What neurons of the original were given and what they gave, [T, N, ...] each.

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
    """The layer of this name computes something else; ``what`` says it, ``alone``: its neurons do."""

    def __init__(self, layer: str, what: str, alone: bool = False):
        super().__init__(what)
        self.layer, self.what, self.alone = layer, what, alone


@torch.no_grad()
def compare(net: Network, x: Tensor, watched: Mapping[str, Watched]) -> Tensor:
    """What ``net`` gives for x [T, N, ...] where each layer in ``watched`` has been given what it is there.

    Raises:
        Difference: a layer's currents or spikes differ by more than rounding.
    """
    values: dict[str, Spikes | Tensor] = {Network.INPUT: x}
    layer: Any
    for name, layer, sources in net.layers():
        inputs = tuple(values[source] for source in sources)
        taken: Any = inputs if len(inputs) > 1 else inputs[0]
        if name not in watched:
            try:
                y = layer(taken)
            except (TypeError, ValueError, RuntimeError) as error:
                raise Difference(name, f"cannot take what it is given there: {error}") from error
            values[name] = y
            continue
        there = watched[name]
        _check_currents(name, layer, taken, there)
        check_neurons(name, layer, there.current * there.gain, there.fired)
        values[name] = pack(there.given) if layer.neuron.fires else there.given
    y = values[name]
    return y.dense() if isinstance(y, Spikes) else y


def _check_currents(name: str, layer: Neurons, x: Any, there: Watched) -> None:
    try:
        terms = [(synapse.plain(), _dense(part)) for synapse, part in layer.terms(x)]
        current: Any = sum(_of_steps(module, part) for module, part in terms) / there.gain
    except (TypeError, ValueError, RuntimeError) as error:
        raise Difference(name, f"cannot take what it is given there: {error}") from error
    if current.shape != there.current.shape:
        raise Difference(
            name, f"its neurons take currents of the shape {_shape(there.current)} there, and {_shape(current)} here"
        )
    difference = (current - there.current).abs()
    if not bool(difference.any()):
        return
    size = sum(_sizes(module, part) for module, part in terms) / abs(there.gain)
    unit = _rounding(there.current)
    wrong = ~(difference <= unit * (size + difference.new_tensor(1e-30)))
    if bool(wrong.any()):
        k = int((difference / (unit * size + 1e-30)).argmax())
        raise Difference(
            name,
            f"{_share(wrong)} of the currents that its neurons take differ, for example "
            f"{there.current.flatten()[k]:.6g} there and {current.flatten()[k]:.6g} here",
        )


def _dense(x: Spikes | Tensor) -> Tensor:
    return (x.dense() if isinstance(x, Spikes) else x).float()


def _of_steps(module: nn.Module, x: Tensor) -> Tensor:
    if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
        module = copy.deepcopy(module).float()  # the layer has the same parameters
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _sizes(module: Any, x: Tensor) -> Tensor:
    """The sums [T, N, ...] of the sizes of all terms of a module's results."""
    x = x.abs()
    if isinstance(module, nn.Identity):
        return x
    absolute = object.__new__(type(module))
    absolute.__dict__.update({**module.__dict__, "_parameters": {}})
    for key, value in module._parameters.items():
        absolute.__dict__[key] = None if value is None else value.detach().float().abs()
    return absolute.forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


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
        wrong = ~((potentials - fired).abs() <= unit * scale + 1e-30)
    else:
        wrong = torch.stack(_misplaced(current, states, neuron, fired, unit))
    if bool(wrong.any()):
        what = "spikes" if layer.neuron.fires else "potentials"
        raise Difference(name, f"{_share(wrong)} of its {what} differ, on the same currents", alone=True)


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


def check_output(y: Tensor, there: Any) -> None:
    """Whether the original's output is y [T, N, ...], or its mean or sum over time; other outputs say nothing.

    Raises:
        Difference: it is of such a shape, and differs.
    """
    there = next((part for part in there if isinstance(part, Tensor)), None) if isinstance(there, Sequence) else there
    if not isinstance(there, Tensor):
        return
    candidates = [y] if there.shape == y.shape else [y.mean(0), y.sum(0)] if there.shape == y.shape[1:] else []
    scale = 64 * _rounding(there) * y.abs().max()
    if candidates and not any(bool(((one - there).abs() <= scale).all()) for one in candidates):
        raise Difference("", f"its output differs by up to {(candidates[0] - there).abs().max():.3g}")


def _rounding(values: Tensor) -> float:
    return ROUNDING * torch.finfo(values.dtype).eps / torch.finfo(torch.float32).eps


def _share(wrong: Tensor) -> str:
    share = wrong.double().mean().item()
    return f"{100 * share:.2g} %"


def _shape(values: Tensor) -> str:
    return str(list(values.shape[2:]))
