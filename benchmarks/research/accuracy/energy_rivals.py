"""ReLU networks that need less work at the same accuracy: a cascade of two, and one whose small activations are cut."""

from typing import NamedTuple

import torch
from common.accuracy import BATCH
from common.cost import Work
from speed.cascades import SHARES, leads
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from accuracy.work import relu_work


class Cascade(NamedTuple):
    """A cascade of two ReLU networks.

    Attributes:
        share: % of the held-out images that go on to the large one. held_out, accuracy: shares that are right.
        work: of an image, zeros skipped.
    """

    share: int
    held_out: float
    accuracy: float
    work: Work


def cascade(small: nn.Sequential, large: nn.Sequential, held_out: Dataset, test: Dataset, least: float) -> Cascade:
    """The cascade that sends on the fewest of SHARES with at least the accuracy ``least`` on held-out images; else the
    most."""
    first, last, labels = _answers(small, large, held_out)
    for share in SHARES:
        lead = leads(first).quantile(share / 100)
        of_held_out, _ = _right(first, last, labels, lead)
        if of_held_out >= least:
            break
    accuracy, goes_on = _right(*_answers(small, large, test), lead)
    work, more = relu_work(small, test)[1], relu_work(large, test)[1]
    for name, value in vars(more).items():
        setattr(work, name, getattr(work, name) + goes_on * value)
    return Cascade(share, of_held_out, accuracy, work)


@torch.no_grad()
def _answers(small: nn.Module, large: nn.Module, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of both networks, and labels."""
    batches = [(small(images), large(images), labels) for images, labels in DataLoader(dataset, BATCH)]
    first, last, labels = map(torch.cat, zip(*batches, strict=True))
    return first, last, labels


def _right(first: Tensor, last: Tensor, labels: Tensor, lead: Tensor) -> tuple[float, float]:
    """The shares of images that are right, and that go on."""
    goes_on = leads(first) < lead
    answers = torch.where(goes_on, last.argmax(1), first.argmax(1))
    return (answers == labels).float().mean().item(), goes_on.float().mean().item()
