"""Layers in a graph, without what runs the graph as a whole: proxykernels.Network is one.

Below: warns once where the input of a converted network is far from its calibration data, or where no neuron fires. A
look at the input costs as much as a few of the steps of a small network. So inputs of the first calls are looked at,
and later only some; and once a network has fired, its outputs are not checked any more.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..kernels.value_checks_cache import nobody_follows
from ..spikes import Spikes
from .base import is_in_chunked_pass

Range = tuple[float, float]  # the least and the largest value of the calibration data

FAR = 10.0  # times the largest absolute value of the calibration data, or a share of it: such an input is far from it
LOOKS = 16  # calls whose inputs are looked at, and then one in as many
STEPS = 8  # of a run without a spike that tells of a silent network; fewer may be too few for small activations
KINDS = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64


class LayerGraph(nn.Module):
    """Layers that take the outputs of earlier ones; the last one's output is the graph's."""

    INPUT = ""  # the name of the network's own input among a layer's sources
    input_dims: int | None = None  # of a constant input [N, ...], where it is known
    input_shape: tuple[int, ...] | None = None  # of a sample, where the network is right for no other
    calibrated: tuple[float, float] | None = None  # by convert: the least and the largest value of its samples
    unit: float | None = None  # of a network with rounded weights: what its input is rounded to multiples of

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
        listens = not torch.compiler.is_compiling() and not is_in_chunked_pass()
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


class _Watch:
    """What is known of the calls of a network or an engine: their number, and whether it has warned and fired."""

    __slots__ = ("calls", "fired", "warned")

    def __init__(self) -> None:
        self.calls, self.fired, self.warned = 0, False, False


_watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()


def look_at_input(owner: Any, known: Range | None, x: Any, stacklevel: int = 3) -> bool:
    """Warn where x is far from the calibration data. Returns whether silence would be worth a warning; if it is none,
    :func:`has_fired` tells.

    ``owner``: the network or the engine, of which there is one warning. ``known``: the range of its calibration data;
    None: it was not converted.
    """
    if known is None or not isinstance(x, Tensor | Spikes):
        return False
    watch = _watches.get(owner)
    if watch is None:
        watch = _watches[owner] = _Watch()
    watch.calls += 1
    if watch.warned or (watch.calls > LOOKS and watch.calls % LOOKS) or not nobody_follows():
        return False
    found = _range(x) if watch.calls == 1 or x.device.type == "cpu" else None  # a look waits for a GPU
    if found is None:
        return False
    here, there = max(-found[0], found[1]), max(-known[0], known[1])
    if not (here and math.isfinite(here)):
        return False
    if there / FAR <= here <= there * FAR:
        return not watch.fired
    few = "hardly any neuron will fire" if here < there else "neurons will fire at nearly every step"
    _warn(
        owner,
        f"x has values from {found[0]:.4g} to {found[1]:.4g}, and the network was calibrated on values from "
        f"{known[0]:.4g} to {known[1]:.4g}: {few}. Scale x as the calibration samples were scaled",
        stacklevel,
    )
    return False


def has_fired(owner: Any) -> None:
    """Note that a network has fired."""
    _watches[owner].fired = True


def warn_of_silence(owner: Any, T: int, known: Range | None, stacklevel: int) -> None:
    """Warn that no neuron of a network has fired in T steps."""
    assert known is not None
    _warn(
        owner,
        f"no neuron of the network fired in {T} steps. It was calibrated on values from {known[0]:.4g} to "
        f"{known[1]:.4g}: scale x as the calibration samples were scaled, or take more steps",
        stacklevel,
    )


def _warn(owner: Any, message: str, stacklevel: int) -> None:
    _watches[owner].warned = True
    warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


def _range(x: Any) -> Range | None:
    """The least and the largest value; None where they cannot be had."""
    if isinstance(x, Spikes):
        return 0.0, float(x.scale)
    if x.is_nested or x.layout != torch.strided or x.is_meta or not x.ndim or not x.numel():
        return None
    if x.dtype == torch.bool:
        return 0.0, 1.0
    if not x.is_floating_point() and x.dtype not in KINDS:
        return None
    x = x.detach()
    least, largest = torch.aminmax(x[0] if x.stride(0) == 0 else x)  # all steps or samples are the same
    return least.item(), largest.item()
