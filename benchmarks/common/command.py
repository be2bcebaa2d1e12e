"""How a benchmark's command runs: its main, and one line when Ctrl-C ends it."""

import signal
import sys
from collections.abc import Callable

from common import interrupt

INTERRUPTED = 128 + signal.SIGINT  # the exit status by which a shell knows the signal


def command(main: Callable[[], int | None]) -> None:
    """Run ``main`` and exit by its status. Tables are replaced whole, so what was written before Ctrl-C stays."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        interrupt.say()
        sys.exit(INTERRUPTED)
