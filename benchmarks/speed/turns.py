"""Contenders timed in turn on images that change from call to call: back to back, and after a pause."""

import time
from collections.abc import Callable, Hashable, Iterator
from itertools import cycle

import torch
from torch import Tensor
from tqdm import tqdm

Contender = Callable[[Tensor], object]  # of a batch of images

BUDGET_S = 6.0  # of the rounds of one measurement
MOST_ROUNDS = 15
SETTLE_S, BLOCK_S = 0.02, 0.02  # of a contender's calls back to back: those not counted, then those that are
PAUSE_S = 0.02
CALLS = 3  # after pauses, of a contender's turn


def back_to_back(
    contenders: dict[Hashable, Contender], batches: list[Tensor], budget_s: float = BUDGET_S
) -> dict[Hashable, list[float]]:
    """Seconds of calls. All in turn, and the order moves on from round to round.

    A turn is a block of calls, as torch.utils.benchmark measures. The first are not counted: they find caches as
    another contender left them, and its threads still waiting for work on the same cores.
    """
    return _in_turn(contenders, batches, _block, budget_s)


def after_a_pause(contenders: dict[Hashable, Contender], batches: list[Tensor]) -> dict[Hashable, list[float]]:
    """Seconds of calls, before each of which the caller sleeps."""
    return _in_turn(contenders, batches, _after_pauses, BUDGET_S)


def _in_turn(contenders, batches, measure, budget_s) -> dict[Hashable, list[float]]:
    names, times = list(contenders), {name: [] for name in contenders}
    given = {name: cycle(batches) for name in names}
    for name, run in contenders.items():
        run(next(given[name])), run(next(given[name]))
    end = time.perf_counter() + budget_s
    for turn in tqdm(range(MOST_ROUNDS), "turns", unit="round", leave=False):
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            times[name] += measure(contenders[name], given[name])
        if time.perf_counter() > end and turn > 1:
            break
    return times


def _block(run: Contender, images: Iterator[Tensor]) -> list[float]:
    settled = time.perf_counter() + SETTLE_S
    run(next(images))
    while time.perf_counter() < settled:
        run(next(images))
    times: list[float] = []
    while sum(times) < BLOCK_S:
        times.append(_seconds(run, next(images)))
    return times


def _after_pauses(run: Contender, images: Iterator[Tensor]) -> list[float]:
    times = []
    for _ in range(CALLS):
        time.sleep(PAUSE_S)
        times.append(_seconds(run, next(images)))
    return times


def _seconds(run: Contender, images: Tensor) -> float:
    """With one thread (OMP_NUM_THREADS=1), measures processor time, which other programs hardly affect."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run(images)
    return clock() - start
