"""Ctrl-C ends a command in one line, also while its imports run: each command imports this before what takes time."""

import signal
import sys
from pathlib import Path


def say() -> None:
    """The line; a second Ctrl-C must not break it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(f"\n{Path(sys.argv[0]).name}: interrupted; the results written before are kept", file=sys.stderr)


def _hook(kind, error, traceback) -> None:
    if issubclass(kind, KeyboardInterrupt):
        say()
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _hook
