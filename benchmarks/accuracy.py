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
    results = [pk.simulate(net, part, T) for part in images.split(batch)]
    accuracy = strict_accuracy(torch.cat([result.count() for result in results]), labels)
    names = results[0].rates
    return accuracy, {name: sum(result.rates[name] for result in results) / len(results) for name in names}
