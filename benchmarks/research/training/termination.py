"""A request to stop, by Ctrl-C or SIGTERM, that waits until nothing is lost by it."""

import signal
import sys

from tqdm import tqdm


class Termination:
    """SIGTERM or Ctrl-C, within a ``with``: it ends the program at once where that is safe, and else waits to be asked
    about. A second Ctrl-C does not wait. ``how``: to go on, said at the end."""

    def __init__(self, how: str = "--resume goes on from here"):
        self.came, self.safe, self.how = 0, False, how

    def __enter__(self) -> "Termination":
        self.before = {number: signal.signal(number, self.take) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def take(self, number: int, _) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = number
        if self.safe:
            self.end()

    def end(self) -> None:
        """End the program, with the exit status by which a shell knows the signal."""
        tqdm.write(f"stopped; {self.how}", file=sys.stderr)
        raise SystemExit(128 + (self.came or signal.SIGTERM))
