"""The C interface with bad input: a status and a sentence, and a stream that goes on as if nothing had been asked."""

import ctypes
import json
import random
import threading

import c_library
import pytest
import torch
from c_library import FRAMES, IMAGE, SPIKES, CError, Network, call, library
from equality import equal
from safetensors import safe_open
from safetensors.torch import save_file
from test_engine import TARGETS, image, network
from test_engine_file import change, places

import proxykernels as pk
from proxykernels.kernels import cpu

X = image(1)


@pytest.fixture
def path(tmp_path):
    pk.compile(network(C=4), X).save(tmp_path / "net")
    return tmp_path / "net"


def refused(status: str, sentence: str, call_it, *arguments, **options) -> None:
    with pytest.raises(CError) as caught:
        call_it(*arguments, **options)
    assert caught.value.status == status and sentence in caught.value.sentence


def test_null_and_handles_of_another_kind(path):
    net = Network(path)
    stream, size = net.stream(), X.numel()
    for name, arguments in {
        "pk_network_open": (None, None, ctypes.byref(ctypes.c_void_p())),
        "pk_network_read": (None, 9, None, ctypes.byref(ctypes.c_void_p())),
        "pk_network_info": (None, ctypes.byref(c_library.Info())),
        "pk_layer_info": (net.handle, 0, None),
        "pk_layer_source": (None, 0, 0, ctypes.byref(ctypes.c_int64())),
        "pk_stream_open": (None, 1, 1, ctypes.byref(ctypes.c_void_p())),
        "pk_watch": (None, 0, 1),
        "pk_reset": (None,),
        "pk_steps": (stream.handle, None),
        "pk_run": (stream.handle, IMAGE, None, size, 3),
        "pk_run_lengths": (stream.handle, IMAGE, X.data_ptr(), size, 3, None, 1),
        "pk_advance": (None, IMAGE, X.data_ptr(), size, 3),
        "pk_counts": (stream.handle, None, 10),
        "pk_logits": (None, X.data_ptr(), 10),
        "pk_layer_spikes": (stream.handle, 0, None, 10),
        "pk_layer_values": (None, 0, X.data_ptr(), 10),
        "pk_layer_work": (stream.handle, 0, None),
        "pk_state_read": (stream.handle, 0, None, 10),
        "pk_state_write": (None, 0, X.data_ptr(), 10),
        "pk_state_size": (stream.handle, None),
        "pk_state_save": (stream.handle, None, 10),
        "pk_state_restore": (None, X.data_ptr(), 10),
        "pk_reset_sample": (None, 0),
        "pk_sample_steps": (stream.handle, None, 1),
        "pk_memory": (None, ctypes.byref(ctypes.c_int64())),
        "pk_pack_spikes": (None, 1, 1, 1, 1, 1, None, 1),
        "pk_pack_events": (None, None, None, None, 1, 0, 1, 1, 1, 1, X.data_ptr(), 1),
    }.items():
        refused("BAD_ARGUMENT", "NULL", call, name, *arguments)
    wrong = net.handle.value
    refused("BAD_ARGUMENT", "something else", call, "pk_reset", wrong)
    refused("BAD_ARGUMENT", "something else", call, "pk_network_info", stream.handle, ctypes.byref(c_library.Info()))
    listed = {name for name, (result, _) in c_library.functions().items() if result == "pk_status"}
    assert len(listed) == 27  # each is called above


def test_closing(path):
    """Handles become NULL; streams keep their network; closing again is nothing."""
    net = Network(path)
    stream = net.stream()
    net.close()
    assert net.handle.value is None
    stream.run(X, 20)
    assert stream.counts().any()
    stream.close(), stream.close(), net.close()
    assert stream.handle.value is None
    library().pk_network_close(None), library().pk_stream_close(None)
    refused("BAD_ARGUMENT", "was closed", call, "pk_reset", stream.handle)
    refused("BAD_ARGUMENT", "was closed", call, "pk_stream_open", net.handle, 1, 1, ctypes.byref(ctypes.c_void_p()))


def test_sizes_and_values(path):
    stream = Network(path).stream()
    stream.advance(X, 7)
    counts, state = stream.counts(), stream.state(0)
    huge, nan = X.clone(), X.clone()
    huge[0, 0, 0, 0], nan[0, 1, 2, 3] = 2.0**101, torch.nan
    for status, sentence, x, kind, T in (
        ("BAD_ARGUMENT", "data must have 126 elements, got 125", X.flatten()[1:], IMAGE, 3),
        ("BAD_ARGUMENT", "data must have 378 elements, got 126", X, FRAMES, 3),
        ("BAD_ARGUMENT", "data must have 189 elements, got 126", X, SPIKES, 3),
        ("BAD_ARGUMENT", "T must be at least 1", X, IMAGE, 0),
        ("BAD_ARGUMENT", "T must be at least 1", X, IMAGE, -5),
        ("BAD_ARGUMENT", "T must be at least 1 and below 2^31", X, IMAGE, 1 << 31),
        ("BAD_ARGUMENT", "input must be a pk_input, got 9", X, 9, 3),
        ("BAD_ARGUMENT", "channels that are not there", torch.full((3 * 63,), 4, dtype=torch.uint8), SPIKES, 3),
        ("NOT_FINITE", "data must be finite", huge, IMAGE, 3),
        ("NOT_FINITE", "data must be finite", nan, IMAGE, 3),
    ):
        refused(status, sentence, stream.advance, x, T, kind)
    call("pk_watch", stream.handle, 0, 1)
    refused("NO_MEMORY", "T = 2147483647 steps", stream.advance, X, (1 << 31) - 1)  # 126 GiB of layer 0
    call("pk_watch", stream.handle, 0, 0)
    assert stream.steps == 7 and equal(stream.counts(), counts) and equal(stream.state(0), state)
    refused("NOT_HERE", "was not kept", stream.spikes, 4)  # of a call that failed
    stream.advance(X, 2)
    refused("NOT_HERE", "layer 0 was not kept: call pk_watch", stream.spikes, 0)
    refused("BAD_ARGUMENT", "layer must be 0 to 4, got 6", call, "pk_watch", stream.handle, 6, 1)
    refused("BAD_ARGUMENT", "layer must be 0 to 4, got -1", stream.network.layer, -1)
    refused("BAD_ARGUMENT", "counts must have 10 elements, got 9", call, "pk_counts", stream.handle, X.data_ptr(), 9)
    refused("NOT_HERE", "converted", stream.logits)
    refused("BAD_ARGUMENT", "layer 1 has no state", call, "pk_state_read", stream.handle, 1, X.data_ptr(), 1)
    refused("NOT_FINITE", "state holds NaN", stream.set_state, 0, torch.full_like(state, torch.nan))
    refused("BAD_ARGUMENT", "state must have", stream.set_state, 0, state[1:])
    for batch, threads, sentence in (0, 1, "batch must be"), (1, -1, "threads must be"), (1, 1025, "threads must be"):
        refused("BAD_ARGUMENT", sentence, stream.network.stream, batch, threads)
    refused("NO_MEMORY", "samples take", stream.network.stream, (1 << 31) - 1)
    refused("BAD_ARGUMENT", "target must be", Network, path, "sse")


def test_whole_states(path):
    """Bytes that come from anywhere are looked at; nothing changes where they are refused."""
    stream, other = Network(path).stream(2), Network(path).stream(1)
    x = torch.cat([X, X])
    stream.advance(x, 7), other.advance(X, 7)
    kept, counts = stream.save(), stream.counts()
    stream.advance(x, 3)
    words, nan, negative = kept.clone(), kept.clone(), kept.clone()
    words[0] += 1
    nan.view(torch.float32)[-1] = torch.nan
    negative[64:72].view(torch.int64)[0] = -1  # after how many steps sample 0 began
    for status, sentence, state in (
        ("BAD_ARGUMENT", f"state must have {len(kept)} elements, got {len(kept) - 1}", kept[1:]),
        ("BAD_ARGUMENT", "state must have", other.save()),
        ("BAD_ARGUMENT", "state is not one that pk_state_save wrote", torch.zeros_like(kept)),
        ("BAD_ARGUMENT", "of a stream of this network with N = 2", words),
        ("BAD_ARGUMENT", "the steps of sample 0 are wrong", negative),
        ("NOT_FINITE", "state holds NaN", nan),
    ):
        refused(status, sentence, stream.restore, state)
        assert stream.steps == 10
    for sample in (-1, 2):
        refused("BAD_ARGUMENT", f"sample must be 0 to 1, got {sample}", stream.reset_sample, sample)
    stream.restore(kept)
    assert stream.steps == 7 and equal(stream.counts(), counts)


def test_targets(path, monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", TARGETS[-1])
    assert Network(path).info.target.decode() == TARGETS[-1]
    for faster in cpu.TARGETS[: cpu.TARGETS.index(TARGETS[-1])]:
        refused("NOT_HERE", f"cannot run {faster} here", Network, path, faster)
    monkeypatch.setenv("PROXYKERNELS_CPU", "sse")
    refused("BAD_ARGUMENT", "PROXYKERNELS_CPU must be amx", Network, path)


def test_events_and_spikes():
    def pack(t=(0,), x=(0,), y=(0,), p=(1,), span=10, T=2):
        return c_library.pack_events(t, x, y, p, (3, 4), begin=0, span=span, T=T)

    assert pack().flatten().tolist() == [2] + [0] * 23 and pack(p=(-1,)).flatten()[0] == 1
    for wrong in ({"t": (10,)}, {"t": (-1,)}, {"t": (-(1 << 63),)}, {"t": ((1 << 63) - 1,)}):
        refused("BAD_ARGUMENT", "t must lie from begin", pack, **wrong)
    for wrong in ({"x": (4,)}, {"x": (-1,)}, {"y": (3,)}, {"p": (2,)}):
        refused("BAD_ARGUMENT", "x must lie below W = 4, y below H = 3", pack, **wrong)
    refused("BAD_ARGUMENT", "span must be", pack, span=0)
    pointer = torch.zeros(64).data_ptr()
    sizes = 1, 0, 1, 0, 3, 4  # events, begin, span, T, H and W
    refused("BAD_ARGUMENT", "T, N, C, H and W must be", call, "pk_pack_events", *[pointer] * 4, *sizes, pointer, 0)
    refused("BAD_ARGUMENT", "0 and 1", c_library.pack, torch.full((1, 1, 3), 2, dtype=torch.uint8))
    packed = torch.zeros(4, dtype=torch.uint8)
    refused("BAD_ARGUMENT", "2^63", call, "pk_pack_spikes", packed.data_ptr(), *[1 << 30] * 5, packed.data_ptr(), 4)
    refused(
        "BAD_ARGUMENT",
        "must have 2 bytes",
        call,
        "pk_pack_spikes",
        packed.data_ptr(),
        2,
        1,
        2,
        1,
        1,
        packed.data_ptr(),
        4,
    )


def test_other_files(path, tmp_path):
    refused("NO_FILE", "there is no file", Network, tmp_path / "none")
    refused("NO_FILE", "cannot be read", Network, tmp_path)
    (tmp_path / "text").write_text("no engine")
    refused("BAD_FILE", "no whole safetensors container", Network, tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights")
    refused("BAD_FILE", "it is not an engine's", Network, tmp_path / "weights")
    refused("BAD_FILE", "no whole safetensors container", Network, b"")
    change(path, version="1")
    refused("BAD_FILE", "its version is '1', and this library reads '2' and '3'", Network, path)


def loads(content: bytes) -> bool:
    try:
        Network(content)
    except CError as error:
        assert error.status == "BAD_FILE"
        return False
    return True


def test_damaged_bytes(path):
    whole, draw = path.read_bytes(), random.Random(0)
    for length in {*range(0, len(whole), 97), len(whole) - 1}:
        assert not loads(whole[:length])
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in draw.sample(range(len(whole)), draw.choice((1, 1, 4))):
            damaged[place] ^= 1 << draw.randrange(8)
        assert not loads(bytes(damaged))
    assert loads(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spikes", "sigma-delta"])
def test_hostile_descriptions(kind, tmp_path):
    """Each value of the description in turn is another: what Python refuses, C refuses, and what it takes runs."""
    path, x = tmp_path / "net", image(1)
    if kind == "spikes":
        pk.compile(network(C=4), x).save(path)
    else:
        ann = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(48, 5),
        )
        pk.compile(pk.convert(ann.eval(), x, neuron="sigma-delta"), x).save(path)
    whole = path.read_bytes()
    with safe_open(path, "pt") as file:
        plan = json.loads(file.metadata()["plan"])
    both = 0
    for place in [place for place in places(plan) if place]:
        for value in (None, -1, 0, 1, 3, 1 << 40, "x", [], {}, 1e300, True):

            def edit(plan, place=place, value=value):
                for key in place[:-1]:
                    plan = plan[key]
                plan[place[-1]] = value

            path.write_bytes(whole)
            change(path, edit)
            try:
                engine = pk.load(path)
            except ValueError:
                engine = None
            assert loads(path.read_bytes()) == (engine is not None), (place, value)
            both += engine is None
            if engine is not None and engine.plan.shape == (2, 9, 7):
                stream = Network(path).stream(1)
                stream.run(x, 2)
                final = len(stream.layers) - 1
                y = engine(x, 2).output
                assert equal(
                    stream.values(final).flatten(2), (y if isinstance(y, torch.Tensor) else y.dense()).flatten(2)
                )
    assert both > 300


@pytest.mark.parametrize("threads", [1, 2])
def test_ten_threads_with_a_stream_each(path, threads):
    net, xs = Network(path), [image(1) * (k + 1) / 4 for k in range(10)]
    engine, wrong = pk.load(path), []

    def work(k):
        expected, stream = engine(xs[k], 20), net.stream(1, threads)
        for _ in range(10):
            stream.run(xs[k], 20)
            if not equal(stream.counts().flatten(1), expected.count()):
                wrong.append(k)
        for _ in range(20):
            stream.advance(xs[k])
        if not equal(stream.counts().flatten(1), expected.count()):
            wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and engine(xs[0], 20).count().any()


def test_one_stream_in_two_threads(path):
    """Each call runs by itself, or is refused."""
    stream, refusals, done = Network(path).stream(), [], []

    def work():
        for _ in range(200):
            try:
                call("pk_advance", stream.handle, IMAGE, X.data_ptr(), X.numel(), 20)
                done.append(1)
            except CError as error:
                refusals.append(error.status)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(refusals) <= {"BUSY"} and stream.steps == 20 * len(done)
