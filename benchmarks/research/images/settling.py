"""How a spiking network's logits come to those of the ReLU network as steps go by: one pass, read at several T.

A deep network needs many steps until every layer fires at its rate, and until then its currents are not those of the
image. So the logits are read from the second half of the steps, and from all of them for comparison.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from common import names
from torch import Tensor

import proxykernels as pk

STEPS = names.IMAGENET_STEPS


class Reading(NamedTuple):
    """What T steps tell.

    Attributes:
        logits, from_all: [N, classes], of the second half of the steps, and of all.
        seconds: that the steps since the reading before took.
        result: theirs.
    """

    T: int
    logits: Tensor
    from_all: Tensor
    seconds: float
    result: pk.running.result.Result


def readings(net: pk.Network, x: Tensor, steps: Sequence[int]) -> Iterator[Reading]:
    """Readings at ``steps``, each of which is twice the one before."""
    charge, state, done = torch.zeros(()), None, 0
    for T in steps:
        before = charge
        for part in (T - T // 2, T // 2) if not done else (T - done,):  # the first one is read in halves as well
            begin = time.perf_counter()
            result = pk.simulate(net, x, part, state=state)
            seconds = time.perf_counter() - begin
            before, charge, state = charge, charge + part * result.logits, result.state
        yield Reading(T, (charge - before) / (T // 2), charge / T, seconds, result)
        done = T


def correlation(logits: Tensor, expected: Tensor) -> Tensor:
    """The correlation of each image's logits with the expected ones: [N]."""
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(logits, expected, strict=True)])
