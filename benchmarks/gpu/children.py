"""Processes that are ended together with all that they have started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


LOOK_S = 0.5  # between two looks at what a child has printed


def run(
    command: list[str],
    log: Path,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    shown: Callable[[list[str]], None] = lambda lines: None,
) -> int:
    """The exit status of a command in the checkout, in a process group of its own; its output is added to ``log``, and
    ``shown`` is called with its new lines every LOOK_S.

    When it ends, or takes too long, or this process is interrupted, the whole group is killed: what a part has left
    behind would keep the card busy while the next one is timed.

    Raises:
        subprocess.TimeoutExpired: it took more than ``limit_s``.
    """
    settings = os.environ | dict(environment or {})
    end = time.monotonic() + limit_s
    with log.open("a") as file, log.open(errors="replace") as printed:
        printed.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            command, cwd=ROOT, env=settings, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        begun = ""  # a line that has no end yet
        try:
            while True:
                try:
                    status = child.wait(max(0, min(LOOK_S, end - time.monotonic())))
                except subprocess.TimeoutExpired:
                    if time.monotonic() >= end:
                        raise
                    status = None
                *lines, begun = (begun + printed.read()).split("\n")
                shown(lines)
                if status is not None:
                    return status
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
