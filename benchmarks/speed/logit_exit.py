"""Early exit by logits: how far ahead the first class must be, chosen on images that are not reported."""

from collections.abc import Callable

import torch
from torch import Tensor

import proxykernels as pk
from proxykernels.running.result import Result

AT = {4: 1, 8: 4}  # the most steps, and the steps after which logits are looked at
ROOM = 1.1  # times the largest lead with which an image answered otherwise than in the end
AT_ONCE = 100


def rule(run: Callable[..., Result], images: Tensor, T: int) -> Callable[[Tensor, int], Tensor]:
    """The rule for up to T steps, chosen on ``images``: their labels are not looked at."""
    look = AT[T]
    early, whole = (torch.cat([run(x, T=t).logits for x in images.split(AT_ONCE)]) for t in (look, T))
    first, second = early.topk(2, dim=1).values.unbind(1)
    otherwise = early.argmax(1) != whole.argmax(1)
    lead = (look * (first - second))[otherwise].amax().item() if otherwise.any() else 0.0
    return pk.stop.margin(max(ROOM * lead, 1e-6), of="logits", at=[look])
