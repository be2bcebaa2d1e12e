"""Layers in a graph, without what runs the graph as a whole: proxykernels.Network is one."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..checks import chunked_passes
from ..checks.calibrated import STEPS, has_fired, look_at_input, warn_of_silence
from ..spikes import Spikes


class LayerGraph(nn.Module):
    """Layers that take the outputs of earlier ones; the last one's output is the graph's."""

    INPUT = ""  # the name of the network's own input among a layer's sources
    input_dims: int | None = None  # of a constant input [N, ...], where it is known
    input_shape: tuple[int, ...] | None = None  # of a sample, where the network is right for no other
    calibrated: tuple[float, float] | None = None  # by convert: the least and the largest value of its samples

    def __init__(self):
        super().__init__()
        self._sources: dict[str, tuple[str, ...]] = {}

    def append(self, name: str, layer: nn.Module, sources: tuple[str, ...]) -> None:
        """Add a layer.

        Args:
            name: its name, without dots.
            layer: any module of one input, or of a tuple of inputs if it has several ``sources``.
            sources: the earlier layers whose outputs it takes; ``Network.INPUT`` is the network's input.

        Raises:
            ValueError: a source is no earlier layer, or there is none. KeyError: the name is taken or has a dot.
        """
        unknown = [source for source in sources if source != self.INPUT and source not in self._sources]
        if unknown or not sources:
            raise ValueError(f"sources of layer {name} must be earlier layers, got {unknown or sources}")
        if name in self._sources:
            raise KeyError(f"the name {name} is taken by another layer")
        self.add_module(name, layer)
        self._sources[name] = tuple(sources)

    def layers(self) -> list[tuple[str, nn.Module, tuple[str, ...]]]:
        """(name, layer, names of the layers whose outputs it takes) of each layer; "" names the network's input."""
        return [(name, cast(nn.Module, self._modules[name]), sources) for name, sources in self._sources.items()]

    def _whole(self, x: Any) -> Any:
        """The output of x, computed in another way than by calling layers; None: layers are to be called."""
        return None

    def forward(self, x):
        """The output spikes of x (T, N, ...); see the layers."""
        if self.input_dims is not None and len(x.shape) == self.input_dims:
            raise ValueError(
                f"x must be (T, N, ...), with steps in front, got {list(x.shape)}, which has none: "
                "proxykernels.simulate(net, x, T) runs the network on a constant input, and x.expand(T, *x.shape) "
                "repeats it"
            )
        if self.input_shape is not None:
            check_sample(self, tuple(x.shape[2:]))
        listens = not torch.compiler.is_compiling() and not chunked_passes.is_within()
        listens = listens and look_at_input(self, self.calibrated, x, stacklevel=5)
        y = self._whole(x)
        y = self._run(x) if y is None else y
        if listens and _fires(y):
            has_fired(self)
        elif listens and len(y) >= STEPS:
            self._listen(x)
        return y

    def _run(self, x: Any, seen: Callable[[Any], None] | None = None) -> Any:
        """The output, layer by layer. ``seen``: is shown what each gives."""
        values: dict[str, Any] = {self.INPUT: x}
        last_readers = {source: name for name, sources in self._sources.items() for source in sources}
        for name, layer, sources in self.layers():
            inputs = tuple(values[source] for source in sources)
            values[name] = layer(inputs if len(inputs) > 1 else inputs[0])
            if seen:
                seen(values[name])
            for source in set(sources):
                if last_readers[source] == name:  # nothing else will take it: its memory goes
                    del values[source]
        return values[name]

    @torch.no_grad()
    def _listen(self, x: Any) -> None:
        """Warn where no neuron fires for x, of which the output is silent."""
        given: list[Any] = []
        self._run(x, lambda y: given.append(isinstance(y, Spikes) and _fires(y)))
        if any(given):
            has_fired(self)
        else:
            warn_of_silence(self, len(x), self.calibrated, stacklevel=6)


def _fires(y: Spikes | Tensor) -> bool:
    return bool(y._total()) if isinstance(y, Spikes) else bool(y.any())


def check_sample(net: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse samples of another shape than the only one that a network is right for, if it is one of these.

    Raises:
        ValueError: they have one.
    """
    known = getattr(net, "input_shape", None)
    if known is not None and shape != known:
        size, given = (", ".join(map(str, each)) for each in (known, shape))
        raise ValueError(
            f"x has samples of the shape [{given}], and the network was converted for [{size}]: its model computes "
            "constants from the size of its input; convert it again with calibration samples of the new size"
        )
