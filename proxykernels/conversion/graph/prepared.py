"""Prepares the model that is traced and run in a translation: a copy, or the model itself, which is restored."""

import copy
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from ...layers.parametrized import COMPILED, has_forward_hooks, uncompiled, use_plain_weights
from .fx_calls import remedy_of_library

WRAPPERS = ("DataParallel", "DistributedDataParallel", "AveragedModel")
CONTAINERS = (dict, list, set, deque, OrderedDict)
DEVICES = ("cpu", "cuda", "xpu", "mps")


def check_model(argument: str, net: nn.Module, made: str) -> None:
    """Refuse what no translation can keep: hooks, wrappers, scripted modules, weights without values.

    ``made``: what the translation is called.

    Raises:
        TypeError: such a module is in ``net``; the message names its path and a remedy.
    """
    if torch.nn.modules.module._global_forward_hooks or torch.nn.modules.module._global_forward_pre_hooks:
        raise TypeError(
            f"a forward hook of all modules is registered, which the {made} network would not have; remove it"
        )
    for path, module in net.named_modules():
        path = ".".join(part for part in path.split(".") if part != COMPILED)
        where, kind = f"{argument}'s module '{path}'" if path else argument, type(module).__name__
        if any(map(is_lazy, module._parameters.values())):
            raise TypeError(f"{where} is a {kind} without weights; run the network once on a sample, which makes them")
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"torch.fx cannot follow a scripted module, {where} is one; take what it was made of")
        if kind in WRAPPERS and type(module).__module__.startswith("torch."):
            raise TypeError(f"{where} is a {kind}; take its .module")
        if any(tensor.is_meta for tensor in (*module.parameters(False), *module.buffers(False))):
            raise TypeError(f"{where} is on the meta device and has no weights; load them first")
        if what_to_do := remedy_of_library(type(module)):
            raise TypeError(f"{where} is a {kind}{what_to_do}")
        if has_forward_hooks(module):
            advice = "remove it, and register it on the network that is returned"
            if isinstance(module, fx.GraphModule):  # torch.export gives them a hook that checks inputs
                advice = "take the module that was exported"
            raise TypeError(f"{where} has a forward hook, which the {made} network would not have; {advice}")


def copied(net: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy in evaluation mode, without wrappers of torch.compile; ``memo``: that of copy.deepcopy, which is filled.

    What cannot be copied, such as a lock or an open file, is shared with the model. Potentials and other results that
    modules keep are copied without their gradients.
    """
    memo |= {id(tensor): tensor.detach() for tensor in _results(net) if id(tensor) not in memo}
    known = dict(memo)
    try:
        clone = copy.deepcopy(net, memo)
    except Exception:  # whatever a class raises for what it does not want copied
        memo.clear()
        memo |= known | {id(value): value for value in _not_copied(net, known)}
        clone = copy.deepcopy(net, memo)
    return _not_compiled(clone).eval()


def prepared(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights are all plain parameters, as :func:`use_plain_weights` makes them."""
    model = copied(model, {})
    use_plain_weights(model)
    return model


def let_go(copies: nn.Module, net: nn.Module) -> None:
    """Drop the parameters of copies that ``net`` does not use.

    Traces refer to themselves, so their weights would stay in memory until Python looks for cycles.
    """
    for module in {*copies.modules()} - {*net.modules()}:
        module._parameters.clear()


@contextmanager
def in_evaluation(net: nn.Module) -> Iterator[None]:
    """Within this context the model is in evaluation mode: functions that a copy of it holds may call its modules."""
    training = [module for module in net.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def borrowed(net: nn.Module) -> Iterator[nn.Module]:
    """Within this context the model is in evaluation mode, with plain weights and without wrappers of torch.compile.

    It is not copied, since functions that it holds, such as a forward that was replaced, may refer to its modules.
    """
    before = [(module, type(module), dict(vars(module)), _contents(module)) for module in net.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in net.buffers()]
    try:
        net = _not_compiled(net).eval()
        use_plain_weights(net)
        yield net
    finally:
        for module, kind, held, contents in before:
            object.__setattr__(module, "__class__", kind)
            vars(module).clear()
            vars(module).update(held)
            for name, content in contents.items():
                held[name].clear()
                (held[name].extend if isinstance(content, list | deque) else held[name].update)(content)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def without_autocast() -> Iterator[None]:
    """Switches the caller's autocast off: sums are compared up to float32's rounding."""
    with ExitStack() as stack:
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _not_compiled(net: nn.Module) -> nn.Module:
    """Remove the wrappers of torch.compile, in place."""
    net = uncompiled(net)
    for module in net.modules():
        module._compiled_call_impl = None  # of module.compile()
        for name, child in module._modules.items():
            module._modules[name] = child and uncompiled(child)
    return net


def _contents(module: nn.Module) -> dict[str, Any]:
    """What a module's containers hold."""
    return {name: value.copy() for name, value in vars(module).items() if type(value) in CONTAINERS}


def _results(net: nn.Module) -> Iterator[Tensor]:
    """Tensors that modules keep from an earlier run and that torch cannot copy, since they have a gradient."""
    for module in net.modules():
        found = _tensors((*vars(module).values(), *module._buffers.values()))
        yield from (tensor for tensor in found if not tensor.is_leaf)


def _tensors(values: Iterable) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif type(value) in (dict, list, tuple):
            yield from _tensors(value.values() if isinstance(value, dict) else value)


def _not_copied(net: nn.Module, known: dict[int, Any]) -> Iterator[Any]:
    """The attributes of modules that cannot be copied."""
    for module in net.modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value, dict(known) | {id(part): part for part in net.modules()})
            except Exception:  # whatever the attribute's own __deepcopy__ raises
                yield value
