"""The values in a traced model: signals, currents, and the neurons that turn currents into signals.

Normalisations are folded into the weights of a current, and layers that share weights get their own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Signal:
    """The output of a layer.

    Attributes:
        layer: name of the layer in the network; "" for the model's input.
        neurons: name of the population whose scale the values have; "" for unscaled values, which are the input and
            real values.
        binary: whether the values are spikes (averages are not).
        signed: whether the values may be negative.
        shape: [N, ...] if it is known.
        view: int64, the index into the output of each value that the model sees; None: the model sees the output.
        inverted: whether the model uses 1 - s instead of the spikes s.
        factor: by which the model multiplies the values, in a network of another library.
        given: the shape of a sample as the layer gives it, where the model sees the same values in another one, such as
            tokens and heads; None: it sees what the layer gives.
    """

    layer: str
    neurons: str
    binary: bool
    signed: bool
    shape: tuple[int, ...] | None = None
    view: Tensor | None = None
    inverted: bool = False
    factor: float = 1.0
    given: tuple[int, ...] | None = None


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
        affine: the factor and shift of an added module that does only this; otherwise None.
        before: factor and shift of the module's input, to be folded into its weights; or None.
        gain: the factor of the term, behind the norm.
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
    """A sum of projections, and the pooling between it and the neurons. ``given``: as of a Signal."""

    name: str
    path: str
    projections: list[Projection]
    pools: list[tuple[str, nn.Module, str]] = field(default_factory=list)
    given: tuple[int, ...] | None = None


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
        recurrence: what comes back to them (libraries/library_neurons.py); None: nothing.
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


def fold_norms(population: ModelPopulation, root: nn.Module) -> None:
    """Fold batch normalisations, and factors and shifts of inputs, into the projections, in place.

    Each folded normalisation becomes an nn.Identity in ``root``.
    """
    fold_inputs(population)
    for projection in population.current.projections:
        norm, module = projection.norm, projection.module
        if norm is None:
            continue
        scale = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight.detach())
        shift = 0.0 if norm.bias is None else norm.bias.detach()
        bias = torch.zeros_like(norm.running_mean) if module.bias is None else module.bias.detach()
        module.weight.data.mul_(scale.view(-1, *[1] * (module.weight.ndim - 1)))
        module.bias = nn.Parameter((bias - norm.running_mean) * scale + shift, module.weight.requires_grad)
        path = next((name for name, child in root.named_modules() if child is norm), None)
        if path is not None:  # not of a module that is called twice
            root.set_submodule(path, nn.Identity().train(norm.training))
        projection.norm = None


def fold_inputs(population: ModelPopulation) -> None:
    """Fold factors and shifts of the projections' inputs into them, in place."""
    for projection in population.current.projections:
        if projection.before is not None:
            _fold_before(projection.module, projection.before)
            projection.before = None


def fold_gains(population: ModelPopulation) -> None:
    """Fold the gains of projections into them, in place; their normalisations must have been folded."""
    for projection in population.current.projections:
        if projection.gain != 1:
            for parameter in projection.module.parameters():
                parameter.data = parameter.data * projection.gain
            projection.gain = 1.0


def _fold_before(module: Any, affine: Affine) -> None:
    """W (a x + c) + b is W a x + (b + W c). Flattened, each channel has become several features."""
    weight, groups = module.weight.detach(), getattr(module, "groups", 1)
    inputs = weight.shape[1] * groups
    rows = weight.double().unflatten(0, (groups, -1))
    factor, shift = (
        values.to(weight.device).repeat_interleave(inputs // len(values)).view(groups, 1, -1, *[1] * (weight.ndim - 2))
        for values in (affine.factor, affine.shift)
    )
    bias = (rows * shift).flatten(2).sum(2).flatten()
    if module.bias is not None:
        bias += module.bias.detach()
    module.weight.data.copy_((rows * factor).flatten(0, 1))
    if module.bias is None and not affine.shift.any():
        return
    module.bias = nn.Parameter(bias.to(weight.dtype), module.weight.requires_grad)


def tied(populations: Mapping[str, ModelPopulation]) -> Iterator[str]:
    """The paths of layers that share a parameter with an earlier layer, in order."""
    seen: set[int] = set()
    for population in populations.values():
        for module in population.modules:
            ids = {id(parameter) for parameter in module.parameters()}
            if ids & seen:
                yield population.current.path
            seen |= ids


def untie(populations: Mapping[str, ModelPopulation]) -> None:
    """Give every layer its own weights, since each is scaled in its own way."""
    seen: set[int] = set()
    for population in populations.values():
        for module in population.modules:
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in seen:
                    setattr(module, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
                seen.add(id(parameter))
