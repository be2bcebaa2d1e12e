"""Fashion-MNIST, also damaged files of it; the networks of the benchmarks, and their weights."""

import gzip
import subprocess
import sys
import textwrap

import pytest
import torch
from common import data, nets
from common.checkout import RESULTS
from equality import equal

import proxykernels as pk


def test_sample_is_the_start_of_the_test_images():
    if not data.DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    images, labels = data.fashion_mnist("test", data.DEBIAN)
    sample_images, sample_labels = pk.samples.fashion_mnist()
    assert images.shape == (10000, 1, 28, 28) and labels.shape == (10000,)
    assert equal(sample_images, images[:256])
    assert equal(sample_labels, labels[:256])


def test_sample_is_images_in_0_to_1_with_ten_classes():
    images, labels = pk.samples.fashion_mnist()
    assert images.shape == (256, 1, 28, 28) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.dtype == torch.int64 and labels.unique().tolist() == list(range(10))
    assert sum(path.stat().st_size for path in data.SAMPLE.iterdir()) < 150_000


def test_sample_is_reproducible(tmp_path):
    data.make_sample(data.SAMPLE, tmp_path)
    for path in tmp_path.iterdir():
        assert gzip.decompress(path.read_bytes()) == gzip.decompress((data.SAMPLE / path.name).read_bytes())


@pytest.mark.parametrize("layout", [".", "raw", "FashionMNIST/raw"])
def test_root_may_be_torchvisions_layout(tmp_path, layout):
    folder = tmp_path / layout
    data.make_sample(data.SAMPLE, folder)
    assert equal(data.fashion_mnist("test", tmp_path)[1], pk.samples.fashion_mnist()[1])


def test_missing_folder_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte.gz is in none of"):
        data.fashion_mnist("train", tmp_path)


def test_unknown_split():
    with pytest.raises(ValueError, match="split must be one of train, test"):
        data.fashion_mnist("validation")


def test_failed_download_names_the_other_ways(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "FashionMNIST", fail)
    monkeypatch.setattr(data, "DEBIAN", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no network.*dataset-fashion-mnist.*folder"):
        data.fashion_mnist()


def idx(content, offset, value):
    """The bytes of an IDX file with another 32-bit number at ``offset`` of its header."""
    return content[:offset] + value.to_bytes(4, "big") + content[offset + 4 :]


# What happens to a gzipped IDX file of 256 images: a function of its bytes, and of these unpacked.
DAMAGE = {
    "empty file": lambda packed, content: b"",
    "half the gzip file": lambda packed, content: packed[: len(packed) // 2],
    "a flipped byte": lambda packed, content: packed[:99] + bytes([packed[99] ^ 255]) + packed[100:],
    "not gzip": lambda packed, content: content,
    "a pixel too few": lambda packed, content: gzip.compress(content[:-1]),
    "a pixel too many": lambda packed, content: gzip.compress(content + b"\0"),
    "half a header": lambda packed, content: gzip.compress(content[:6]),
    "elements that are floats": lambda packed, content: gzip.compress(idx(content, 0, 0x0D03)),
    "images of 14 x 56": lambda packed, content: gzip.compress(idx(idx(content, 8, 14), 12, 56)),
}


@pytest.mark.costly
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_images_name_the_file_and_the_remedy(tmp_path, kind):
    data.make_sample(data.SAMPLE, tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    packed = path.read_bytes()
    path.write_bytes(DAMAGE[kind](packed, gzip.decompress(packed)))
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*; remove it and fetch it again"):
        data.fashion_mnist("test", tmp_path)


def test_labels_must_match_the_images(tmp_path):
    data.make_sample(data.SAMPLE, tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    header = bytes([0, 0, 8, 1])
    path.write_bytes(gzip.compress(header + (255).to_bytes(4, "big") + bytes(255)))
    with pytest.raises(ValueError, match="expected 256 labels"):
        data.fashion_mnist("test", tmp_path)
    path.write_bytes(gzip.compress(header + (256).to_bytes(4, "big") + bytes([10]) * 256))
    with pytest.raises(ValueError, match="a label is 10"):
        data.fashion_mnist("test", tmp_path)


@pytest.mark.slow
def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A few kilobytes that stand for half a gigabyte."""
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (256, 28, 28))
    script = f"""
        import resource, sys
        sys.path.insert(0, {str(RESULTS.parent)!r})
        import gzip
        from pathlib import Path
        path = Path({str(path)!r})
        with gzip.open(path, "wb", 1) as file:
            file.write({header!r})
            for _ in range(512):
                file.write(bytes(1 << 20))
        from common import data
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            data.read_idx(path)
        except ValueError as error:
            print(error)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    message, megabytes = done.stdout.splitlines()
    assert "is damaged (more bytes do not hold the shape [256, 28, 28])" in message and int(megabytes) < 50
    with pytest.raises(ValueError, match="is not one of Fashion-MNIST's"):
        huge = tmp_path / "huge.gz"
        huge.write_bytes(data.gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12))
        data.read_idx(huge)


@pytest.mark.costly
@pytest.mark.parametrize("decay", [None, 0.5, 1 - 1 / 16])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_random_weights_give_realistic_firing_rates(monkeypatch, tmp_path, v_reset, decay):
    monkeypatch.setattr(nets, "WEIGHTS", tmp_path)
    net, trained = nets.load("small", v_reset, decay=decay)
    rates = pk.simulate(net, pk.samples.fashion_mnist()[0][:8], 32).rates
    assert not trained
    assert all(0.01 < rate < 0.2 for rate in rates.values()), rates


def test_stored_weights_are_loaded(monkeypatch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setattr(nets, "WEIGHTS", tmp_path)
    state = {key: value.half() for key, value in nets.small(0.5).state_dict().items()}
    safetensors.save_file(state, tmp_path / "small.safetensors", {"v_threshold": "0.5"})
    net, trained = nets.load("small", None)
    assert trained and not net.training
    assert net.conv1.v_threshold == 0.5 and net.conv1.v_reset is None
    assert net.conv1.weight.dtype == torch.float32
    loaded = {key: value for key, value in net.state_dict().items() if not key.endswith("v_reset")}  # it is given
    assert all(torch.equal(value, state[key].float()) for key, value in loaded.items())


def test_paper_network_has_its_shapes():
    net = nets.paper()
    assert [tuple(layer.weight.shape) for layer in net if hasattr(layer, "weight")] == [
        (128, 1, 3, 3),
        (128, 128, 3, 3),
        (128, 128, 3, 3),
        (2560, 6272),
        (1152, 2560),
        (256, 1152),
        (10, 256),
    ]
    assert all(layer.bias is None for layer in net if hasattr(layer, "weight"))
