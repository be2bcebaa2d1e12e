"""Random torch networks, drawn operation by operation (operations.py)."""

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from .operations import GATES, JOINS, OPERATIONS

MOST = 1500  # values of a sample
LEAST = 1e-5  # of an operation's results; sums that cancel each other leave rounding alone


class Drawn(nn.Module):
    """A network that is drawn operation by operation: those of the same seed are the first of a longer one."""

    def __init__(self, operations: int, seed: int, x: Tensor, ends: str = "tensor", gates: bool = False):
        """``x``: samples that it takes. ``ends``: what it returns, "tensor", "dict" or "tuple". ``gates``: also draw
        functions and products of values."""
        super().__init__()
        self.known = OPERATIONS | GATES if gates else OPERATIONS
        self.steps: list[tuple[str, int, Any]] = []  # name, which value it takes, and the call
        self.ends, self.parts = ends, 0
        self.eval()
        torch.manual_seed(seed)
        values = [x]
        for k in range(operations):
            random = Random(f"{seed}/{k}")
            for _ in range(40):
                if self._draw(random, values):
                    break
        if not any(isinstance(module, nn.modules.conv._ConvNd | nn.Linear) for module in self.modules()):
            self._draw(Random(seed), values, "conv" if x.ndim == 4 else "row" if x.ndim == 3 else "linear")
        self.eval()

    def _draw(self, random: Random, values: list[Tensor], name: str | None = None) -> bool:
        chosen = name or random.choice(list(self.known))
        taken = len(values) - 1 if random.random() < 0.85 else random.randrange(len(values))
        call = self.known[chosen](random, tuple(values[taken].shape), self)
        if call is None and chosen in JOINS:
            call = JOINS[chosen](random, [tuple(value.shape) for value in values], taken)
        if call is None:
            return False
        try:
            with torch.no_grad():
                y = call(self, values) if chosen in JOINS else call(self, values[taken])
        except (RuntimeError, ValueError, IndexError):  # torch does not take it
            return False
        fits = 1 < y.ndim < 5 and len(y) == len(values[0]) and 0 < y.numel() <= MOST * len(y)
        if not fits or not LEAST < y.abs().max() < 1e4:
            return False
        self.steps.append((chosen, taken, call))
        values.append(y)
        return True

    def add(self, module: nn.Module) -> Callable[..., Tensor]:
        """Give a module a name; returns how it is called."""
        name = f"part{self.parts}"
        self.parts += 1
        self.add_module(name, module.eval())
        return lambda m, *x, **options: getattr(m, name)(*x, **options)

    def keep(self, tensor: Tensor) -> str:
        """Give a buffer a name."""
        name = f"part{self.parts}"
        self.parts += 1
        self.register_buffer(name, tensor)
        return name

    def forward(self, x):
        values = [x]
        for name, taken, call in self.steps:
            values.append(call(self, values) if name in JOINS else call(self, values[taken]))
        if self.ends == "dict":
            return {"out": values[-1], "other": values[-2]}
        return (values[-1], [values[len(values) // 2]]) if self.ends == "tuple" else values[-1]
