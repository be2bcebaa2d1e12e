"""Accuracy of spike counts by strict argmax: a tie with the true class is wrong, and so is a silent output."""

import torch
from torch import Tensor, nn

import proxykernels as pk


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


def evaluate(
    net: nn.Module, images: Tensor, labels: Tensor, T: int, batch: int = 250
) -> tuple[float, dict[str, float]]:
    """Strict accuracy and each layer's firing rate over images [N, 1, 28, 28], simulated for T steps."""
    counts, rates = [], []
    for part in images.split(batch):
        result = pk.simulate(net, part, T)
        counts.append(result.count())
        rates.append(result.rates)
    mean_rates = {name: sum(rate[name] for rate in rates) / len(rates) for name in rates[0]}
    return strict_accuracy(torch.cat(counts), labels), mean_rates


def _compare(counts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The true class's count, and the highest count among the others."""
    rivals = counts.scatter(1, labels.unsqueeze(1), torch.iinfo(torch.int32).min)
    return counts.gather(1, labels.unsqueeze(1)).squeeze(1), rivals.amax(1)
