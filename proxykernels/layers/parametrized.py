"""Weights that are computed from others: parametrizations (torch.nn.utils.parametrize), and the older weight_norm,
spectral_norm and pruning, which compute them in a hook before each call.

Code that copies layers or calls them in its own way takes the weights from here, computed once, as plain ones.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Module = TypeVar("Module", bound=nn.Module)
HOOKS = WeightNorm, SpectralNorm, BasePruningMethod
COMPILED = "_orig_mod"  # torch.compile's wrapper stores the module under this name


def is_parametrized(module: nn.Module) -> bool:
    """Whether some weight of a module, or of one within it, is computed from others."""
    return any(parametrize.is_parametrized(part) or any(_hooks(part)) for part in module.modules())


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks around its forward pass other than those that compute its weights."""
    return bool(module._forward_hooks) or len(module._forward_pre_hooks) > len(list(_hooks(module)))


def with_plain_weights(module: Module) -> Module:
    """The module with every such weight computed now, differentiable if gradients are enabled.

    The module itself if it has none; otherwise a copy that shares its other parameters and its buffers.
    """
    return _plain(module, {}) if is_parametrized(module) else module


def use_plain_weights(module: nn.Module) -> None:
    """Compute every such weight now, in place. It becomes a parameter, frozen if everything it is computed from is."""
    for part in list(module.modules()):
        hooks = set(_hooks(part))
        if not hooks and not parametrize.is_parametrized(part):
            continue
        with torch.enable_grad():
            computed = dict(_computed_weights(part))
        object.__setattr__(part, "__class__", parametrize.type_before_parametrizations(part))
        part._modules.pop("parametrizations", None)
        for key in [key for key, hook in part._forward_pre_hooks.items() if hook in hooks]:
            del part._forward_pre_hooks[key]
        for name, value in computed.items():
            for stored in (name, f"{name}_orig", f"{name}_g", f"{name}_v"):
                part._parameters.pop(stored, None)
                part.__dict__.pop(stored, None)
            part.register_parameter(name, nn.Parameter(value.detach().clone(), value.requires_grad))


def parametrized_again(plain: Module, rules: dict[str, nn.ModuleList]) -> Module:
    """Parametrize a plain module again, for pickle. ``plain`` has the computed weights; ``rules``: as in
    ``module.parametrizations``."""
    for name, rule in rules.items():
        parametrize.register_parametrization(plain, name, nn.Identity())
        parametrizations: Any = plain.parametrizations  # an nn.ModuleDict
        parametrizations[name] = rule
    return plain


def uncompiled(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper. The wrapper calls its own module even if a copy was given another."""
    given = module._modules.get(COMPILED)
    return module if given is None else given


def shallow_copy(module: Module) -> Module:
    """copy.copy, which parametrized modules refuse."""
    clone = object.__new__(type(module))
    clone.__dict__.update(module.__dict__)
    return clone


def _plain(module: Module, done: dict[nn.Module, nn.Module]) -> Module:
    module = uncompiled(module)  # type: ignore[assignment]
    if module in done:
        return done[module]  # type: ignore[return-value]  # each module has a copy of its own class
    clone = done[module] = shallow_copy(module)
    computed = dict(_computed_weights(module))
    object.__setattr__(clone, "__class__", parametrize.type_before_parametrizations(module))
    for name in computed:
        clone.__dict__.pop(name, None)
    clone._parameters = {**module._parameters, **computed}  # type: ignore[dict-item]  # computed ones are plain tensors
    hooks = set(_hooks(module))
    clone._forward_pre_hooks = type(module._forward_pre_hooks)(
        (key, hook) for key, hook in module._forward_pre_hooks.items() if hook not in hooks
    )
    clone._modules = {
        name: child and _plain(child, done)
        for name, child in module._modules.items()
        if not (name == "parametrizations" and parametrize.is_parametrized(module))
    }
    return clone


def _computed_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for hook in _hooks(module):
        hook(module, None)  # computes the weight and sets it
    names = [hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name for hook in _hooks(module)]
    if parametrize.is_parametrized(module):
        names += list(module.parametrizations)  # type: ignore[arg-type]  # an nn.ModuleDict
    for name in names:
        value = getattr(module, name)
        yield name, value if value.grad_fn is not None else nn.Parameter(value.detach(), value.requires_grad)


def _hooks(module: nn.Module) -> Iterator:
    return (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, HOOKS))
