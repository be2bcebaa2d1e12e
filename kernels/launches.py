"""Counts what PyTorch launches on a device: :class:`TorchLaunches`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .recording import Choice, note, recorded, unrecorded


class TorchLaunches(TorchDispatchMode):
    """Counts, in its block, the operators of PyTorch that start work on a kind of device: not views or allocations.

    Other kernels, such as Triton's, are no operators, and an operator counts once, however many kernels it starts.
    """

    def __init__(self, device: str):
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, function: Any, types: Any, operands: tuple = (), options: dict | None = None) -> Any:
        results = function(*operands, **(options or {}))
        is_view = any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
        starts = not is_view and "empty" not in function._schema.name
        if starts and any(isinstance(x, Tensor) and x.device.type == self.device for x in tree_leaves(results)):
            self.count += 1
        return results


@contextmanager
def noting_steps(device: torch.device, T: int) -> Iterator[None]:
    """Notes that the block runs T steps of neurons one after another, and the launches of a step, if somebody asks."""
    if recorded() is None:
        yield
        return
    with unrecorded(), TorchLaunches(device.type) as launches:
        yield
    note(Choice("step loop", f"neurons run unfused, {launches.count // max(T, 1)} launches a step"))
