"""Functions of torch as modules: F.relu(x) is nn.ReLU(), torch.flatten(x, 1) nn.Flatten()."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from .sample_runs import constant_of

FIRST = "input", "tensors", "x", "self"  # names that functions give their first argument


class Add(nn.Module):
    """Stands for the sum of a result and ``factor`` times another."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor


class Times(nn.Module):
    """Stands for the product of two results."""


class Scaled(nn.Module):
    """Stands for a result times a factor, plus a shift: numbers, or tensors that do not depend on the sample."""

    def __init__(self, factor: float | Tensor, shift: float | Tensor):
        super().__init__()
        self.factor, self.shift = factor, shift


class Mean(nn.Module):
    """Stands for the mean over some axes, times a factor."""

    def __init__(
        self,
        dim: int | Sequence[int] = (),
        keepdim: bool = False,
        *,
        axis: int | Sequence[int] | None = None,
        factor: float = 1.0,
    ):
        super().__init__()
        dim = dim if axis is None else axis
        self.dims = (dim,) if isinstance(dim, int) else tuple(dim)
        self.keepdim, self.factor = keepdim, factor


class Minimum(nn.Module):
    """Stands for the minimum of a result and a number above 0."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit


class Cat(nn.Module):
    """Stands for several results joined along one of their axes, or along a new one (``stack``)."""

    def __init__(self, dim: int = 0, *, axis: int | None = None, stack: bool = False):
        super().__init__()
        self.dim, self.stack = dim if axis is None else axis, stack


def is_known(name: str) -> bool:
    """Whether a function of this name has a module that does the same, at least for some arguments."""
    return (name in _MODULES and name not in _OF_VALUES) or name in _WEIGHTED


def function_as_module(
    name: str, node: fx.Node, traced: fx.GraphModule, where: str, remedy: Callable[[str], str]
) -> nn.Module:
    """The module that does the same as a call of a function; ``remedy`` gives the remedy for a function's name.

    Numbers and tensors that do not depend on the sample must have been noted by a run (sample_runs.py).
    """
    arithmetic = _arithmetic(node, name, where)
    if arithmetic is not None:
        return arithmetic
    if name in _WEIGHTED:
        return _with_weights(name, node, traced, where)
    if name in _PRODUCTS and (product := _product(name, node)):
        return product
    if name == "sum" and (summed := _sum(node)):
        return summed
    if name not in _MODULES:
        raise TypeError(f"{where} has no counterpart in spikes{remedy(name)}")
    arguments = fx.map_arg(node.args, constant_of)[1:]
    options = {key: value for key, value in fx.map_arg(node.kwargs, constant_of).items() if key not in FIRST}
    try:
        return _MODULES[name](*arguments, **options)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where} is called in a way that is not supported: {error}") from error


_WEIGHTED: dict[str, Any] = {"conv2d": nn.Conv2d, "conv1d": nn.Conv1d, "linear": nn.Linear}
_OPERANDS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _with_weights(name: str, node: fx.Node, traced: fx.GraphModule, where: str) -> nn.Module:
    """The module for a function that takes the model's own weights."""
    given: dict[str, Any] = dict(zip(_OPERANDS, node.args, strict=False)) | dict(node.kwargs)
    weight, bias = (_parameter(given.pop(name, None), traced, f"{where}: {name}") for name in ("weight", "bias"))
    given.pop("input", None)
    if weight is None:
        raise TypeError(f"{where} is given no weight")
    sizes = (weight.shape[1] * given.get("groups", 1), len(weight), *([weight.shape[2:]] if weight.ndim > 2 else []))
    module = _WEIGHTED[name](*sizes, bias=bias is not None, device="meta", **given)
    module.weight, module.bias = weight, bias
    return module


_PRODUCTS = ("matmul", "mm", "addmm", "einsum")


def _product(name: str, node: fx.Node) -> nn.Linear | None:
    """The matrix product of features [N, C] with a tensor that does not depend on the sample; None: another product."""
    operands = [constant_of(value) for value in node.args]
    turns = False  # whether the tensor is [outputs, inputs], as a Linear has it
    if name == "einsum":
        equation, *operands = operands
        given, _, result = str(equation).replace(" ", "").partition("->")
        x, _, w = given.partition(",")
        turns = len(x) == 2 and (w, result) == (result[-1:] + x[1], x[0] + result[-1:])
        if not turns and (len(x) != 2 or (w, result) != (x[1] + result[-1:], x[0] + result[-1:])):
            return None
    bias = operands.pop(0) if name == "addmm" else None
    if node.kwargs or len(operands) != 2 or not isinstance(operands[0], fx.Node) or not isinstance(operands[1], Tensor):
        return None
    weight = operands[1] if turns else operands[1].t()
    features = len(operands[0].meta.get("shape", ())) == weight.ndim == 2
    if not features or not (bias is None or (isinstance(bias, Tensor) and bias.shape == weight.shape[:1])):
        return None
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return linear


def _sum(node: fx.Node) -> nn.Module | None:
    """A sum over some axes as their mean times the number of values; None: the shape is not known."""
    x: Any = node.args[0]
    options = dict(zip(("dim", "keepdim"), map(constant_of, node.args[1:]), strict=False)) | dict(node.kwargs)
    dims, shape = options.pop("dim", options.pop("axis", ())), x.meta.get("shape")
    dims = (dims,) if isinstance(dims, int) else tuple(dims or ())
    if shape is None or not dims or options.keys() - {"keepdim"}:
        return None
    return Mean(dims, **options, factor=float(prod(shape[dim] for dim in dims)))


def _parameter(value: Any, traced: fx.GraphModule, where: str) -> nn.Parameter | None:
    if value is None:
        return None
    if isinstance(value, fx.Node) and value.op == "get_attr":
        owner, _, name = str(value.target).rpartition(".")
        value = getattr(traced.get_submodule(owner), name)
    value = constant_of(value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{where} is computed of the input; it must be a parameter of the model")
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value.detach().clone(), value.requires_grad)


def _arithmetic(node: fx.Node, name: str, where: str) -> nn.Module | None:
    """The module for a sum, product or the like of two results, or of one and a constant; None: another function."""
    name = name.strip("_")
    name = _OTHER_NAMES.get(name, name)
    if name not in ("add", "sub", "mul", "div", "neg", "rsub"):
        return None
    operands = [*node.args, *(node.kwargs[key] for key in ("input", "other") if key in node.kwargs)]
    options = {key: value for key, value in node.kwargs.items() if key not in ("input", "other")}
    alpha = constant_of(options.pop("alpha", 1))
    if options or not isinstance(alpha, int | float):
        raise TypeError(f"{where} is called in a way that is not supported: {options or alpha}")
    first, second = (*map(constant_of, operands), None)[:2]
    if name == "neg":
        return Scaled(-1, 0)
    if name == "rsub":
        name, first, second = "sub", second, first
    factor = {"add": alpha, "sub": -alpha}.get(name, 1)  # of the second
    if isinstance(first, fx.Node) and isinstance(second, fx.Node):
        if name in ("add", "sub") and first is operands[0]:
            return Add(factor)
        return Times() if name == "mul" else None
    if not isinstance(second if isinstance(first, fx.Node) else first, int | float | Tensor):
        return None
    if name == "mul":
        return Scaled(second if isinstance(first, fx.Node) else first, 0)
    if name == "div" and not isinstance(first, fx.Node):
        return None
    if name == "div":
        if not torch.as_tensor(second).all():
            raise TypeError(f"{where} divides by 0")
        return Scaled(1 / second, 0)
    return Scaled(1, factor * second) if isinstance(first, fx.Node) else Scaled(factor, first)


_OTHER_NAMES = {
    "iadd": "add", "isub": "sub", "subtract": "sub", "imul": "mul", "multiply": "mul",
    **dict.fromkeys(("itruediv", "truediv", "divide", "true_divide"), "div"),
}  # fmt: skip


def _clamp(min=None, max=None) -> nn.Module:
    above_zero = max is None or (isinstance(max, int | float) and max > 0)
    if min is None and max is not None and above_zero:
        return Minimum(float(max))
    if not isinstance(min, int | float) or min != 0 or not above_zero:
        raise ValueError(f"got min={min}, max={max}; write clamp(0, limit) with a limit above 0, or clamp(min=0)")
    return nn.ReLU() if max is None else nn.Hardtanh(0.0, float(max))


def threshold_as_module(threshold: float, value: float, inplace: bool = False) -> nn.Module:
    if threshold or value:
        raise ValueError(
            f"got threshold={threshold}, value={value}; only a ReLU, threshold=0 and value=0, is supported"
        )
    return nn.ReLU()


def rrelu_as_module(
    lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> nn.Module:
    if training:
        raise ValueError("its slopes are random in evaluation too; pass training=self.training")
    return nn.LeakyReLU((lower + upper) / 2)


def _pad(pad, mode: str = "constant", value: float | None = None) -> nn.Module:
    if value:
        raise ValueError(f"only padding with zeros is known, got mode={mode!r}, value={value}")
    return nn.ZeroPad2d((*pad, 0, 0)[:4])


def _interpolate(
    size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None, antialias=False
) -> nn.Module:
    if antialias:
        raise ValueError("antialias must be False, got True")
    return nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)


def _dropout(module: type[nn.Module]) -> Callable[..., nn.Module]:
    def make(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
        if training and p:
            raise ValueError("it drops values in evaluation too; pass training=self.training")
        return module(p)

    return make


def _prelu(weight) -> nn.Module:
    if not isinstance(weight, Tensor):
        raise ValueError("its slopes must be a parameter of the model")
    module = nn.PReLU(len(weight), device="meta")
    module.weight = nn.Parameter(weight.detach(), weight.requires_grad)
    return module


def _max_pool(module: type[nn.Module]) -> Callable[..., nn.Module]:
    def make(kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False) -> nn.Module:
        options = {"ceil_mode": ceil_mode, "return_indices": return_indices}
        return module(kernel_size, stride if stride != [] else None, padding, dilation, **options)

    return make


def _batch_norm(
    running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *others
) -> nn.Module:
    if training or not all(t is None or isinstance(t, Tensor) for t in (running_mean, running_var, weight, bias)):
        raise ValueError("it must normalise by buffers of the model, with training=False")
    if running_mean is None:
        raise ValueError("it keeps no running statistics")
    norm: Any = nn.BatchNorm2d(len(running_mean), eps, device="meta", affine=False)
    norm.running_mean, norm.running_var = running_mean, running_var
    norm.weight, norm.bias = weight, bias
    return norm


def _ignoring_mode(module: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """For functions whose other arguments, such as inplace, change nothing here."""
    return lambda *arguments, **options: module()


_OF_VALUES: dict[str, Callable[..., nn.Module]] = {  # of which some neurons send functions (layers/of_sums.py)
    "hardsigmoid": _ignoring_mode(nn.Hardsigmoid),
    "hardswish": _ignoring_mode(nn.Hardswish),
    "silu": _ignoring_mode(nn.SiLU),
    "mish": _ignoring_mode(nn.Mish),
    "tanh": nn.Tanh,
    "elu": lambda alpha=1.0, inplace=False: nn.ELU(alpha),
    "softplus": nn.Softplus,
}
_MODULES: dict[str, Callable[..., nn.Module]] = {
    **dict.fromkeys(("relu", "relu_"), _ignoring_mode(nn.ReLU)),
    "relu6": _ignoring_mode(nn.ReLU6),
    **dict.fromkeys(("hardtanh", "hardtanh_"), nn.Hardtanh),
    **dict.fromkeys(("clamp", "clamp_", "clip"), _clamp),
    "clamp_min": lambda min: _clamp(min),
    "clamp_max": lambda max: _clamp(None, max),
    **dict.fromkeys(("threshold", "_threshold", "threshold_"), threshold_as_module),
    **dict.fromkeys(("rrelu", "rrelu_"), rrelu_as_module),
    "leaky_relu": lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    "prelu": _prelu,
    "batch_norm": _batch_norm,
    "max_pool1d": _max_pool(nn.MaxPool1d),
    "max_pool2d": _max_pool(nn.MaxPool2d),
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    "adaptive_max_pool1d": nn.AdaptiveMaxPool1d,
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d,
    "mean": Mean,
    "flatten": lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    "dropout": _dropout(nn.Dropout),
    "dropout1d": _dropout(nn.Dropout1d),
    "dropout2d": _dropout(nn.Dropout2d),
    "alpha_dropout": _dropout(nn.AlphaDropout),
    "stochastic_depth": lambda p, mode="row", training=True: _dropout(nn.Dropout)(p, training),
    "contiguous": _ignoring_mode(nn.Identity),
    **dict.fromkeys(("cat", "concat", "concatenate"), Cat),
    "stack": lambda dim=0: Cat(dim, stack=True),
    "interpolate": _interpolate,
    "pad": _pad,
    "softmax": lambda dim=None, **others: nn.Softmax(dim),
    "log_softmax": lambda dim=None, **others: nn.LogSoftmax(dim),
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    **_OF_VALUES,
}
