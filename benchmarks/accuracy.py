"""Accuracy of spike counts by strict argmax: a tie with the true class is wrong, and so is a silent output."""

import torch
from torch import Tensor, nn

import proxykernels as pk


def strict_accuracy(counts: Tensor, labels: Tensor) -> float:
    """The share of samples whose true class spikes more than each other class; counts [N, classes], labels [N]."""
    rivals = counts.scatter(1, labels.unsqueeze(1), torch.iinfo(torch.int32).min)
    true = counts.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (true > rivals.amax(1)).float().mean().item()


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
