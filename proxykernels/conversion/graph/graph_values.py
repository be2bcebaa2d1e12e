"""What flows through a model that is followed: signals, currents, and the neurons that make the one of the other."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Signal:
    """What a layer gave.

    Attributes:
        layer: its name in the network; "" for the model's input.
        neurons: the population whose scale the values have; "" for values as they are, of the input or carried on.
        binary: whether they are spikes still (averages are not). signed: whether they may be negative.
        shape: [N, ...], where it is known.
        view: where the model sees the values: int64, of the shape that it sees, the place of each among those that the
            layer gave; None: as the layer gave them.
        inverted: whether the model sees 1 where there is no spike.
    """

    layer: str
    neurons: str
    binary: bool
    signed: bool
    shape: tuple[int, ...] | None = None
    view: Tensor | None = None
    inverted: bool = False


@dataclass
class Projection:
    """One term of a current: a convolution, matrix product or identity of a signal, and the normalisation after it."""

    module: Any  # of torch, with a weight and perhaps a bias; nn.Identity
    source: Signal
    norm: Any = None  # of torch
    added: bool = False  # the module is none of the model's


@dataclass
class Current:
    """A sum of projections, and pooling that comes between it and its neurons."""

    name: str
    path: str
    projections: list[Projection]
    pools: list[tuple[str, nn.Module, str]] = field(default_factory=list)


@dataclass
class Population:
    """The neurons of one layer: the current they take, the node that gives their output, and what they are."""

    current: Current
    node: fx.Node
    neuron: nn.Module | None  # None: the model's last layer has no neuron
    fires: bool = True  # or carries its current on

    @property
    def modules(self) -> list[nn.Module]:
        """The projections' modules, first the one with the largest kernel."""
        return [projection.module for projection in self.current.projections]
