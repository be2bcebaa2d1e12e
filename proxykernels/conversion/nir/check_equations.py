"""Computes a graph's equations node by node in float64, and compares the network that was made of the graph."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers import RecurrentGraph
from ...network import Network
from ..graph import compare
from ..graph.sample_runs import SAMPLES, STEPS, sample_of
from .cycles import returned
from .graph import Nodes
from .nodes import RESET, SUBTRACT, Before, Images, Shape, fires, is_neuron, steps_of_delay

MOST_AROUND = 60  # steps beyond those that other graphs are run for


def compare_with(
    nir, nodes: Nodes, net: Network | RecurrentGraph, made: Mapping[str, str], backs: Mapping[str, str],
    currents: Mapping[str, Tensor], shape: Shape | None, dt: float, reset: str | None, most: int | None,
) -> None:  # fmt: skip
    """Run a graph for a few steps, in which neurons hand on random spikes, and compare ``net``.

    ``made``: layer of neurons -> its node. ``backs``: node -> the source that comes back from it. ``currents``:
    layer -> a constant [C] added to its currents. A graph that tells no shape of its input is compared on one that
    fits; where none is found, a warning says so.

    Raises:
        ValueError: they differ by more than rounding; the message names the node.
    """
    generator = torch.Generator().manual_seed(0)
    x = sample_of(net) if shape is None else torch.rand(STEPS, SAMPLES, *shape, generator=generator)
    later = _steps_around(nir, nodes, dt)
    if x is not None and later:
        x = torch.rand(STEPS + later, SAMPLES, *x.shape[2:], generator=generator)
    if x is None:
        warnings.warn(
            "the network was not compared with the graph's equations: no input was found that its layers take; give "
            "its Input a shape",
            UserWarning,
            stacklevel=4,
        )
        return
    T = len(x)
    there = compare.Made(net, x.amax((0, 1), keepdim=True))
    here = compare.Here(there, x, torch.ones(T), torch.ones(T))
    values: dict[str, Tensor] = {
        name: torch.zeros(T, SAMPLES, *there.back[source], dtype=torch.float64) for name, source in backs.items()
    }
    all_drawn: dict[str, Tensor] = {}  # the spikes that neurons hand on
    taken: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}  # currents, spikes, returning spikes
    for name in nodes.order * (T if later else 1):  # each turn makes what comes back right for a step more
        node, inputs = nodes.by_name[name], [values[sender] for sender in nodes.senders[name]]
        if isinstance(node, nir.Input):
            values[name] = x.double()
        elif isinstance(node, Before):
            values[name] = compare.shifted(values[node.giver]) if node.giver in values else values[name]
        elif is_neuron(nir, node):
            current, before = sum(inputs[1:], inputs[0]), None
            if name not in all_drawn:
                all_drawn[name] = (torch.rand(current.shape, generator=generator) < compare.RATE).double()
            drawn = all_drawn[name]
            if name in nodes.returning:
                before = compare.shifted(drawn)
                current = current + returned(nir, nodes.by_name, nodes.returning[name], name, before)
            fired = _solved(nir, node, current, dt, reset, most)
            values[name] = drawn if fires(nir, node) else fired
            taken[name] = current * _gain(nir, node, dt, current), fired, before
        else:
            values[name] = _value(nir, node, sum(inputs[1:], inputs[0]), dt)
    here.handed = {layer: values[name].float() for layer, name in made.items()}
    try:
        for key, name in made.items():
            solved = partial(_solved, nir, nodes.by_name[name], dt=dt, reset=reset, most=most)
            _check_layer(here, key, compare.Layer(name, shift=currents.get(key)), *taken[name], solved)
        last = here.made.last
        output = next(name for name in nodes.order if isinstance(nodes.by_name[name], nir.Output))
        compare.Outputs().check(here.value(last, 0, T), here.largest(last), values[output].float())
    except compare.Difference as difference:
        place = f"node '{made[difference.layer]}'" if difference.layer in made else f"layer '{difference.layer}'"
        raise ValueError(f"{place} is not what was made of it: {difference.what}") from difference


def _steps_around(nir, nodes: Nodes, dt: float) -> int:
    """Steps in which what comes back arrives, of a graph with a cycle that was cut; 0 of other graphs."""
    if not nodes.any_of(Before):
        return 0
    delays = [node for node in nodes.by_name.values() if isinstance(node, nir.Delay)]
    steps = [1 for node in nodes.by_name.values() if isinstance(node, Before)]
    return min(MOST_AROUND, sum(steps) + sum(int(steps_of_delay(node, dt).max()) for node in delays))


def _check_layer(
    here: compare.Here, key: str, place: compare.Layer, current: Tensor, fired: Tensor, before: Tensor | None,
    solved: Callable[[Tensor], Tensor],
) -> None:  # fmt: skip
    """Compare a layer's currents, and what its neurons make of them and of others on which they fire."""
    layer, _ = here.layers[key]
    current, fired = current.float(), fired.float()
    found, largest = here.currents(key, 0, len(current)), here.largest(key)
    if before is not None:
        (back, _), *_ = layer.returning(before)
        found = found + compare.of_steps(back.plain(), before.float())
        largest = largest + compare.sizes_of([(back, torch.ones_like(before))]).max()
    compare.check_currents(key, place.there(found), current, 2 * compare.rounding(current) * largest + compare.TINY)
    compare.check_neurons(key, layer, place.here(current[:, :1]), fired[:, :1])  # one sample is enough
    if layer.neuron.fires:
        like = current[:1, :1][compare.pixels(current)].expand(compare.PROBED, *[-1] * (current.ndim - 1))
        driven = compare.drive(layer, like, 1.0, torch.Generator().manual_seed(1))
        compare.check_neurons(key, layer, place.here(driven), solved(driven.double()).float())


def _value(nir, node, x: Tensor, dt: float) -> Tensor:
    """The output of a node without neurons for x [T, N, ...]."""
    if isinstance(node, nir.Delay):
        return _delayed(x, (_spread(_numbers(node.delay), x[0]) / dt).round().long())
    return _of_samples(nir, node, x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _delayed(x: Tensor, steps: Tensor) -> Tensor:
    """x[t - steps], and 0 before the start; each value may have its own ``steps``."""
    steps = steps.expand(x.shape[1:])
    then = torch.arange(len(x)).view(-1, *[1] * steps.ndim) - steps
    return torch.where(then >= 0, x.gather(0, then.clamp(min=0)), torch.zeros((), dtype=x.dtype))


def _of_samples(nir, node, x: Tensor) -> Tensor:
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        axes = 1 if isinstance(node, nir.Conv1d) else 2
        padding = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
        padding = padding if isinstance(padding, str) else _integers(padding, axes)
        stride, dilation, groups = _integers(node.stride, axes), _integers(node.dilation, axes), int(node.groups)
        convolve: Any = F.conv1d if axes == 1 else F.conv2d
        return convolve(x, _numbers(node.weight), _numbers(node.bias), stride, padding, dilation, groups)
    if isinstance(node, nir.Linear):
        return F.linear(x, _numbers(node.weight))
    if isinstance(node, nir.Affine):
        return F.linear(x, _numbers(node.weight), _numbers(node.bias))
    if isinstance(node, nir.Scale):
        return x * _spread(_numbers(node.scale), x)
    if isinstance(node, nir.Flatten):
        return x.flatten(1)
    if isinstance(node, Images):
        return x.unflatten(1, node.shape)
    if isinstance(node, nir.Output):
        return x
    kernel_size, stride, padding = (_integers(value, 2) for value in (node.kernel_size, node.stride, node.padding))
    divisor = None if isinstance(node, nir.AvgPool2d) else 1
    return F.avg_pool2d(x, kernel_size, stride, padding, divisor_override=divisor)


def _gain(nir, node, dt: float, current: Tensor) -> Tensor | float:
    """The factor of a readout's current; 1 for neurons that fire."""
    if isinstance(node, nir.I | nir.LI):
        tau = _spread(_numbers(node.tau), current[0]) if isinstance(node, nir.LI) else 1.0
        return _spread(_numbers(node.r), current[0]) * dt / tau
    return 1.0


def _solved(nir, node, current: Tensor, dt: float, reset: str | None, most: int | None) -> Tensor:
    """Spikes, or potentials of a readout, for currents [T, N, ...], by the equations in nodes.py.

    ``most``: how often neurons fire in a step; None: once.
    """

    def value(name: str) -> Tensor:
        values = _spread(_numbers(getattr(node, name)), current[0])
        for axis, n in enumerate(current.shape[3:], 1):
            values = values.narrow(axis, 0, min(n, values.shape[axis])) if values.ndim > 1 else values
        return values  # the currents may be those of the first pixels only

    if isinstance(node, nir.Threshold):
        return (current >= value("threshold")).double()
    does_fire, leaks = fires(nir, node), not isinstance(node, nir.IF | nir.I)
    rest = value("v_leak") if leaks else torch.zeros((), dtype=torch.float64)
    tau = value("tau_mem" if isinstance(node, nir.CubaLIF) else "tau") if leaks else torch.ones((), dtype=torch.float64)
    note = (node.metadata or {}).get(RESET)
    subtract = SUBTRACT in (reset, note.decode() if isinstance(note, bytes) else note)
    v_reset = torch.zeros((), dtype=torch.float64)
    if getattr(node, "v_reset", None) is not None:
        v_reset = value("v_reset")
    start = rest
    if does_fire:  # neurons that rest above the threshold start as after a spike
        after = torch.zeros((), dtype=torch.float64) if subtract else v_reset
        start = torch.where(rest < value("v_threshold"), rest, after)
    v, i, given = start.expand(current[0].shape), torch.zeros_like(current[0]), []
    for step in current:
        i = i + dt / value("tau_syn") * (value("w_in") * step - i) if isinstance(node, nir.CubaLIF) else step
        v = v + dt / tau * ((rest - v if leaks else 0.0) + value("r") * i)
        if does_fire:
            theta = value("v_threshold")
            spike = v >= theta if most is None else (v / theta).floor().clamp(0, most)
            v = v - theta * spike if subtract else torch.where(spike, v_reset, v)
            given.append(spike.double())
        else:
            given.append(v)
    return torch.stack(given)


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Values of all neurons, of each channel or of each neuron, for x [N, C, ...]."""
    if values.numel() == 1:
        return values.reshape(())
    return values.view(-1, *[1] * (x.ndim - 2)) if values.ndim == 1 else values


def _numbers(value: Any) -> Any:
    return None if value is None else torch.as_tensor(np.asarray(value).astype(np.float64))


def _integers(value: Any, axes: int) -> tuple[int, ...]:
    values = [int(n) for n in np.asarray(value).reshape(-1)]
    return tuple(values * (axes // len(values)))
