"""How long calls take on a GPU, by its own clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from proxykernels.kernels import weight_cache

RATE = 0.05  # spikes per input neuron and step, where layers are measured singly
FEWEST, MOST, ENOUGH_MS = 20, 1000, 500.0  # calls, and their time in all: clocks settle, and are seen


@contextmanager
def kernels_alone() -> Iterator[None]:
    """Calls in the block look at no values, and take weights and neurons as the first of them made them ready."""
    with weight_cache.unchanging():
        weight_cache.looked_at()
        yield


def milliseconds(function: Callable[[], object]) -> float:
    """The median time of a call between CUDA events, after three calls that compile and fill caches."""
    for _ in range(3):
        function()
    times: list[float] = []
    while len(times) < FEWEST or (sum(times) < ENOUGH_MS and len(times) < MOST):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)
