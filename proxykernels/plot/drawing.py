"""Shared by all plots: axes, legends, and checks of the samples and neurons to draw."""

from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from .. import checks
from ..kernels import heap
from ..spikes import Spikes, pack


def new_figure(columns: int = 1, **options):
    """A figure, and its axes in a row.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from error
    figure, axes = pyplot.subplots(1, columns, squeeze=False, layout="constrained", **options)
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def given_or_new(ax):
    """The given axes, or those of a new figure."""
    return new_figure(figsize=(8, 4))[1][0] if ax is None else ax


def legend(ax) -> None:
    """Put the legend outside to the right, where it hides no line."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def packed(spikes: Spikes | Tensor) -> Spikes:
    """Spikes (T, N, ...), packed if they are a tensor of 0 and 1, such as a layer's output.

    Raises:
        TypeError, ValueError: they are something else.
    """
    if isinstance(spikes, Tensor) and not isinstance(spikes, Spikes):
        spikes = pack(spikes.detach())
    if not isinstance(spikes, Spikes):
        raise TypeError(
            f"spikes must be Spikes (T, N, ...), or a tensor of 0 and 1, got {type(spikes).__name__}; record a layer "
            "to get them"
        )
    if len(spikes.shape) < 3:
        raise ValueError(f"spikes must have the shape (T, N, ...), got {spikes.shape}")
    return spikes


def chosen_of(count: int, neurons: int | Sequence[int]) -> Tensor:
    """The indices ``neurons`` out of ``count``; if a number is given, at most that many, evenly spaced."""
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


def check_sample(sample: int, N: int) -> None:
    if not checks.is_integer(sample):
        raise TypeError(f"sample must be the number of one sample, got {sample!r}")
    if not 0 <= sample < N:
        raise ValueError(f"sample must be within 0 .. {N - 1}, got {sample}")


def spikes_by_name(records: Mapping[str, Spikes | Tensor]) -> dict[str, Spikes]:
    """The layers' spikes of a mapping; potentials, which are recorded as "conv1.v", are left out.

    Raises:
        TypeError, ValueError: it is no mapping of spikes, or has none.
    """
    if not isinstance(records, Mapping):
        raise TypeError(f"records must be spikes by the names of layers, got {type(records).__name__}")
    found = {name: packed(spikes) for name, spikes in records.items() if not name.endswith(".v")}
    if not found:
        raise ValueError('records has no spikes; simulate(..., record=["conv1"]) records those of the layer "conv1"')
    for name, spikes in found.items():
        if 0 in spikes.shape:
            raise ValueError(f"records must have a step, a sample and a neuron, got {spikes.shape} of {name!r}")
    return found
