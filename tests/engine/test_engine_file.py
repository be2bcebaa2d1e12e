"""An engine's file, which comes back equal or is refused; and the memory that an engine says it has."""

import ctypes
import json
import os
import random
import stat
import subprocess
import sys

import layerwise
import numpy as np
import pytest
import torch
from cases import dyadic
from equality import equal
from safetensors import safe_open
from safetensors.torch import load, save_file
from test_engine import NEURONS, image, network
from torch import nn

import proxykernels as pk
from proxykernels.plan.file import checksum


@pytest.fixture
def path(tmp_path):
    net = network(NEURONS["if"], C=4)
    pk.compile(net, image()).save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("neuron", NEURONS)
def test_comes_back(neuron, tmp_path):
    net, x = network(NEURONS[neuron]), image()
    engine = pk.compile(net, x)
    engine.save(tmp_path / "one")
    engine.save(tmp_path / "two")
    pk.load(tmp_path / "one").save(tmp_path / "three")
    bytes_ = {(tmp_path / name).read_bytes() for name in ("one", "two", "three")}
    assert len(bytes_) == 1
    loaded = pk.load(tmp_path / "one")
    assert equal(loaded(x, 20).spikes.dense(), engine(x, 20).spikes.dense()) and engine(x, 20).count().any()


@pytest.fixture(name="int8_path")
def int8_path_fixture(tmp_path):
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 16, 3, v_threshold=0.125), pk.Flatten(), pk.FusedIFLinear(16 * 35, 40, v_threshold=0.125)
    )
    pk.compile(net, image(), precision="int8").save(tmp_path / "int8")
    return tmp_path / "int8"


def test_a_loaded_engine_keeps_nothing_of_the_file(path, tmp_path):
    whole, engine = path.read_bytes(), pk.load(path)
    with open(path, "r+b") as file:  # in place, as cp does
        file.write(bytes(len(whole)))
    engine.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == whole


@pytest.mark.parametrize(
    "layers",
    [
        [pk.FusedIFConv2d(2, 4, 1, padding=1, v_threshold=0.125)],
        [pk.FusedIFConv2d(2, 4, 3, padding=8, dilation=3, stride=3)],
        [pk.AvgPool2d(2, divisor_override=-4), pk.FusedIFConv2d(2, 4, 1, v_threshold=0.125)],
    ],
    ids=["1x1", "dilated", "negative divisor"],
)
def test_what_lies_in_the_padding_comes_back(layers, path):
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(*layers), image()
    engine = pk.compile(net, x)
    engine.save(path)
    assert equal(pk.load(path)(x, 9).count(), engine(x, 9).count()) and engine(x, 9).count().any()


def test_numbers_of_numpy(path):
    """Sizes come from arrays, too."""
    two, three = np.int64(2), np.int64(3)
    first, x = pk.FusedIFConv2d(two, 4, three, padding=two, v_threshold=0.125), image()
    net = torch.nn.Sequential(first, pk.MaxPool2d(two))
    engine = pk.compile(net, x)
    engine.save(path)
    assert equal(pk.load(path)(x, 9).count(), engine(x, 9).count()) and engine(x, 9).count().any()
    events = pk.events([0], [1], [1], [1], size=(np.int64(7), np.int64(9)), T=1)
    assert set(map(type, events.shape)) == {int}


def test_what_a_file_cannot_hold_is_not_compiled():
    many = pk.Network()
    many.append("a", pk.FusedIFLinear(2, 2), ("",))
    many.append("all", pk.Concatenate(), ("a",) * 1025)
    many.append("b", pk.FusedIFLinear(2050, 2), ("all",))
    with pytest.raises(TypeError, match=r"module all \(Concatenate\): 1025 inputs; at most 1024"):
        pk.compile(many, torch.rand(3, 2))
    divided = torch.nn.Sequential(pk.AvgPool2d(2, divisor_override=1 << 31), pk.FusedIFConv2d(2, 2, 1))
    with pytest.raises(TypeError, match="divisor_override 2147483648; it must be below"):
        pk.compile(divided, image())


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_written_as_others_are(path, tmp_path, monkeypatch):
    """With the mode that the umask leaves, through links, and with names as long as there are."""
    engine, whole = pk.load(path), path.read_bytes()
    before = os.umask(0o077)
    try:
        engine.save(tmp_path / "private")
        os.umask(0o002)
        engine.save(tmp_path / "shared")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "private"), mode(tmp_path / "shared")) == (0o600, 0o664)
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_bytes(b"older")
    target.chmod(0o640)
    link.symlink_to(target)
    engine.save(link)
    assert link.is_symlink() and target.read_bytes() == whole and mode(target) == 0o640
    monkeypatch.chdir(tmp_path / "folder")
    engine.save("n" * 255)
    assert sorted(os.listdir()) == ["n" * 255, "target"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("none/net", FileNotFoundError),
        ("n" * 256, OSError),
        ("file/net", NotADirectoryError),
        ("folder", IsADirectoryError),
    ],
)
def test_errors_name_the_file_that_was_asked_for(path, tmp_path, name, error):
    engine = pk.load(path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    names = sorted(os.listdir(tmp_path))
    with pytest.raises(error) as caught:
        engine.save(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name) and caught.value.filename2 is None
    assert sorted(os.listdir(tmp_path)) == names


def test_a_failure_leaves_the_file_that_was_there(path, monkeypatch):
    whole, engine = path.read_bytes(), pk.load(path)

    def interrupted(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.save(path)
    assert path.read_bytes() == whole and os.listdir(path.parent) == [path.name]


def refused(path) -> bool:
    """Whether a file is refused, by one sentence that names it."""
    try:
        pk.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return True
    return False


def test_other_files(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        pk.load(tmp_path / "none")
    (tmp_path / "text").write_text("no engine")
    assert refused(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="it is not an engine's"):
        pk.load(tmp_path / "weights")
    change(path, version="1")
    with pytest.raises(ValueError, match="its version is '1', and this library reads '2' and '3': compile"):
        pk.load(path)


def tensors_of(path) -> dict[str, torch.Tensor]:
    return load(path.read_bytes())


def change(path, edit=None, **metadata) -> None:
    """Write the file again with other metadata, or a plan that ``edit`` has changed."""
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), tensors_of(path)
    about |= metadata
    if edit:
        plan = json.loads(about["plan"])
        edit(plan)
        about["plan"] = json.dumps(plan)
    about["checksum"] = checksum(about["plan"], tensors)
    save_file(tensors, path, about)


def places(value, path=()):
    """The paths of all values within a description."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for k, item in enumerate(value):
            yield from places(item, (*path, k))


@pytest.mark.parametrize("neuron", ["synaptic", "readout"])
def test_logits_need_neurons_that_lose_no_charge(tmp_path, neuron):
    """Of other neurons every run would fail: the file does."""
    last = pk.neurons.CubaLIFNeuron(v_reset=None) if neuron == "synaptic" else pk.neurons.LINeuron()
    path, x = tmp_path / "net", torch.rand(2, 6)
    pk.compile(pk.FusedLinear(6, 3, neuron=last), x).save(path)
    pk.load(path)(x, 3)

    def edit(plan):
        plan["operations"][-1]["neurons"]["scale"] = "0.bias"

    change(path, edit)
    with pytest.raises(
        ValueError, match=rf"{path} cannot be loaded: scale needs integrate-and-fire neurons, which fire"
    ):
        pk.load(path)


def test_a_small_file_costs_little(tmp_path):
    """What grows from layer to layer, by moves of many inputs, paddings or windows, is limited."""

    def moves(count):
        net, before = pk.Network(), pk.Network.INPUT
        for k in range(count):
            net.append(str(k), pk.Concatenate(), (before,) * 1024)
            before = str(k)
        net.append("image", pk.Unflatten((1, 32**count, 32**count)), (before,))
        net.append("neurons", pk.IF(v_threshold=0.5), ("image",))
        return net

    x, pixel = torch.ones(1, 1), torch.ones(1, 1, 1, 1)
    assert pk.compile(moves(2), x)(x, 2).count().sum() == 2 << 20
    padded = pk.FusedIFConv2d(1, 1, 1, padding=20_000)
    pooled = torch.nn.Sequential(pk.IF(v_threshold=0.5), pk.AvgPool2d(1000, 1), pk.IF(v_threshold=0.5))
    for net, sample in (moves(3), x), (padded, pixel), (pooled, torch.ones(1, 1, 2000, 2000)):
        with pytest.raises(TypeError, match=r"the engine does not take net .*more than 16384 times the values"):
            pk.compile(net, sample)
    path = tmp_path / "net"
    pk.compile(moves(2), x).save(path)

    def edit(plan):
        first, second, image, neurons = plan["operations"]
        third = second | {"shape": [1 << 30], "windows": [window | {"slot": 2} for window in second["windows"]]}
        for operation, slot in (image, 3), (neurons, 4):
            operation["shape"], operation["windows"][0]["slot"] = [1, 1 << 15, 1 << 15], slot
        plan["operations"] = [first, second, third, image, neurons]

    change(path, edit)
    with pytest.raises(ValueError, match=f"{path} cannot be loaded: its layers give more than 16384 times the values"):
        pk.load(path)


def test_what_nests_without_end(path):
    """In the header, and in the plan, where nothing is named that is looked at."""
    whole, deep = path.read_bytes(), "[" * 100_000 + "]" * 100_000
    named = b'{"more":%s,"data_offsets"' % deep.encode()
    with safe_open(path, "pt") as file:
        about = file.metadata()
    plan = about["plan"][:-1] + f', "more": {deep}}}'
    save_file(tensors_of(path), path, about | {"plan": plan, "checksum": checksum(plan, tensors_of(path))})
    assert refused(path)
    size = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + size].rstrip(b" ").replace(b'{"data_offsets"', named, 1)
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + whole[8 + size :])
    assert refused(path)


@pytest.mark.parametrize("fixture", ["path", "int8_path"])
def test_damaged_bytes(fixture, request):
    path = request.getfixturevalue(fixture)
    whole, draw = path.read_bytes(), random.Random(0)
    for length in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert refused(path)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in draw.sample(range(len(whole)), draw.choice((1, 1, 4))):
            damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert refused(path)


CHECKED = hasattr(ctypes.CDLL(None), "__asan_poison_memory_region")
of_own_memory = pytest.mark.skipif(CHECKED, reason="the checked build takes memory of its own")

SCRIPT = """
import gc, torch, proxykernels as pk
from torch import nn

def taken():
    gc.collect()
    with open("/proc/self/smaps_rollup") as about:
        return next(int(line.split()[1]) for line in about if line.startswith("Rss:")) * 1024

def network(channels, hidden):
    return nn.Sequential(
        pk.FusedIFConv2d(1, channels, 3), pk.FusedIFConv2d(channels, channels, 3), pk.MaxPool2d(4), pk.Flatten(),
        pk.FusedIFLinear(channels * 36, hidden), pk.FusedIFLinear(hidden, 10),
    ).eval()

torch.manual_seed(0)
small, net, x = network(2, 3), network(64, 1000), torch.rand(16, 1, 28, 28)
pk.compile(small, x)(x, 20).count()
before = taken()
engine = pk.compile(net, x)
engine(x, 20)
weights, arena = engine.sizes
plain = sum(w.weight.nbytes for op in engine.plan.operations for w in op.windows if w.weight is not None)
print(taken() - before, weights + plain + arena)
"""


@pytest.mark.slow
@of_own_memory
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells what a process takes")
def test_memory_that_is_reported_is_taken():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    taken, reported = map(int, ran.stdout.split())
    assert taken > 2e7 and reported == pytest.approx(taken, rel=0.1)


def held_in_real_values(channels, size):
    """Neurons behind an average pooling, whose values are much larger than spikes; and inputs of the first ones."""
    net = nn.Sequential(
        pk.FusedIFConv2d(1, channels, 1), pk.AvgPool2d(1), pk.FusedIFConv2d(channels, 3, 1, stride=8), pk.Flatten(),
        pk.FusedIFLinear(3 * (size // 8) ** 2, 5),
    ).eval()  # fmt: skip
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=torch.Generator().manual_seed(0))
    return net


# The library is told of more steps or samples than there is memory for. It writes past the end of a part of the memory,
# into the next one.
OVERRUN = """
import sys, torch, proxykernels as pk
from torch import nn

more_steps, more_samples = map(int, sys.argv[1:])
torch.set_num_threads(1)
net = nn.Sequential(pk.FusedIFLinear(16, 64), pk.FusedIFLinear(64, 128)).eval()
for parameter in net.parameters():
    parameter.data = parameter.data.abs()
x = torch.ones(3, 16)
engine = pk.compile(net, x)
session = engine.session()
run = session.run
session.run = lambda given, T, *others: run(given._replace(N=given.N + more_samples), T + more_steps, *others)
given = engine.inputs.given(x)
written = engine.advance(session, given._replace(N=2), 4, fresh=True)
print("ran", written.counts.sum().item() > 0)
"""


@pytest.mark.skipif(not CHECKED, reason="of the build that tests/checked_build.py makes")
@pytest.mark.parametrize(("steps", "samples"), [(0, 0), (1, 0), (0, 1)])
def test_a_write_past_a_part_is_found(steps, samples):
    command = [sys.executable, "-c", OVERRUN, str(steps), str(samples)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if steps or samples:
        assert ran.returncode and "use-after-poison" in ran.stderr
    else:
        assert ran.returncode == 0 and ran.stdout == "ran True\n", ran.stderr


MOST_SLOT_BYTES = 1 << 28  # kernels/cpu/src/engine/run.cpp


def test_memory_of_real_values_is_bounded():
    """64 samples of 64 steps would take twice as much."""
    net = held_in_real_values(32, 32)
    x = torch.rand(64, 1, 32, 32)
    engine = pk.compile(net, x)
    y = engine(x, 64).spikes.dense()
    assert engine.sizes[1] < 1.2 * MOST_SLOT_BYTES
    some = engine(x[60:], 64).spikes.dense()
    assert some.any() and equal(y[:, 60:], some)
    stream = engine.stream(64)
    assert equal(stream(x.expand(64, *x.shape)).dense()[:, 60:], some)


@pytest.mark.slow
def test_steps_of_few_samples_are_bounded():
    """A step of the sample takes more than an eighth of the memory: early exit asks after several segments."""
    net = held_in_real_values(64, 512)
    x = torch.rand(1, 1, 512, 512)
    engine = pk.compile(net, x)
    result = engine(x, 16, stop=lambda counts, t: torch.full((len(counts),), t >= 8))
    assert engine.sizes[1] < 1.2 * MOST_SLOT_BYTES and result.steps.tolist() == [8]
    wanted = layerwise.simulate(net, x, T=8).spikes.dense()
    assert wanted.any() and equal(result.spikes.dense()[:8], wanted)


def test_what_does_not_fit_is_refused():
    net = nn.Sequential(pk.FusedIFConv2d(1, 2, 1), pk.Flatten(), pk.FusedIFLinear(8, 1000)).eval()
    x = torch.rand(2, 1, 2, 2)
    engine = pk.compile(net, x)
    for batch in (2**34, 2**40, 2**62):
        with pytest.raises(ValueError, match=rf"batch = {batch} samples take .* GiB.*smaller batch"):
            engine.stream(batch)
    with pytest.raises(ValueError, match=r"T = 2147483647 steps of N = 10000 samples take .* GiB.*fewer steps"):
        engine(torch.rand(10000, 1, 2, 2), 2**31 - 1)
    assert len(engine(x, 3).count()) == 2


# What the machine has, but no process may take.
LIMITED = """
import resource, torch, proxykernels as pk
from torch import nn

net = nn.Sequential(pk.FusedIFLinear(4, 8), pk.FusedIFLinear(8, 100_000), pk.FusedIFLinear(100_000, 1)).eval()
# Packed they take several times their 32 MB: whole registers of outputs.
large, pixels = nn.Sequential(pk.FusedIFLinear(8_000_000, 1)), torch.rand(1, 8_000_000)
x = torch.rand(4)
engine, N = pk.compile(net, x[None]), 1_000
stream = engine.stream(N)
with open("/proc/self/statm") as about:
    taken = int(about.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (150 << 20),) * 2)
for call in (lambda: stream(x.expand(N, 4)), lambda: pk.compile(large, pixels)):
    try:
        call()
    except MemoryError as error:
        print(error)
print(engine(x[None], 3).spikes.shape)
"""


@pytest.mark.slow
@of_own_memory
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells what a process takes, and limits it")
def test_memory_that_is_not_there_is_an_error():
    ran = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    of_run, of_weights, shape = ran.stdout.splitlines()
    assert of_run.startswith("N = 1000 samples need") and of_run.endswith("take fewer samples at a time")
    assert "to pack the" in of_weights and shape == "(3, 1, 1)"


def test_a_batch_of_more_samples_than_a_part_has_tasks():
    """Threads take tasks by a number of 20 bits."""
    threads, N = torch.get_num_threads(), 1_100_000
    x = torch.rand(N, 1, 1, 2)
    net = nn.Sequential(pk.FusedIFConv2d(1, 1, 1, v_threshold=0.5), pk.MaxPool2d((1, 2)))
    stream = pk.compile(net, x[:4]).stream(N)
    torch.set_num_threads(2)
    try:
        y = [stream(x), stream(x)]
    finally:
        torch.set_num_threads(threads)
    assert equal(torch.cat([part.dense() for part in y])[:, -7:], layerwise.simulate(net, x[-7:], T=2).spikes.dense())
