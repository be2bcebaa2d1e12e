"""Recordings of event cameras, read by faery: pip install "proxykernels[events]"."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

SUFFIXES = ".aedat4", ".csv", ".dat", ".es", ".raw"
NOT_TOLD = 1 << 14, 1 << 14  # width and height of a sensor of which the file says nothing


class Recording(NamedTuple):
    """Events by time: t in microseconds from the first event on, int64; columns, rows, polarities [events].

    ``size``: height and width of the sensor.
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    size: tuple[int, int]

    def at(self, speed: float) -> "Recording":
        """The recording as if it had run ``speed`` times as fast."""
        return self._replace(t=(self.t / speed).astype(np.int64))


def read(path: Path) -> Recording:
    """The events of a file. Where it does not tell the sensor's size, the smallest that has them all.

    Raises:
        OSError: there is no such file. ValueError: it is of a kind that faery does not read, or damaged, or empty, or
            faery is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a recording of an event camera")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is none of {', '.join(SUFFIXES)}, which faery reads")
    try:
        import faery
    except ModuleNotFoundError as error:
        raise ValueError(f'{path} is read by faery: pip install "proxykernels[events]" ({error})') from error
    try:
        stream = faery.events_stream_from_file(path, dimensions_fallback=NOT_TOLD)
        events = stream.to_array()
    except RuntimeError as error:
        raise ValueError(f"{path} is no recording that faery reads ({error})") from error
    if not len(events):
        raise ValueError(f"{path} has no events")
    events = events[np.argsort(events["t"], kind="stable")]
    fields = [np.ascontiguousarray(events[name]) for name in ("x", "y", "p")]
    width, height = stream.dimensions()
    if (width, height) == NOT_TOLD:
        width, height = int(fields[0].max()) + 1, int(fields[1].max()) + 1
    return Recording((events["t"] - events["t"][0]).astype(np.int64), *fields, (height, width))
