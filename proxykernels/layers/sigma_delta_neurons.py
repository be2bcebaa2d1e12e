"""Layers of sigma-delta and of graded neurons, as conversion makes them, and what flows between them.

Equations: proxykernels/kernels/reference.py. A spike changes what its neuron has sent by a signed power of two; a
graded neuron sends the change itself. Real values, such as images and the output of a layer without a ReLU, are passed
on as changes; a constant input changes once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..calls import window_checks
from ..kernels import backends, sigma_delta_codes
from ..kernels.heap import CPU
from ..kernels.sigma_delta_codes import Counts, Pair
from ..kernels.table import Most
from ..neurons import Graded, SigmaDelta
from .base import SpikingLayer
from .pooling import RunningMaxPool2d
from .synapses import Convolution, Product, Synapse, synapse_of

NO_WINDOW: tuple[Pair, Pair, Pair] = (1, 1), (0, 0), (1, 1)  # stride, padding and dilation
Operands = tuple[Tensor, tuple[int, int], Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Changes:
    """What a layer gives at each of its first steps; nothing after them.

    Attributes:
        values: [N, steps, P, C]: codes of spikes (kernels/sigma_delta_codes.py), or values in float32.
        size: (H, W), (L,) or () of the P pixels.
    """

    values: Tensor
    size: tuple[int, ...]

    @staticmethod
    def of(dense: Tensor) -> "Changes":
        """Real values [N, steps, C, ...]."""
        dense = dense.resolve_neg()  # compiled code reads the memory
        return Changes(
            dense.flatten(3).transpose(2, 3) if dense.ndim > 3 else dense.unsqueeze(2), tuple(dense.shape[3:])
        )

    @property
    def are_spikes(self) -> bool:
        return self.values.dtype == torch.int8

    @property
    def steps(self) -> int:
        return self.values.shape[1]

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return image_of(self.size)

    def real(self) -> Tensor:
        """The values [N, steps, P, C] in float32."""
        if not self.are_spikes:
            return self.values
        identity = self.values, self.image, None, None
        window = *NO_WINDOW, self.values.shape[3]
        return backends.backend_of(self.values.device.type).sigma_delta(*identity, None, self.steps, None, window)[0]

    def dense(self) -> Tensor:
        """The changes as [N, steps, C, ...]."""
        values = self.real()
        return values.transpose(2, 3).unflatten(3, self.size) if self.size else values.squeeze(2)

    def flatten(self) -> "Changes":
        """The features of each sample, in torch's order."""
        return Changes(self.values.transpose(2, 3).flatten(2).unsqueeze(2), ())


@dataclass
class ChangesTally:
    """What is counted of a layer.

    Attributes:
        spikes: those that it sent. fires: whether it has neurons. places: neurons times steps and samples.
        sums: values of z times steps and samples; more than places where a max pooling is before the neurons.
        accumulates, multiply_accumulates: weights that were added because of spikes, and because of real values.
        products: multiplications by a weight of the ReLU network in one pass, zeros not skipped.
    """

    spikes: int = 0
    fires: bool = False
    places: int = 0
    sums: int = 0
    accumulates: int = 0
    multiply_accumulates: int = 0
    products: int = 0
    on_device: list[tuple[str, Tensor]] = field(default_factory=list)  # counts of a GPU that were not waited for yet

    def add(self, counts: Counts, x: Changes) -> None:
        """Count a call for the changes x."""
        kind = "accumulates" if x.are_spikes else "multiply_accumulates"
        for name, count in (("spikes", counts.spikes), (kind, counts.additions)):
            if isinstance(count, Tensor):
                self.on_device.append((name, count))
            else:
                setattr(self, name, getattr(self, name) + count)

    @property
    def rate(self) -> float:
        """Spikes a neuron and step; nan without samples."""
        return self.spikes / self.places if self.places else math.nan


def read(tallies: Iterable[ChangesTally]) -> None:
    """Add the counts that are on a GPU to tallies, which waits for it once."""
    waiting = [(tally, *entry) for tally in tallies for entry in tally.on_device]
    for (tally, name, _), count in zip(waiting, sums([count for *_, count in waiting]), strict=True):
        setattr(tally, name, getattr(tally, name) + count)
        tally.on_device = []


def sums(parts: Sequence[Tensor]) -> list[int]:
    """The sum of each of some tensors of integers on a GPU, which is waited for once."""
    if not parts:
        return []
    ends = torch.as_tensor([0, *accumulate(part.numel() for part in parts)], dtype=torch.int64, device=parts[0].device)
    so_far = F.pad(torch.cat([part.flatten() for part in parts]).cumsum(0), (1, 0))
    return so_far[ends].diff().tolist()


def image_of(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of pixels of a size (H, W), (L,) or ()."""
    return (1, 1, *size)[-2:]  # type: ignore[return-value]


class SigmaDeltaNeurons(SpikingLayer):
    """Sigma-delta neurons on the sum of several inputs, each with its own synapses; :func:`convert` makes them.

    Args:
        synapses: one for each input: nn.Conv2d, nn.Conv1d, nn.Linear or nn.Identity. They hold the thresholds.
        neuron: the neurons.
        rectifies: whether the activation is a ReLU; False: an identity.
        fires: False: no neurons; what arrives is passed on as real values.
        pool: max pooling of z, whose maxima the neurons send; None: there is none.

    Attributes:
        scale: what a spike of 1, or a value of 1, stands for in the ReLU network: of all channels, or one of each [C].
        limit: of the activation in the ReLU network (ReLU6); None: it has none.
        unit: of graded neurons of 8 bits, in scales of the layer (plan/quantize.py); None: values are not rounded.
    """

    scale: Tensor
    unit: float | None = None

    def __init__(
        self, *synapses: nn.Module, neuron: SigmaDelta | Graded, scale: Tensor, limit: float | None = None,
        rectifies: bool = True, fires: bool = True, pool: RunningMaxPool2d | None = None,
    ):  # fmt: skip
        super().__init__()
        self.synapses = nn.ModuleList(synapses)
        self.neuron, self.limit, self.rectifies, self.fires, self.pool = neuron, limit, rectifies, fires, pool
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, x: Any, v: Tensor | None = None):
        raise TypeError(
            "layers of sigma-delta neurons are not called one by one: pass the network to proxykernels.simulate"
        )

    def affine(self, x: Any) -> Tensor:
        """What arrives at the neurons of the ReLU network, of its values [N, ...]."""
        parts = x if isinstance(x, tuple | list) else (x,)
        arrived = reduce(torch.add, (synapse(part) for synapse, part in zip(self.synapses, parts, strict=True)))
        return arrived if self.pool is None else self.pool.affine(arrived)

    def run(
        self,
        inputs: Sequence[Changes],
        T: int,
        tally: ChangesTally,
        state: list[Tensor] | None = None,
        fresh: bool = True,
    ) -> Changes:
        """What the layer gives in T steps; without neurons in as many as its inputs have.

        Args:
            state: z and a of the neurons [N, P, C], which are changed in place; an empty list is filled. Behind a max
                pooling z is what it takes. None: the neurons are at rest, and nothing is kept. fresh: whether these
                are the first steps, to which biases belong.
        """
        backend = backends.backend_of(inputs[0].values.device.type)
        parts = list(zip(map(synapse_of, self.synapses), inputs, strict=True))
        synapse, x = parts.pop(max(range(len(parts)), key=lambda k: parts[k][0].fan_in))
        arriving = max(part.steps for part in inputs)
        steps = self._steps(arriving, T) if self.pool is None else arriving
        operands, window = _operands(synapse, x, fresh), _window(synapse, x)
        C, *size = synapse.output_shape((1, 1, x.values.shape[3], *x.size))[2:]
        added = None
        for other, part in parts:  # what they bring is added to what the one with the most weights does
            brought, counts = backend.sigma_delta(
                *_operands(other, part, fresh), None, part.steps, None, _window(other, part)
            )
            if brought.shape[2:] != (math.prod(size), C):
                raise ValueError(
                    f"inputs must give sums of one shape, {(C, *size)}; got {brought.shape[3]} channels "
                    f"of {brought.shape[2]} pixels"
                )
            brought = sigma_delta_codes.padded(brought, steps)
            added = brought if added is None else added.add_(brought)
            tally.add(_of_weights(counts, other, part), part)
        neuron, shape = self.neurons(C) if self.fires else None, (len(x.values), math.prod(size), C)
        if neuron is None or self.pool is None:
            kept = self._state(state, shape, shape) if neuron else None
            y, counts = backend.sigma_delta(*operands, added, steps, neuron, window, kept)
        else:
            pooled, pooling = pooling_of(self.pool, size)
            arrived, counts = backend.sigma_delta(*operands, added, steps, None, window)
            kept = self._state(state, shape, (shape[0], math.prod(pooled), C))
            sending = self._steps(arriving, T)
            y, spikes = backend.pooled_sigma_delta(arrived, image_of(size), *pooling, sending, neuron, kept)
            counts, size = counts._replace(spikes=spikes), list(pooled)
        tally.add(_of_weights(counts, synapse, x), x)
        if neuron:
            tally.fires = True
            tally.places += len(y) * y.shape[2] * y.shape[3] * T
            tally.sums += math.prod(shape) * T
        return Changes(y, tuple(size))

    def _steps(self, arriving: int, T: int) -> int:
        """The steps of ``T`` in which something may be sent, if something arrives in the first ``arriving``."""
        return T if self.fires and isinstance(self.neuron, SigmaDelta) else arriving

    def products(self, inputs: Sequence[Changes]) -> int:
        """Multiplications by a weight of the ReLU network's layer in one pass, zeros not skipped."""
        shapes = ((1, len(x.values), x.values.shape[3], *x.size) for x in inputs)
        return sum(synapse_of(s).products(shape) for s, shape in zip(self.synapses, shapes, strict=True))

    def _state(
        self, state: list[Tensor] | None, z_shape: tuple[int, ...], a_shape: tuple[int, ...]
    ) -> sigma_delta_codes.State | None:
        return None if state is None else kept_state(state, z_shape, a_shape, self.scale.device)

    def neurons(self, channels: int) -> sigma_delta_codes.Senders:
        """The neurons of ``channels`` channels, in units of their thresholds."""
        highest = _same(channels, torch.inf if self.limit is None else self.limit, self.scale.device)
        highest = highest if self.limit is None else (highest / self.scale).float()
        lowest = 0.0 if self.rectifies else -torch.inf
        if isinstance(self.neuron, Graded):
            if self.unit is not None:
                most = Most.CODE if self.rectifies else Most.SIGNED_CODE
                highest = highest.clamp(max=most * self.unit)
                lowest = max(lowest, -most * self.unit)
            return sigma_delta_codes.Senders(1, lowest, highest, self.neuron.threshold, self.unit)
        return sigma_delta_codes.Senders(self.neuron.exponents, lowest, highest)

    def extra_repr(self) -> str:
        if not self.fires:
            return "passes real values on"
        limit = "" if self.limit is None else f", limit={self.limit:g}"
        sends = "exponents={0.exponents}" if isinstance(self.neuron, SigmaDelta) else "threshold={0.threshold:g}"
        return sends.format(self.neuron) + limit + ("" if self.rectifies else ", signed")


@lru_cache(256)
def _same(channels: int, value: float, device: torch.device) -> Tensor:
    """One value for each channel, made once, and never written to."""
    with torch.inference_mode(False):  # from a CPU: a copy that is waited for, so that any stream may read it
        return torch.full((channels,), value, dtype=torch.float32, device=CPU).to(device)


def kept_state(
    state: list[Tensor], first: tuple[int, ...], second: tuple[int, ...], device: torch.device
) -> sigma_delta_codes.State:
    """The two tensors of a state, of these shapes; zeros, put into an empty list.

    Raises:
        ValueError: they have other shapes.
    """
    state[:] = state or [torch.zeros(shape, dtype=torch.float32, device=device) for shape in (first, second)]
    found = state[0].shape, state[1].shape
    if found != (first, second):
        wanted, got = (list(map(list, both)) for both in ((first, second), found))
        raise ValueError(f"state must be two tensors {wanted}, got {got}")
    return state[0], state[1]


def pooling_of(pool: RunningMaxPool2d, size: Sequence[int]) -> tuple[tuple[int, ...], tuple[Pair, Pair, Pair, Pair]]:
    """The size that a pooling makes of another one; and what kernels take: the same of images, windows, padding."""
    result = tuple(pool.affine(torch.empty(1, 1, *size, dtype=torch.float32, device="meta")).shape[2:])
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if pool.dims == 1:
        kernel, stride, padding = (1, kernel), (1, stride), (0, padding)
    return result, (image_of(result), kernel, stride, padding)


def _operands(synapse: Synapse, x: Changes, fresh: bool = True) -> Operands:
    """Values, size, weight and bias of a convolution; an identity has neither."""
    weight, bias = synapse.parameters()
    if isinstance(synapse, Convolution):
        weight = synapse.window(synapse.module.weight)[0]
    elif isinstance(synapse, Product):
        weight = synapse.module.weight[..., None, None]
    else:
        return x.values, x.image, None, None
    _, padding, dilation, groups = _window(synapse, x)
    window_checks.groups(groups, x.values.shape[3], weight)
    window_checks.fits(x.image, weight.shape[2:], padding, dilation)
    if isinstance(synapse, Product) and x.size:
        raise ValueError(f"x must be [N, features] for a linear layer, got pixels {x.size}: flatten it before")
    return x.values, x.image, weight.detach(), bias.detach() if fresh and bias is not None else None


def _of_weights(counts: Counts, synapse: Synapse, x: Changes) -> Counts:
    """The counts without the zeros that stand in front of a kernel whose padding "same" is uneven: no weights."""
    if not isinstance(synapse, Convolution):
        return counts
    weight = synapse.module.weight
    if synapse.window(weight)[0].numel() == weight.numel():
        return counts
    reached = torch.count_nonzero(x.values, (0, 1, 3)) * synapse.reach_of(x.size, x.values.device)
    additions = reached.sum() * synapse.fan_out
    return counts._replace(additions=additions if additions.is_cuda else int(additions))


def _window(synapse: Synapse, x: Changes) -> sigma_delta_codes.Window:
    if isinstance(synapse, Convolution):
        _, padding, dilation = synapse.window(synapse.module.weight)
        return synapse.stride, padding, dilation, synapse.module.groups
    return (*NO_WINDOW, 1 if isinstance(synapse, Product) else x.values.shape[3])
