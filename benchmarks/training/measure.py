"""Accuracy of both twins on a data set, and the weights as they are stored."""

import copy

import torch
from common.accuracy import strict_accuracy
from torch import nn
from torch.utils.data import DataLoader, Dataset

import proxykernels as pk
from training.weights import stored

BATCH = 100


@torch.no_grad()
def rounded(net: nn.Module) -> nn.Module:
    """A copy with the weights rounded to float16, as they are stored, so that what is measured is the file."""
    net = copy.deepcopy(net).eval()
    net.load_state_dict({key: stored(key, tensor) for key, tensor in net.state_dict().items()})
    return net


def snn_accuracy(net: nn.Module, dataset: Dataset, T: int, device: torch.device) -> tuple[float, dict[str, float]]:
    """The spiking network's accuracy by strict argmax (a tie is wrong), and the firing rate of each layer."""
    counts, labels, rates = [], [], []
    for images, truth in DataLoader(dataset, BATCH):
        result = pk.simulate(net, images.to(device), T)
        counts.append(result.count().cpu())
        labels.append(truth)
        rates.append(result.rates)
    mean_rates = {name: sum(rate[name] for rate in rates) / len(rates) for name in rates[0]}
    return strict_accuracy(torch.cat(counts), torch.cat(labels)), mean_rates


@torch.no_grad()
def ann_accuracy(model: pk.ProxyNet, dataset: Dataset, device: torch.device) -> float:
    """The ReLU twin's accuracy, in evaluation mode."""
    model.eval()
    right = 0
    for images, labels in DataLoader(dataset, BATCH):
        right += (model.ann(images.to(device)).argmax(1).cpu() == labels).sum().item()
    return right / len(dataset)
