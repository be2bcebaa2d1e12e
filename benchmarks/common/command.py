"""How a benchmark's command runs: its options first, then the work, and one line when Ctrl-C ends it.

A command's own file has only its options. What it does is in a module of a folder, which is imported when the options
are known to be good: torch takes seconds, and --help should not.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 128 + signal.SIGINT  # the exit status by which a shell knows the signal


def command(main: Callable[[], int | None], parts: dict[str, str] | None = None) -> None:
    """Run ``main`` and exit by its status. Tables are replaced whole, so what was written before Ctrl-C stays.

    Args:
        parts: first words of the command line, and the modules whose ``main`` then runs instead of this one.
    """
    try:
        name = sys.argv[1] if len(sys.argv) > 1 else ""
        if parts and name in parts:
            sys.argv[:2] = [f"{sys.argv[0]} {name}"]  # what --help calls it
            main = importlib.import_module(parts[name]).main
        sys.exit(main())
    except KeyboardInterrupt:
        say_interrupted()
        sys.exit(INTERRUPTED)


def work(module: str, options: argparse.Namespace) -> int | None:
    """``run(options)`` of a module, imported now; returns the exit status."""
    return importlib.import_module(module).run(options)


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Within a ``with``: bad input, a ValueError or an OSError, ends the command ``name`` in one sentence."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"{name}: {error}") from error


def say_interrupted() -> None:
    """The line; a second Ctrl-C must not break it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(f"\n{Path(sys.argv[0]).name}: interrupted; the results written before are kept", file=sys.stderr)


def _hook(kind, error, traceback) -> None:
    if issubclass(kind, KeyboardInterrupt):
        say_interrupted()
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _hook  # at import, which common/__init__.py does first: the imports of a command take seconds
