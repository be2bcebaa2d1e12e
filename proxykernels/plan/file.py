"""An engine in a file: a safetensors container of the plan's tensors, whose metadata describe the plan in JSON.

    "format"   "proxykernels-engine"
    "version"  "2"
    "plan"     {"shape": [...], "real": bool, "precision": null | name, "operations": [...]}; of a converted network
               also "calibrated": [least, largest value of its calibration data]
    "checksum" of the plan and all tensors: 16 hexadecimal digits. Another hash would be another version

    an operation   {"kind", "name", "shape", "real", "divisor", "count_padding", "adaptive",
                    "windows": [...], "neurons": null | ..., "pixels", "channels": names of tensors of int64 | null}
    a window       {"slot", "kernel", "stride", "padding", "dilation", "groups", "weight": name of a tensor | null}
    recurrent      neurons, and "recurrent": name of a tensor
    the neurons    {"model", "scalars", "fires", "rectifies", "limit": number | null, "channels", "bias", "start",
                    "scale"}; the last four name tensors, and scale may be null

A window whose weight has averages of spikes in it has "averages", how many a neuron reads; a delay has "delays", the
name of a tensor of int64. In networks of sigma-delta neurons alone

    an operation   {"senders": null | {"exponents", "rectifies", "limit": name of a tensor}, "scale": name | null}
    a window       {"bias": name of a tensor | null}

Weights lie in their plain layout and are packed for the machine that loads them. Of equal engines the bytes are equal.
Nothing of a file is executed; what is not as described here is refused before any of it is used, by the reader of the
C library, kernels/cpu/c/read_plan.cpp.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..kernels.table import Kind
from .file_reader import plan_of
from .library import load, problem_of_file
from .operations import Operation
from .plan import Plan
from .replace_file import replace

FORMAT, VERSION = "proxykernels-engine", "2"


def save(plan: Plan, path: str | os.PathLike) -> None:
    """Write a plan, beside ``path`` first and then in its place."""
    tensors: dict[str, Tensor] = {}

    def put(name: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        tensors[name] = tensor.contiguous()
        return name

    operations = []
    for k, op in enumerate(plan.operations):
        windows = [
            {
                "slot": w.slot, "kernel": w.kernel, "stride": w.stride, "padding": w.padding, "dilation": w.dilation,
                "groups": w.groups, "weight": put(f"{k}.{i}.weight", w.weight),
                **({"bias": put(f"{k}.{i}.bias", w.bias)} if plan.changes else {}),
                **({"averages": w.averages} if w.averages else {}),
            }
            for i, w in enumerate(op.windows)
        ]  # fmt: skip
        neurons = op.neurons and {
            "model": op.neurons.model, "scalars": op.neurons.scalars, "fires": op.neurons.fires,
            "rectifies": op.neurons.rectifies, "limit": op.neurons.limit,
            **{name: put(f"{k}.{name}", getattr(op.neurons, name)) for name in ("channels", "bias", "start", "scale")},
        }  # fmt: skip
        operations.append(
            {
                "kind": op.kind, "name": op.name, "shape": op.shape, "real": op.real, "divisor": op.divisor,
                "count_padding": op.count_padding, "adaptive": op.adaptive, "windows": windows, "neurons": neurons,
                **{name: put(f"{k}.{name}", getattr(op, name)) for name in ("pixels", "channels")},
                **({"recurrent": put(f"{k}.recurrent", op.recurrent)} if op.kind == Kind.RECUR else {}),
                **({} if op.delays is None else {"delays": put(f"{k}.delays", op.delays)}),
                **(_of_changes(k, op, put) if plan.changes else {}),
            }
        )  # fmt: skip
    described = {"shape": plan.shape, "real": plan.real, "precision": plan.precision, "operations": operations}
    if plan.calibrated is not None:
        described["calibrated"] = plan.calibrated
    text = json.dumps(described, sort_keys=True)
    metadata = {"format": FORMAT, "version": VERSION, "plan": text, "checksum": checksum(text, tensors)}
    replace(path, _sorted_header(save_tensors(tensors, metadata)))


def _of_changes(k: int, op: Operation, put: Callable[[str, Tensor | None], str | None]) -> dict[str, Any]:
    """What operation k has besides, in a network of sigma-delta neurons."""
    senders = op.senders and {
        "exponents": op.senders.exponents, "rectifies": op.senders.lowest == 0,
        "limit": put(f"{k}.limit", op.senders.highest),
    }  # fmt: skip
    return {"senders": senders, "scale": put(f"{k}.scale", op.scale)}


def checksum(plan: str, tensors: dict[str, Tensor]) -> str:
    """Tells a damaged file, such as one with a flipped bit of a weight. It is no signature."""
    fingerprint, value = load()[1].fingerprint, hashlib.blake2b(plan.encode(), digest_size=8)
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.contiguous()
        of_bytes = fingerprint(tensor.data_ptr(), tensor.nbytes)
        value.update(f"{name} {tensor.dtype} {list(tensor.shape)} {of_bytes:016x}\n".encode())
    return value.hexdigest()


def _sorted_header(content: bytes) -> bytes:
    """The same file with the entries of its header in order: safetensors writes metadata in any."""
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
        return plan_of(json.loads(_header(content)["__metadata__"]["plan"]), load_tensors(content))
    except (SafetensorError, OverflowError, ValueError):  # of what the description does not name
        raise ValueError(f"{path} cannot be loaded: it is damaged, or not an engine's") from None


def _header(content: bytes) -> Any:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
