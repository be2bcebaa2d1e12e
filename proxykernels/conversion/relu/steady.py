"""Refuses ReLU networks that do not give the same at each call: what changes in them is a state."""

from contextlib import nullcontext
from random import Random

import torch
from torch import Tensor, nn

from ..graph.prepared import copied
from ..graph.reach import has_foreign_code
from ..graph.state_between_calls import Changed, State, generators_kept
from .outputs import tensors_of

CALLS = 101  # of a network that notes something: a prime, so that no short cycle ends with it
FEW_CALLS = 16  # of one in which nothing changes that can be reached: what else it keeps shows soon, or never


class Steady:
    """A copy of ``ann``, as it is now, to be called again and again on ``samples`` [N, ...].

    Networks of torch's own modules alone are not.
    """

    def __init__(self, ann: nn.Module, samples: Tensor):
        self.name, self.samples = type(ann).__name__, samples
        self.net = copied(ann, {}) if has_foreign_code(ann) else None

    @torch.no_grad()
    def check(self) -> None:
        """Samples take turns in their order. What its own code notes may change, as long as what it gives does not.

        Raises:
            Changed: it gives something else than before; the message names the module that is the reason.
        """
        if self.net is None:
            return
        steady, changed, _ = self._called(self.net)
        if steady:
            return
        if changed:
            raise changed
        _, changed, state = self._called(self.net, watches=True)  # slower: to name the module
        if changed:
            raise changed
        state.explain()
        raise Changed(f"{self.name} has a state: it does not always give the same for the same input; take it out")

    def _called(self, net: nn.Module, watches: bool = False) -> tuple[bool, Changed | None, State]:
        """Whether it gave the same at each call; the first change of what it keeps; ``watches``: also each module."""
        state = State(net, self.name)
        known: dict[int, list[Tensor]] = {}
        changed: Changed | None = None
        steady, drew = True, False
        with generators_kept() as draws, state.watched() if watches else nullcontext():
            for call, turned in enumerate(Random(0).choices((0, 1), k=CALLS), 1):
                given = tensors_of(net(self.samples.flip(0) if turned else self.samples.clone()))
                before = known.setdefault(turned, [y.clone() for y in given])
                steady &= len(before) == len(given) and all(map(_equal, before, given))
                drew |= draws()
                is_still = steady and not drew and not changed and not watches
                last = call == (FEW_CALLS if is_still else CALLS)
                try:
                    state.check(last=last)
                except Changed as error:
                    changed = changed or error
                if last and not changed:
                    break
        return steady, changed, state


def _equal(known: Tensor, y: Tensor) -> bool:
    largest = known.nan_to_num().abs().max().item() if known.numel() else 0.0
    return known.shape == y.shape and torch.allclose(known, y, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
