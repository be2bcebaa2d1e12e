"""Weights that others have trained: a file's state_dict in a network of SpikingJelly, imported."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ... import checks
from ...network import Network
from .from_libraries import from_spikingjelly

HOLDERS = ("model", "state_dict", "model_state_dict", "net")  # keys of checkpoints that hold the weights
PREFIXES = ("module.", "model.", "_orig_mod.")  # which wrappers put in front of names
NAMED = 5  # names that an error shows


def load_spikingjelly(
    model: nn.Module, state_dict: Mapping[str, Any], sample: Tensor | None = None, *, check: bool = True
) -> Network:
    """Import a SpikingJelly network with the weights of a checkpoint.

    Its names are those of ``model``, perhaps behind "module." of a wrapper; or, as in files of other versions, whose
    containers have other names, each entry has the last part of its name and the shape of the entry at the same place,
    which a warning tells: compare the accuracy then.

    Args:
        model: the network that the checkpoint is of, such as ``sew_resnet18(cnf="ADD", spiking_neuron=IFNode)``. It is
            not changed.
        state_dict: what ``torch.load(file, weights_only=True)`` gives: the weights by their names, or a checkpoint that
            has them under "model" or "state_dict".
        sample, check: as in :func:`from_spikingjelly`.

    Returns:
        The network, in evaluation mode.

    Raises:
        ValueError: entries are missing, left over, or have other shapes; the message names some.
        TypeError: state_dict is no mapping of names to tensors, or as :func:`from_spikingjelly`.
    """
    checks.module("model", model)
    filled = copy.deepcopy(model)
    filled.load_state_dict(_matched(filled, _weights(state_dict)))
    return from_spikingjelly(filled, sample, check=check)


def _weights(given: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names, without a wrapper's prefix."""
    while isinstance(given, Mapping) and (held := next((key for key in HOLDERS if key in given), None)):
        if not isinstance(given[held], Mapping):
            break
        given = given[held]
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()) or not given:
        got = ", ".join(map(str, list(given)[:NAMED])) if isinstance(given, Mapping) else type(given).__name__
        raise TypeError(
            f"state_dict must have tensors by their names, as torch.load gives them; got {got or 'nothing'}"
        )
    weights = dict(given)
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in weights)), None):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _matched(model: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """``given`` by the names that the model has."""
    wanted: dict[str, Tensor] = dict(model.state_dict())
    if wanted.keys() == given.keys():
        _check_shapes(wanted, given)
        return given
    kinds = [
        [(name.rpartition(".")[2], tuple(value.shape)) for name, value in each.items()] for each in (wanted, given)
    ]
    if kinds[0] != kinds[1]:
        missing, over = ([name for name in a if name not in b] for a, b in ((wanted, given), (given, wanted)))
        common = {name: value for name, value in given.items() if name in wanted}
        _check_shapes({name: wanted[name] for name in common}, common)
        raise ValueError(
            f"state_dict is of another network than {type(model).__name__}: missing {_some(missing)}; left over "
            f"{_some(over)}"
        )
    first = next((ours, theirs) for ours, theirs in zip(wanted, given, strict=True) if ours != theirs)
    warnings.warn(
        f"state_dict has other names than {type(model).__name__}, such as '{first[1]}' for '{first[0]}'; its "
        f"{len(given)} entries were taken in their order, in which shapes are the same: compare the accuracy with the "
        "published one",
        UserWarning,
        stacklevel=4,
    )
    return dict(zip(wanted, given.values(), strict=True))


def _check_shapes(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    wrong = [
        f"{name} {list(given[name].shape)} for {list(value.shape)}"
        for name, value in wanted.items()
        if given[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(f"state_dict has other shapes than the model: {_some(wrong)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED]) or "nothing"
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
