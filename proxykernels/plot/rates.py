"""Firing rates of layers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..conversion.relu.report import ConversionReport
from ..kernels import heap
from ..running.result import Result
from ..spikes import Spikes
from .drawing import given_or_new, legend, spikes_by_name


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
    ax = given_or_new(ax)
    names = list(result.rates)
    bars = ax.barh(names, [100 * result.rates[name] for name in names], color="tab:blue")
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.invert_yaxis()
    ax.set(xlabel="firing rate: spikes a neuron and step, %", ylabel="layer")
    return ax


def rate_histogram(spikes: Mapping[str, Spikes | Tensor] | Spikes | Tensor, *, ax=None):
    """How many neurons of a layer fire at which rate: a neuron's mean over all steps and samples.

    Args:
        spikes: spikes (T, N, ...) of a layer; or those of several by name, ``simulate(..., record=[...]).records``.
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: they are no spikes, or have no step or sample.
        ImportError: matplotlib is not installed.
    """
    layers = spikes_by_name(spikes if isinstance(spikes, Mapping) else {"": spikes})
    ax = given_or_new(ax)
    found = {name: 100 * layer.count().float().mean(0).flatten().cpu() / layer.T for name, layer in layers.items()}
    highest = max(float(rates.max()) for rates in found.values())
    edges = torch.linspace(0, highest or 1.0, 31, dtype=torch.float32, device=heap.CPU).tolist()
    for name, rates in found.items():
        share = torch.full_like(rates, 100 / len(rates))
        ax.hist(rates.tolist(), edges, weights=share.tolist(), histtype="step", linewidth=1.5, label=name)
    ax.set(xlabel="firing rate: spikes a step, %", ylabel="neurons of the layer, %")
    if any(layers):
        legend(ax)
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
    ax = given_or_new(ax)
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
    legend(ax)
    return ax
