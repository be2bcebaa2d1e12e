"""Events of one axis, recordings of unequal length, and files of recordings.

The Heidelberg sets cannot be downloaded here: ``heidelberg`` writes files in their exact format, with random spikes.
"""

import os
import pickle
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from equality import equal
from torch.utils.data import DataLoader

import proxykernels as pk
from proxykernels import event_spikes

UNITS = 700


def some_times(rng: np.random.Generator, n: int) -> np.ndarray:
    """In seconds, in ascending order, as the Heidelberg sets have them."""
    return np.sort(rng.uniform(0, 1.2, n)).astype(np.float16)


def write_heidelberg(path, recordings: int = 6, keys=("null", "eins")) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """A file as shd_train.h5 and ssc_test.h5: arrays of their own length for each recording; what it has."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(len(keys))
    held = []
    for k in range(recordings):
        n = int(rng.integers(50, 400))
        held.append((some_times(rng, n), rng.integers(0, UNITS, n).astype(np.uint16), k % len(keys)))
    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", (recordings,), h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", (recordings,), h5py.vlen_dtype(np.uint16))
        for k, (t, x, _) in enumerate(held):
            times[k], units[k] = t, x
        file["labels"] = np.array([label for *_, label in held], np.uint16)
        file["extra/keys"] = np.array([key.encode() for key in keys])
        file["extra/speaker"] = np.arange(recordings, dtype=np.uint16)
        for name in ("age", "body_height", "gender"):
            file[f"extra/meta_info/{name}"] = np.zeros(12, "S8")
    return held


def binned(t, x, dt: int, T: int, first: int = 0) -> torch.Tensor:
    """By the definition: [T, 1, UNITS]."""
    dense = torch.zeros(T, 1, UNITS)
    for time, unit in zip(t, x, strict=True):
        dense[(int(time) - first) // dt, 0, int(unit)] = 1
    return dense


T_, X = [0, 3, 3, 9, 10, 19, 19], [0, 6, 6, 2, 2, 1, 6]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"dt": 5}, [0, 0, 0, 1, 2, 3, 3]),
        ({"T": 2}, [0, 0, 0, 0, 1, 1, 1]),
        ({"dt": 5, "T": 6}, [1, 2, 2, 3, 3, 5, 5]),
        ({"count": 3}, [0, 0, 0, 1, 1, 1, 2]),
        ({"count": 3, "T": 5}, [0, 0, 0, 1, 1, 1, 2]),
    ],
    ids=str,
)
def test_one_axis(options, steps):
    t = np.array(T_) + (7 if len(options) == 2 else 1000)
    dense = torch.zeros(options.get("T", steps[-1] + 1), 1, 9)
    for step, x in zip(steps, X, strict=True):
        dense[step, 0, x] = 1
    tonics = np.zeros(len(X), [("t", int), ("x", int), ("p", int)])  # as tonic's SHD
    tonics["t"], tonics["x"], tonics["p"] = t, X, 1
    order = np.array([4, 1, 0, 2, 3, 5, 6])  # times in any order
    for given in (
        (t, X),
        (torch.from_numpy(t), np.array(X, np.uint16)),
        (t.tolist(), X, None, [0] * 7),
        (tonics,),
        (SimpleNamespace(t=t, x=X),),
        ({"t": t[order], "x": np.array(X)[order]},),
    ):
        spikes = pk.events(*given, size=(9,), **options)
        assert spikes.shape == dense.shape and equal(spikes.dense(), dense) and dense.any()
    for end in (7, 8, 9, 16, 17):  # of whole bytes and others
        assert equal(pk.events(t, X, size=(end,), **options).dense()[..., :7], dense[..., :7])


def test_count_of_a_camera():
    """Events of a step by the order of their times; equal times keep the order in which they came."""
    t, x, y, p = [30, 10, 20, 10], [0, 1, 2, 3], [0, 0, 1, 1], [1, 0, 1, 0]
    found = pk.events(t, x, y, p, size=(2, 4), count=2)
    assert found.dense().nonzero().tolist() == [
        [0, 0, 0, 0, 1], [0, 0, 0, 1, 3], [1, 0, 1, 0, 0], [1, 0, 1, 1, 2]
    ]  # fmt: skip


def test_units_of_time():
    """Seconds in float16 fall into the steps of their microseconds, also those that are just at an edge."""
    t = np.array([0, 0.01, 0.25, 0.0999, 0.5, 0.7495], np.float16)
    micro = [int(Value) for Value in t.astype(np.float64) * 1e6]
    expected = pk.events(micro, range(6), size=(6,), dt=10_000, T=80).dense()
    found = pk.events(t, range(6), size=(6,), dt=0.01, T=80, unit="s").dense()
    assert equal(found, expected) and found[25, 0, 2] == 1
    as_numbers = pk.events(t, range(6), size=(6,), dt=0.01, T=80).dense()
    assert as_numbers[24, 0, 2] == 1  # as docs/events.md warns
    assert equal(pk.events([0.03, 0.29], [0, 1], size=(2,), dt=0.01, T=30, unit="s").dense()[[3, 29], 0], torch.eye(2))
    assert equal(pk.events([0, 29], [0, 1], size=(2,), dt=1, T=30, unit="ms").dense()[[0, 29], 0], torch.eye(2))
    assert equal(pk.events([0, 29.7], [0, 1], size=(2,), dt=1, T=30, unit="us").dense()[[0, 29], 0], torch.eye(2))


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"x": [9] * 7}, ValueError, "x must lie from 0 to 8 for a sensor of 9 positions, got 9"),
        ({"x": [-1] * 7}, ValueError, "x must lie from 0 to 8 for a sensor of 9 positions, got -1"),
        ({"y": X}, ValueError, r"y was given, and size=\(W,\) is that of one axis: leave y out, or give size=\(height"),
        ({"p": [0, 1] * 3 + [0]}, ValueError, r"p must be the same for all events of one axis.*size=\(1, W\)"),
        ({"x": None, "p": [1] * 7}, TypeError, r"x is missing: .* with size=\(W,\) t and x"),
        ({"x": None}, TypeError, "events takes t and x, or one argument .* got a list without t, x"),
        ({"x": X[:3]}, ValueError, "t, x must have the same length, got 7, 3"),
        ({"size": (0,)}, ValueError, "size must be at least 1"),
        ({"size": (9, 9)}, TypeError, "y is missing"),
        ({"size": (1, 2, 3)}, TypeError, "size must be an integer or two of them"),
        ({"count": 3}, ValueError, "dt=5 and count=3 exclude each other"),
        ({"dt": None, "count": 0}, ValueError, "count must be an integer of at least 1, got 0"),
        ({"dt": None, "count": 2, "T": 2}, ValueError, "t must lie from 0 to below 2 steps of 2, got 6"),
        ({"unit": "min"}, ValueError, "unit must be 's', 'ms' or 'us', got 'min'"),
        ({"unit": "us", "dt": 0.5}, ValueError, "dt must be a whole number of microseconds, got 0.5 us"),
        ({"unit": "s", "t": [1e14] * 7}, ValueError, r"t must be less than 2\*\*63 microseconds, got 1e\+20"),
    ],
)
def test_bad_events_of_one_axis(changed, error, text):
    with pytest.raises(error, match=text):
        pk.events(**{"t": T_, "x": X, "size": (9,), "dt": 5} | changed)


def test_a_list_of_recordings_and_arrays_without_y_tell_what_to_call():
    recording = {"t": T_, "x": X}
    with pytest.raises(TypeError, match=r"got a list .*; pk.recordings.batch takes several recordings"):
        pk.events([recording, recording], size=(9,), dt=5)
    with pytest.raises(TypeError, match=r"without y, p; a sensor of one axis has size=\(W,\)"):
        pk.events(recording, size=(9, 9), dt=5)


def test_memory_of_one_axis(monkeypatch):
    monkeypatch.setattr(event_spikes.checks, "memory", lambda device: 100 * 9)
    assert pk.events([0, 99], [0, 8], size=(9,), dt=1).T == 100
    with pytest.raises(ValueError, match="a sensor of 9 positions take .* dt has the unit of t"):
        pk.events([0, 100], [0, 8], size=(9,), dt=1)


def test_a_batch_has_the_spikes_of_each_recording():
    rng = np.random.default_rng(0)
    given = []
    for n in (200, 1, 57):
        given.append({"t": rng.integers(0, 1000, n), "x": rng.integers(0, UNITS, n)})
    alone = [pk.events(recording, size=(UNITS,), dt=30) for recording in given]
    found = pk.recordings.batch(given, size=(UNITS,), dt=30)
    assert found.labels is None and found.lengths.tolist() == [part.T for part in alone] and len({*found.lengths}) > 1
    assert found.spikes.shape == (max(found.lengths), 3, UNITS)
    for k, part in enumerate(alone):
        one = found.spikes.dense()[:, k : k + 1]
        assert equal(one[: part.T], part.dense()) and not one[part.T :].any() and part.rate() > 0
    spikes, lengths, labels = pk.recordings.batch([(one, k) for k, one in enumerate(given)], size=(UNITS,), T=9)
    assert spikes.T == 9 and lengths.tolist() == [9, 9, 9] and labels.tolist() == [0, 1, 2]
    camera = {"t": [0, 50], "x": [0, 3], "y": [1, 2], "p": [0, 1]}, {"t": [7], "x": [0], "y": [0], "p": [1]}
    spikes, lengths, _ = pk.recordings.batch(camera, size=(3, 4), dt=10)
    assert spikes.shape == (6, 2, 2, 3, 4) and lengths.tolist() == [6, 1] and spikes.count().sum() == 3


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([], TypeError, "recordings must be a list of at least one recording, got list"),
        ({"t": T_, "x": X}, TypeError, "got dict"),
        ([{"t": T_, "x": X}, {"t": T_, "x": [9] * 7}], ValueError, "recording 1 of 2: x must lie from 0 to 8 .* got 9"),
        ([({"t": T_, "x": X}, 1), {"t": T_, "x": X}], TypeError, "a label or none, got 1 of 2"),
    ],
)
def test_bad_batches(given, error, text):
    with pytest.raises(error, match=text):
        pk.recordings.batch(given, size=(9,), dt=5)


@pytest.mark.parametrize("name", ["shd_train.h5", "ssc_test.h5"])
def test_files_of_the_heidelberg_sets(tmp_path, name):
    held = write_heidelberg(
        tmp_path / name, keys=("null", "eins") if name.startswith("shd") else ("bed", "bird", "cat")
    )
    recordings = pk.recordings.HDF5(tmp_path / name)
    assert len(recordings) == len(held) and recordings.labels.tolist() == [label for *_, label in held]
    for k, (t, x, label) in enumerate(held):
        events, told = recordings[k]
        micro = (t.astype(np.float64) * 1e6).astype(np.int64)
        assert told == label and np.array_equal(events["t"], micro) and np.array_equal(events["x"], x)
        expected = binned(micro, x, 10_000, 130)
        assert equal(pk.events(events, size=(UNITS,), dt=10_000, T=130).dense(), expected) and expected.any()
        assert equal(pk.events(t, x, size=(UNITS,), dt=0.01, T=130, unit="s").dense(), expected)
    copied = pickle.loads(pickle.dumps(recordings))
    assert np.array_equal(copied[3][0]["t"], recordings[3][0]["t"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_of_recordings(tmp_path, workers):
    held = write_heidelberg(tmp_path / "shd_test.h5")
    recordings = pk.recordings.HDF5(tmp_path / "shd_test.h5")
    assert recordings[0]  # opened here, and not used by another process
    collate = partial(pk.recordings.batch, size=(UNITS,), dt=10_000)
    batches = [*DataLoader(recordings, 4, collate_fn=collate, num_workers=workers)]
    assert [len(batch.labels) for batch in batches] == [4, 2]
    for k, (t, x, label) in enumerate(held):
        spikes, lengths, labels = batches[k // 4]
        one = pk.events(t, x, size=(UNITS,), dt=0.01, unit="s")
        assert labels[k % 4] == label and lengths[k % 4] == one.T
        assert equal(spikes.dense()[: one.T, k % 4], one.dense()[:, 0])


def test_the_classes_of_tonic(tmp_path, monkeypatch):
    """SHD from a file that was written in its format, DVSGesture from a folder of its arrays."""
    tonic = pytest.importorskip("tonic", reason="tonic is not installed: pip install tonic")
    monkeypatch.setattr(tonic.datasets.SHD, "_check_exists", lambda self: True)  # no archive with the right hash
    (tmp_path / "SHD").mkdir()
    write_heidelberg(tmp_path / "SHD" / "shd_test.h5")
    dataset = tonic.datasets.SHD(str(tmp_path), train=False)
    ours = pk.recordings.HDF5(tmp_path / "SHD" / "shd_test.h5")
    assert len(dataset) == len(ours) == 6
    for k in range(6):
        (theirs, label), (events, told) = dataset[k], ours[k]
        one, other = (pk.events(given, size=(UNITS,), dt=10_000) for given in (theirs, events))
        assert label == told and equal(one.dense(), other.dense()) and one.rate() > 0
    batch = pk.recordings.batch([dataset[k] for k in range(6)], size=(UNITS,), dt=10_000)
    frames = tonic.transforms.ToFrame(dataset.sensor_size, time_window=10_000, include_incomplete=True)
    for k in range(6):
        dense = torch.from_numpy(frames(dataset[k][0]))  # [T, 1, 700]
        assert abs(len(dense) - batch.lengths[k]) <= 1  # where the last event lies at an edge
        T = min(len(dense), int(batch.lengths[k]))
        assert equal((dense[:T] > 0).float(), batch.spikes.dense()[:T, k : k + 1]) and dense.any()

    monkeypatch.setattr(tonic.datasets.DVSGesture, "_check_exists", lambda self: True)
    folder = tmp_path / "DVSGesture" / "ibmGestureTest" / "user24_fluorescent"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    table = np.stack([rng.integers(0, end, 500) for end in (128, 128, 2, 300)], 1)  # x, y, p, milliseconds
    np.save(folder / "3.npy", table[table[:, 3].argsort()].astype(np.int64))
    (events, label), *_ = [*tonic.datasets.DVSGesture(str(tmp_path), train=False)]
    spikes = pk.events(events, size=(128, 128), dt=20_000, T=15)
    frames = tonic.transforms.ToFrame((128, 128, 2), time_window=20_000, start_time=0, end_time=300_000)(events)
    assert label == 3 and equal(spikes.dense()[:, 0], torch.from_numpy(frames > 0).float()) and spikes.rate() > 0
    flipped = tonic.transforms.RandomFlipLR((128, 128, 2), p=1.0)(pk.recordings.to_array(spikes, 20_000))
    assert equal(pk.events(flipped, size=(128, 128), dt=20_000, T=15).dense(), spikes.dense().flip(4))


def test_back_to_events():
    rng = np.random.default_rng(0)
    spikes = pk.pack(torch.from_numpy(rng.random((7, 2, 9)) < 0.2))
    for sample in (0, 1):
        array = pk.recordings.to_array(spikes, 10, sample=sample)
        again = pk.events(array, size=(9,), dt=10, T=7)
        assert equal(again.dense()[:, 0], spikes.dense()[:, sample]) and len(array) == again.count().sum() > 0
        assert array.dtype.names == ("t", "x", "p") and (np.diff(array["t"]) >= 0).all()
    camera = pk.pack(torch.from_numpy(rng.random((7, 1, 2, 3, 4)) < 0.2))
    array = pk.recordings.to_array(camera)
    assert array.dtype.names == ("x", "y", "t", "p")
    assert equal(pk.events(array, size=(3, 4), dt=1, T=7).dense(), camera.dense()) and len(array)
    for wrong in (torch.zeros(7, 1, 9), pk.pack(torch.zeros(7, 1, 3, 4, 4)), None):
        with pytest.raises(TypeError, match=r"spikes must be Spikes \(T, N, 2, H, W\) or \(T, N, W\), got"):
            pk.recordings.to_array(wrong)
    with pytest.raises(ValueError, match="sample must lie from 0 to 1, got 2"):
        pk.recordings.to_array(spikes, sample=2)
    with pytest.raises(ValueError, match="dt must be an integer of at least 1, got 0.5"):
        pk.recordings.to_array(spikes, 0.5)


CAMERA = {"t": [0, 3, 19], "x": [0, 6, 1], "y": [0, 4, 1], "p": [1, 0, 0]}


@pytest.mark.parametrize("name", ["a.aedat4", "a.raw", "a.npy"])
def test_files_of_cameras(tmp_path, name):
    if name == "a.npy":
        array = np.zeros(3, [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
    else:
        faery = pytest.importorskip("faery")
        array = np.zeros(3, faery.EVENTS_DTYPE)
    for field, values in CAMERA.items():
        array[field] = values
    if name == "a.npy":
        np.save(tmp_path / name, array)
    else:
        options = {"version": "evt3"} if name == "a.raw" else {}
        faery.events_stream_from_array(array, dimensions=(1280, 720)).to_file(tmp_path / name, **options)
    read = pk.recordings.read(tmp_path / name)
    expected = pk.events(**CAMERA, size=(5, 7), dt=5).dense()
    assert equal(pk.events(read, size=(5, 7), dt=5).dense(), expected) and expected.any()


def test_files_that_are_something_else(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file .*a.npy"):
        pk.recordings.read(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match="there is no file .*a.h5; unpack"):
        pk.recordings.HDF5(tmp_path / "a.h5")
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"float64 \[3, 4\] without names of fields: pass its columns"):
        pk.recordings.read(tmp_path / "a.npy")
    (tmp_path / "a.h5").touch()
    with pytest.raises(ValueError, match="holds many recordings: pk.recordings.HDF5"):
        pk.recordings.read(tmp_path / "a.h5")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = [1]
    with pytest.raises(ValueError, match="b.h5 has no spikes/times, spikes/units; files of SHD and SSC have"):
        pk.recordings.HDF5(os.fspath(tmp_path / "b.h5"))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"h5py reads this file, and is not installed: .*proxykernels\[events\]"):
        pk.recordings.HDF5(tmp_path / "b.h5")


@pytest.mark.parametrize("N", [1, 3])
def test_frames_of_one_axis(N):
    """[T, N, 1, L], as tonic's ToFrame gives them, are no constant images of a network whose features they have."""
    torch.manual_seed(0)
    T, frames = 20, torch.rand(20, N, 1, 70) < 0.1
    net = torch.nn.Sequential(
        pk.Flatten(), pk.FusedLIFLinear(70, 16, decay=0.9, v_threshold=0.3), pk.FusedLILinear(16, 4, decay=0.9)
    ).eval()
    expected = pk.simulate(net, frames.flatten(2), T).potentials
    assert expected.shape == (T, N, 4) and expected[-1].any()
    given = [frames, pk.pack(frames)] + [frames.short(), frames.float()] * (N > 1)
    for x in given:
        assert equal(pk.simulate(net, x, T).potentials, expected)
        assert equal(pk.compile(net, x)(x, T).potentials, expected)
    with pytest.raises(ValueError, match=rf"x is a sequence of {T} steps, and T is 7"):
        pk.simulate(net, frames, 7)
    images = torch.rand(T, 1, 7, 10)  # constant ones of as many features
    assert equal(pk.simulate(net, images, T).potentials, pk.simulate(net, images.flatten(1), T).potentials)
    with pytest.raises(TypeError, match=r"got torch.uint8 .* constant input.*x.flatten\(2\) makes one of frames"):
        pk.simulate(net, images.byte(), T)
    with pytest.raises(ValueError, match=r"got \[20, ., 1, 70\]; proxykernels.Flatten\(\) in front of the layer, or x"):
        pk.simulate(net[1:], frames, T)
