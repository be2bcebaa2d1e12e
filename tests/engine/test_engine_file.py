"""An engine's file: the same engine comes back, the bytes are equal, and what is damaged is refused in one sentence."""

import json
import os
import random
import stat

import numpy as np
import pytest
import torch
from equality import equal
from safetensors import safe_open
from safetensors.torch import load, save_file
from test_engine import NEURONS, image, network

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
    with pytest.raises(ValueError, match="its version is '1', and this library reads '2': compile the network again"):
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


def test_damaged_bytes(path):
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
