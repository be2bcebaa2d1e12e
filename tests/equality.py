"""Equality of tensors and spikes in tests: where it fails, the first place that differs."""

import math
from typing import Any

import torch
from torch import Tensor

import proxykernels as pk


class Unequal:
    """False, with the reason: what ``assert equal(a, b)`` shows."""

    def __init__(self, reason: str):
        self.reason = reason

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return self.reason


def equal(actual: Any, expected: Any) -> bool | Unequal:
    """Whether both are equal as torch.equal has it: shape and all values, and nan is equal to nothing.

    Takes tensors, packed words among them, and Spikes, of which shape, spikes and scale are compared.
    """
    if isinstance(actual, pk.Spikes) and isinstance(expected, pk.Spikes):
        if actual.scale != expected.scale:
            return Unequal(f"a scale of {actual.scale}, not {expected.scale}")
        actual, expected = actual.dense(), expected.dense()
    return True if torch.equal(actual, expected) else Unequal(_difference(actual.detach(), expected.detach()))


def _difference(actual: Tensor, expected: Tensor) -> str:
    if actual.shape != expected.shape:
        return f"a shape of {list(actual.shape)}, not {list(expected.shape)}"
    differs = actual != expected
    # Flat: an index of values without dimensions is empty.
    place = int(differs.flatten().nonzero()[0])
    index = [int(i) for i in torch.unravel_index(torch.tensor(place), actual.shape)]
    found, wanted = (_shown(values.flatten()[place]) for values in (actual, expected))
    return f"at {index} {found}, not {wanted}; {int(differs.sum())} of {math.prod(actual.shape)} differ"


def _shown(value: Tensor) -> str:
    """A number; a packed byte with its bits."""
    return f"{value.item()} = {value.item():#010b}" if value.dtype == torch.uint8 else repr(value.item())


def in_parts(net: Any, x: Tensor) -> Tensor:
    """The spikes of a network that is run two steps at a time, each part from the state of the last one."""
    parts, state = [], None
    for part in x.split(2):
        result = pk.simulate(net, part, len(part), state=state)
        state = result.state
        parts.append(result.spikes.dense())
    return torch.cat(parts)
