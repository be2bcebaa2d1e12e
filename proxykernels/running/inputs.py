"""What x is: a sequence of spikes, of event counts or of real values, or a constant input."""

from typing import Any

from torch import Tensor, nn

from .. import checks
from ..kernels.value_checks_cache import can_be_read
from ..plan.quantize import round_input
from ..sequences import is_sequence
from ..spikes import Spikes, is_binary, pack_if_binary
from ..spikes.spike_tensor import packed


def input_of(net: nn.Module, x: Tensor | Spikes, T: int, precision: str | None) -> Tensor | Spikes:
    """The input as a sequence of T steps; a constant input is repeated without a copy.

    Whether a sequence is of spikes is decided here, for all its steps: those of a GPU are bool, or else real values.
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
    if x.device.type == "cpu":  # of a GPU all values are looked at together
        checks.finite("x", x)
    if not sequence:
        step: Any = x.detach() if precision is None else round_input(x.detach(), 0)
        return checks.repeated(step, T)
    return x if precision is None else round_input(x, 1)
