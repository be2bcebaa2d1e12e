"""Early exit by logits: how far ahead the first class must be, chosen on images that are not reported."""

from collections.abc import Callable

import torch
from torch import Tensor

import proxykernels as pk
from proxykernels.running.result import Result

AT = {4: 1, 8: 4}  # the most steps, and the steps after which logits are looked at
OTHERWISE = 0.001  # the share of images that may be answered otherwise than after all steps
AT_ONCE = 100


def rule(run: Callable[..., Result], images: Tensor, T: int) -> tuple[Callable[[Tensor, int], Tensor], str]:
    """The rule for up to T steps, chosen on ``images``, and the choice in words: their labels are not looked at."""
    look = AT[T]
    early, whole = (torch.cat([run(x, T=t).logits for x in images.split(AT_ONCE)]) for t in (look, T))
    first, second = early.topk(2, dim=1).values.unbind(1)
    leads, otherwise = look * (first - second), early.argmax(1) != whole.argmax(1)
    lead = least_lead(leads, otherwise)
    halves = [least_lead(leads[half::2], otherwise[half::2]) for half in (0, 1)]
    ends = " and ".join(f"{(leads >= half).float().mean():.0%}" for half in (lead, *halves))
    told = f"T = {T}: {ends} of {len(images)} images end after {look} steps, if all or a half of them choose the lead"
    return pk.stop.margin(max(lead, 1e-6), of="logits", at=[look]), told


def least_lead(leads: Tensor, otherwise: Tensor) -> float:
    """The least lead with which at most a share OTHERWISE of the images ends with another answer.

    Images of the same lead end together: all of them, where nothing has reached the output yet.
    """
    leads, order = leads.sort(descending=True)
    ended = int((otherwise[order].cumsum(0) <= OTHERWISE * len(leads)).sum())
    if ended == len(leads):
        return 0.0
    ended = int((leads > leads[ended]).sum())
    return (leads[max(ended - 1, 0)] + leads[ended]).item() / 2 if ended else 2 * leads[0].item()
