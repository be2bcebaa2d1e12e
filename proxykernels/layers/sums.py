"""Neurons whose current is a sum over several inputs: the joining layer of a residual block."""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .. import checks
from ..calls import neuron_ops, spike_ops
from ..calls.currents import wants_gradient
from ..kernels import unfused, value_checks_cache
from ..kernels.backends import fingerprint
from ..kernels.weight_cache import BESIDE, CONSTANTS, PackedWeights
from ..kernels.weight_layouts import is_finite
from ..neurons import AnyNeuron
from ..spikes import Spikes
from ..spikes.spike_tensor import dense_like, packed
from ..spikes.spikes import cat_steps, side_by_side
from .base import Neurons, check_layer, each_step
from .parametrized import with_plain_weights
from .synapses import Convolution, Product, Synapse, both_sides, synapse_of

_remembered = PackedWeights(fingerprint)  # the joined weights of FusedSum layers


class FusedSum(Neurons):
    """Neurons on the sum of several inputs, each with its own synapses: I[t] = sum_k synapse_k(x_k[t]).

    Use it at the end of a residual block: ``FusedIFSum(nn.Conv2d(64, 64, 3, padding=1), nn.Identity())``. Call it with
    the tuple ``(x, shortcut)``. A spike of an identity shortcut adds 1 to the potential of its neuron.

    Args:
        synapses: one for each input: nn.Conv2d or nn.Conv1d (zero padding), nn.Linear or nn.Identity; their parameters
            are the layer's. Beside a first nn.Conv2d or nn.Linear, shortcuts that are identities or 1x1 convolutions
            are computed in one pass with it if all inputs have the same height and width; other sums a chunk of steps
            at a time. The spikes of an identity, wherever it stands, are added to the currents as they are, without
            weights; on a GPU 1x1 convolutions take no more products than their own.
        neuron, v_init: as in :class:`FusedConv2d`.

    Shapes: the call takes a tuple with one (T, N, ...) for each synapse, Spikes or tensors; all synapses must give the
    same shape [N, C, H, W] or [N, features], which is that of the output and of the potentials v.

    Raises:
        TypeError, ValueError: a synapse of another kind, another number of inputs, no step, or shapes that differ.
    """

    def __init__(
        self,
        *synapses: nn.Module,
        neuron: AnyNeuron,
        v_init: float | Tensor | None = None,
    ):
        super().__init__()
        if not synapses:
            raise ValueError("synapses must be at least one module, nn.Conv2d, nn.Linear or nn.Identity; got none")
        for synapse in synapses:
            if isinstance(synapse, Neurons):
                raise TypeError(f"a synapse must be a module of torch, got {type(synapse).__name__}")
            synapse_of(synapse)
        self.synapses = nn.ModuleList(synapses)
        self._set_neurons(neuron, v_init)

    def forward(self, x: Sequence[Spikes | Tensor], v: Tensor | None = None):  # type: ignore[override]  # several inputs
        if v is None:
            check_layer(self)
        self._check_inputs(x)
        if self.training:
            self._warn_without_gradient(*x)
        spikes, state = with_plain_weights(self).spike([packed(part) for part in x], v)  # type: ignore[arg-type]
        tensor = next((part for part in x if isinstance(part, Tensor)), None)
        y = spikes if tensor is None or isinstance(spikes, Tensor) else dense_like(spikes, tensor)
        return y if v is None else (y, state)

    def _fire(self, x, v, batch_statistics):
        self._check_inputs(x)
        if len({isinstance(part, Spikes) for part in x}) > 1:  # keeps spikes packed in their convolutions
            return self._fire_stepwise(x, v)
        synapses, parts, direct = list(self.synapses), list(x), self._direct(x, v)
        shortcut = None if direct is None else parts.pop(direct)
        if direct is not None:
            del synapses[direct]
        if len({part.scale for part in parts if isinstance(part, Spikes)}) > 1:  # these cannot be one convolution
            return self._fire_stepwise(x, v)
        main = synapse_of(synapses[0])
        if isinstance(main, Product):
            joined = self._joined((0, 0), synapses)
            return neuron_ops.linear(side_by_side(parts), *joined, v, self.neuron, self.surrogate, shortcut)
        if type(main) is not Convolution or main.module.groups > 1:
            return self._fire_stepwise(x, v)
        weight, padding, dilation = main.window(main.module.weight)
        center, strides = _center(weight, padding, dilation), _shortcut_strides(synapses)
        if len(synapses) > 1 and (center is None or strides is None):
            return self._fire_stepwise(x, v)
        parts = [parts[0], *(_subsample(part, stride) for part, stride in zip(parts[1:], strides or [], strict=True))]
        if len({tuple(part.shape[3:]) for part in parts}) > 1:  # unpadded convolutions, whose inputs are larger
            return self._fire_stepwise(x, v)
        joined = self._joined(center or (0, 0), synapses)
        window, options = (main.module.stride, padding, dilation), {"shortcut": shortcut, "surrogate": self.surrogate}
        return neuron_ops.conv2d(side_by_side(parts), *joined, v, self.neuron, *window, **options)

    def _direct(self, x: Sequence[Spikes | Tensor], v) -> int | None:
        """The index of an identity whose spikes the kernels add to the currents without weights; else None."""
        if len(x) == 1 or wants_gradient(self.surrogate, v, *x, *self.parameters(), *self.neuron.tensors()):
            return None
        for k, (synapse, part) in enumerate(zip(self.synapses, x, strict=True)):
            if isinstance(synapse, nn.Identity) and isinstance(part, Spikes):
                if neuron_ops.takes_shortcut(part, self.neuron):
                    return k
        return None

    def affine(self, x: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        return reduce(torch.add, (synapse(part) for synapse, part in zip(self.synapses, x, strict=True)))

    def terms(  # type: ignore[override]
        self, x: Sequence[Spikes | Tensor]
    ) -> list[tuple[Synapse, Spikes | Tensor]]:
        return list(zip(map(synapse_of, self.synapses), x, strict=True))

    def _joined(self, center: tuple[int, int], synapses: Sequence[nn.Module]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the single convolution or matrix product that the synapses form together.

        ``center``: the tap of the first kernel at which the other synapses are placed. Cached if the weights are plain
        CPU tensors that need no gradient.
        """
        parameters: list[Any] = [getattr(s, name, None) for s in synapses for name in ("weight", "bias")]
        given = [p for p in parameters if p is not None]
        if len(synapses) == 1 or self.surrogate is not None or not all(map(_is_plain, given)):
            return _join(synapses[0], center, parameters)

        def join(*values: Tensor | None) -> tuple[Tensor, Tensor | None]:
            weight, bias = _join(synapses[0], center, values)
            CONSTANTS.add(weight.untyped_storage())
            return weight, bias

        return _remembered.get(center, join, *parameters)

    def _fire_stepwise(self, x, v) -> tuple[Spikes, Tensor]:
        """Fire from currents that are computed in full, a chunk of steps at a time, and on a GPU of as many samples as
        fit its memory."""
        if torch.compiler.is_compiling() or wants_gradient(self.surrogate, v, *x, *self.parameters()):
            return self._fire_chunks(x, v)

        def run(which: slice) -> tuple[Spikes, Tensor]:
            if which == slice(None):
                return self._fire_chunks(x, v)
            return self._fire_chunks([_samples(part, which) for part in x], v[which] if isinstance(v, Tensor) else v)

        parts = unfused.by_samples(run, x[0].shape[1], self._most_values(x), x[0].device)
        if len(parts) == 1:
            return parts[0]
        spikes, states = zip(*parts, strict=True)
        return _of_all_samples(spikes), torch.cat(states)

    def _fire_chunks(self, x, v) -> tuple[Spikes, Tensor]:
        parts = []
        for chunk in self._chunks(x):
            if wants_gradient(self.surrogate, v, *chunk, *self.parameters()):
                with unfused.exact(x[0].device):
                    terms = zip(map(_in_float32, self.synapses), map(_dense, chunk), strict=True)
                    current = reduce(torch.add, (each_step(synapse, part) for synapse, part in terms))
            else:
                current = reduce(torch.add, (synapse.currents(_values(part)) for synapse, part in self.terms(chunk)))
                if current.is_cuda and all(map(_is_known, chunk)) and all(map(_is_known, self.parameters())):
                    value_checks_cache.note(current)
            spikes, v = neuron_ops.scan(current, v, self.neuron, self.surrogate)
            parts.append(spikes)
        return parts[0] if len(parts) == 1 else cat_steps(parts), v

    def _chunks(self, x: Sequence[Spikes | Tensor]) -> list[Sequence[Spikes | Tensor]]:
        """The inputs, some steps at a time; all steps at once in a traced graph, whose number of steps may vary."""
        if torch.compiler.is_compiling():
            return [x]
        T = x[0].shape[0]
        steps = unfused.chunk_steps(self._most_values(x), x[0].device)
        if steps >= T:
            return [x]
        return [[part[start : start + steps] for part in x] for start in range(0, T, steps)]

    def _most_values(self, x: Sequence[Spikes | Tensor]) -> int:
        """Values in a step of the largest input, or of the output."""
        shapes = [tuple(part.shape) for part in x] + [self.terms(x)[0][0].output_shape(tuple(x[0].shape))]
        return max(math.prod(shape[1:]) for shape in shapes)

    def _check_inputs(self, x: Sequence[Spikes | Tensor]) -> None:
        if not isinstance(x, tuple | list) or len(x) != len(self.synapses):
            got = f"{len(x)} inputs" if isinstance(x, tuple | list) else type(x).__name__
            raise TypeError(f"x must be a tuple of {len(self.synapses)} inputs, one for each synapse; got {got}")
        for part in x:
            if not isinstance(part, Spikes | Tensor):
                raise TypeError(f"each input must be Spikes or a tensor (T, N, ...), got {type(part).__name__}")
            checks.whole("x", part)
        terms = self.terms(x)
        for synapse, part in terms:
            synapse.check(part.device)
        shapes = [synapse.output_shape(tuple(part.shape)) for synapse, part in terms]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"all synapses must give currents of the same shape (T, N, ...), got {shapes}")
        if not shapes[0] or shapes[0][0] < 1:
            raise ValueError(f"x must have at least one step, inputs (T, N, ...), got {[list(p.shape) for p in x]}")


def _center(weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int] | None:
    """The tap that reads the pixel at the output's own position (times the stride); None if there is none."""
    taps = []
    for p, d, k in zip(padding, dilation, weight.shape[2:], strict=True):
        if p % d or p // d >= k:
            return None
        taps.append(p // d)
    return taps[0], taps[1]


def _shortcut_strides(synapses: Sequence[nn.Module]) -> list[tuple[int, ...]] | None:
    """The strides of all inputs except the first, if they can join the first convolution; else None.

    An identity or a 1x1 convolution reads single pixels, so it corresponds to the tap without displacement of the
    first kernel.
    """
    main, *others = synapses
    strides: list[tuple[int, ...]] = []
    for other in others:
        stride: tuple[int, ...] = (1, 1)
        if isinstance(other, nn.Conv2d):
            if other.kernel_size != (1, 1) or any(both_sides(other)) or other.groups > 1:
                return None
            stride = other.stride
        if stride != main.stride and main.stride != (1, 1):
            return None
        strides.append((1, 1) if stride == main.stride else stride)
    return strides


def _join(
    main: nn.Module, center: tuple[int, int], parameters: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """:meth:`FusedSum._joined` of ``parameters``, weight and bias of each synapse; ``main`` is the first."""
    first: Any = parameters[0]
    synapse = synapse_of(main)
    first = synapse.window(first)[0] if isinstance(synapse, Convolution) else first
    weights = [first]
    for weight in parameters[2::2]:
        if weight is None:  # an identity
            weight = torch.eye(len(first), dtype=first.dtype, device=first.device)
            weight = weight.view(*weight.shape, *[1] * (first.ndim - 2))
        if first.ndim == 4:
            (top, left), (height, width) = center, first.shape[2:]
            weight = F.pad(weight, (left, width - 1 - left, top, height - 1 - top))
        weights.append(weight)
    joined = first if len(weights) == 1 else torch.cat(weights, 1)
    if len(weights) > 1 and first.shape[2:].numel() > 1 and not torch.compiler.is_compiling():
        BESIDE[joined.untyped_storage()] = first.shape[1], center
    weight = value_checks_cache.computed_from(joined, *parameters[::2])
    biases = [bias.float() for bias in parameters[1::2] if bias is not None]
    return weight, value_checks_cache.computed_from(reduce(torch.add, biases), *parameters[1::2]) if biases else None


def _samples(x: Spikes | Tensor, which: slice) -> Spikes | Tensor:
    """Some samples of an input on a GPU."""
    if isinstance(x, Spikes):
        words = x._words[:, which]
        return x._like(words, (x.T, words.shape[1], *x.shape[2:]))
    return value_checks_cache.note(x[:, which]) if value_checks_cache.is_noted(x) else x[:, which]


def _of_all_samples(parts: Sequence[Any]) -> Any:
    """The spikes of all samples on a GPU, or integers."""
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts), 1)
    words = torch.cat([part._words for part in parts], 1)
    return parts[0]._like(words, (parts[0].T, words.shape[1], *parts[0].shape[2:]))


def _is_known(x: Spikes | Tensor) -> bool:
    """Whether an input or a parameter on a GPU is known to be finite; a parameter is checked once per version."""
    if isinstance(x, Spikes) or value_checks_cache.is_noted(x):
        return True
    can = isinstance(x, nn.Parameter) and value_checks_cache.can_be_read(x)
    return can and bool(value_checks_cache.look_once(is_finite, x))


def _is_plain(parameter: Tensor) -> bool:
    """Whether it is an ordinary CPU tensor whose values can be read now."""
    if type(parameter) not in (Tensor, nn.Parameter) or parameter.device.type != "cpu":
        return False
    return value_checks_cache.can_be_read(parameter) and value_checks_cache.plain(parameter) is parameter


def _subsample(x: Spikes | Tensor, stride: tuple[int, ...]) -> Spikes | Tensor:
    """Every stride-th pixel."""
    if stride == (1, 1):
        return x
    if isinstance(x, Spikes):
        return spike_ops.max_pool2d(x, 1, stride)
    return x[..., :: stride[0], :: stride[1]]


def _dense(x: Spikes | Tensor) -> Tensor:
    return x.dense() if isinstance(x, Spikes) else x.float()


def _in_float32(synapse: nn.Module) -> Callable[[Tensor], Tensor]:
    """The synapse with its weights in float32, the dtype of the currents."""
    weights = {name: parameter.float() for name, parameter in synapse.named_parameters()}
    return lambda x: functional_call(synapse, weights, x)


def _values(x: Spikes | Tensor) -> Spikes | Tensor:
    return x if isinstance(x, Spikes) else x.detach().float()
