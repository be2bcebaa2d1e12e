"""Layers in a cycle, which are run step by step."""

from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..spikes import Spikes, pack
from ..spikes.spikes import cat_steps
from .base import Neurons, SpikingLayer, WithoutSynapses, kept_values
from .dropout import Dropout
from .layer_graph import LayerGraph
from .parametrized import with_plain_weights

Sizes = dict[str, tuple[int, ...]]


class RecurrentGraph(WithoutSynapses, LayerGraph):
    """Layers of which some take what later ones, or they themselves, gave in the step before.

    Such are feedback between layers, and convolutions over a layer's own spikes. Made by :func:`from_spikingjelly`,
    :func:`from_snntorch` and :func:`from_nir`. By hand, neurons that take the spikes of the next layer:

        rec = pk.layers.RecurrentGraph()
        join = pk.layers.FusedSum(nn.Linear(8, 16), nn.Linear(4, 16), neuron=pk.neurons.LIFNeuron())
        rec.append("first", join, (rec.INPUT, rec.before("second")))
        rec.append("second", pk.FusedLIFLinear(16, 4), ("first",))

    It is one layer of a network. Each step calls all of its layers, one after the other, which is slow; where spikes of
    a fully connected layer come back to itself, :class:`FusedRecurrentLinear` gives the same. Engines and files refuse
    it. What comes back is 0 in the first step. Rates and records are those of its last layer, and its synaptic
    operations are not counted.

    Shapes: x (T, N, ...), Spikes or a tensor; y (T, N, ...), as its last layer gives it; state v [N, values]: for each
    layer with a state all its values, and then for each that something takes a step later what it gave last.

    Raises:
        TypeError, ValueError: in a call, nothing tells the shape of what comes back: one layer in the cycle must be of
            neurons, and also take something that does not come back; or it is of a layer that there is not.
    """

    has_twin = False

    @staticmethod
    def before(name: str) -> str:
        """The source, among a layer's ``sources``, that is the output of a layer in the step before."""
        return f"{name}[t-1]"

    def append(self, name: str, layer: nn.Module, sources: tuple[str, ...]) -> None:
        """Add a layer, as :meth:`Network.append` does; its sources may also be ``before(name)`` of any layer."""
        if not isinstance(layer, SpikingLayer) and any(isinstance(part, SpikingLayer) for part in layer.modules()):
            raise TypeError(f"layer {name} is a {type(layer).__name__} of layers with a state; append these one by one")
        super().append(name, layer, tuple(source for source in sources if not is_before(source)) or (self.INPUT,))
        self._sources[name] = tuple(sources)

    def _fire(self, x, v, batch_statistics):
        checks.steps_of(x, None, "(T, N, ...)")
        x = x.dense() if isinstance(x, Spikes) and x.device.type != "cpu" else x  # words of a GPU hold 32 steps
        states, back = self._start(x, v)
        dropped: dict[str, Tensor] = {}
        steps: list[Any] = []
        for t in range(x.shape[0]):
            values: dict[str, Any] = {self.INPUT: x[t : t + 1]} | back
            for name, layer, sources in self.layers():
                given = tuple(values[source] for source in sources)
                taken: Any = given if len(given) > 1 else given[0]
                with checks.at(f"layer {name}"):
                    if isinstance(layer, SpikingLayer):
                        layer = with_plain_weights(layer)
                        y, states[name] = layer.spike(taken, states.get(name), batch_statistics=batch_statistics)
                    elif isinstance(layer, Dropout) and layer.drops:  # which keeps the same units in all steps
                        y = layer.drop(taken, dropped.setdefault(name, layer.draw(taken)))
                    else:
                        y = layer(taken)
                values[name] = y
            back = {before: _dense(values[given_by(before)]) for before in back}
            steps.append(values[name])
        y = _joined(steps)
        kept = [*(states[name] for name in states), *(value[0] for value in back.values())]
        return y, torch.cat([value.unsqueeze(-1).flatten(1).float() for value in kept], 1)

    def _start(self, x: Spikes | Tensor, v: Tensor | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The layers' states, none at rest; and what comes back in the first step, [1, N, ...], by its source."""
        N, device = x.shape[1], x.device
        of_states, of_back = self.sizes(tuple(x.shape[2:]), device)
        if v is None:
            options: Any = {"dtype": torch.float32, "device": device}
            return {}, {name: torch.zeros(1, N, *size, **options) for name, size in of_back.items()}
        sizes = [*of_states.values(), *of_back.values()]
        numbers = [torch.Size(size).numel() for size in sizes]
        parts = kept_values(v, (N, sum(numbers)), device).split(numbers, 1)
        views = [part.reshape(N, *size) for part, size in zip(parts, sizes, strict=True)]
        states = dict(zip(of_states, views, strict=False))
        return states, {name: view[None] for name, view in zip(of_back, views[len(of_states) :], strict=True)}

    def sizes(self, size: tuple[int, ...], device: torch.device) -> tuple[Sizes, Sizes]:
        """The shapes of a sample of each layer's state, and of each output that comes back; ``size``: of the input."""
        of_states, values = self._run_on_zeros(size, device)
        before = dict.fromkeys(source for sources in self._sources.values() for source in sources if is_before(source))
        of_states = {name: of_states[name] for name in self._sources if name in of_states}
        return of_states, {source: values[given_by(source)] for source in before}

    @torch.no_grad()
    def _run_on_zeros(self, size: tuple[int, ...], device: torch.device) -> tuple[Sizes, Sizes]:
        """The shapes of a sample of each layer's state, and of its output. A layer of neurons also tells its shape by
        one of several inputs, so layers are gone through until all are known."""
        before = (source for sources in self._sources.values() for source in sources if is_before(source))
        unknown = [source for source in before if given_by(source) not in self._sources]
        if unknown:
            raise ValueError(f"sources has {unknown[0]!r}, and there is no such layer; there are {[*self._sources]}")
        values: Sizes = {self.INPUT: size}
        of_states: Sizes = {}
        waiting = self.layers()
        while waiting:
            left, known = [], len(values) + len(of_states)
            for name, layer, sources in waiting:
                inputs = [_zeros(values.get(given_by(source)), device) for source in sources]
                taken: Any = tuple(inputs) if len(inputs) > 1 else inputs[0]
                if any(part is None for part in inputs):
                    left.append((name, layer, sources))
                    if name not in values and isinstance(layer, Neurons):
                        shape = _shape_of(layer, inputs)
                        values |= {} if shape is None else {name: shape}
                elif isinstance(layer, SpikingLayer):
                    y, state = layer.spike(taken)
                    values[name], of_states[name] = tuple(y.shape[2:]), tuple(state.shape[1:])
                else:
                    values[name] = tuple(layer(taken).shape[2:])
            if len(values) + len(of_states) == known:
                name, layer, sources = left[0]
                raise TypeError(
                    f"layer {name}, a {type(layer).__name__}, takes {sources[0]!r}, and nothing tells the shape of it: "
                    "a layer of neurons in the cycle must also take something of the same step, such as a FusedSum"
                )
            waiting = left
        return of_states, values


def _zeros(size: tuple[int, ...] | None, device: torch.device) -> Tensor | None:
    return None if size is None else torch.zeros(1, 1, *size, dtype=torch.float32, device=device)


def _shape_of(layer: Any, inputs: list[Tensor | None]) -> tuple[int, ...] | None:
    """The shape of a sample of what neurons give, by the first input that is known; None: none is."""
    known = ((synapse, x) for (synapse, _), x in zip(layer.terms(tuple(inputs)), inputs, strict=True) if x is not None)
    return next((tuple(synapse.output_shape(tuple(x.shape))[2:]) for synapse, x in known), None)


def _joined(steps: list[Any]) -> Spikes | Tensor:
    """The outputs of all steps."""
    if not isinstance(steps[0], Spikes) or steps[0].device.type == "cpu":
        return cat_steps(steps)
    y = torch.cat([step.dense() for step in steps])
    return y if y.requires_grad else pack(y)


def is_before(source: str) -> bool:
    return source.endswith("[t-1]")


def given_by(source: str) -> str:
    """The layer whose output of the step before a source is."""
    return source.removesuffix("[t-1]")


def _dense(y: Spikes | Tensor) -> Tensor:
    return (y.dense() if isinstance(y, Spikes) else y).float()
