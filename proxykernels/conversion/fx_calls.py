"""What torch.fx sees in a model, call by call, as torch modules: F.relu(x) is nn.ReLU(), flatten(1) nn.Flatten()."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from .refusals import remedy


class Add(nn.Module):
    """Stands for the addition of two results."""


class Times(nn.Module):
    """Stands for the product of two results."""


class Scaled(nn.Module):
    """Stands for a result times a number, plus a number."""

    def __init__(self, factor: float, shift: float):
        super().__init__()
        self.factor, self.shift = float(factor), float(shift)


class Minus(nn.Module):
    """Stands for the difference of two results."""


class Cat(nn.Module):
    """Stands for the concatenation of several results."""

    def __init__(self, dim: int = 0, *, axis: int | None = None):
        super().__init__()
        self.dim = dim if axis is None else axis


def arguments(node: fx.Node) -> list[fx.Node]:
    """The results that a node takes, in their order, one that it takes twice twice; of a list, those in it."""
    first, *rest = node.args or (node.kwargs.get("tensors"),)
    many = list(first) if isinstance(first, list | tuple) else [first]
    return [argument for argument in (*many, *rest) if isinstance(argument, fx.Node)]


def trace(model: nn.Module, leaves: tuple[type, ...] = (), tracer: type[fx.Tracer] = fx.Tracer) -> fx.GraphModule:
    """torch.fx's account of the forward pass; ``leaves``: module types that are not looked into."""

    class Tracer(tracer):  # type: ignore[valid-type, misc]
        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            return isinstance(module, leaves) or super().is_leaf_module(module, path)

    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"torch.fx cannot follow a scripted module, {type(model).__name__}; take what it was made of")
    if type(model).forward is nn.Module.forward:
        raise TypeError(f"{type(model).__name__} has no forward pass; put its modules into an nn.Sequential")
    holder = model
    if leaves and isinstance(model, leaves) or Tracer().is_leaf_module(model, ""):
        holder = nn.Sequential(model)
    try:
        return fx.GraphModule(holder, Tracer().trace(holder))
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise TypeError(
            f"torch.fx cannot follow the forward pass of {type(model).__name__}, which may not depend on values: "
            f"{error}"
        ) from error


def needed(traced: fx.GraphModule, model: str) -> list[fx.Node]:
    """The nodes that lead to the output, of a model of one input that changes nothing which is looked at afterwards."""
    nodes = list(traced.graph.nodes)
    inputs = [node.name for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise TypeError(f"{model} must take one input, its forward takes {', '.join(inputs) or 'none'}")
    live = {nodes[-1]}
    for node in reversed(nodes):
        live.update(node.all_input_nodes if node in live else ())
    place = {node: k for k, node in enumerate(nodes)}
    for node in nodes:
        if _in_place(node, traced) and node.all_input_nodes:
            changed = node.all_input_nodes[0]
            if node not in live or any(user in live and place[user] > place[node] for user in changed.users):
                raise TypeError(
                    f"{model}: {path_of(node)} changes a tensor in place that is used again; use what it returns"
                )
    return [node for node in nodes if node in live or node.op == "placeholder"]


def _in_place(node: fx.Node, traced: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = _function(node)
    if name in ("iadd", "isub", "imul", "itruediv") or name.endswith("_") or "out" in node.kwargs:
        return True
    return bool(node.kwargs.get("inplace")) or (name.startswith("relu") and True in node.args)


def path_of(node: fx.Node) -> str:
    """The place of a node in the model, for messages: a module's path, or a function and the module that calls it."""
    if node.op == "call_module":
        return f"module '{node.target}'"
    owners = list(node.meta.get("nn_module_stack") or {})
    place = f" in module '{owners[-1]}'" if owners and owners[-1] else ""
    return f"{_function(node)}(){place}"


def as_module(node: fx.Node, traced: fx.GraphModule, model: str) -> nn.Module:
    """The module of a node.

    Numbers that the forward pass computes from shapes are taken from ``node.meta["value"]``, where a run left them.
    """
    if node.op == "call_module":
        return traced.get_submodule(str(node.target))
    name = _function(node)
    arithmetic = _arithmetic(node, name)
    if arithmetic is not None:
        return arithmetic
    arguments = fx.map_arg(node.args, lambda a: a.meta.get("value", a))[1:]
    options = dict(fx.map_arg(node.kwargs, lambda a: a.meta.get("value", a)))
    options.pop("tensors", None)
    if name in _WEIGHTED:
        return _with_weights(node, traced, f"{model}: {path_of(node)}")
    if name not in _MODULES:
        raise TypeError(f"{model}: {path_of(node)} has no counterpart in spikes{remedy(name)}")
    try:
        return _MODULES[name](*arguments, **options)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{model}: {path_of(node)} is called in a way that is not supported: {error}") from error


def _function(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else node.target.__name__


_WEIGHTED: dict[str, Any] = {"conv2d": nn.Conv2d, "conv1d": nn.Conv1d, "linear": nn.Linear}
_OPERANDS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _with_weights(node: fx.Node, traced: fx.GraphModule, where: str) -> nn.Module:
    """The module of a function that is given the model's own weights."""
    given: dict[str, Any] = dict(zip(_OPERANDS, node.args, strict=False)) | dict(node.kwargs)
    weight, bias = (_parameter(given.get(name), traced, f"{where}: {name}") for name in ("weight", "bias"))
    given = {name: value for name, value in given.items() if name not in _OPERANDS[:3]}
    kind = _WEIGHTED[_function(node)]
    if weight is None:
        raise TypeError(f"{where} is given no weight")
    sizes = (weight.shape[1] * given.get("groups", 1), len(weight), *([weight.shape[2:]] if weight.ndim > 2 else []))
    module = kind(*sizes, bias=bias is not None, device="meta", **given)
    module.weight, module.bias = weight, bias
    return module


def _parameter(value: Any, traced: fx.GraphModule, where: str) -> nn.Parameter | None:
    if value is None:
        return None
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        raise TypeError(f"{where} is computed; it must be a parameter of the model")
    owner, _, name = str(value.target).rpartition(".")
    parameter = getattr(traced.get_submodule(owner), name)
    return parameter if isinstance(parameter, nn.Parameter) else nn.Parameter(parameter, requires_grad=False)


def _arithmetic(node: fx.Node, name: str) -> nn.Module | None:
    """What the four operations do, with two results or with one and a number; None: it is none of them."""
    name = name.strip("_")
    name = name[1:] if name in _IN_PLACE else name
    if name not in ("add", "sub", "mul", "truediv", "div", "neg", "rsub") or node.kwargs:
        return None
    first, second = (*[a.meta.get("value", a) if isinstance(a, fx.Node) else a for a in node.args], None)[:2]
    if name == "neg":
        return Scaled(-1, 0)
    if name == "rsub":
        name, first, second = "sub", second, first
    of_two = isinstance(first, fx.Node) and isinstance(second, fx.Node)
    if of_two:
        kinds: dict[str, Any] = {"add": Add, "sub": Minus, "mul": Times}
        return kinds[name]() if name in kinds else None
    number = second if isinstance(first, fx.Node) else first
    if not isinstance(number, int | float):
        return None
    if name == "add":
        return Scaled(1, number)
    if name == "sub":
        return Scaled(1, -number) if isinstance(first, fx.Node) else Scaled(-1, number)
    if name == "mul":
        return Scaled(number, 0)
    return Scaled(1 / number, 0) if isinstance(first, fx.Node) and number else None


_IN_PLACE = ("iadd", "isub", "imul", "itruediv")


def _mean(dim, keepdim: bool = False) -> nn.Module:
    dims = [dim] if isinstance(dim, int) else dim
    if sorted(d % 4 for d in dims) == [2, 3]:
        pool: nn.Module = nn.AdaptiveAvgPool2d(1)
    elif list(dims) in ([2], [-1]):
        pool = nn.AdaptiveAvgPool1d(1)
    else:
        raise ValueError(f"only the mean over height and width, or over length, is known, got dim={dim}")
    return pool if keepdim else nn.Sequential(pool, nn.Flatten())


def _clamp(min=None, max=None) -> nn.Module:
    if min != 0 or max is None:
        raise ValueError(f"only clamp(0, limit) is known, got min={min}, max={max}")
    return nn.Hardtanh(0.0, float(max))


def _pad(pad, mode: str = "constant", value: float | None = None) -> nn.Module:
    if mode != "constant" or value:
        raise ValueError(f"only padding with zeros is known, got mode={mode!r}, value={value}")
    return nn.ZeroPad2d((*pad, 0, 0)[:4])


def _ignoring_mode(module: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """For functions whose other arguments (inplace, training) change nothing here."""
    return lambda *arguments, **options: module()


_MODULES: dict[str, Callable[..., nn.Module]] = {
    "relu": _ignoring_mode(nn.ReLU),
    "relu_": _ignoring_mode(nn.ReLU),
    "relu6": _ignoring_mode(nn.ReLU6),
    "hardtanh": nn.Hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "leaky_relu": lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    "max_pool2d": nn.MaxPool2d,
    "max_pool1d": nn.MaxPool1d,
    "avg_pool1d": nn.AvgPool1d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "mean": _mean,
    "flatten": lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    "dropout": _ignoring_mode(nn.Identity),
    "dropout2d": _ignoring_mode(nn.Identity),
    "contiguous": _ignoring_mode(nn.Identity),
    "cat": Cat,
    "concat": Cat,
    "concatenate": Cat,
    "interpolate": lambda size=None, scale_factor=None, mode="nearest", align_corners=None, **others: nn.Upsample(
        size, scale_factor, mode, align_corners
    ),
    "pad": _pad,
    "softmax": lambda dim=None, **others: nn.Softmax(dim),
    "log_softmax": lambda dim=None, **others: nn.LogSoftmax(dim),
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
}
