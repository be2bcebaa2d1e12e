"""Refuses ReLU networks that do not give the same at each call: what changes in them is a state."""

from random import Random

import torch
from torch import Tensor, nn

from ..graph.prepared import copied
from ..graph.reach import has_foreign_code
from ..graph.state import CALLS, Changed, State
from .outputs import tensors_of


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
        state = State(self.net, self.name)
        known: dict[int, list[Tensor]] = {}
        changed: Changed | None = None
        steady, turns = True, Random(0).choices((0, 1), k=CALLS)
        with state.watched():
            for call, turned in enumerate(turns, 1):
                given = tensors_of(self.net(self.samples.flip(0) if turned else self.samples.clone()))
                before = known.setdefault(turned, [y.clone() for y in given])
                steady &= len(before) == len(given) and all(map(_equal, before, given))
                try:
                    state.check(last=call == CALLS)
                except Changed as error:
                    changed = changed or error
        if steady:
            return
        if changed:
            raise changed
        state.explain()
        raise Changed(f"{self.name} has a state: it does not always give the same for the same input; take it out")


def _equal(known: Tensor, y: Tensor) -> bool:
    largest = known.nan_to_num().abs().max().item() if known.numel() else 0.0
    return known.shape == y.shape and torch.allclose(known, y, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
