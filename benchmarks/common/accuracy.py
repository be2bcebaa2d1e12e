"""Accuracy: of spike counts by strict argmax, where a tie with the true class is wrong, and so is a silent output."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import proxykernels as pk
from proxykernels.layers import Neurons, SpikingLayer
from proxykernels.running.prepared_network import replace_neurons
from proxykernels.running.result import SynOps
from proxykernels.training.proxy import silenced

BATCH = 100
PRECISIONS = {"float32": None, "int16": "int16", "int8": "int8"}  # names of options -> pk.simulate's
STEPS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # at which networks are read


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
) -> Iterator[tuple[pk.running.result.Result, Tensor]]:
    """The results of T steps and the labels, batch by batch of a data set."""
    for images, labels in DataLoader(dataset, BATCH):
        yield pk.simulate(net, images.to(device), T, precision=precision), labels


@dataclass
class Point:
    """What a network is after T steps: strict accuracy and ties, and what an image has cost up to there.

    ``by_potential``: the accuracy of what the last layer's potentials would be if it never fired: the sums of its
    currents. Of a converted network they are its logits, read from spikes and potentials together.
    """

    T: int
    accuracy: float
    ties: float
    synops: float
    joules: float
    by_potential: float = 0.0


def points(net: nn.Module, dataset: Dataset, steps: Sequence[int], name: str) -> list[Point]:
    """A network after each number of ``steps``, from one run an image that stops at each of them to be read."""
    totals = [Point(T, 0, 0, 0, 0) for T in steps]
    silent, last = _without_last_spikes(net)
    for images, labels in tqdm(DataLoader(dataset, BATCH), name, unit="batch", mininterval=1.0):
        state, of_silent, before, counts, charge, synops, joules = None, None, 0, 0, 0, 0, 0.0
        for total in totals:
            part = total.T - before
            result = pk.simulate(net, images, part, state=state)
            # The image is multiplied once, and every part of the run says so again.
            done = SynOps(result.synops.accumulates, {} if before else result.synops.multiply_accumulates)
            synops, joules = synops + done.total, joules + done.joules
            counts = counts + result.count()
            logits = logits_of(result)
            if logits is None:
                of_silent = pk.simulate(silent, images, part, state=of_silent).state
                charge = of_silent[last][0]
            else:
                charge = charge + part * logits  # the means of its own steps
            state, before = result.state, total.T
            total.accuracy += strict_correct(counts, labels).sum().item()
            total.ties += tied(counts, labels).sum().item()
            total.by_potential += strict_correct(charge, labels).sum().item()
            total.synops, total.joules = total.synops + synops, total.joules + joules
    count = len(dataset)
    for total in totals:
        for field in ("accuracy", "ties", "by_potential", "synops", "joules"):
            setattr(total, field, getattr(total, field) / count)
    return totals


def _without_last_spikes(net: nn.Module) -> tuple[nn.Module, str]:
    """The network with a last layer that never fires, and that layer's name."""
    names: list[str] = []

    def collect(name: str, layer: SpikingLayer) -> SpikingLayer:
        if isinstance(layer, Neurons):
            names.append(name)
        return layer

    replace_neurons(net, collect)
    last = names[-1]
    return replace_neurons(net, lambda name, layer: silenced(layer) if name == last else layer), last


def logits_of(result: pk.running.result.Result) -> Tensor | None:
    """A converted network's logits; None if spikes are all that a network has."""
    try:
        return result.logits
    except AttributeError:
        return None


def snn_accuracy(
    net: nn.Module, dataset: Dataset, T: int, device: torch.device, precision: str | None = None
) -> tuple[float, dict[str, float]]:
    """A spiking network's strict accuracy, and the firing rate of each layer."""
    counts, labels, rates = [], [], []
    for result, truth in simulated(net, dataset, T, device, precision):
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
