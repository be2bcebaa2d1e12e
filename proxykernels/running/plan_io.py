"""What a run of a plan takes."""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .. import checks
from ..kernels.table import InputKind
from ..kernels.value_checks_cache import can_be_read
from ..plan.library import Given
from ..plan.plan import Plan
from ..plan.quantize import round_input
from ..sequences import is_sequence
from ..spikes import Spikes, is_binary, pack_if_binary
from ..spikes.spike_tensor import packed


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
        rounds: whether real values are taken in 24 bits.
    """

    def __init__(self, plan: Plan):
        self._shape, self._changes, self._needs_spikes = plan.shape, plan.changes, plan.needs_spikes
        self.rounds = plan.precision is not None
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
            return Given(x, InputKind.HELD_VALUES, x.shape[0], None, self.rounds, constant=True)
        sequence = self._is_sequence(x)
        T = len(x) if sequence else None
        constant = isinstance(x, Tensor) and (not sequence or checks.is_repeated(x))
        if isinstance(x, Tensor) and sequence and not self._changes:
            x, sequence = self._sequence(x, constant)
        return self.as_given(x, T, sequence, constant and not (self._changes and sequence))

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
        """A sequence as simulate takes it, and whether it still is one: a repeated step is held, as an image is. Values
        that are all 0 and 1 are spikes."""
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
        rounds = self.rounds and x.is_floating_point()
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
