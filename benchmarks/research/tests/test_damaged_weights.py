"""Weights files that were damaged, or made to do harm: one sentence that names the file, before anything is made."""

import gzip
import tracemalloc

import evaluate
import pytest
import torch
from common import nets, twins, weights_file
from safetensors.torch import load, save, save_file

import proxykernels as pk

ABOUT = {"net": "small", "v_threshold": "1.0", "T": "16", "reset": "soft"}


@pytest.fixture(scope="module")
def state():
    return nets.small(1.0, None).state_dict()


def refused(path, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        twins.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_content_is_the_same_whatever_the_order(state):
    about = ABOUT | {"method": "proxy", "seed": "0", "twin": "clipped"}
    backwards = dict(reversed(list(about.items())))
    content = weights_file.content(state, about)
    assert content == weights_file.content(dict(reversed(list(state.items()))), backwards)


def test_a_whole_file_is_read(state, tmp_path):
    path = tmp_path / "small.safetensors"
    path.write_bytes(weights_file.content(state, ABOUT))
    model, whole, about = twins.load(path)
    assert about == ABOUT and whole and model.T == 16
    assert all(torch.equal(value, state[key]) for key, value in model.net.state_dict().items())


def test_what_a_file_says_of_its_network(state, tmp_path):
    path = tmp_path / "small.safetensors"
    for key in ("v_threshold", "T"):
        save_file(state, path, {k: v for k, v in ABOUT.items() if k != key})
        refused(path, f"does not say its {key}")
    wrong = {
        "v_threshold": ("none", "nan", "-1", "inf"), "T": ("0", "1.5", "many", "[16]", "1e400"), "reset": ("none",),
        "shape": ("[1, 28]", "28", "[1, 28, -28]", "[1, 28", "[" * 100_000), "classes": ("0", "true", "[]"),
        "width": ("0", "nan", "wide"), "linear_norm": ("1",), "decay": ("2", "nan"), "twin": ("brother",),
        "test_accuracy": ("nan", "1.5", "good"), "snn_precision": ("int4",), "pool": ("or",), "statistics": ("rates",),
    }  # fmt: skip
    assert wrong.keys() == {
        key for key in weights_file.FIELDS if not key.endswith(("validation_accuracy", "twin_test_accuracy"))
    }
    for key, texts in wrong.items():
        for text in texts:
            save_file(state, path, ABOUT | {key: text})
            refused(path, f"{key} must be ")


def test_sizes_that_the_tensors_do_not_have_are_not_made(state, tmp_path):
    path = tmp_path / "small.safetensors"
    for more in ({"shape": "[1, 2800000, 280000]"}, {"width": "1000000"}, {"classes": "1000000000"}):
        save_file(state, path, ABOUT | more)
        refused(path, "is of another network: .* is torch.float32 .*, needed is torch.float32")


@pytest.mark.parametrize("compact", [False, True], ids=["plain", "compact"])
def test_tensors_that_are_not_the_networks(state, tmp_path, compact):
    path = tmp_path / ("small.safetensors.gz" if compact else "small.safetensors")
    key = "conv1.weight"
    for change, reason in (
        ({key: None}, f"{key} is missing"),
        ({key: torch.ones(32)}, rf"{key} is torch.float32 \[32\]"),
        ({key: torch.ones(1, 1, 1, 1)}, rf"{key} is torch.float32 \[1, 1, 1, 1\]"),
        ({"conv1.bias": torch.ones(32, dtype=torch.int64)}, "conv1.bias is torch.int64"),
        ({"conv1.v_threshold": torch.tensor(-1.0)}, "v_threshold must be positive"),
        ({"more": torch.ones(1)}, "is of another network"),
    ):
        changed = {k: v for k, v in (state | change).items() if v is not None}
        if compact:
            weights_file.write_compact(path, changed, ABOUT)
        else:
            path.write_bytes(weights_file.content(changed, ABOUT))
        refused(path, reason)


def test_scales_without_their_weights(state, tmp_path):
    path = tmp_path / "small.safetensors.gz"
    weights_file.write_compact(path, state, ABOUT)
    packed = load(gzip.decompress(path.read_bytes()))
    for change, reason in (
        ({"conv1.weight": None}, "conv1.weight.scale is the scale of a tensor that is missing"),
        ({"nothing.scale": torch.ones(3)}, "nothing.scale is the scale of a tensor that is missing"),
        ({"conv1.weight.scale": torch.ones(31)}, r"conv1.weight.scale is torch.float32 \[31\], of torch.int8 \[32, "),
        ({"conv1.weight": torch.ones(32, 1, 3, 3)}, "of torch.float32"),
    ):
        changed = {k: v for k, v in (packed | change).items() if v is not None}
        path.write_bytes(gzip.compress(save(changed, ABOUT)))
        refused(path, f"is damaged .*{reason}")


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.safetensors.gz"
    with gzip.open(path, "wb", 1) as file:
        for _ in range(400):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 4e6
    tracemalloc.start()
    refused(path, "is damaged .it unpacks to more than [0-9]+ MB")
    assert tracemalloc.get_traced_memory()[1] < 350e6
    tracemalloc.stop()


def test_evaluate_says_so_in_one_sentence(tmp_path):
    path = pk.samples.FOLDER / "relu_network.safetensors"
    with pytest.raises(SystemExit, match=rf"evaluate.py: {path} does not say its v_threshold") as stop:
        evaluate.main(["--weights", str(path), "--out", str(tmp_path)])
    assert "\n" not in str(stop.value.code)
