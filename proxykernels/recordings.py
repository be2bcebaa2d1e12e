"""Events of cameras, cochleas and spiking data sets as packed spikes: one recording, many of unequal length, and files.

spikes = pk.events(t, x, y, p, size=(128, 128), dt=10_000)  # a camera: (T, 1, 2, 128, 128)
spikes = pk.events(t, x, size=(700,), dt=10_000)            # one axis, such as a cochlea's: (T, 1, 700)

recordings = pk.recordings.HDF5("shd_train.h5")
batch = pk.recordings.batch([recordings[k] for k in range(64)], size=(700,), dt=10_000)
result = pk.simulate(net, batch.spikes, batch.spikes.T, lengths=batch.lengths)
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import checks
from .event_spikes import events, microseconds
from .kernels import heap
from .spikes import Spikes

__all__ = ["HDF5", "Batch", "batch", "read", "to_array"]


class Batch(NamedTuple):
    """What :func:`batch` gives.

    Attributes:
        spikes: Spikes (T, N, ...), silent after each recording's end.
        lengths: steps of each recording, int64 [N]: ``simulate(..., lengths=lengths)`` stops each at its end.
        labels: int64 [N]; None where none were given.
    """

    spikes: Spikes
    lengths: Tensor
    labels: Tensor | None


def batch(
    recordings: Sequence[Any], *, size, dt=None, T: int | None = None, count: int | None = None,
    unit: str | None = None,
) -> Batch:  # fmt: skip
    """Pack several recordings into one batch, each with its own number of steps.

    A ``DataLoader`` takes it, for the pairs of a data set:
    ``DataLoader(dataset, 64, collate_fn=partial(pk.recordings.batch, size=(700,), dt=10_000))``.

    Args:
        recordings: N of them; each is what ``pk.events`` takes as one argument, or a pair (that, label), as the data
            sets of tonic and :class:`HDF5` give them. A label is an integer.
        size, dt, T, count, unit: as of ``pk.events``. Without T each recording has as many steps as it needs.

    Returns:
        A :class:`Batch` (spikes, lengths, labels), on the CPU.

    Raises:
        TypeError, ValueError: an argument or a recording is wrong; the message names it, and the number of the
            recording.
    """
    if not isinstance(recordings, Sequence) or not len(recordings):
        raise TypeError(f"recordings must be a list of at least one recording, got {type(recordings).__name__}")
    pairs = [given if isinstance(given, tuple) and len(given) == 2 else (given, None) for given in recordings]
    labels = [label for _, label in pairs if label is not None]
    if labels and len(labels) < len(pairs):
        raise TypeError(f"recordings must all have a label or none, got {len(labels)} of {len(pairs)}")
    parts = []
    for k, (given, _) in enumerate(pairs):
        try:
            parts.append(events(given, size=size, dt=dt, T=T, count=count, unit=unit))
        except (TypeError, ValueError) as error:
            raise type(error)(f"recording {k} of {len(pairs)}: {error}") from None
    steps = max(part.T for part in parts)
    _, _, pixels, width = parts[0]._words.shape
    words = heap.zeros(len(parts), steps, pixels, width, dtype=torch.uint8)
    for k, part in enumerate(parts):
        words[k, : part.T] = part._words[0]
    return Batch(
        Spikes(words, (steps, len(parts), *parts[0].shape[2:])),
        torch.tensor([part.T for part in parts], dtype=torch.int64, device=heap.CPU),
        torch.tensor([int(label) for label in labels], dtype=torch.int64, device=heap.CPU) if labels else None,
    )


class HDF5(torch.utils.data.Dataset):
    """Recordings in the HDF5 format of the Spiking Heidelberg Digits and Spiking Speech Commands: ``spikes/times`` in
    seconds, ``spikes/units`` and ``labels``, as shd_train.h5 or ssc_test.h5 of https://zenkelab.org have them.

    ``recordings[k]`` is a pair (events, label): t in whole microseconds and x, the unit, from 0 to 699, as tonic's SHD
    and SSC give them. Needs h5py: ``pip install "proxykernels[events]"``. Processes of a DataLoader each open the file.

    Args:
        path: of the unpacked file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: h5py is missing. ValueError: the file has other contents.
    """

    def __init__(self, path: str | os.PathLike):
        self.path, self._open = os.fspath(path), (0, None)
        names = "spikes/times", "spikes/units", "labels"
        if missing := [name for name in names if name not in self._file]:
            raise ValueError(f"{self.path} has no {', '.join(missing)}; files of SHD and SSC have {', '.join(names)}")
        self.labels = torch.from_numpy(self._file["labels"][:].astype(np.int64))

    @property
    def _file(self) -> Any:
        process, file = self._open
        if file is None or process != os.getpid():
            if not Path(self.path).is_file():
                raise FileNotFoundError(
                    f"there is no file {self.path}; unpack what was downloaded, such as shd_train.h5.zip"
                )
            self._open = os.getpid(), _imported("h5py").File(self.path, "r")
        return self._open[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[dict[str, np.ndarray], int]:
        times = self._file["spikes/times"][k].astype(np.float64)
        t, _ = microseconds(times, None, "s")
        return {"t": t, "x": self._file["spikes/units"][k].astype(np.int64)}, int(self.labels[k])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": (0, None)}


def read(path: str | os.PathLike) -> np.ndarray:
    """Read one recording of an event camera: a structured array for ``pk.events`` and the transforms of tonic.

    Args:
        path: of a file .aedat4, .raw (Prophesee EVT 2 and 3), .dat, .es or .csv, which faery reads
            (``pip install "proxykernels[events]"``), or of a NumPy file .npy with the fields t and x (y, p).

    Returns:
        Events [n] with fields t, in microseconds, x, y and p; of a NumPy file what it has.

    Raises:
        FileNotFoundError, ImportError: there is no such file, or faery is missing.
        ValueError: the file has another format; the message says what reads it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix in (".h5", ".hdf5"):
        raise ValueError(f"{path} holds many recordings: pk.recordings.HDF5({str(path)!r})[k] is one, with its label")
    if path.suffix == ".npy":
        found = np.load(path, allow_pickle=False)
        if found.dtype.names is None:
            raise ValueError(
                f"{path} has {found.dtype} {list(found.shape)} without names of fields: pass its columns, as in "
                "pk.events(t, x, y, p, ...). DVS Gesture as tonic has it is read by tonic.datasets.DVSGesture"
            )
        return found
    packets = [*_imported("faery").events_stream_from_file(path)]
    found = np.concatenate(packets) if packets else np.zeros(0, _imported("faery").EVENTS_DTYPE)
    return _structured({"t": found["t"].astype(np.int64), "x": found["x"], "y": found["y"], "p": found["on"]})


def to_array(spikes: Spikes, dt: int = 1, *, sample: int = 0) -> np.ndarray:
    """The spikes of one sample as events, such as the transforms of tonic take: the inverse of ``pk.events``.

    Args:
        spikes: Spikes (T, N, 2, H, W), or (T, N, W) on one axis.
        dt: length of a step, an integer; the events of step k have the time k dt.
        sample: which of the N samples.

    Returns:
        A structured array [events] in order of time, with fields x, y, t and p, or t, x and p (1) on one axis.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value; the message names it.
    """
    if (
        not isinstance(spikes, Spikes)
        or len(spikes.shape) not in (3, 5)
        or (len(spikes.shape) == 5 and spikes.shape[2] != 2)
    ):
        shown = list(spikes.shape) if isinstance(spikes, Spikes | Tensor) else spikes
        raise TypeError(
            f"spikes must be Spikes (T, N, 2, H, W) or (T, N, W), got {type(spikes).__name__} {shown}; pk.pack makes "
            "them of a tensor"
        )
    if not checks.is_integer(dt) or dt < 1:
        raise ValueError(f"dt must be an integer of at least 1, got {dt!r}")
    if not checks.is_integer(sample) or not 0 <= sample < spikes.shape[1]:
        raise ValueError(f"sample must lie from 0 to {spikes.shape[1] - 1}, got {sample!r}")
    t, *where = spikes.dense(torch.bool)[:, sample].cpu().numpy().nonzero()
    if len(where) == 1:
        return _structured({"t": t * dt, "x": where[0], "p": np.ones(len(t), np.int64)})
    p, y, x = where
    return _structured({"x": x.astype(np.int16), "y": y.astype(np.int16), "t": t * dt, "p": p.astype(bool)})


def _structured(fields: dict[str, np.ndarray]) -> np.ndarray:
    array = np.empty(len(fields["t"]), [(name, values.dtype) for name, values in fields.items()])
    for name, values in fields.items():
        array[name] = values
    return array


def _imported(name: str) -> Any:
    """h5py or faery, which are asked for when they are needed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(
            f'{name} reads this file, and is not installed: pip install "proxykernels[events]"'
        ) from error
