"""The weights of a graph's layers: normalisations folded into them, and none that two layers share."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from .graph_values import Affine, ModelPopulation


def fold_norms(population: ModelPopulation, root: nn.Module) -> None:
    """Fold batch normalisations into the projections before them, in place; each becomes an nn.Identity in ``root``.

    And factors and shifts of what projections take into these.
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
    """Fold factors and shifts of what projections take into these, in place."""
    for projection in population.current.projections:
        if projection.before is not None:
            _fold_before(projection.module, projection.before)
            projection.before = None


def fold_gains(population: ModelPopulation) -> None:
    """Fold the factors of what projections give into these, in place; none of them has a normalisation left."""
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
    """The paths of layers with a parameter that an earlier layer has, too; in order."""
    seen: set[int] = set()
    for population in populations.values():
        for module in population.modules:
            ids = {id(parameter) for parameter in module.parameters()}
            if ids & seen:
                yield population.current.path
            seen |= ids


def untie(populations: Mapping[str, ModelPopulation]) -> None:
    """Give every layer weights of its own, as each is scaled in its own way."""
    seen: set[int] = set()
    for population in populations.values():
        for module in population.modules:
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in seen:
                    setattr(module, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
                seen.add(id(parameter))
