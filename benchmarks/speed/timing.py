"""Timing contenders against each other on a machine whose speed changes from second to second.

They run in turn, round after round, and the order rotates: a slow moment hits all of them alike, so the
figures of one measurement compare, and those of two measurements do not.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median

import torch
from common.memory import PeakMemory
from torch import Tensor

MAX_ROUNDS = 9
MIN_ROUNDS = 2
WARM_UP_STEPS = 16


@dataclass
class Contender:
    """Something to time.

    Attributes:
        run: simulates T steps and gives the output spikes [N, classes].
        steady: its memory does not grow with T, and its time a step is the same for any T, so that a warm-up
            of WARM_UP_STEPS steps tells both.
    """

    name: str
    settings: str
    version: str
    run: Callable[[int], Tensor]
    steady: bool = True


@dataclass
class Measurement:
    """What one contender took for T steps: seconds of each timed run, its output, bytes at the peak."""

    contender: Contender
    expected_s: float
    peak_bytes: int | None
    seconds: list[float] = field(default_factory=list)
    counts: Tensor | None = None

    @property
    def median_s(self) -> float:
        return median(self.seconds)


def measure(
    contenders: list[Contender],
    T: int,
    device: torch.device,
    *,
    deadline: float,
    share: float,
    repeats: int | None,
    progress: Callable[[str, int], None],
) -> list[Measurement]:
    """Warm up every contender, then time all of them in turn.

    Args:
        deadline: time (of time.perf_counter) at which the last run should have ended.
        share: of the time left until then after the warm-up, the part to spend here. The slow get fewer rounds, but
            at least MIN_ROUNDS if that is possible before the deadline, else at least 1.
        repeats: rounds for each contender, whatever the deadline.
        progress: called with (what runs next, number of runs still to come) before each run.
    """
    measurements = []
    for index, contender in enumerate(contenders):
        progress(f"warm up {contender.name}", len(contenders) - index)
        measurements.append(_warm_up(contender, T, device))
    if repeats is None:
        left_s = deadline - time.perf_counter()
        rounds = plan_rounds([m.expected_s for m in measurements], share * left_s, left_s)
    else:
        rounds = [repeats] * len(contenders)
    turns = list(_turns(rounds))
    for position, index in enumerate(turns):
        measurement = measurements[index]
        progress(measurement.contender.name, len(turns) - position)
        seconds, measurement.counts = _timed(measurement.contender, T, device)
        measurement.seconds.append(seconds)
    progress("done", 0)
    return measurements


def plan_rounds(expected_s: list[float], budget_s: float, limit_s: float) -> list[int]:
    """Rounds for each contender: an equal share of the budget for each; what the fast leave goes to the slow."""
    least = MIN_ROUNDS if MIN_ROUNDS * sum(expected_s) <= limit_s else 1
    rounds = [least] * len(expected_s)
    left_s = budget_s
    fastest_first = sorted(range(len(expected_s)), key=expected_s.__getitem__)
    for position, index in enumerate(fastest_first):
        share_s = left_s / (len(expected_s) - position)
        affordable = int(share_s / max(expected_s[index], 1e-9))
        rounds[index] = min(max(affordable, least), MAX_ROUNDS)
        left_s -= rounds[index] * expected_s[index]
    return rounds


def _turns(rounds: list[int]) -> Iterator[int]:
    """Contenders' indices in the order of their runs; those with few rounds have them evenly spread."""
    most = max(rounds)
    for turn in range(most):
        for offset in range(len(rounds)):
            index = (turn + offset) % len(rounds)
            if (turn + 1) * rounds[index] // most > turn * rounds[index] // most:
                yield index


def _warm_up(contender: Contender, T: int, device: torch.device) -> Measurement:
    steps = min(T, WARM_UP_STEPS) if contender.steady else T
    contender.run(min(T, 2))  # what happens once only: kernels chosen, scratch memory taken
    with PeakMemory(device) as memory:
        seconds, _ = _timed(contender, steps, device)
    return Measurement(contender, seconds * T / steps, memory.growth_bytes)


def _timed(contender: Contender, T: int, device: torch.device) -> tuple[float, Tensor]:
    """Seconds, and the output. A GPU works on after a call returns: its own clock, between two events, counts.

    Of one thread processor time is taken, which other programs lengthen little.
    """
    if device.type != "cuda":
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        counts = contender.run(T)
        return clock() - start, counts.to(torch.int64)
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        counts = contender.run(T)
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1000, counts.cpu().to(torch.int64)
