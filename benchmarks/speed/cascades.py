"""Two networks in a row: a small one answers, and images of which it is not sure go to the large one.

Both are ReLU networks, the rival, or both are converted ones.

It is sure of an image if its first class leads by enough. The lead is a quantile over held-out training images, which
trained neither network; their labels are not looked at.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from speed.relu_passes import Logits

SMALL_OF = {"paper": "small", "small": "small-quarter"}  # the network that stands before a larger one
SHARES = (5, 10, 15, 20, 30)  # % of the held-out images that go on to the large network


class Source(Protocol):
    """The passes of one network.

    Attributes:
        any_batch: a pass takes as long as its images, however many; else those of a number are compiled for it.
    """

    any_batch: bool

    def of(self, name: str, batch: int | None = None) -> Logits: ...


@dataclass(frozen=True)
class Cascade:
    """A cascade of passes of one kind, such as "OpenVINO int8".

    Attributes:
        lead: logits by which the small network's first class must be ahead of the second.
    """

    small: Source
    large: Source
    name: str
    lead: float

    def run(self, batch: int | None) -> Logits:
        """Logits of batches of ``batch`` images; None: of any number.

        A large network with passes of fixed batches has them for 1, 2, 4, ... images; the last image fills one up.
        """
        first, last = self.small.of(self.name, batch), self.passes(batch)

        def run(images: Tensor) -> Tensor:
            logits = first(images).clone()  # OpenVINO writes over the last one
            unsure = leads(logits) < self.lead
            count = int(unsure.sum())
            if count:
                size, large = next((size, large) for size, large in last.items() if size >= count)
                left = images[unsure]
                filled = (
                    left if size in (count, ANY) else torch.cat([left, left[-1:].expand(size - count, *left.shape[1:])])
                )
                logits[unsure] = large(filled)[:count]
            return logits

        return run

    def passes(self, batch: int | None) -> dict[float, Logits]:
        if batch is None or self.large.any_batch:
            return {ANY: self.large.of(self.name)}
        sizes = [2**k for k in range(batch.bit_length()) if 2**k < batch]
        return {size: self.large.of(self.name, size) for size in [*sizes, batch]}

    def answers(self, images: Tensor) -> tuple[Tensor, float]:
        """The logits [N, classes], and the share of images that go on. Both networks see all images, once for all
        cascades of them."""
        first, last = logits_of(self.small, self.name, images), logits_of(self.large, self.name, images)
        unsure = leads(first) < self.lead
        return torch.where(unsure[:, None], last, first), unsure.float().mean().item()


ANY = float("inf")
AT_ONCE = 100


def leads(logits: Tensor) -> Tensor:
    """How far the first class of each image is ahead of the second."""
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return first - second


@lru_cache(maxsize=8)
def logits_of(passes: Source, name: str, images: Tensor) -> Tensor:
    run = passes.of(name)
    return torch.cat([run(part).clone() for part in images.split(AT_ONCE)])  # OpenVINO writes over the last one


def cascades(small: Source, large: Source, name: str, held_out: Tensor) -> dict[int, Cascade]:
    """A cascade for each of SHARES."""
    found = leads(logits_of(small, name, held_out))
    return {share: Cascade(small, large, name, found.quantile(share / 100).item()) for share in SHARES}
