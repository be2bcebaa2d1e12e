"""Files of int8 networks, whose weights take a byte each."""

import pytest
import torch
from equality import equal
from safetensors import safe_open
from safetensors.torch import save_file
from test_engine import image
from test_engine_file import int8_path_fixture, tensors_of  # noqa: F401 - a fixture

import proxykernels as pk
from proxykernels.plan.byte_weights import in_bytes, in_floats
from proxykernels.plan.file import checksum


def test_weights_of_an_int8_network_take_a_byte_each(int8_path, tmp_path):
    engine, whole = pk.load(int8_path), int8_path.read_bytes()
    sizes = [weight.numel() for operation in engine.plan.operations for weight in operation.weights]
    assert len(whole) < sum(sizes) + 6000 < 2 * sum(sizes)
    tensors = tensors_of(int8_path)
    assert sum(tensor.numel() for tensor in tensors.values() if tensor.dtype == torch.int8) > 0.99 * sum(sizes)
    engine.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == whole


def test_an_int8_file_of_version_2_is_read_still(int8_path, tmp_path):
    """Its weights are float32."""
    with safe_open(int8_path, "pt") as file:
        about = file.metadata()
    floats = in_floats(tensors_of(int8_path))
    older = about | {"version": "2", "checksum": checksum(about["plan"], floats)}
    save_file(floats, tmp_path / "older", older)
    one, two, x = pk.load(int8_path), pk.load(tmp_path / "older"), image()
    assert equal(one(x, 9).count(), two(x, 9).count()) and one(x, 9).count().any()
    two.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == int8_path.read_bytes()


def test_bytes_without_units_or_values_are_refused(int8_path):
    with safe_open(int8_path, "pt") as file:
        about = file.metadata()
    tensors = tensors_of(int8_path)
    (name, *_), whole = [name for name in tensors if name.endswith(".unit")], int8_path.read_bytes()
    codes = name.removesuffix(".unit")
    units = [
        {name: wrong} for wrong in (None, tensors[name][1:], tensors[name].double().long(), tensors[name].view(-1, 1))
    ]
    for wrong in *units, {codes: tensors[codes][:, :0]}:
        changed = {key: value.contiguous() for key, value in (tensors | wrong).items() if value is not None}
        save_file(changed, int8_path, about | {"checksum": checksum(about["plan"], changed)})
        with pytest.raises(ValueError, match="a tensor in bytes has no values, no units, or others"):
            pk.load(int8_path)
    int8_path.write_bytes(whole)
    pk.load(int8_path)


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ([[1.0, -127.0], [0.25, 0.5]], True),
        ([[0.0, 0.0], [2.0**-140, 2.0**-139]], True),
        ([[2.0, 128.0], [1.0, 1.0]], True),
        ([[1.0, 128.0], [1.0, 1.0]], False),
        ([[0.1, 0.3], [1.0, 1.0]], False),
        ([[float("inf"), 1.0], [1.0, 1.0]], False),
        ([[float("nan"), 1.0], [1.0, 1.0]], False),
    ],
)
def test_codes_are_exact_or_none(values, taken):
    given = {"a": torch.tensor(values), "b": torch.ones(3), "c": torch.ones(2, 2, dtype=torch.int64)}
    found = in_bytes(given)
    assert (found["a"].dtype == torch.int8) == taken and found["b"] is given["b"] and found["c"] is given["c"]
    back = in_floats(found)
    assert back.keys() == given.keys() and all(torch.equal(back[k], given[k]) for k in given if k != "a" or taken)
