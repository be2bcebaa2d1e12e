"""Accuracy: of spike counts by strict argmax, where a tie with the true class is wrong, and so is a silent output."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import proxykernels as pk

BATCH = 100


def strict_correct(counts: Tensor, labels: Tensor) -> Tensor:
    """Which samples' true class spikes more than each other class: bool [N]; counts [N, classes], labels [N]."""
    true, best_rival = _compare(counts, labels)
    return true > best_rival


def tied(counts: Tensor, labels: Tensor) -> Tensor:
    """Which samples' true class shares the highest count with another class: bool [N]."""
    true, best_rival = _compare(counts, labels)
    return true == best_rival


def strict_accuracy(counts: Tensor, labels: Tensor) -> float:
    """The share of samples that are strictly correct."""
    return strict_correct(counts, labels).float().mean().item()


def simulated(
    net: nn.Module, dataset: Dataset, T: int, device: torch.device, precision: str | None = None
) -> Iterator[tuple[pk.simulation.simulate.Result, Tensor]]:
    """The results of T steps and the labels, batch by batch of a data set."""
    for images, labels in DataLoader(dataset, BATCH):
        yield pk.simulate(net, images.to(device), T, precision=precision), labels


def snn_accuracy(net: nn.Module, dataset: Dataset, T: int, device: torch.device) -> tuple[float, dict[str, float]]:
    """A spiking network's strict accuracy, and the firing rate of each layer."""
    counts, labels, rates = [], [], []
    for result, truth in simulated(net, dataset, T, device):
        counts.append(result.count().cpu())
        labels.append(truth)
        rates.append(result.rates)
    mean_rates = {name: sum(rate[name] for rate in rates) / len(rates) for name in rates[0]}
    return strict_accuracy(torch.cat(counts), torch.cat(labels)), mean_rates


@torch.no_grad()
def ann_accuracy(ann: Callable[[Tensor], Tensor], dataset: Dataset, device: torch.device | str = "cpu") -> float:
    """The share of samples whose largest output of a ReLU network is the label's."""
    right = 0
    for images, labels in DataLoader(dataset, BATCH):
        right += (ann(images.to(device)).argmax(1).cpu() == labels).sum().item()
    return right / len(dataset)


def _compare(counts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The true class's count, and the highest count among the others."""
    rivals = counts.scatter(1, labels.unsqueeze(1), torch.iinfo(torch.int32).min)
    return counts.gather(1, labels.unsqueeze(1)).squeeze(1), rivals.amax(1)
