"""The ways to train: each takes images and gives the output that the loss is computed on, with its gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.training.twin import OutputSwap
from training.qcfs import Qcfs
from training.tandem import Tandem
from training.through_time import Surrogate, Unrolled

LOGIT_SCALE = 10.0  # cross-entropy sees rates between 0 and 1 as logits between 0 and 10


class Ann(nn.Module):
    """Only the ReLU twin; its output stands for a firing rate."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.ann(x)


class Proxy(nn.Module):
    """The spiking network's firing rates, with the twin's gradient."""

    def __init__(self, model: pk.ProxyNet):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UnboundedProxy(Proxy):
    """The same, with outputs of the twin that the loss lowers below zero too, as it does without the clip."""

    def forward(self, x: Tensor) -> Tensor:
        return OutputSwap.apply(self.model.ann(x), self.model.snn(x))


METHODS = {"ann": Ann, "proxy": Proxy, "tandem": Tandem, "surrogate": Surrogate}
COMPARED: dict[str, Callable[[pk.ProxyNet], nn.Module]] = METHODS | {  # by compare_methods.py
    "qcfs": Qcfs, "unrolled": Unrolled, "unbounded proxy": UnboundedProxy,
}  # fmt: skip


def classes(labels: Tensor, count: int, smoothing: float) -> Tensor:
    """The share of each class in the target [N, count]: 1 of the true one, of which ``smoothing`` goes to all alike."""
    return (1 - smoothing) * F.one_hot(labels, count).float() + smoothing / count


def mse_count(rate: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Mean squared error between spike counts and ``target`` spikes for the true class, 0 for the others."""
    return F.mse_loss(T * rate, target * shares)


def mse_rate(rate: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Mean squared error between firing rates and ``target`` for the true class, 0 for the others."""
    return F.mse_loss(rate, target * shares)


def cross_entropy(rate: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Cross-entropy of the firing rates times LOGIT_SCALE."""
    return F.cross_entropy(LOGIT_SCALE * rate, shares)


def mean_cross_entropy(currents: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """Cross-entropy of the mean over the steps of the last layer's currents [T, N, classes]."""
    return F.cross_entropy(currents.mean(0), shares)


def step_cross_entropy(currents: Tensor, shares: Tensor, T: int, target: float) -> Tensor:
    """The mean over the steps of the cross-entropy of each: TET, "Temporal efficient training of spiking neural network
    via gradient re-weighting" (Deng et al., ICLR 2022, arXiv:2202.11946), without its regularising term."""
    return F.cross_entropy(currents.flatten(0, 1), shares.repeat(len(currents), 1))


LOSSES = {"mse-count": mse_count, "mse-rate": mse_rate, "cross-entropy": cross_entropy}
STEP_LOSSES = {"mean-cross-entropy": mean_cross_entropy, "step-cross-entropy": step_cross_entropy}  # of Unrolled


def mean_activation(model: pk.ProxyNet) -> Tensor:
    """The twin's activations as a share of the threshold: the mean over its layers, for a penalty on spikes."""
    return torch.stack(list(model.ann_rates.values())).mean()
