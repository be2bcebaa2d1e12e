"""Streams and events of GPUs that are not there (pretend_gpu.py), and the races between streams that real ones lose.

Work is done at once, in the order of the program, so results are right whatever a program forgets. What it forgets is
found by clocks: each launch has a number on its stream, and each stream knows up to which launch of every other one it
has waited. A launch that touches memory which a launch of another stream has written, or one that writes what another
stream reads, must have waited for it; and so must the stream that memory was allocated on, before the memory is given
back, except for streams that the memory was recorded for (``record_stream``).
"""

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import UntypedStorage

Clock = dict["Stream", int]  # of a stream, how many of its launches are known to have ended


class Stream:
    """torch.cuda.Stream."""

    def __init__(self, streams: "Streams", device: torch.device):
        self.streams, self.device = streams, device
        self.clock: Clock = {}
        self.launches = 0

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = Event() if event is None else event
        event.clock = {**self.clock, self: self.launches}
        return event

    def wait_event(self, event: "Event") -> None:
        later(self.clock, event.clock)

    def wait_stream(self, stream: "Stream") -> None:
        self.wait_event(stream.record_event())

    def synchronize(self) -> None:
        later(self.streams.host, self.record_event().clock)


class Event:
    """torch.cuda.Event."""

    def __init__(self, **options):
        self.clock: Clock = {}


def later(clock: Clock, other: Clock) -> None:
    for stream, launches in other.items():
        clock[stream] = max(clock.get(stream, 0), launches)


class Streams:
    """The streams of all devices, and who used which memory.

    Attributes:
        host: what the program itself has waited for. faults: the races that were found, in words.
    """

    def __init__(self):
        self.host: Clock = {}
        self.faults: list[str] = []
        self.first: dict[torch.device, Stream] = {}  # of each device
        self._of_thread = threading.local()
        self.written: weakref.WeakKeyDictionary[UntypedStorage, tuple[Stream, int]] = weakref.WeakKeyDictionary()
        self.read: weakref.WeakKeyDictionary[UntypedStorage, Clock] = weakref.WeakKeyDictionary()
        self.recorded: weakref.WeakKeyDictionary[UntypedStorage, set[Stream]] = weakref.WeakKeyDictionary()

    def of(self, device: torch.device) -> Stream:
        """The current stream of a device, of this thread."""
        return vars(self._of_thread).get(device) or self.first.setdefault(device, Stream(self, device))

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """torch.cuda.stream, but for the device."""
        current = vars(self._of_thread)
        before, current[stream.device] = self.of(stream.device), stream
        yield
        current[stream.device] = before

    def launch(
        self, name: str, device: torch.device, reads: Iterable[UntypedStorage], writes: Iterable[UntypedStorage]
    ) -> None:
        """A launch on a device's current stream, and the memory that it touches."""
        stream = self.of(device)
        stream.launches += 1
        later(stream.clock, self.host)
        stream.clock[stream] = stream.launches
        for memory in reads:
            self._must_have_ended(name, stream, "reads", [self.written.get(memory)])
            self.read.setdefault(memory, {})[stream] = stream.launches
        for memory in writes:
            if memory not in self.recorded:  # it is new
                self.recorded[memory] = set()
                uses = self.read.setdefault(memory, {})
                weakref.finalize(memory, self._freed, name, stream, uses, self.recorded[memory]).atexit = False
            self._must_have_ended(name, stream, "writes", [self.written.get(memory), *self.read[memory].items()])
            self.written[memory] = stream, stream.launches
            self.read[memory][stream] = stream.launches

    def _must_have_ended(self, name: str, stream: Stream, does: str, uses: Iterable) -> None:
        for other, launch in filter(None, uses):
            if stream.clock.get(other, 0) < launch:
                self.faults.append(f"{name} {does} what another stream uses, which its own has not waited for")

    def _freed(self, name: str, stream: Stream, uses: Clock, recorded: set[Stream]) -> None:
        for other, launch in uses.items():
            if other not in recorded and max(stream.clock.get(other, 0), self.host.get(other, 0)) < launch:
                if other is not stream:
                    self.faults.append(f"what {name} wrote is given back while another stream uses it")
