"""Accuracy against the number of steps."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import checks
from ..kernels import heap
from ..spikes import Spikes
from .drawing import given_or_new, legend


def accuracy_vs_T(spikes: Mapping[str, Spikes] | Spikes, labels: Tensor, *, ax=None):
    """Accuracy after every number of steps, from one run.

    A sample is right if its class has more spikes than every other class. Ties and silence are wrong. A dashed line is
    the chance level, one of the classes.

    Args:
        spikes: output Spikes (T, N, classes), ``result.spikes``; or several by name, for one curve each.
        labels: int64 [N].
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: the spikes are no Spikes (T, N, classes), or labels do not match.
        ImportError: matplotlib is not installed.
    """
    curves = spikes if isinstance(spikes, Mapping) else {"": spikes}
    accuracies = {name: accuracy(curve, labels) for name, curve in curves.items()}
    ax = given_or_new(ax)
    for name, shares in accuracies.items():
        ax.plot(range(1, len(shares) + 1), 100 * shares, label=name)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda steps, _: f"{steps:g}")  # 1 2 4 8
    ax.set(xlabel="steps T", ylabel="accuracy, %")
    ax.grid(alpha=0.3)
    for classes in sorted({curve.shape[2] for curve in curves.values()}):
        _draw_chance(ax, 100 / classes)
    if any(curves):
        legend(ax)
    return ax


def _draw_chance(ax, percent: float) -> None:
    ax.axhline(percent, color="gray", linewidth=0.8, linestyle="--")
    place = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    ax.annotate(f"chance, {percent:.3g} %", (1.0, percent), (0, 2), color="gray", fontsize=8, **place)


def accuracy(spikes: Spikes, labels: Tensor) -> Tensor:
    """The numbers of :func:`accuracy_vs_T`: a tie is wrong, and so is silence.

    Args:
        spikes: output Spikes (T, N, classes).
        labels: int64 [N].

    Returns:
        The share of samples that are right after each step, float32 [T].

    Raises:
        TypeError, ValueError: the spikes are no Spikes (T, N, classes), or labels do not match.
    """
    _check_outputs(spikes, labels)
    labels = labels.to(spikes.device)
    right = torch.zeros(spikes.T, dtype=torch.float32, device=heap.CPU)
    counts = torch.zeros(spikes.shape[1:], dtype=torch.int32, device=spikes.device)
    for t in range(spikes.T):
        counts += spikes[t : t + 1].dense(torch.int32)[0]
        true = counts.gather(1, labels.unsqueeze(1))
        rivals = counts.scatter(1, labels.unsqueeze(1), 0).amax(1, keepdim=True)  # 0: silence is wrong
        right[t] = (true > rivals).float().mean().cpu()
    return right


def _check_outputs(spikes: Spikes, labels: Tensor) -> None:
    if not isinstance(spikes, Spikes):
        raise TypeError(f"spikes must be Spikes (T, N, classes), got {type(spikes).__name__}")
    if len(spikes.shape) != 3:
        raise ValueError(f"spikes must have the shape (T, N, classes), got {spikes.shape}")
    _, N, classes = spikes.shape
    checks.labels("labels", labels, N, classes)
