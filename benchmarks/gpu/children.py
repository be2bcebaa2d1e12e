"""Processes that are ended together with all that they have started."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(command: list[str], log: Path, limit_s: float, environment: Mapping[str, str] | None = None) -> int:
    """The exit status of a command in the checkout, in a process group of its own; its output is added to ``log``.

    When it ends, or takes too long, or this process is interrupted, the whole group is killed: what a part has left
    behind would keep the card busy while the next one is timed.

    Raises:
        subprocess.TimeoutExpired: it took more than ``limit_s``.
    """
    settings = os.environ | dict(environment or {})
    with log.open("a") as file:
        child = subprocess.Popen(
            command, cwd=ROOT, env=settings, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return child.wait(limit_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
