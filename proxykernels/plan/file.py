"""An engine in a file: a safetensors container of the plan's tensors, whose metadata describe the plan in JSON.

    "format"   "proxykernels-engine"
    "version"  "3" if tensors lie in bytes, else "2"
    "plan"     as description.py writes it
    "checksum" of the plan and all tensors: 16 hexadecimal digits. Another hash would be another version

Weights lie in their plain layout and are packed for the machine that loads them. Those of an int8 network take a byte
each: NAME is int8, and NAME.unit, float32 [rows], says what 1 stands for in each output channel; the product is exact.
Equal engines give equal bytes. Nothing of a file is executed; what is not as described here is refused before any of it
is used, by the reader of the C library, kernels/cpu/c/read_plan.cpp.
"""

import hashlib
import json
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from .byte_weights import in_bytes, in_floats
from .description import described, plan_of
from .library import load_engine, problem_of_file
from .plan import Plan

FORMAT, VERSION, WITH_BYTES = "proxykernels-engine", "2", "3"


def save(plan: Plan, path: str | os.PathLike) -> None:
    """Write a plan, beside ``path`` first and then in its place."""
    text, floats = described(plan)
    tensors = in_bytes(floats) if plan.precision == "int8" else floats
    version = VERSION if tensors.keys() == floats.keys() else WITH_BYTES
    metadata = {"format": FORMAT, "version": version, "plan": text, "checksum": checksum(text, tensors)}
    replace(path, _sorted_header(save_tensors(tensors, metadata)))


def checksum(plan: str, tensors: dict[str, Tensor]) -> str:
    """Tells a damaged file, such as one with a flipped bit of a weight. It is no signature."""
    fingerprint, value = load_engine()[1].fingerprint, hashlib.blake2b(plan.encode(), digest_size=8)
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.contiguous()
        of_bytes = fingerprint(tensor.data_ptr(), tensor.nbytes)
        value.update(f"{name} {tensor.dtype} {list(tensor.shape)} {of_bytes:016x}\n".encode())
    return value.hexdigest()


def _sorted_header(content: bytes) -> bytes:
    """The file with the entries of its header sorted: safetensors writes metadata in any order."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(_header(content), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def read(path: str | os.PathLike) -> Plan:
    """The plan in a file.

    Raises:
        FileNotFoundError: there is none. ValueError: it is no such file, of another version, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = Path(path).read_bytes()  # once: what is read again may have changed
    if problem := problem_of_file(content):
        raise ValueError(f"{path}{problem.removeprefix('the file')}")
    try:
        return plan_of(json.loads(_header(content)["__metadata__"]["plan"]), in_floats(load_tensors(content)))
    except (SafetensorError, OverflowError, ValueError):  # of what the description does not name
        raise ValueError(f"{path} cannot be loaded: it is damaged, or not an engine's") from None


def _header(content: bytes) -> Any:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def replace(path: str | os.PathLike, content: bytes) -> None:
    """Write ``content`` to a file beside the one that ``path`` names, or leads to, and put it in its place.

    A process that reads the path meanwhile, or after a failure, finds the file that was there before.

    The mode stays that of the file that was there; of a new one it is what the umask leaves.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    target = Path(os.path.realpath(path))
    beside = target.parent / f".{secrets.token_hex(8)}.tmp"  # not longer than the target's name may be
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)  # a device or a pipe stays one; a folder is refused
            return
        with open(beside, "xb") as file:
            file.write(content)
        if target.exists():
            os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
        os.replace(beside, target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
        raise
