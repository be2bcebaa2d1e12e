"""What a run of a plan takes and what it writes.

A run writes to one piece of memory. Tensors of its parts are made when somebody asks for them.
"""

import ctypes
from array import array
from ctypes import c_size_t, c_void_p
from functools import cache
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels import heap
from ..kernels.cpu.words import pixel_bytes
from ..kernels.table import TALLIES, InputKind
from ..kernels.value_checks_cache import can_be_read
from ..plan.library import Given, LogitReadout, Places
from ..plan.plan import Plan
from ..plan.quantize import round_input
from ..sequences import is_sequence
from ..spikes import Spikes, is_binary, pack_if_binary
from ..spikes.spike_tensor import packed

LINE = 64  # bytes; each part begins at one


def input_of(
    net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None, *, looks: bool = True
) -> Tensor | Spikes:  # fmt: skip
    """The input as layers take it, a sequence of T steps; a constant input is repeated without a copy.

    Whether a sequence is of spikes is decided here, for all its steps: on a GPU spikes are bool, all else is real.
    ``looks``: whether for NaN and infinity, which a plan looks for itself.
    """
    sequence = is_sequence(net, x, T)
    checks.values("x", x)
    x = packed(x)
    if isinstance(x, Spikes):
        return x
    if sequence and checks.is_repeated(x):
        x, sequence = x[0] if x.is_floating_point() else x[0].float(), False
    elif sequence and x.device.type == "cpu" and can_be_read(x) and (spikes := pack_if_binary(x)) is not None:
        return spikes
    if not x.is_floating_point():
        return x.bool() if x.device.type == "cuda" and is_binary(x) else x
    if looks and x.device.type == "cpu":  # of a GPU all values are looked at together
        checks.finite("x", x)
    if not sequence:
        step: Any = x.detach() if precision is None else round_input(x.detach(), 0)
        return checks.repeated(step, T)
    return x if precision is None else round_input(x, 1)


def lies_ready(x: Any) -> TypeGuard[Tensor]:
    """Whether it is a plain tensor whose memory has its values as the library takes them."""
    if type(x) is not Tensor or x.dtype != torch.float32 or x.is_nested:
        return False
    return x.is_contiguous() and not x.is_neg()


class PlanInputs:
    """The inputs of a plan, as the library takes them.

    Attributes:
        takes_floats: whether they may be real values, and not only spikes.
    """

    def __init__(self, plan: Plan):
        self._shape, self._changes, self._needs_spikes = plan.shape, plan.changes, plan.needs_spikes
        self._rounds = plan.precision is not None
        self.takes_floats = plan.real or plan.takes_any

    def given(self, x: Any) -> Given:
        """An input (T, N, ...), or [N, ...] at each step.

        Raises:
            TypeError, ValueError: it has another type, shape or device; the message says which.
        """
        shape = self._shape
        if self._changes:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise TypeError(
                    "x must be floating point for a network of sigma-delta neurons, images or frames of values"
                )
        elif type(x) is Spikes and x.scale == 1 and x.shape[2:] == shape and x.T and x.device.type == "cpu":
            return Given(x._words.contiguous(), InputKind.PACKED_SPIKES, x.shape[1], x.T)
        elif self.takes_floats and lies_ready(x) and x.shape[1:] == shape and x.is_cpu and not torch._C._is_tracing():
            return self.held(x, None)
        sequence = self._is_sequence(x)
        T = len(x) if sequence else None
        constant = isinstance(x, Tensor) and (not sequence or checks.is_repeated(x))
        if isinstance(x, Tensor) and sequence and not self._changes:
            x, sequence = self._sequence(x, constant)
        return self.as_given(x, T, sequence, constant and not (self._changes and sequence))

    def held(self, x: Tensor, T: int | None) -> Given:
        """Values [N, ...] at each step, of which :func:`lies_ready` holds, and of the right shape."""
        return Given(x, InputKind.HELD_VALUES, x.shape[0], T, self._rounds, constant=True)

    def _is_sequence(self, x: Tensor | Spikes) -> bool:
        """Whether it is one, by its shape."""
        if not isinstance(x, Spikes):
            checks.real("x", x)
            checks.values("x", x)
        if x.device.type != "cpu":
            raise ValueError(f"x must be on the CPU, where the engine runs, got {x.device}; move it with .to('cpu')")
        dims, sequence = len(self._shape), len(x.shape) == len(self._shape) + 2
        held = isinstance(x, Tensor) and x.ndim == dims + 1
        if not (sequence or held) or tuple(x.shape[-dims:]) != self._shape:
            shape = ", ".join(map(str, self._shape))
            last = checks.channels_last("x", tuple(x.shape), self._shape[0]) if dims == 3 else ""
            raise ValueError(
                f"x must have the shape [N, {shape}] or [T, N, {shape}], got {list(x.shape)}" + (last and f"; {last}")
            )
        if held and not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}, which is held for all steps: use .float()")
        if sequence and not x.shape[0]:
            raise ValueError("x must have at least one step")
        return sequence

    def _sequence(self, x: Tensor, repeated: bool) -> tuple[Tensor | Spikes, bool]:
        """A sequence as simulate takes it, and whether it is one: a step that is repeated is held, as an image is; of 0
        and 1 alone, it is spikes."""
        if repeated and (self.takes_floats or (is_binary(x[0]) and not self._needs_spikes)):
            return x[0], False
        spikes = pack_if_binary(x)
        return (x, True) if spikes is None else (spikes, True)

    def as_given(self, x: Tensor | Spikes, T: int | None, sequence: bool, constant: bool) -> Given:
        """An input of the right shape. ``T``: its steps, None: of an image; ``sequence``: whether they are all in x;
        ``constant``: whether they are alike."""
        if isinstance(x, Spikes) and x.scale == 1:
            return Given(x._words.contiguous(), InputKind.PACKED_SPIKES, x.shape[1], T, constant=constant)
        if isinstance(x, Spikes) and not self._needs_spikes:
            return Given(x.dense().contiguous(), InputKind.VALUES, x.shape[1], T, scaled=True)
        if isinstance(x, Spikes) or not (self.takes_floats or (T and not sequence)):
            raise TypeError(
                "x must be spikes, as in the sample that the engine was compiled with; got other values. An engine "
                "takes both if it is compiled with a sample of floats or integers"
            )
        rounds = self._rounds and x.is_floating_point()
        if rounds and x.dtype == torch.float64:  # float32 would round it once before
            checks.finite("x", x)
            x = round_input(x.detach(), int(sequence))
        x = x if lies_ready(x) else x.detach().resolve_neg().float().contiguous()
        return Given(
            x,
            InputKind.VALUES if sequence else InputKind.HELD_VALUES,
            x.shape[int(sequence)],
            T,
            rounds,
            constant=constant,
        )


@cache
def _sanitizer(name: str) -> Any:
    """A function of AddressSanitizer; None: the process runs without it."""
    return getattr(ctypes.CDLL(None), f"__asan_{name}_memory_region", None)


class Layout:
    """Where the parts lie, for runs of N samples and T steps.

    Attributes: bytes from the start of the memory, or None where there is no such part.
        tally: int64 [operations][TALLIES]. counts: int32 [N, ...]. output: packed spikes [N, T, P, bytes], or values
            float32 [T, N, P, C]. steps: int64 [N], those that each sample ran. state: float32 [N, 1, P, C], what logits
            are read from.
        logits: whether they are read, at the end of a run from rest.
        zeros: how many bytes are zero before the run; size: bytes of all.
        shape: of the output, (T, N, ...); real: whether it is values.
        gaps: start and size of what lies behind each part, a line at least, in a process with AddressSanitizer, which
            finds who writes past the end of a part; otherwise none.
    """

    def __init__(self, plan: Plan, N: int, T: int, counts: bool, state: bool, rests: bool, stops: bool):
        """``counts``: whether it has them; ``state``: likewise. ``rests``: whether the runs start at rest; ``stops``:
        whether samples may stop early."""
        op, self.size = plan.last, 0
        self.gaps: list[tuple[int, int]] = []
        C, H, W = op.image
        self.shape, self.real, self.stops = (T, N, *op.shape), bool(op.real), stops
        self.raw = (T, N, H * W, C) if self.real else (N, T, H * W, pixel_bytes(C))
        self.tallies = TALLIES * len(plan.operations)
        self.tally = self._place(8 * self.tallies)
        self.counts = self._place(4 * N * prod(op.shape)) if counts and not self.real else None
        self.zeros = self.size
        self.output = self._place(prod(self.raw) * (4 if self.real else 1))
        if stops and not self.real:  # a sample is silent once it has stopped
            self.zeros = self.size
        self.steps = self._place(8 * N) if stops else None
        self.all_steps = (array("q", [T]) * (N if stops else 0)).tobytes()  # of samples that do not stop
        C, H, W = plan.shaped.image
        self.state_shape = N, 1, H * W, C
        self.state = self._place(4 * prod(self.state_shape)) if state else None
        self.logits = state and rests

    def _place(self, size: int) -> int:
        start = self.size
        self.size += -(-size // LINE) * LINE
        if _sanitizer("poison") is not None:
            self.size += LINE
            self.gaps.append((start + size, self.size - start - size))
        return start


class Written:
    """What a run of a plan gave.

    Attributes:
        kept: states of operations, by their numbers, apart from those that logits are read from.
        logits: float32 [N, ...], where the layout has them.
    """

    def __init__(self, layout: Layout, counts: Tensor | None, kept: dict[int, Tensor]):
        """``counts``: where the layout has none; of a readout None."""
        self.layout, self.kept, self._counts = layout, kept, counts
        self._memory = heap.empty(layout.size, dtype=torch.uint8)
        self.logits = heap.empty(*layout.shape[1:]) if layout.logits else None  # which may outlive the rest
        start = self._memory.data_ptr()
        ctypes.memset(start, 0, layout.zeros)
        if layout.steps is not None:
            ctypes.memmove(start + layout.steps, layout.all_steps, len(layout.all_steps))

    def forbid_gaps(self, forbid: bool) -> None:
        """Whether an access to the gaps ends the process: while the library runs."""
        mark, start = _sanitizer("poison" if forbid else "unpoison"), self._memory.data_ptr()
        for gap, size in self.layout.gaps:
            mark(c_void_p(start + gap), c_size_t(size))

    def places(self, tally: int | None, readout: LogitReadout | None) -> Places:
        """Where the library writes. ``tally``: another place to count in."""
        layout, start = self.layout, self._memory.data_ptr()
        output = start + layout.output
        spikes, values = (None, output) if layout.real else (output, None)
        counts = None if layout.counts is None else start + layout.counts
        if self._counts is not None:
            counts = self._counts.data_ptr()
        steps = None if layout.steps is None else start + layout.steps
        kept = [(k, states.data_ptr()) for k, states in self.kept.items()]
        if layout.state is not None and readout is not None:
            kept.append((readout.operation, start + layout.state))
        logits = None if self.logits is None or readout is None else (self.logits.data_ptr(), readout)
        return Places(spikes, values, counts, start + layout.tally if tally is None else tally, steps, kept, logits)

    def _part(self, start: int | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        assert start is not None
        size = prod(shape) * dtype.itemsize
        return self._memory[start : start + size].view(dtype).view(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def device(self) -> torch.device:
        return self._memory.device

    @property
    def raw(self) -> Tensor:
        """Packed spikes [N, T, P, bytes], or values [T, N, P, C]."""
        return self._part(self.layout.output, torch.float32 if self.layout.real else torch.uint8, self.layout.raw)

    @property
    def counts(self) -> Tensor | None:
        """int32 [N, ...]; None: of values."""
        if self.layout.counts is None:
            return self._counts
        return self._part(self.layout.counts, torch.int32, self.shape[1:])

    @property
    def steps(self) -> Tensor:
        """int64 [N], of a run whose samples may stop early."""
        return self._part(self.layout.steps, torch.int64, self.shape[1:2])

    @property
    def state(self) -> Tensor:
        """What logits are read from, float32 [N, 1, P, C]."""
        return self._part(self.layout.state, torch.float32, self.layout.state_shape)

    @property
    def tally(self) -> list[int]:
        """TALLIES numbers for each operation."""
        return self._part(self.layout.tally, torch.int64, (self.layout.tallies,)).tolist()

    def tensor(self) -> Spikes | Tensor:
        """(T, N, ...)."""
        if self.layout.real:
            return self.raw.transpose(2, 3).reshape(self.shape)
        return Spikes(self.raw, self.shape)
