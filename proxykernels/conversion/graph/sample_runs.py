"""What a trace by torch.fx knows of sizes: from a sample that runs beside it, or only the number of dimensions.

While a model is traced, the run of a sample answers questions about sizes: a forward pass may branch on them and loop
over them. Afterwards it notes shapes, numbers, and the tensors that do not depend on the sample. Without a sample
(:func:`ranked`) a forward pass may ask for ``x.ndim``, and loop over the steps of its input, ``for t in
range(x.size(0))``, of which LOOPED are traced. A sample is made up (:func:`sample_of`) where the caller gives none.
"""

import itertools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...layers import Flatten, Neurons, RecurrentGraph
from ...layers.synapses import Convolution, Convolution1d, Product
from ...network import Network
from .compare import single

NUMBERS = ("size", "dim", "ndimension", "numel", "nelement", "len")
ABOUT = ("shape", "ndim", "device", "dtype")  # attributes of a tensor
SAMPLES = 2  # so that the axis of samples can be told from axes of size 1
STEPS = 3  # of a made-up sample; a network that loops over time itself takes its own number
LOOPED = STEPS  # steps that a traced loop runs
CASTS = frozenset("to type type_as float double half bfloat16 cpu cuda".split())
SWAPS = ("transpose", "swapaxes", "swapdims", "movedim", "moveaxis")  # of two axes
SIZES = ("size", "getattr", "getitem")
KEEP_RANK = {*"add sub mul iadd isub imul truediv relu contiguous clone detach permute".split(), *SWAPS, *CASTS}
USUAL = (32, 28, 16, 64, 8, 34, 12, 48, 24, 128, 96, 224, 256)  # pixels along an axis; the first are of small networks
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8000, 16000)
MOST = 300  # pixels along an axis that are tried
FILLED = frozenset("zeros_like ones_like full_like new_zeros new_ones new_full".split())  # from a tensor's shape only


def called(node: fx.Node) -> str:
    """The name of the function or method that a node calls; "" for other nodes."""
    if node.op not in ("call_function", "call_method"):
        return ""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def of_sizes(node: fx.Node) -> bool:
    """Whether a node computes numbers from shapes, not from values of the input."""
    name = called(node)
    if not name:
        return False
    if name in NUMBERS or (name == "getattr" and node.args[1] in ABOUT):
        return True
    return bool(node.all_input_nodes) and all(map(of_sizes, node.all_input_nodes))


def set_part(x: Tensor, index: Any, value: Any) -> Tensor:
    """Stands in a graph for ``x[index] = value``, and returns x."""
    x = x.clone()
    x[index] = value
    return x


def is_asked(node: fx.Node) -> type | None:
    """How Python used a node's number in a trace: bool for a branch, int, or None."""
    return node.meta.get("asked")


class _Sized:
    """A traced value that answers where Python wants a number."""

    node: fx.Node
    tracer: Any

    def __index__(self) -> int:
        if not of_sizes(self.node):
            raise fx.proxy.TraceError("a value of the input cannot be used as a number")
        self.node.meta.setdefault("asked", int)
        return int(self.tracer.value(self.node))

    __int__ = __index__

    def __len__(self) -> int:
        value = self.tracer.value(self.node)
        if isinstance(value, Tensor):
            raise fx.proxy.TraceError("len() of a tensor cannot be followed; use .shape[0]")
        return len(value)


class SizedAttribute(_Sized, fx.proxy.Attribute):
    """An attribute of a traced value, such as its shape."""


class SizedProxy(_Sized, fx.Proxy):
    """A traced value. torch.fx takes ``x += y`` for ``x = x + y``; here it is a change in place."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.node = self.tracer.create_proxy("call_function", set_part, (self, index, value), {}).node

    def _changed(self, change: Any, plain: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", plain if of_sizes(self.node) else change, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._changed(operator.iadd, operator.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._changed(operator.isub, operator.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._changed(operator.imul, operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._changed(operator.itruediv, operator.truediv, other)

    def __getattr__(self, name: str) -> SizedAttribute:
        return SizedAttribute(self, name)


def sized(x: Tensor) -> type[fx.Tracer]:
    """A tracer of models whose input is like ``x`` [N, ...]. Branching on values of the input is an error."""

    class SizedTracer(fx.Tracer):
        def __init__(self) -> None:
            super().__init__()
            self._values: dict[fx.Node, Any] = {}
            self._runs = False

        def proxy(self, node: fx.Node) -> fx.Proxy:
            return SizedProxy(node, self)

        def to_bool(self, obj: fx.Proxy) -> bool:
            if not of_sizes(obj.node):
                return super().to_bool(obj)
            obj.node.meta["asked"] = bool
            return bool(self.value(obj.node))

        def iter(self, obj: Any) -> Iterator:
            value = self.value(obj.node)
            return iter([obj[k] for k in range(len(value))]) if isinstance(value, tuple | list) else super().iter(obj)

        def call_module(self, m, forward, args, kwargs):
            return forward(*args, **kwargs) if self._runs else super().call_module(m, forward, args, kwargs)

        def getattr(self, attr, attr_val, parameter_proxy_cache):
            return attr_val if self._runs else super().getattr(attr, attr_val, parameter_proxy_cache)

        @torch.no_grad()
        def value(self, node: fx.Node) -> Any:
            """A node's value for x; all nodes before it are run, in order, since some change others in place."""
            self._runs = True
            try:
                for other in self.graph.nodes:
                    if other not in self._values:
                        self._values[other] = self._run(other)
                    if other is node:
                        break
            finally:
                self._runs = False
            return self._values[node]

        def _run(self, node: fx.Node) -> Any:
            arguments, options = fx.map_arg((node.args, node.kwargs), self._values.__getitem__)
            if node.op == "placeholder":
                return x.clone()
            if node.op == "call_function":
                return node.target(*arguments, **options)  # type: ignore[operator]
            if node.op == "call_method":
                return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
            owner, _, name = str(node.target).rpartition(".")
            attribute = getattr(self.root.get_submodule(owner), name)
            return attribute(*arguments, **options) if node.op == "call_module" else attribute

    return SizedTracer


class RankedProxy(fx.Proxy):
    """A value whose number of dimensions may be known. Its sizes are not: one that must be a number, as in a loop, is
    taken for the number of steps."""

    @property
    def rank(self) -> int | None:
        return self.node.meta.get("rank")

    @property
    def ndim(self) -> Any:
        return super().__getattr__("ndim") if self.rank is None else self.rank

    @property
    def shape(self) -> Any:
        shape: Any = super().__getattr__("shape")
        if self.rank is None:
            return shape
        return tuple(shape[axis] for axis in range(self.rank))

    def dim(self) -> Any:
        return super().__getattr__("dim")() if self.rank is None else self.rank

    ndimension = dim

    def __setitem__(self, index: Any, value: Any) -> None:
        self.node = self.tracer.create_proxy("call_function", set_part, (self, index, value), {}).node

    def __index__(self) -> int:
        source: Any = self.node if of_sizes(self.node) else None
        while isinstance(source, fx.Node) and source.op != "placeholder":
            is_size = called(source) in (*SIZES, *SWAPS, "permute")
            source = source.args[0] if source.args and is_size else None
        if source is None:
            raise TypeError("what is computed of its values or sizes cannot be used as a number")
        self.tracer.is_looped_over()  # type: ignore[attr-defined]
        return self.tracer.steps  # type: ignore[attr-defined]

    def __len__(self) -> int:
        steps: Any = self.shape[0] if self.rank else self.size(0)
        return operator.index(steps)


class LoopTracer(fx.Tracer):
    loops = False  # whether the forward pass has asked how many steps there are
    steps = LOOPED


def ranked(rank: int | None, number: int = LOOPED) -> type[LoopTracer]:
    """A tracer of models whose input has this many dimensions; None: torch.fx's own. ``number``: of steps in loops."""

    class RankedTracer(LoopTracer):
        steps = number

        def is_looped_over(self) -> None:
            RankedTracer.loops = True

        def iter(self, obj: Any) -> Iterator:
            node: Any = obj.node
            axis = (*node.args[1:], *node.kwargs.values(), 0)[0] if called(node) == "unbind" else None
            if axis in (0, 1):
                node = node.args[0]
            if node.op != "placeholder":
                return super().iter(obj)
            self.is_looped_over()
            steps: Any = self.proxy(node)
            return iter([steps[:, step] if axis == 1 else steps[step] for step in range(number)])

        def proxy(self, node: fx.Node) -> fx.Proxy:
            node.meta["rank"] = self._rank(node)
            return RankedProxy(node, self)

        def _rank(self, node: fx.Node) -> int | None:
            if node.op == "placeholder":
                return rank
            if node.op == "call_module":
                reshapes = "latten" in type(self.root.get_submodule(str(node.target))).__name__  # Flatten, Unflatten
                keeps = not reshapes
            else:
                keeps = called(node) in KEEP_RANK
            inputs = [value for value in node.args if isinstance(value, fx.Node)]
            return inputs[0].meta.get("rank") if keeps and inputs else None

    return RankedTracer


@contextmanager
def zeros_of_sizes() -> Iterator[None]:
    """Within this context torch.zeros takes sizes that a trace does not know, as in ``torch.zeros(x.size(1), 16)``."""
    plain = torch.zeros

    def zeros(*sizes: Any, **options: Any) -> Any:
        unknown = next((value for value in (*sizes, *options.values()) if isinstance(value, fx.Proxy)), None)
        if unknown is None:
            return plain(*sizes, **options)
        return unknown.tracer.create_proxy("call_function", plain, sizes, options)

    torch.zeros = zeros
    try:
        yield
    finally:
        torch.zeros = plain


class Notes(fx.Interpreter):
    """Runs the network, and notes the value of each node in ``node.meta``:

    - "shape" and "type" of a tensor;
    - "constant": the tensor itself, if it is computed only from parameters, buffers and numbers;
    - "value": anything else, such as a size or the parts of a split.
    """

    def __init__(self, traced: fx.GraphModule):
        super().__init__(traced)
        self._of_input: set[fx.Node] = set()

    @torch.no_grad()
    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        if not isinstance(value, Tensor):
            node.meta["value"] = value
        else:
            node.meta["shape"], node.meta["type"] = tuple(value.shape), (value.dtype, value.device)
        if _holds_tensors(value):
            of_input = self._of_input.intersection(node.all_input_nodes) and called(node) not in FILLED
            if node.op == "placeholder" or of_input:
                self._of_input.add(node)
            elif isinstance(value, Tensor):
                constants = [other.meta.get("constant") for other in node.all_input_nodes]
                learnt = value.is_floating_point() and any(c is not None and c.requires_grad for c in constants)
                node.meta["constant"] = value.detach().requires_grad_() if learnt else value  # trained as those are
        return value


def is_constant(node: fx.Node) -> bool:
    """Whether a node computes numbers from shapes, or tensors that do not depend on the sample."""
    return "constant" in node.meta or ("value" in node.meta and not _holds_tensors(node.meta["value"]))


def constant_of(argument: Any) -> Any:
    """The number or tensor that a node gives at every call; the node itself if that depends on the sample."""
    if not isinstance(argument, fx.Node):
        return argument
    return argument.meta["constant"] if "constant" in argument.meta else argument.meta.get("value", argument)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(map(_holds_tensors, value)))


def sample_of(net: Network | RecurrentGraph) -> Tensor | None:
    """Random values [T, N, ...] from 0 to 1, of a shape that the layers take; None: none was found."""
    shape = next((shape for shape in _shapes(net) if _takes(net, shape)), None)
    if shape is None:
        return None
    return torch.rand(STEPS, SAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def _shapes(net: Network | RecurrentGraph) -> Iterator[tuple[int, ...]]:
    """Candidate shapes of one sample and step for the first layers with weights."""
    for kind, channels in dict.fromkeys(_first_weights(net)):
        if kind is Product:
            yield (channels,)
        elif kind is Convolution1d:
            yield from ((channels, n) for n in (*LENGTHS, *range(1, 2 * MOST)))
        else:
            yield from ((channels, n, n) for n in (*USUAL, *range(1, MOST)))
            yield from ((channels, *size) for size in itertools.permutations((*USUAL, 10, 20, 40, 80), 2))


def _first_weights(net: Network | RecurrentGraph) -> Iterator[tuple[type, int]]:
    """The first layers with weights and their input channels; behind a Flatten the features."""
    from_input = {Network.INPUT}
    layer: Any
    sources: Any
    for name, layer, sources in net.layers():
        if not from_input.intersection(sources):
            continue
        synapses = [s for s, _ in layer.terms(sources)] if isinstance(layer, Neurons) else []
        weighted = [synapse for synapse in synapses if synapse.fan_in]
        for synapse in weighted:
            if isinstance(synapse, Convolution):
                yield type(synapse), synapse.module.in_channels
            else:
                yield Product, synapse.module.in_features
        if not weighted:
            from_input.add(name)


def _takes(net: Network | RecurrentGraph, shape: tuple[int, ...]) -> bool:
    """Whether all layers accept a sample of that shape."""
    values = {Network.INPUT: _zeros(1, 1, *shape)}
    try:
        if isinstance(net, RecurrentGraph):
            net.sizes(shape, torch.device("cpu"))
            return True
        for name, layer, sources in net.layers():
            values[name] = _given(layer, single([values[source] for source in sources]))
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    return True


def _given(layer: nn.Module, x: Any) -> Tensor:
    if not isinstance(layer, Neurons):
        return x.flatten(2) if isinstance(layer, Flatten) else layer(x)
    shapes = set()
    for synapse, part in layer.terms(x):
        shapes.add(tuple(synapse.output_shape(tuple(part.shape))))
    (shape,) = shapes
    if min(shape[2:]) < 1:
        raise ValueError("nothing left")
    return _zeros(*shape)


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(()).expand(shape)  # no memory; torch's meta device takes seconds to load
