"""Cases run in a process of their own, so that one that crashes it or hangs is found and shrunk like any other.

The process is forked by one that has imported everything and never started OpenMP's threads, which a fork would lose.
"""

import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context

from . import ways
from .case import Case, Mismatch
from .kinds import case

HANGS = 120  # seconds after which a case is given up
SHRINKING = 120  # seconds at most

_fork = get_context("fork")


@dataclass
class Failure:
    """``kind``: what stays the same while a case shrinks; ``text``: all that is known."""

    number: int
    kind: str
    text: str


class Tally:
    """What was run."""

    def __init__(self):
        self.cases: Counter[str] = Counter()
        self.silent: Counter[str] = Counter()
        self.ways: Counter[str] = Counter()
        self.executed: Counter[tuple[str, str]] = Counter()
        self.failure: Failure | None = None


def search(
    seed: int, only: str | None, numbers: range, seconds: float | None, on_progress: Callable[[int], None]
) -> Tally:
    """Run cases until one fails, or ``numbers`` or ``seconds`` are used up."""
    tally, (ours, theirs) = Tally(), _fork.Pipe(duplex=False)
    worker = _fork.Process(target=_work, args=(theirs, seed, only, numbers, seconds), daemon=True)
    worker.start()
    theirs.close()
    number = numbers.start
    try:
        while ours.poll(HANGS):
            message = ours.recv()
            if message is None:
                worker.join()
                return tally
            if isinstance(message, Failure):
                tally.failure = message
                return tally
            number, kind, way, fired, executed = message
            tally.cases[kind] += 1
            tally.silent[kind] += not fired
            tally.ways[way] += 1
            tally.executed.update(executed)
            on_progress(1)
            number += 1
        tally.failure = Failure(number, "hang", f"no result within {HANGS} s")
    except EOFError:
        worker.join()
        tally.failure = Failure(number, *_death(worker.exitcode))
    finally:
        worker.kill()
    return tally


def _work(pipe, seed: int, only: str | None, numbers: range, seconds: float | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
    end = time.monotonic() + (seconds or float("inf"))
    for number in numbers:
        if time.monotonic() > end:
            break
        kind, one = case(seed, number, only, ways.WAYS)
        ways.executed.clear()
        try:
            fired = one.check()
        except Exception as error:
            pipe.send(Failure(number, _kind(error), traceback.format_exc()))
            return
        pipe.send((number, kind, one.way, fired, dict(ways.executed)))
    pipe.send(None)


def _kind(error: Exception) -> str:
    if isinstance(error, Mismatch):
        return "Mismatch"
    return f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}"


def _death(code: int | None) -> tuple[str, str]:
    if code is not None and code < 0:
        return (name := signal.Signals(-code).name), f"the process died of {name}"
    return f"exit {code}", f"the process ended itself with exit code {code}; its report is above"


def alone(one: Case, quiet: bool) -> Failure | None:
    """Run a case in a fresh process."""
    ours, theirs = _fork.Pipe(duplex=False)
    process = _fork.Process(target=_check, args=(theirs, one, quiet), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(HANGS):
            return Failure(0, "hang", f"no result within {HANGS} s")
        return ours.recv()
    except EOFError:
        process.join()
        return Failure(0, *_death(process.exitcode))
    finally:
        process.kill()


def _check(pipe, one: Case, quiet: bool) -> None:
    if quiet:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        one.check()
    except Exception as error:
        pipe.send(Failure(0, _kind(error), traceback.format_exc()))
    else:
        pipe.send(None)


def shrink(one: Case, kind: str, on_progress: Callable[[int], None]) -> Case:
    """The smallest case found that fails in the same way."""
    end, seen = time.monotonic() + SHRINKING, {one}
    while time.monotonic() < end:
        for candidate in one.smaller():
            if candidate in seen or time.monotonic() > end:
                continue
            seen.add(candidate)
            on_progress(1)
            failure = alone(candidate, quiet=True)
            if failure and failure.kind == kind:
                one = candidate
                break
        else:
            break
    return one
