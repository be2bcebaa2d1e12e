"""Pictures of spikes, rates, potentials and accuracy, by matplotlib (``pip install proxykernels[plot]``).

Every function draws into ``ax`` (default: that of a new figure) and returns it; ``ax.figure.savefig(path)`` saves it.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from . import checks
from .conversion.relu.report import ConversionReport
from .kernels import heap
from .running.result import Result
from .spikes import Spikes

__all__ = ["accuracy", "accuracy_vs_T", "conversion", "potential", "raster", "rates"]


def raster(spikes: Spikes, sample: int = 0, *, neurons: int | Sequence[int] = 200, ax=None):
    """Raster plot of one sample: a dot per spike, steps on the x axis, neurons on the y axis.

    Args:
        spikes: Spikes (T, N, ...), for example ``simulate(..., record=["conv1"]).records["conv1"]``.
        sample: which of the N samples.
        neurons: indices of the neurons in the order of torch's flatten; or their largest number, evenly chosen. The
            label of the axis says if not all are drawn.
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: ``spikes`` are no Spikes, or there is no such sample or neuron.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(spikes, Spikes):
        raise TypeError(f"spikes must be Spikes (T, N, ...), got {type(spikes).__name__}; record a layer to get them")
    if len(spikes.shape) < 3:
        raise ValueError(f"spikes must have the shape (T, N, ...), got {spikes.shape}")
    _check_sample(sample, spikes.shape[1])
    fired = spikes.dense(torch.bool)[:, sample].flatten(1).cpu()
    chosen = _chosen(fired.shape[1], neurons)
    times, indices = fired[:, chosen].nonzero().unbind(1)
    ax = _axes(ax)
    ax.scatter(times, chosen[indices], s=5, marker="|", linewidths=0.8, color="black")
    some = f"{len(chosen)} of {fired.shape[1]} are drawn" if len(chosen) < fired.shape[1] else "place in its layer"
    ax.set(xlabel="step", ylabel=f"neuron ({some})", xlim=(-1, spikes.T), ylim=(-1, fired.shape[1]))
    return ax


def rates(result: Result, *, ax=None):
    """Bar plot of the firing rate of each layer, in percent of the steps.

    Args:
        result: what ``simulate`` returns.
        ax: matplotlib axes.

    Raises:
        TypeError: ``result`` is something else.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(result, Result):
        raise TypeError(f"result must be what simulate returns, got {type(result).__name__}")
    ax = _axes(ax)
    names = list(result.rates)
    bars = ax.barh(names, [100 * result.rates[name] for name in names], color="tab:blue")
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.invert_yaxis()
    ax.set(xlabel="firing rate: spikes a neuron and step, %", ylabel="layer")
    return ax


def conversion(report: ConversionReport, *, ax=None):
    """Bar plot of each layer's rate, and of its error compared with the ReLU network, in percent.

    Args:
        report: what ``conversion_report`` returns.
        ax: matplotlib axes.

    Raises:
        TypeError: ``report`` is something else.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(report, ConversionReport):
        raise TypeError(f"report must be what conversion_report returns, got {type(report).__name__}")
    ax = _axes(ax)
    places = torch.arange(len(report.rows), device=heap.CPU).numpy()
    for offset, color, label, values in (
        (-0.2, "tab:red", "error, of the mean activation", [row.error for row in report.rows]),
        (0.2, "tab:blue", "rate, of the steps", [row.rate for row in report.rows]),
    ):
        bars = ax.barh(places + offset, [100 * value for value in values], 0.4, color=color, label=label)
        ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    last = len(report.rows) - 1
    ax.set_yticks(places, [f"{row.layer}\n(counts)" if k == last else row.layer for k, row in enumerate(report.rows)])
    ax.invert_yaxis()
    ax.set(xlabel="%", ylabel="layer", title=f"{report.N} samples, T = {report.T}")
    _legend(ax)
    return ax


def potential(
    v: Tensor, sample: int = 0, *, neurons: int | Sequence[int] = 5, v_threshold: float | None = None, ax=None
):
    """Potentials of some neurons of one sample over time, after the reset of each step.

    Args:
        v: potentials after each step [T, N, ...], for example ``simulate(..., record=["fc.v"]).records["fc.v"]``.
        sample: which of the N samples.
        neurons: indices of the neurons in the order of torch's flatten; or their largest number, evenly chosen. The
            label of the axis says if not all are drawn.
        v_threshold: draws a line there.
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: ``v`` is no float tensor [T, N, ...], or there is no such sample or neuron.
        ImportError: matplotlib is not installed.
    """
    checks.floating("v", v)
    if v.ndim < 3:
        raise ValueError(f"v must have the shape [T, N, ...], got {list(v.shape)}")
    _check_sample(sample, v.shape[1])
    traces = v[:, sample].detach().flatten(1).float().cpu()
    ax = _axes(ax)
    for k in _chosen(traces.shape[1], neurons).tolist():
        ax.plot(traces[:, k], linewidth=1.2, label=f"neuron {k}")
    if v_threshold is not None:
        ax.axhline(v_threshold, color="black", linewidth=0.8, linestyle="--", label="threshold")
    ax.set(xlabel="step", ylabel="potential after the step")
    _legend(ax)
    return ax


def accuracy_vs_T(spikes: Mapping[str, Spikes] | Spikes, labels: Tensor, *, ax=None):
    """Accuracy after every number of steps, from one run.

    A sample is right if its class has more spikes than every other class. Ties and silence are wrong.

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
    ax = _axes(ax)
    for name, shares in accuracies.items():
        ax.plot(range(1, len(shares) + 1), 100 * shares, label=name)
    ax.set(xlabel="steps T", ylabel="accuracy, %", xscale="log")
    ax.grid(alpha=0.3)
    if any(curves):
        _legend(ax)
    return ax


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


def _axes(ax):
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    ax = pyplot.subplots(figsize=(8, 4), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _legend(ax) -> None:
    """Outside to the right, where no line can lie."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _chosen(count: int, neurons: int | Sequence[int]) -> Tensor:
    """The indices ``neurons`` of ``count``, or at most so many, evenly spaced."""
    if isinstance(neurons, Integral):
        neurons = int(neurons)
        if neurons < 1:
            raise ValueError(f"neurons must be indices, or a number of at least 1, got {neurons}")
        chosen = torch.arange(min(count, neurons), device=heap.CPU)
        return chosen if count <= neurons else chosen * count // neurons
    chosen = torch.as_tensor(neurons, dtype=torch.int64, device=heap.CPU)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < count:
        raise ValueError(f"neurons must be within 0 .. {count - 1}, got {chosen.tolist()}")
    return chosen


def _check_sample(sample: int, N: int) -> None:
    if not checks.is_integer(sample):
        raise TypeError(f"sample must be the number of one sample, got {sample!r}")
    if not 0 <= sample < N:
        raise ValueError(f"sample must be within 0 .. {N - 1}, got {sample}")


def _check_outputs(spikes: Spikes, labels: Tensor) -> None:
    if not isinstance(spikes, Spikes):
        raise TypeError(f"spikes must be Spikes (T, N, classes), got {type(spikes).__name__}")
    if len(spikes.shape) != 3:
        raise ValueError(f"spikes must have the shape (T, N, classes), got {spikes.shape}")
    _, N, classes = spikes.shape
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}; torch.as_tensor(labels) makes one")
    if labels.shape != (N,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 [{N}], one for each sample; got {labels.dtype} {list(labels.shape)}")
    if N and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must be within 0 .. {classes - 1}, got {labels.min()} to {labels.max()}")
