"""The values in a traced model: signals, currents, and the neurons that turn currents into signals."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Signal:
    """The output of a layer.

    Attributes:
        layer: name of the layer in the network; "" for the model's input.
        neurons: name of the population whose scale the values have; "" for unscaled values: the input, and real values
            that are passed on.
        binary: whether the values are spikes (averages are not).
        signed: whether the values may be negative.
        shape: [N, ...] if it is known.
        view: how the model rearranges the output: int64, the index into the output of each value that the model sees;
            None: not at all.
        inverted: whether the model uses 1 - s instead of the spikes s.
        factor: by which the model multiplies the values, in a network of another library.
    """

    layer: str
    neurons: str
    binary: bool
    signed: bool
    shape: tuple[int, ...] | None = None
    view: Tensor | None = None
    inverted: bool = False
    factor: float = 1.0


@dataclass(frozen=True)
class Affine:
    """A factor and a shift for each channel, float64 [C]."""

    factor: Tensor
    shift: Tensor


@dataclass
class Projection:
    """One term of a current: a convolution, matrix product or identity of a signal.

    Attributes:
        module: torch module with a weight, or nn.Identity.
        source: its input.
        norm: the torch normalisation after it, or None.
        added: whether the conversion made ``module``; False for a module of the model.
        affine: what an added module does, if it is no more than this; else None.
        before: what the module's input has been through besides, which its weights take; or None.
        gain: what the model multiplies the term by, behind the norm.
    """

    module: Any
    source: Signal
    norm: Any = None
    added: bool = False
    affine: Affine | None = None
    before: Affine | None = None
    gain: float = 1.0

    @property
    def is_layer(self) -> bool:
        """Whether the module is a layer of the model, with weights of its own."""
        return not self.added and not isinstance(self.module, nn.Identity)


@dataclass
class Current:
    """A sum of projections, and the pooling between it and the neurons."""

    name: str
    path: str
    projections: list[Projection]
    pools: list[tuple[str, nn.Module, str]] = field(default_factory=list)


@dataclass
class ModelPopulation:
    """The neurons of one layer.

    Attributes:
        current: their input.
        node: the node of the model whose output they replace.
        neuron: the model's activation; None: a last layer without one.
        fires: whether they fire; False: real values are passed on.
        signed: whether they fire for a current that no activation follows, in spikes of either sign.
        pool: max pooling between the current and the neurons; None: there is none.
        recurrence: what comes back to them (libraries/recurrence.py); None: nothing.
    """

    current: Current
    node: fx.Node
    neuron: nn.Module | None
    fires: bool = True
    signed: bool = False
    pool: Any = None
    recurrence: Any = None

    @property
    def modules(self) -> list[nn.Module]:
        """The modules of the projections, the one with the largest kernel first."""
        return [projection.module for projection in self.current.projections]
