"""Checkpoints that are never half written: tensors in safetensors, and a JSON file that names them.

The JSON file is the checkpoint: it is renamed into place after the tensors it names are on the disk, and older tensors
go after that. Killed at any moment, a run finds the last complete checkpoint.
"""

import json
import os
from pathlib import Path

import torch
from common import weights_file
from common.nets import FORMER_NAMES
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE = "checkpoint.json"
FIELDS = {
    "tensors": str, "groups": list, "options": dict, "stage": int, "epoch": int, "step": int, "done": int,
    "best": (int, float),
}  # fmt: skip
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of Adam, of each parameter


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
        position = json.loads(path.read_text(), parse_constant=_refuse)
        _check(position)
        with safe_open(folder / position["tensors"], "pt") as file:
            return position, {key: file.get_tensor(key) for key in file.keys()}
    except (ValueError, RecursionError, SafetensorError, OSError) as error:
        raise ValueError(f"the checkpoint in {folder} is damaged ({error}); remove it and start again") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{STATE} holds {constant}, which is no number")


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
    if position["done"] < position["step"]:
        raise ValueError(f"{STATE}: {position['done']} steps are done in all, and {position['step']} of the last epoch")
    shown = position.setdefault("shown", {})  # older ones have none
    if not isinstance(shown, dict) or not all(isinstance(value, float | int) for value in shown.values()):
        raise ValueError(f"{STATE}: shown is {shown!r}"[:200])
    if Path(position["tensors"]).name != position["tensors"]:
        raise ValueError(f"{STATE}: tensors is no file of this folder, but {position['tensors']!r}")


def same_options(saved: dict, given: dict) -> None:
    """ValueError if a run is to be resumed with options that would make another run of it."""
    saved = saved | {"net": FORMER_NAMES.get(saved.get("net", ""), saved.get("net"))}
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
    """Load the moments of Adam; ValueError if they, or its settings, are those of another one, or damaged."""
    own = optimizer.state_dict()["param_groups"]
    try:
        _same_groups(json.loads(json.dumps(own)), position["groups"])
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state = {index: _moments(index, parameter, tensors) for index, parameter in enumerate(parameters)}
        named = {f"optimizer.{index}.{name}" for index in state for name in MOMENTS}
        if unknown := [key for key in tensors if key.startswith("optimizer.") and key not in named]:
            raise ValueError(f"{unknown[0]} is of no parameter")
    except ValueError as error:
        raise ValueError(f"the checkpoint's optimizer is of another network, or damaged ({error})") from error
    optimizer.load_state_dict({"state": state, "param_groups": own})


def _same_groups(own: list[dict], saved: list) -> None:
    """ValueError if a setting that was saved is not the optimizer's; the learning rate is set at each step."""
    if len(own) != len(saved) or not all(isinstance(group, dict) for group in saved):
        raise ValueError(f"{len(own)} groups of parameters are needed")
    for group, other in zip(own, saved, strict=True):
        for key in group.keys() & other.keys() - {"lr"}:
            if group[key] != other[key]:
                raise ValueError(f"its {key} is {other[key]!r}, needed is {group[key]!r}"[:200])


def _moments(index: int, parameter: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A parameter's moments as Adam has them, each looked at: its fused kernel reads as much as a parameter has."""
    moments = {}
    for name in sorted(MOMENTS):
        key = f"optimizer.{index}.{name}"
        value, shape = tensors.get(key), [] if name == "step" else list(parameter.shape)
        if value is None:
            raise ValueError(f"{key} is missing")
        if list(value.shape) != shape or not value.is_floating_point():
            raise ValueError(f"{key} is {value.dtype} {list(value.shape)}, needed are real numbers of shape {shape}")
        if not value.isfinite().all() or (name != "exp_avg" and (value < 0).any()):
            raise ValueError(f"{key} holds NaN, infinite or negative values")
        # In the memory order of the parameter, which files do not hold.
        moments[name] = value.float() if name == "step" else torch.empty_like(parameter).copy_(value).detach()
    return moments


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        if metadata:
            temporary.write_bytes(weights_file.content(tensors, metadata))
        else:  # a large file, from where its tensors are
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
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
