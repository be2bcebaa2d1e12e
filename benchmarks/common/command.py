"""How a benchmark's command runs: its main, and one line when Ctrl-C ends it."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

INTERRUPTED = 128 + signal.SIGINT  # the exit status by which a shell knows the signal


def command(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit by its status. Tables are replaced whole, so what was written before Ctrl-C stays."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break the goodbye
        print(f"\n{Path(sys.argv[0]).name}: interrupted; the results written before are kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
