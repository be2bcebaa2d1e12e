"""What a network is made of, as plain values: what the engine runs, prints, and writes to a file.

Operations (operations.py) stand in the order in which they run.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..kernels import heap
from ..kernels.table import Kind, Most
from .operations import PASSES_ON, SUM_POOLS, Operation, Shape, Slot, Window, image_of


class Readout(NamedTuple):
    """What the logits of a converted network are read from (running/result.py has the equation):
    logit = scale (threshold count + v - start) / t, not below ``lowest`` and not above ``highest``.

    ``threshold``, ``start`` and ``scale`` are float32, one a channel, contiguous, shaped for states [N, ...].
    """

    threshold: Tensor
    start: Tensor
    scale: Tensor
    lowest: float
    highest: float

    def logits(self, counts: Tensor, state: Tensor, steps: Tensor | int, start: Tensor | None = None) -> Tensor:
        """float32 [N, ...], shaped as ``counts``.

        Args:
            counts: int32 [N, ...], of spikes. state: float32 [N, ...], of the layer's shape. steps: int64 [N], or one
                number for all. start: the state that the counts started from; None: rest.
        """
        if isinstance(steps, Tensor):
            steps = steps.view(-1, *[1] * (state.ndim - 1))
        charge = self.threshold * counts.view_as(state) + (state - (self.start if start is None else start))
        outputs = self.scale * charge / steps
        if (self.lowest, self.highest) != (-math.inf, math.inf):
            outputs = outputs.clamp(self.lowest, self.highest)
        return outputs.view_as(counts)


def readout_of(op: Operation) -> Readout | None:
    """The readout of the last layer of neurons; None: it was not converted, or loses charge."""
    neurons = op.neurons
    if neurons is None or not neurons.has_logits:
        return None
    shape = -1, *[1] * (len(op.shape) - 1)
    threshold, start, scale = (
        torch.as_tensor(part, dtype=torch.float32, device=heap.CPU).expand(op.image[0]).contiguous().view(shape)
        for part in (neurons.channels[0], neurons.start[0], neurons.scale)
    )
    if not neurons.rectifies:
        return Readout(threshold, start, scale, -math.inf, math.inf)
    return Readout(threshold, start, scale, 0.0, math.inf if neurons.limit is None else float(neurons.limit))


@dataclass(frozen=True)
class Plan:
    """A network.

    Attributes:
        shape: of a sample of the input; image: the same as C, H, W.
        real: whether its input may be values, and not only spikes; likewise for operations that pass on what
            they read.
        precision: of the weights, which are rounded to it; a name in rounding.PRECISIONS, or None.
        calibrated: of a converted network, the least and the largest value of its calibration data.
    """

    shape: Shape
    real: bool
    precision: str | None = None
    operations: list[Operation] = field(default_factory=list)
    calibrated: tuple[float, float] | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        return image_of(self.shape)

    @property
    def last(self) -> Operation:
        return self.operations[-1]

    @property
    def takes_any(self) -> bool:
        """Whether the input may be values and spikes alike: only neurons read it, and they do not mind."""
        return all(op.kind == Kind.FIRE or all(window.slot for window in op.windows) for op in self.operations)

    @cached_property
    def changes(self) -> bool:
        """Whether it is a network of sigma-delta neurons, whose slots hold what changes."""
        return self.operations[0].kind == Kind.CHANGES

    def change_states(self, op: Operation) -> list[tuple[int, int]]:
        """Pixels and channels of the states of an operation of such a network: z and a, what arrived and the last
        result of a function, the factors of a product; of its ends one."""
        C, H, W = op.image
        if op.kind in (Kind.CHANGES, Kind.SUM):
            return [(H * W, C)]
        if op.kind == Kind.SEND_MAXIMA:
            _, *size = self.source(op.windows[0])
            return [(prod(size), C), (H * W, C)]
        if op.kind == Kind.MULTIPLY:
            factors = [self.source(window) for window in op.windows]
            return [(height * width, channels) for channels, height, width in factors]
        return [(H * W, C)] * 2 if op.senders or op.kind == Kind.FUNCTION else []

    def source(self, window: Window) -> tuple[int, int, int]:
        """C, H, W of what a window reads."""
        return self.operations[window.slot - 1].image if window.slot else self.image

    def is_real(self, window: Window) -> bool:
        """Whether a window reads values."""
        return self.operations[window.slot - 1].real if window.slot else self.real

    def state_shape(self, operation: Operation) -> Shape:
        """The shape of a sample's states: that of its outputs, or for a pooling of sums that of its input."""
        if operation.kind not in SUM_POOLS:
            return operation.shape
        C, H, W = self.source(operation.windows[0])  # what is read may have had another number of axes
        return (C, H, W) if len(operation.shape) == 3 else (C, H * W)

    def as_simulated(self, k: int, states: Tensor) -> Tensor:
        """States [N, states, P, C] of an operation as simulate has them: [N, ...], of several [N, states, ...]."""
        op = self.operations[k]
        several = (op.states,) if op.states > 1 else ()
        return states.transpose(2, 3).reshape(len(states), *several, *self.state_shape(op))

    def as_run(self, k: int, states: Tensor) -> Tensor:
        """The inverse: [N, states, P, C], contiguous float32."""
        op = self.operations[k]
        C, H, W = image_of(self.state_shape(op))
        states = states.detach().float().reshape(len(states), op.states, C, H * W)
        return states.transpose(2, 3).resolve_neg().contiguous()

    def check_state(self, name: str, op: Operation, states: Tensor) -> None:
        """Refuse finite ``states`` [N, ...] that an operation cannot start from."""
        if op.kind == Kind.RECUR and not ((states[:, -1] == 0) | (states[:, -1] == 1)).all():
            raise ValueError(f"{name} must end in the spikes of the step before, 0 or 1, got other values")
        if op.kind == Kind.MAX_RATE_POOL:
            checks.spike_counts(name, states)

    def without_weights(self) -> "Plan":
        """A copy whose weights have a shape and no values."""
        operations = []
        for op in self.operations:
            windows = (replace(w, weight=None if w.weight is None else w.weight.to("meta")) for w in op.windows)
            recurrent = None if op.recurrent is None else op.recurrent.to("meta")
            operations.append(replace(op, windows=tuple(windows), recurrent=recurrent))
        return replace(self, operations=operations)

    @property
    def shaped(self) -> Operation:
        """What gives the output, in whatever shape."""
        others = (op for op in reversed(self.operations) if op.kind not in (Kind.FLATTEN, Kind.UNFLATTEN))
        return next(others, self.last)

    @cached_property
    def with_logits(self) -> int | None:
        """The number of the operation that logits are read from, if there is one."""
        return None if self.readout is None else next(k for k, op in enumerate(self.operations) if op is self.shaped)

    @cached_property
    def readout(self) -> Readout | None:
        """What they are read from."""
        return readout_of(self.shaped)

    def stateful(self) -> list[tuple[int, Operation]]:
        """Layers that have states, with the numbers of their operations. The currents of recurrent neurons are a part
        of these, and sums keep nothing."""
        within = self.within
        return [(k, op) for k, op in enumerate(self.operations) if op.states and k not in within and not op.is_sum]

    def numbers_with_states(self) -> tuple[int, ...]:
        """The numbers of operations that have states."""
        if self.changes:
            return tuple(k for k, op in enumerate(self.operations) if self.change_states(op))
        return tuple(k for k, _ in self.stateful())

    def parts(self, k: int) -> list[int]:
        """The numbers of the operations that are one layer with the k-th: this one, and what makes its currents."""
        op = self.operations[k]
        return [k, op.windows[0].slot - 1] if op.kind == Kind.RECUR else [k]

    @property
    def within(self) -> set[int]:
        """The numbers of operations that are a part of a later one's layer."""
        return {part for k in range(len(self.operations)) for part in self.parts(k)[1:]}

    @property
    def is_moderate(self) -> bool:
        """Whether a step works on no more values than Most.GROWTH allows: else a small file could cost hours."""
        values, made_of = 0, prod(self.shape)
        for op in self.operations:
            source = self.source(op.windows[0])
            taps = (
                1
                if op.neurons or op.kind == Kind.SEND or op.kind in PASSES_ON[1:] or op.adaptive
                else prod(op.windows[0].kernel)
            )
            values += prod(op.shape) * (op.image[0] // op.heads if op.heads else min(taps, prod(source[1:])))
            tensors = (*op.weights, op.pixels, op.channels)
            made_of += len(op.windows) + sum(tensor.numel() for tensor in tensors if tensor is not None)
        return values <= Most.GROWTH * made_of

    @property
    def needs_spikes(self) -> bool:
        """Whether it cannot run on values: what is its input, passed on, is counted, or is its output."""
        of_input = [True]
        for op in self.operations:
            of_input.append(op.kind in PASSES_ON and any(of_input[window.slot] for window in op.windows))
        counted = (w.slot for op in self.operations if op.kind == Kind.MAX_RATE_POOL for w in op.windows)
        return of_input[-1] or any(of_input[slot] for slot in counted)

    @property
    def relu_products(self) -> int:
        """Multiplications by a weight in one pass of a ReLU network, of a sample; zeros are not skipped."""
        returning = sum(op.recurrent.numel() for op in self.operations if op.recurrent is not None)
        return returning + sum(
            len(window.weight) * window.averages
            or prod(window.weight.shape[:2]) * window.taps_inside(self.source(window)[1:], op.image[1:])
            for op in self.operations
            for window in op.windows
            if window.weight is not None
        )

    def slots(self, given: Slot) -> list[Slot]:
        """What is in each slot, if the input is so."""
        slots = [given]
        for op in self.operations:
            read = [slots[window.slot] for window in op.windows]
            if op.kind in PASSES_ON:
                parts = zip(*((slot.held, slot.scaled) for slot in read), strict=True)
                held, scaled = map(all, parts)
                slots.append(Slot(any(slot.real for slot in read), held and op.kind != Kind.DELAY, scaled))
            else:
                alike = op.neurons.forgets if op.neurons else op.kind != Kind.MAX_RATE_POOL
                slots.append(Slot(op.real, alike and all(slot.held for slot in read)))
        return slots

    def products(self, given: Slot, samples: int, sample_steps: int) -> list[int]:
        """For each operation, how often a real value is multiplied by a weight; held values count once a sample."""
        slots = self.slots(given)

        def of(window: Window) -> int:
            slot, weight = slots[window.slot], window.weight
            if weight is None or not (window.averages or (slot.real and not slot.scaled)):
                return 0
            return (samples if slot.held else sample_steps) * (window.averages or prod(weight.shape[1:]))

        return [prod(op.image) * sum(map(of, op.windows)) for op in self.operations]

    def additions(self, k: int, added: int) -> int:
        """How many of operation k's additions of a weight, ``added`` by the library, are for a spike."""
        return 0 if any(window.averages for window in self.operations[k].windows) else added
