"""Neurons whose current is a sum over several inputs: the joining layer of a residual block."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks, functional
from ..kernels import unfused
from ..parametrized import with_plain_weights
from ..spikes import Spikes
from .base import Neurons


class FusedIFSum(Neurons):
    """IF neurons on the sum of several synapses, each with an input of its own: I[t] = sum_k synapse_k(x_k[t]).

    A residual block ends in one: ``FusedIFSum(nn.Conv2d(64, 64, 3, padding=1), nn.Identity())`` is called with the pair
    ``(x, shortcut)``, and every spike of an identity shortcut adds 1 to the potential of its neuron.

    Args:
        synapses: one for each input: nn.Conv2d (zero padding), nn.Linear or nn.Identity; their parameters are the
            layer's. Beside a first convolution or matrix product, shortcuts that are identities or 1x1 convolutions
            are computed in one pass with it; other sums a chunk of steps at a time.
        v_threshold, v_reset, v_init: as in :class:`FusedIFConv2d`.

    Shapes: the call takes a tuple with one (T, N, ...) for each synapse, Spikes or tensors; all synapses must give the
    same shape [N, C, H, W] or [N, features], which is that of the output and of the potentials v.

    Raises:
        TypeError, ValueError: a synapse of another kind, another number of inputs, or shapes that do not agree.
    """

    def __init__(
        self,
        *synapses: nn.Module,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_init: float = 0.0,
    ):
        super().__init__()
        if not synapses:
            raise ValueError("synapses must be at least one module, nn.Conv2d, nn.Linear or nn.Identity; got none")
        for synapse in synapses:
            _check_synapse(synapse)
        self.synapses = nn.ModuleList(synapses)
        self._set_neurons(v_threshold, v_reset, v_init)

    def forward(self, x: Sequence[Spikes | Tensor], v: Tensor | None = None):
        self._check_inputs(x)
        self._warn_without_gradient(*x)
        spikes, state = with_plain_weights(self).spike(x, v)
        tensor = next((part for part in x if isinstance(part, Tensor)), None)
        y = spikes if tensor is None else spikes.dense(tensor.dtype)
        return y if v is None else (y, state)

    def _fire(self, x, v, batch_statistics):
        self._check_inputs(x)
        main = self.synapses[0]
        if isinstance(main, nn.Linear):
            return functional.linear(_cat(x), *self._joined(), v, self.neuron)
        strides = self._shortcut_strides()
        if strides is None:
            return self._fire_stepwise(x, v)
        parts = [x[0], *(_subsample(part, stride) for part, stride in zip(x[1:], strides, strict=True))]
        window = main.stride, padding_in_numbers(main), main.dilation
        return functional.conv2d(_cat(parts), *self._joined(), v, self.neuron, *window)

    def affine(self, x: Sequence[Tensor]) -> Tensor:
        return sum(synapse(part) for synapse, part in zip(self.synapses, x, strict=True))

    def terms(self, x: Sequence[Spikes | Tensor]) -> list[tuple[nn.Module, Spikes | Tensor]]:
        return list(zip(self.synapses, x, strict=True))

    def _shortcut_strides(self) -> list[int] | None:
        """By how much each input but the first is thinned out before it joins the first one's convolution.

        A 1x1 convolution reads single pixels: it is one tap of the first one's kernel, the tap that is not displaced.
        None if some synapse is of another kind.
        """
        main, *others = self.synapses
        if not isinstance(main, nn.Conv2d) or main.groups > 1 or _center(main) is None:
            return None
        strides = []
        for other in others:
            stride = (1, 1)
            if isinstance(other, nn.Conv2d):
                if other.kernel_size != (1, 1) or padding_in_numbers(other) != (0, 0) or other.groups > 1:
                    return None
                stride = other.stride
            if stride != main.stride and main.stride != (1, 1):
                return None
            strides.append(1 if stride == main.stride else stride)
        return strides

    def _joined(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the one convolution or matrix product that all synapses make."""
        main = self.synapses[0]
        weights, biases = [], []
        for synapse in self.synapses:
            weight, bias = getattr(synapse, "weight", None), getattr(synapse, "bias", None)
            if weight is None:  # an identity
                weight = torch.eye(len(main.weight), dtype=main.weight.dtype, device=main.weight.device)
                weight = weight.view(*weight.shape, *[1] * (main.weight.ndim - 2))
            if isinstance(main, nn.Conv2d) and synapse is not main:
                (top, left), (height, width) = _center(main), main.kernel_size
                weight = F.pad(weight, (left, width - 1 - left, top, height - 1 - top))
            weights.append(weight)
            biases += [] if bias is None else [bias.float()]
        return torch.cat(weights, 1), sum(biases) if biases else None

    def _fire_stepwise(self, x, v) -> tuple[Spikes, Tensor]:
        """Currents in full, a chunk of steps at a time."""
        parts = []
        for chunk in _chunks(x):
            current = sum(_currents(synapse, part) for synapse, part in zip(self.synapses, chunk, strict=True))
            spikes, v = functional.scan(current, v, self.neuron)
            parts.append(spikes)
        return functional.cat_steps(parts), v

    def _check_inputs(self, x: Sequence[Spikes | Tensor]) -> None:
        if not isinstance(x, tuple | list) or len(x) != len(self.synapses):
            got = f"{len(x)} inputs" if isinstance(x, tuple | list) else type(x).__name__
            raise TypeError(f"x must be a tuple of {len(self.synapses)} inputs, one for each synapse; got {got}")
        shapes = [self._output_shape(synapse, part) for synapse, part in zip(self.synapses, x, strict=True)]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"all synapses must give currents of the same shape (T, N, ...), got {shapes}")

    @staticmethod
    def _output_shape(synapse: nn.Module, x: Spikes | Tensor) -> tuple[int, ...]:
        if not isinstance(x, Spikes | Tensor):
            raise TypeError(f"each input must be Spikes or a tensor (T, N, ...), got {type(x).__name__}")
        if isinstance(synapse, nn.Linear):
            return (*x.shape[:2], synapse.out_features)
        if isinstance(synapse, nn.Identity):
            return tuple(x.shape)
        if len(x.shape) != 5:
            raise ValueError(f"the input of a convolution must have the shape (T, N, C, H, W), got {tuple(x.shape)}")
        size = unfused.output_size(
            x.shape[3:], synapse.kernel_size, synapse.stride, padding_in_numbers(synapse), synapse.dilation
        )
        return (*x.shape[:2], synapse.out_channels, *size)


STEPS = 32  # of currents in full at a time: one word of a GPU


def _check_synapse(synapse: nn.Module) -> None:
    if not isinstance(synapse, nn.Conv2d | nn.Linear | nn.Identity) or isinstance(synapse, Neurons):
        raise TypeError(f"a synapse must be nn.Conv2d, nn.Linear or nn.Identity, got {type(synapse).__name__}")
    if isinstance(synapse, nn.Conv2d):
        if synapse.padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {synapse.padding_mode!r}; pad the input instead")
        padding_in_numbers(synapse)


def padding_in_numbers(convolution: nn.Conv2d) -> tuple[int, int]:
    """Padding in numbers."""
    if convolution.padding == "valid":
        return 0, 0
    if convolution.padding == "same":
        totals = [d * (k - 1) for d, k in zip(convolution.dilation, convolution.kernel_size, strict=True)]
        if any(total % 2 for total in totals):
            raise ValueError("padding='same' with an even kernel is lopsided; pad the input and use padding=0 instead")
        return tuple(total // 2 for total in totals)
    return convolution.padding


def _center(main: nn.Conv2d) -> tuple[int, int] | None:
    """The tap of a kernel that reads the pixel at the output's own place (times the stride); None if there is none."""
    taps = []
    for p, d, k in zip(padding_in_numbers(main), main.dilation, main.kernel_size, strict=True):
        if p % d or p // d >= k:
            return None
        taps.append(p // d)
    return tuple(taps)


def _subsample(x: Spikes | Tensor, stride) -> Spikes | Tensor:
    """Every stride-th pixel."""
    if stride == 1:
        return x
    if isinstance(x, Spikes):
        return functional.max_pool2d(x, 1, stride)
    return x[..., :: stride[0], :: stride[1]]


def _cat(parts: Sequence[Spikes | Tensor]) -> Spikes | Tensor:
    """All inputs as one, along their channels."""
    if all(isinstance(part, Spikes) for part in parts):
        return functional.cat_channels(parts)
    parts = [part.dense() if isinstance(part, Spikes) else part.float() for part in parts]
    if all(checks.is_held(part) for part in parts):
        once = torch.cat([part[0] for part in parts], 1)
        return once.expand(len(parts[0]), *once.shape)
    return torch.cat(parts, 2)


def _chunks(x: Sequence[Spikes | Tensor]) -> list[Sequence[Spikes | Tensor]]:
    """The inputs, STEPS at a time; all steps at once in a traced graph, whose number of steps may vary."""
    if torch.compiler.is_compiling():
        return [x]
    return [[part[start : start + STEPS] for part in x] for start in range(0, x[0].shape[0], STEPS)]


def _currents(synapse: nn.Module, x: Spikes | Tensor) -> Tensor:
    """The currents [T, N, ...] that one synapse makes of x (T, N, ...), in float32."""
    x = x.dense() if isinstance(x, Spikes) else x.detach().float()
    if isinstance(synapse, nn.Identity):
        return x
    weight, bias = synapse.weight.detach().float(), synapse.bias
    bias = None if bias is None else bias.detach().float()
    if isinstance(synapse, nn.Linear):
        rows = unfused.conv2d(x[..., None, None], weight[..., None, None], bias, (1, 1), (0, 0), (1, 1), 1)
        return rows.squeeze(2)
    geometry = synapse.stride, padding_in_numbers(synapse), synapse.dilation
    size = unfused.output_size(x.shape[3:], synapse.kernel_size, *geometry)
    rows = unfused.conv2d(x, weight, bias, *geometry, synapse.groups)
    return rows.transpose(2, 3).unflatten(3, size)
