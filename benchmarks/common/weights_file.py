"""Files of trained weights: safetensors in float16, and a compact form of them, at about 7 bits a weight.

    python -m common.weights_file runs/train/paper.safetensors weights/paper.safetensors.gz

writes the compact form: weights as whole multiples of a scale an output channel, in 8 bits, then gzipped. It is what a
repository can carry of a large network: the paper's 19.6 million weights take 17 MB instead of 39.
"""

import argparse
import gzip
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from common import tables
from common.command import command, refusing

LARGEST = 127
COMPACT = ".safetensors.gz"
SCALE = ".scale"  # behind the name of the tensor that it is for
UNPACKED = 32, 1 << 24  # an unpacked file has at most 32 times the bytes, plus 16 MB


def stem(path: Path) -> str:
    """The name of a file without its endings."""
    return path.name.partition(".")[0]


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state_dict and the metadata of a file in either form.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is damaged.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; train.py writes such a file")
    try:
        if path.suffix == ".gz":
            return _unpacked(_decompressed(path))
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); train the network again") from error


def content(tensors: dict[str, Tensor], about: dict[str, str]) -> bytes:
    """A safetensors file; the same for the same tensors and metadata (safetensors gives these any order)."""
    file = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    first = 8 + int.from_bytes(file[:8], "little")  # its data; before that a JSON text, and the text's length
    header = {"__metadata__": dict(sorted(about.items()))} if about else {}
    text = json.dumps(header | json.loads(file[8:first]), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(file)[first:]))


def write_compact(path: Path, state: dict[str, Tensor], about: dict[str, str]) -> None:
    """Write a state_dict: what has inputs to an output channel in 8 bits, all else as it is."""
    tensors = {}
    for key, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim > 1:
            tensors[key], tensors[key + SCALE] = rounded(tensor)
        else:
            tensors[key] = tensor
    tables.replace(path, gzip.compress(content(tensors, about), mtime=0))


def rounded(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [C, ...] as multiples of a scale a channel: int8 [C, ...], float32 [C]."""
    scale = tensor.float().flatten(1).abs().amax(1) / LARGEST
    units = tensor.float() / _along(scale.where(scale > 0, 1.0), tensor)
    return units.round().to(torch.int8), scale


def _decompressed(path: Path) -> bytes:
    times, more = UNPACKED
    most = times * path.stat().st_size + more
    with gzip.open(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it unpacks to more than {most / 1e6:.0f} MB, which weights of its size do not")
    return content


def _unpacked(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for key in [key for key in tensors if key.endswith(SCALE)]:
        weight, scale = tensors.get(key.removesuffix(SCALE)), tensors.pop(key)
        if weight is None:
            raise ValueError(f"{key} is the scale of a tensor that is missing")
        if weight.dtype != torch.int8 or not scale.is_floating_point() or scale.shape != weight.shape[:1]:
            raise ValueError(f"{key} is {scale.dtype} {list(scale.shape)}, of {weight.dtype} {list(weight.shape)}")
        tensors[key.removesuffix(SCALE)] = weight.float() * _along(scale, weight)
    return tensors, header.get("__metadata__", {})


def _along(scale: Tensor, tensor: Tensor) -> Tensor:
    """One value a channel, for a product with ``tensor``."""
    return scale.view(-1, *[1] * (tensor.ndim - 1))


# Metadata: strings, looked at before anything is made of them.


def _share(value: Any) -> bool:
    return 0 <= value <= 1


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


FIELDS: dict[str, tuple[Callable[[str], Any], str, Callable[[Any], bool]]] = {
    "T": (json.loads, "a whole number of steps, at least 1", _count),
    "v_threshold": (float, "a number above 0", lambda value: 0 < value < math.inf),
    "decay": (float, "a number within 0 .. 1", _share),
    "reset": (str, "hard or soft", lambda value: value in ("hard", "soft")),
    "twin": (str, "relu or clipped", lambda value: value in ("relu", "clipped")),
    "snn_precision": (str, "float32, int16 or int8", lambda value: value in ("float32", "int16", "int8")),
    "shape": (
        json.loads, "[channels, height, width]",
        lambda value: isinstance(value, list) and len(value) == 3 and all(map(_count, value)),
    ),
    "classes": (json.loads, "a whole number, at least 1", _count),
    "linear_norm": (json.loads, "true or false", lambda value: isinstance(value, bool)),
    "pool": (json.loads, "spikes or rates", lambda value: value in ("spikes", "rates")),
    "statistics": (str, "steps or means", lambda value: value in ("steps", "means")),
    "width": (float, "a number above 0", lambda value: 0 < value < math.inf),
    **dict.fromkeys(
        ("test_accuracy", "validation_accuracy", "twin_test_accuracy"), (float, "a share within 0 .. 1", _share)
    ),
}  # fmt: skip


def values(path: Path, about: dict[str, str], *needed: str) -> dict[str, Any]:
    """The values of the metadata ``about`` of the file ``path``, as numbers and lists where they are.

    Raises:
        ValueError: one of ``needed`` is missing, or a value is not what its key stands for.
    """
    for key in needed:
        if key not in about:
            raise ValueError(f"{path} does not say its {key}: it is no file of train.py, or of another version")
    found: dict[str, Any] = {}
    for key, text in about.items():
        parse, wanted, holds = FIELDS.get(key, (str, "", lambda value: True))
        try:
            found[key] = parse(text)
            good = holds(found[key])
        except (ValueError, TypeError, OverflowError, RecursionError):
            good = False
        if not good:
            raise ValueError(f"{path}: {key} must be {wanted}, got {text[:60]!r}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="of train.py")
    parser.add_argument("compact", type=Path, help="where the compact form goes: a name that ends in .safetensors.gz")
    parser.add_argument(
        "--test-accuracy",
        type=float,
        help="of the compact form by evaluate.py, a share, recorded in it: rounding changed what the file records",
    )
    options = parser.parse_args()
    if options.test_accuracy is not None and not 0 <= options.test_accuracy <= 1:
        parser.error(f"--test-accuracy must be a share within 0 .. 1, got {options.test_accuracy}")
    if not options.compact.name.endswith(COMPACT):
        parser.error(f"the compact form's name must end in {COMPACT}, got {options.compact}")
    with refusing("weights_file.py"):
        tables.check_out(options.compact.parent, option="folder")
        compress(options)


def compress(options: argparse.Namespace) -> None:
    """Write the compact form of a file."""
    state, about = read(options.file)
    about = {key: value for key, value in about.items() if not key.endswith("test_accuracy")}
    if options.test_accuracy is not None:
        about["test_accuracy"] = f"{options.test_accuracy:.4f}"
    write_compact(options.compact, state, about)
    print(f"wrote {options.compact}: {options.compact.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command(main)
