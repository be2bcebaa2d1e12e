"""Checkpoints that are never half written: tensors in safetensors, and a JSON file that names them.

The JSON file is the checkpoint: it is renamed into place after the tensors it names are on the disk, and older tensors
go after that. Killed at any moment, a run finds the last complete checkpoint.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE = "checkpoint.json"
FIELDS = {
    "tensors": str, "groups": list, "options": dict, "stage": int, "epoch": int, "step": int, "done": int,
    "best": (int, float),
}  # fmt: skip


def save(
    folder: Path,
    position: dict,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: nn.Module | None = None,
) -> None:
    """Write a checkpoint; ``position`` is what JSON can hold, the place in the run that the tensors belong to.

    ``average``: the model's, if there is one.

    Raises:
        OSError: the folder cannot be written; the checkpoint that was there is intact.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    groups = []
    if optimizer is not None:
        state = optimizer.state_dict()
        groups = state["param_groups"]
        for index, values in state["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    name = "checkpoint-" + "-".join(str(position[key]) for key in ("stage", "epoch", "step")) + ".safetensors"
    write_tensors(folder / name, tensors, {})
    write_text(folder / STATE, json.dumps({"tensors": name, "groups": groups, **position}, indent=1))
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink()


def read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """The position and the tensors of the checkpoint in ``folder``.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged.
    """
    path = find(folder)
    try:
        position = json.loads(path.read_text())
        _check(position)
        with safe_open(folder / position["tensors"], "pt") as file:
            return position, {key: file.get_tensor(key) for key in file.keys()}
    except (ValueError, RecursionError, SafetensorError, OSError) as error:
        raise ValueError(f"the checkpoint in {folder} is damaged ({error}); remove it and start again") from error


def find(folder: Path) -> Path:
    """The file that is the checkpoint in ``folder``; FileNotFoundError if there is none."""
    path = folder / STATE
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint in {folder} ({STATE}); start without --resume")
    return path


def _check(position) -> None:
    """ValueError if ``position`` is not what ``save`` writes."""
    if not isinstance(position, dict):
        raise ValueError(f"{STATE} holds no table but a {type(position).__name__}")
    for key, kind in FIELDS.items():
        value = position.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{STATE}: {key} is {value!r}"[:200])
        if kind is int and value < 0:
            raise ValueError(f"{STATE}: {key} is {value}, below 0")
    if Path(position["tensors"]).name != position["tensors"]:
        raise ValueError(f"{STATE}: tensors is no file of this folder, but {position['tensors']!r}")


def same_options(saved: dict, given: dict) -> None:
    """ValueError if a run is to be resumed with options that would make another run of it."""
    changed = [key for key in given if json.loads(json.dumps(given[key])) != saved.get(key)]
    if changed:
        pairs = ", ".join(f"--{key.replace('_', '-')} {saved.get(key)}" for key in changed)
        raise ValueError(f"the checkpoint was written with {pairs}; give the same to --resume, or another --out")


def restore_model(model: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    """Load the tensors of "model" or "average"; ValueError if they are of another architecture."""
    state = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint is of another network: {str(error).splitlines()[1].strip()}") from error


def restore_optimizer(optimizer: torch.optim.Optimizer, position: dict, tensors: dict[str, Tensor]) -> None:
    """Load an optimizer's moments and settings; ValueError if they are of another one."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                # The fused optimizer takes moments in the memory order of the parameter, and files hold none.
                moment = torch.empty_like(parameters[int(index)]).copy_(value) if value.ndim else value
                state.setdefault(int(index), {})[name] = moment
        optimizer.load_state_dict({"state": state, "param_groups": position["groups"]})
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint's optimizer is of another network, or damaged ({error})") from error


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)
        _publish(temporary, path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error}); the last checkpoint is intact") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text)
        _publish(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written ({error}); the last checkpoint is intact") from error


def _publish(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())  # a name must not reach the disk before its content
    os.replace(temporary, path)
