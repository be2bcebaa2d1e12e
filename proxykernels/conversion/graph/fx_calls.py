"""Traces a model by torch.fx, and reads calls in the trace: their arguments, place, and a module that does the same.

Also has the remedies that error messages name for modules and functions without a counterpart in spikes. All such parts
of a ReLU network are named at once, since changing one takes another training.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from ... import checks
from .functions import FIRST, function_as_module, is_known, rrelu_as_module, threshold_as_module
from .sample_runs import CASTS, called, constant_of, is_constant

_SMOOTH = "; a firing rate approximates a ReLU: replace it by nn.ReLU and continue training"
_VALUES = ", or let neurons send values: neuron='graded' or 'sigma-delta'"
_OF_VALUES = _SMOOTH + _VALUES
_NORM = "; it normalises by the values of each sample: replace it by BatchNorm and continue training"
_PRODUCT = "; spikes cannot multiply two results, as in attention: remove it and continue training"
_AXES = "; only one or two axes are supported: move the third to channels or samples"
_AXES_OF_NEURONS = (
    f"{_AXES}; if it is time, write a Conv2d for each step of the kernel, behind a delay of as many steps, and add up "
    "what they give"
)
_LOOP = "; it has a state: replace it by a convolution or linear layer"
_STEPS = "; if it repeats the input over time, call set_step_mode(net, 'm'), or pass the layers of one step"
_COMPARED = "; it compares values: write relu(x) for x * (x > 0) and the like, or train with nn.ReLU"
_LARGEST = "; write relu(x) for the maximum of x and 0, and max_pool2d for that of an image"
_EACH_STEP = (
    "; it has parameters for each step, and a network here runs any number of steps: replace it by BatchNorm or "
    "ThresholdDependentBatchNorm and continue training"
)
_SINABS = (
    "; in sinabs train with spike_fn=SingleSpike and min_v_mem=None, for neurons here fire once in a step and have no "
    "lower bound, and pass its graph: from_nir(sinabs.nir.to_nir(net, sample), reset='subtract')"
)
_REMEDIES = {
    name: what_to_do
    for names, what_to_do in (
        ("gelu hardtanh selu celu softsign", _SMOOTH),
        ("silu swish hardswish hardsigmoid sigmoid tanh elu softplus mish", _OF_VALUES),
        ("logsigmoid", _SMOOTH),
        ("layernorm layernorm2d groupnorm instancenorm1d instancenorm2d localresponsenorm rmsnorm lrn", _NORM),
        ("layer_norm group_norm instance_norm local_response_norm", _NORM),
        ("mul", _PRODUCT + _VALUES),
        ("multiheadattention matmul bmm einsum scaled_dot_product_attention", _PRODUCT),
        ("multi_head_attention_forward shiftedwindowattention shifted_window_attention", _PRODUCT),
        ("conv3d convtranspose3d maxpool3d avgpool3d adaptiveavgpool3d batchnorm3d", _AXES),
        ("lstm gru rnn", _LOOP),
        ("unsqueeze repeat expand", _STEPS),
        ("gt lt ge le eq ne where masked_fill sign heaviside bool", _COMPARED),
        ("maximum minimum max min amax amin", _LARGEST),
        ("batchnormthroughtime1d batchnormthroughtime2d", _EACH_STEP),
        ("temporaleffectivebatchnorm1d temporaleffectivebatchnorm2d", _EACH_STEP),
        ("rearrange", "; write it with flatten"),
        ("reduce", "; write it with mean() or a pooling of torch"),
        ("einmix", "; write it with Rearrange and Linear"),
        ("sum", "; use the mean, and scale the weights behind it"),
        ("set_part", "; it assigns to a part of a tensor, y[:, 0] = 0: set the weights and biases in front of it"),
    )
    for name in names.split()
}
_FOR_NEURONS = {  # remedies that differ in networks of other libraries
    _AXES: _AXES_OF_NEURONS,
    **dict.fromkeys((_SMOOTH, _OF_VALUES), "; take it out, or put neurons in its place and continue training"),
    **dict.fromkeys(
        (_PRODUCT, _PRODUCT + _VALUES), "; only products of spikes are supported: remove it and continue training"
    ),
    _LOOP: "; it has a state of its own: put neurons in its place and continue training",
}
_SIGNS = {  # parts of error messages of torch and Python that name no remedy
    "unknown to einops": "; make a layer of it, einops.layers.torch.Rearrange",
    "device_type": "; take torch.autocast out of the forward pass, and put it around the call of the model",
}
PADS = (
    nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.CircularPad1d,
    nn.CircularPad2d,
)  # fmt: skip
# Modules and functions that only put values elsewhere
MOVING = (nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle, *PADS)
MOVES = frozenset(
    "view view_as reshape reshape_as flatten unflatten permute transpose t swapaxes swapdims movedim moveaxis squeeze "
    "unsqueeze chunk split split_with_sizes tensor_split unbind getitem narrow select index_select flip roll rot90 "
    "channel_shuffle pixel_shuffle pixel_unshuffle native_channel_shuffle contiguous expand expand_as broadcast_to "
    "repeat repeat_interleave tile clone detach".split()
)
PLACES = 3  # named for each kind of part without a counterpart
BLOCK = "squeeze-and-excitation block"
OF_BLOCKS = (
    "; it multiplies each channel by a number computed from the same sample, which spikes cannot: remove it" + _VALUES
)
PRODUCTS = ("mul", "multiply")
FREE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ITS_OWN = {*dir(fx.GraphModule), "_graph", "meta"} - {*dir(nn.Module)}  # names that torch.fx needs in a model


def remedy_of_imports(name: str) -> str:
    """The remedy in networks of other libraries."""
    if name.lower() in ("relu", "relu6", "leaky_relu", "leakyrelu", "prelu", "threshold"):
        return _FOR_NEURONS[_SMOOTH]
    known = remedy(name)
    return _FOR_NEURONS.get(known, known)


def remedy_of_library(kind: type) -> str:
    """The remedy for neurons of a library whose networks are imported as graphs of NIR; "" for other classes."""
    is_neuron = kind.__module__.startswith("sinabs.layers.") and hasattr(kind, "reset_states")
    return _SINABS if is_neuron else ""


def remedy(name: str) -> str:
    """The remedy for a module or function of this name; "" if none is known."""
    return _REMEDIES.get(name.lower(), "")


@contextmanager
def only_input(model: nn.Module) -> Iterator[None]:
    """Within this context torch.fx sees a forward pass with one argument, if the others have defaults."""
    kind = type(model)
    given = list(inspect.signature(kind.forward).parameters.values())[1:]
    first = given[0].kind if given else inspect.Parameter.KEYWORD_ONLY
    by_position = first not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [other for other in given[1:] if other.kind not in FREE and other.default is other.empty]
    is_single = len(given) == 1 and first != inspect.Parameter.VAR_POSITIONAL
    if not by_position or is_single or needed:
        yield
        return

    def forward(self, x):
        return kind.forward(self, x)

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    try:
        yield
    finally:
        model.__class__ = kind


def arguments(node: fx.Node) -> list[fx.Node]:
    """The nodes whose results a node takes, in order, with repetitions; also those in a list."""
    first, *rest = node.args or (next((node.kwargs[name] for name in FIRST if name in node.kwargs), None),)
    if is_cast(node):
        return [first] if isinstance(first, fx.Node) else []
    many = list(first) if isinstance(first, list | tuple) else [first]
    named = [value for name, value in node.kwargs.items() if name not in FIRST]
    return [argument for argument in (*many, *rest, *named) if isinstance(argument, fx.Node)]


class _Traced(fx.GraphModule):
    """A graph that only an fx.Interpreter runs; no code is generated, which cannot name modules such as "class"."""

    def recompile(self) -> None:  # type: ignore[override]
        pass


def trace(model: nn.Module, leaves: tuple[type, ...] = (), tracer: type[fx.Tracer] = fx.Tracer) -> fx.GraphModule:
    """torch.fx's graph of the forward pass; ``leaves``: types of modules that are not traced into.

    Without ``leaves`` a forward that was assigned to a module is followed; with them the caller compares.
    """

    inside: list[str] = []  # the modules that are being followed, outer ones first

    class Tracer(tracer):  # type: ignore[valid-type, misc]
        def call_module(self, m, forward, args, kwargs):
            inside.append(self.path_of_module(m))
            given = super().call_module(m, forward, args, kwargs)
            inside.pop()
            return given

        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            if not leaves and "forward" in vars(module):
                return False
            return isinstance(module, leaves) or is_of_einops(module) or super().is_leaf_module(module, path)

    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"torch.fx cannot follow a scripted module, {type(model).__name__}; take what it was made of")
    if type(model).forward is nn.Module.forward:
        raise TypeError(f"{type(model).__name__} has no forward pass; put its modules into an nn.Sequential")
    holder = model
    if leaves and isinstance(model, leaves) or Tracer().is_leaf_module(model, ""):
        holder = nn.Sequential(model)
    for name in (*holder._modules, *holder._parameters, *holder._buffers):
        if name in ITS_OWN:
            raise TypeError(
                f"torch.fx cannot follow {type(model).__name__}, of which '{name}' has a name that it needs itself; "
                "rename it"
            )
    try:
        attributes = set(vars(holder))
        with only_input(holder):
            graph = Tracer().trace(holder)
        traced = _Traced(holder, graph)
        for constant in set(vars(holder)) - attributes:  # tensors that the forward pass makes, which fx puts there
            delattr(holder, constant)
        _read_results(traced)
        return traced
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AssertionError, NameError) as error:
        place = f"module '{inside[-1]}' in " if inside and inside[-1] else ""
        patched = [f"'{path}'" for path, module in model.named_modules() if "forward" in vars(module)]
        raise TypeError(
            f"torch.fx cannot follow the forward pass of {place}{type(model).__name__}, which may not depend on values"
            f"{' or sizes' if leaves else ''}: "
            f"{error}"
            + next((what_to_do for sign, what_to_do in _SIGNS.items() if sign in str(error)), "")
            + (f"; the forward of module {', '.join(patched)} was replaced" if patched else "")
        ) from error


def _read_results(traced: fx.GraphModule) -> None:
    """Let those that use a tensor after a change in place take what the change returns. Views are left: they change
    together."""
    place = {node: k for k, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if not node.all_input_nodes or not _in_place(node, traced):
            continue
        changed = node.all_input_nodes[0]
        views = [user for user in changed.users if called(user) in MOVES]
        if called(changed) not in MOVES and not any(place[view] < place[node] for view in views):
            changed.replace_all_uses_with(node, lambda user, node=node: place[user] > place[node])


def join_limits(traced: fx.GraphModule) -> None:
    """clamp(max=a) of the result of a ReLU, or of clamp(0, b), that nothing else takes becomes one call."""
    for node in traced.graph.nodes:
        limits = dict(zip(("min", "max"), node.args[1:], strict=False)) | dict(node.kwargs)
        if called(node) == "clamp_max":
            limits = {"max": limits.get("min", limits.get("max"))}
        if called(node) not in ("clamp", "clip", "clamp_max") or limits.get("min") is not None:
            continue
        x: Any = node.args[0]
        highest: Any = limits.get("max")
        if not isinstance(highest, int | float) or not highest > 0 or len(x.users) > 1:
            continue
        is_module = x.op == "call_module" and type(traced.get_submodule(x.target)) is nn.ReLU
        if called(x) == "clamp" and x.args[1:2] == (0,):
            highest = min(highest, x.args[2])
        elif not is_module and called(x) not in ("relu", "relu_"):
            continue
        node.op, node.target, node.args, node.kwargs = "call_function", torch.clamp, (x.args[0], 0, highest), {}
        traced.graph.erase_node(x)


def needed(traced: fx.GraphModule, model: str) -> list[fx.Node]:
    """The nodes that lead to the output. Refuses several inputs, and changes in place of values that are used later."""
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
    name = called(node)
    if name in ("iadd", "isub", "imul", "itruediv", "set_part") or name.endswith("_") or "out" in node.kwargs:
        return True
    return bool(node.kwargs.get("inplace")) or (name.startswith("relu") and True in node.args)


def is_cast(node: fx.Node) -> bool:
    """Whether a node converts its input to a type or moves it to a device."""
    return node.op == "call_method" and node.target in CASTS


def path_of(node: fx.Node) -> str:
    """The place of a node for messages: a module's path, or a function and the module that calls it."""
    if node.op == "call_module":
        return f"module '{node.target}'"
    owners = list(node.meta.get("nn_module_stack") or {})
    place = f" in module '{owners[-1]}'" if owners and owners[-1] else ""
    return f"{called(node)}(){place}"


def as_module(node: fx.Node, traced: fx.GraphModule, model: str, remedy: Callable[[str], str] = remedy) -> nn.Module:
    """The module of a node, or one that does the same as its function; ``remedy``: for unknown functions."""
    if node.op == "call_module":
        module: Any = traced.get_submodule(str(node.target))
        with checks.at(f"{model}: {path_of(node)}"):
            if isinstance(module, nn.Threshold):
                return threshold_as_module(module.threshold, module.value)
            return rrelu_as_module(module.lower, module.upper) if isinstance(module, nn.RReLU) else module
    return function_as_module(called(node), node, traced, f"{model}: {path_of(node)}", remedy)


def is_of_einops(module: nn.Module) -> bool:
    """Whether it is one of einops's layers, whose forward passes torch.fx cannot follow."""
    return type(module).__module__.startswith("einops.")


def is_move(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether a node only puts values elsewhere, or zeros around them where no layer does."""
    if node.op == "call_module":
        module: Any = traced.get_submodule(str(node.target))
        if isinstance(module, nn.ConstantPad1d | nn.ConstantPad2d):
            return module.value == 0 and not _is_zero_pad2d(node, module.padding)
        if isinstance(module, nn.Flatten):  # others than the usual, for which there is a layer
            return (module.start_dim, module.end_dim) not in ((1, -1), (1, 3))
        if isinstance(module, nn.Upsample):
            return module.mode.startswith("nearest") and len(node.meta.get("shape", ())) != 4
        return isinstance(module, MOVING) or (is_of_einops(module) and type(module).__name__ == "Rearrange")
    name = called(node)
    if name == "pad":
        pad, mode, value = _given(node, ("pad", "mode", "value"), (None, "constant", None))
        return mode != "constant" or (not value and not _is_zero_pad2d(node, pad))
    if name == "interpolate":
        (mode,) = _given(node, ("mode",), ("nearest",))
        return str(mode).startswith("nearest") and len(node.meta["shape"]) != 4
    return name in MOVES


def _given(node: fx.Node, names: tuple[str, ...], defaults: tuple) -> list[Any]:
    """Arguments of a function behind its first one, by position or by name."""
    by_name = dict(zip(names, defaults, strict=True)) | dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    return [by_name[name] for name in names]


def _is_zero_pad2d(node: fx.Node, pad: Any) -> bool:
    """Whether :class:`ZeroPad2d` puts these zeros around images."""
    numbers = [constant_of(n) for n in pad]
    return len(node.meta.get("shape", ())) == 4 and len(numbers) <= 4 and min(numbers) >= 0


def with_all(
    error: TypeError, traced: fx.GraphModule, model: str, supported: tuple[type, ...], products: bool = False
) -> TypeError:
    """``error``, about the first part without a counterpart, with a list of all such parts if there are several.

    ``supported``: modules that have a counterpart. ``products``: whether products of two results have one. A run must
    have noted the values of nodes (sample_runs.py).
    """
    found = _parts_without(traced, model, supported, products)
    if "no counterpart in spikes" not in str(error) or sum(map(len, found.values())) < 2:
        return error
    lines = []
    for (kind, what_to_do), places in found.items():
        shown = ", ".join(places[:PLACES]) + (", ..." if len(places) > PLACES else "")
        lines.append(f"  {len(places)} x {kind} ({shown}){what_to_do}")
    total = sum(map(len, found.values()))
    return TypeError(
        "\n".join(
            [f"{error}\n{model} has {total} such parts; change all of them, then continue training once:", *lines]
        )
    )


def _parts_without(
    traced: fx.GraphModule, model: str, supported: tuple[type, ...], products: bool
) -> dict[tuple[str, str], list[str]]:
    """(kind, remedy) -> the places of such parts, in order."""
    nodes = [node for node in needed(traced, model) if not is_constant(node)]
    blocks = {_owner(node): node for node in nodes if not products and _is_excitation(node) and _owner(node)}
    found: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        block = next((owner for owner in blocks if _owner(node) == owner or _owner(node).startswith(f"{owner}.")), None)
        if block is not None:
            if node is blocks[block]:
                found.setdefault((BLOCK, OF_BLOCKS), []).append(f"module '{block}'")
            continue
        kind = _kind(node, traced, supported)
        known = products and remedy(kind.removesuffix("()")).endswith(_VALUES)
        if kind and not known:
            found.setdefault((kind, remedy(kind.removesuffix("()"))), []).append(path_of(node))
    return found


def _kind(node: fx.Node, traced: fx.GraphModule, supported: tuple[type, ...]) -> str:
    """The class or function without a counterpart, judged by its name; "": it has one."""
    if node.op == "call_module":
        module = traced.get_submodule(str(node.target))
        kind = type(module).__name__
        return kind if remedy(kind) and not isinstance(module, supported) and not is_move(node, traced) else ""
    name = _called(node)
    if name in PRODUCTS:
        return f"{name}()" if _is_product(node) else ""
    return f"{name}()" if name and remedy(name) and not is_known(name) and not is_move(node, traced) else ""


def _is_excitation(node: fx.Node) -> bool:
    """Whether a node multiplies images by one number a channel, [N, C, 1, 1], computed from a sample."""
    if _called(node) not in PRODUCTS or not _is_product(node):
        return False
    pixels = [shape[2:].count(1) for shape in (argument.meta.get("shape", ()) for argument in arguments(node))]
    return len(node.meta.get("shape", ())) == 4 and sorted(pixels)[-1] == 2 and sorted(pixels)[0] < 2


def _is_product(node: fx.Node) -> bool:
    return sum(not is_constant(argument) for argument in arguments(node)) > 1


def _called(node: fx.Node) -> str:
    name = called(node)
    return name.strip("_").removeprefix("i") if name.strip("_") == "imul" else name


def _owner(node: fx.Node) -> str:
    """The path of a called module, or of the module whose forward pass calls a function."""
    if node.op == "call_module":
        return str(node.target)
    owners = list(node.meta.get("nn_module_stack") or {})
    return owners[-1] if owners else ""
