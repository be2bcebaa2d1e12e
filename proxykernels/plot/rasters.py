"""Spikes and potentials over time, of single neurons."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import checks
from ..spikes import Spikes
from .drawing import check_sample, chosen_of, given_or_new, legend, new_figure, packed, spikes_by_name


def raster(spikes: Spikes | Tensor, sample: int = 0, *, neurons: int | Sequence[int] = 200, ax=None):
    """Raster plot of one sample: a dot per spike, steps on the x axis, neurons on the y axis.

    Args:
        spikes: Spikes (T, N, ...), for example ``simulate(..., record=["conv1"]).records["conv1"]``; or a layer's
            output, a tensor of 0 and 1.
        sample: which of the N samples.
        neurons: indices of the neurons in the order of torch's flatten; or their largest number, evenly chosen. The
            label of the axis says if not all are drawn.
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: ``spikes`` are no spikes, or there is no such sample or neuron.
        ImportError: matplotlib is not installed.
    """
    spikes = packed(spikes)
    check_sample(sample, spikes.shape[1])
    fired = spikes.dense(torch.bool)[:, sample].flatten(1).cpu()
    chosen = chosen_of(fired.shape[1], neurons)
    times, indices = fired[:, chosen].nonzero().unbind(1)
    ax = given_or_new(ax)
    ax.scatter(times, chosen[indices], s=5, marker="|", linewidths=0.8, color="black")
    some = f"{len(chosen)} of {fired.shape[1]} are drawn" if len(chosen) < fired.shape[1] else "place in its layer"
    ax.set(xlabel="step", ylabel=f"neuron ({some})", xlim=(-1, spikes.T), ylim=(-1, fired.shape[1]))
    return ax


def rasters(records: Mapping[str, Spikes | Tensor], sample: int = 0, *, neurons: int = 200):
    """Raster plots of several layers side by side, of one sample.

    Args:
        records: spikes (T, N, ...) by name, such as ``simulate(..., record=["conv1", "conv2"]).records``.
        sample: which of the N samples.
        neurons: the largest number of neurons of a layer, evenly chosen.

    Returns:
        matplotlib axes, one for each layer, in a new figure.

    Raises:
        TypeError, ValueError: ``records`` is no such mapping or is empty, or there is no such sample.
        ImportError: matplotlib is not installed.
    """
    layers = spikes_by_name(records)
    figure, axes = new_figure(len(layers), figsize=(4 * len(layers), 4))
    for ax, (name, spikes) in zip(axes, layers.items(), strict=True):
        raster(spikes, sample, neurons=neurons, ax=ax).set(title=f"{name}, rate {spikes.rate():.1%}")
    return axes


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
    checks.held("v", v)
    if v.ndim < 3:
        raise ValueError(f"v must have the shape [T, N, ...], got {list(v.shape)}")
    check_sample(sample, v.shape[1])
    traces = v[:, sample].detach().flatten(1).float().cpu()
    ax = given_or_new(ax)
    for k in chosen_of(traces.shape[1], neurons).tolist():
        ax.plot(traces[:, k], linewidth=1.2, label=f"neuron {k}")
    if v_threshold is not None:
        ax.axhline(v_threshold, color="black", linewidth=0.8, linestyle="--", label="threshold")
    ax.set(xlabel="step", ylabel="potential after the step (unit: the threshold's)")
    legend(ax)
    return ax
