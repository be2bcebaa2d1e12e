"""Pictures of spikes and potentials over time, of firing rates, and of accuracy against the number of steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from .. import checks
from ..conversion.relu.report import ConversionReport, share_right
from ..kernels import heap
from ..running.result import LayerResult, Result, logits
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
    """The given axes, or a new figure's."""
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


def raster(spikes: Spikes | Tensor, sample: int = 0, *, neurons: int | Sequence[int] = 200, ax=None):
    """Raster plot of one sample: a dot per spike, steps on the x axis, neurons on the y axis.

    Args:
        spikes: Spikes (T, N, ...), for example ``simulate(..., record=["conv1"]).records["conv1"]``; or a layer's
            output, a tensor of 0 and 1; or of integers, such as sums of spikes, with one dot for several spikes.
        sample: which of the N samples.
        neurons: indices of the neurons in the order of torch's flatten; or their largest number, evenly chosen. The
            label of the axis says if not all are drawn.
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: ``spikes`` are no spikes, or there is no such sample or neuron.
        ImportError: matplotlib is not installed.
    """
    spikes = packed(_fired(spikes))
    check_sample(sample, spikes.shape[1])
    fired = spikes.dense(torch.bool)[:, sample].flatten(1).cpu()
    chosen = chosen_of(fired.shape[1], neurons)
    times, indices = fired[:, chosen].nonzero().unbind(1)
    ax = given_or_new(ax)
    ax.scatter(times, chosen[indices], s=5, marker="|", linewidths=0.8, color="black")
    some = f"{len(chosen)} of {fired.shape[1]} are drawn" if len(chosen) < fired.shape[1] else "place in its layer"
    ax.set(xlabel="step", ylabel=f"neuron ({some})", xlim=(-1, spikes.T), ylim=(-1, fired.shape[1]))
    return ax


def _fired(spikes: Spikes | Tensor) -> Spikes | Tensor:
    """Where neurons fire once or several times, of a tensor of whole numbers; other inputs as they are."""
    if not isinstance(spikes, Tensor) or not spikes.is_floating_point():
        return spikes
    spikes = spikes.detach()
    return (spikes > 0).float() if bool(((spikes >= 0) & (spikes == spikes.floor())).all()) else spikes


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


Outputs = Spikes | Tensor | Result


def accuracy_vs_T(outputs: Mapping[str, Outputs] | Outputs, labels: Tensor, *, ax=None):
    """Accuracy after every number of steps, from one run. A dashed line is the chance level, one of the classes.

    Args:
        outputs: as :func:`accuracy` takes them; or several by name, for one curve each.
        labels: int64 [N].
        ax: matplotlib axes.

    Raises:
        TypeError, ValueError: as of :func:`accuracy`. ImportError: matplotlib is not installed.
    """
    curves = outputs if isinstance(outputs, Mapping) else {"": outputs}
    accuracies = {name: accuracy(curve, labels) for name, curve in curves.items()}
    ax = given_or_new(ax)
    for name, shares in accuracies.items():
        ax.plot(range(1, len(shares) + 1), 100 * shares, label=name)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda steps, _: f"{steps:g}")  # 1 2 4 8
    ax.set(xlabel="steps T", ylabel="accuracy, %")
    ax.grid(alpha=0.3)
    for classes in sorted({_output(curve).shape[2] for curve in curves.values()}):
        _draw_chance(ax, 100 / classes)
    if any(curves):
        legend(ax)
    return ax


def _draw_chance(ax, percent: float) -> None:
    ax.axhline(percent, color="gray", linewidth=0.8, linestyle="--")
    place = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "ha": "right", "va": "bottom"}
    ax.annotate(f"chance, {percent:.3g} %", (1.0, percent), (0, 2), color="gray", fontsize=8, **place)


def accuracy(outputs: Outputs, labels: Tensor) -> Tensor:
    """The numbers of :func:`accuracy_vs_T`. A sample is right if its class is ahead of every other one; a tie is wrong.

    Args:
        outputs: one of these.

            - A result of :func:`simulate`. Of a converted network that ends in spikes it needs the potentials of the
              last layer, ``record=["linear2.v"]``, and the class with the largest logit is the answer. Of a network
              that ends in values, such as one of sigma-delta neurons or with a readout, the largest value is. Of
              others the most spikes are.
            - Spikes (T, N, classes): the most spikes are the answer; silence is wrong.
            - A tensor [T, N, classes] of values after each step, such as potentials or logits: the largest is.
        labels: int64 [N].

    Returns:
        The share of samples that are right after each step, float32 [T].

    Raises:
        TypeError, ValueError: ``outputs`` are none of these or have another shape, a result lacks the potentials of a
            converted network's last layer, or labels do not match.
    """
    output = _output(outputs)
    if not isinstance(output, Spikes | Tensor):
        raise TypeError(
            "outputs must be a result of simulate, Spikes (T, N, classes) or a tensor of values [T, N, classes], "
            f"got {type(output).__name__}"
        )
    if len(output.shape) != 3:
        raise ValueError(f"outputs must have the shape (T, N, classes), got {tuple(output.shape)}")
    _, N, classes = output.shape
    checks.labels("labels", labels, N, classes)
    labels, shares = labels.to(output.device), []
    for scores in _scores(outputs):
        are_counts = isinstance(output, Spikes) and not scores.is_floating_point()  # of which silence is wrong
        shares.append(share_right(scores, labels, 0 if are_counts else -torch.inf).cpu())
    return torch.stack(shares) if shares else torch.empty(0, dtype=torch.float32, device="cpu")


def _output(outputs: Outputs) -> Spikes | Tensor:
    return outputs.output if isinstance(outputs, Result) else outputs


def _scores(outputs: Outputs) -> Iterator[Tensor]:
    """The scores of the classes after each step, [N, classes]."""
    output = _output(outputs)
    if isinstance(output, Tensor):
        yield from output.detach()
        return
    logits_of = _logits_of_step(outputs) if isinstance(outputs, Result) else None
    counts = torch.zeros(output.shape[1:], dtype=torch.int32, device=output.device)
    for t in range(output.T):
        counts += output[t : t + 1].dense(torch.int32)[0]
        yield counts if logits_of is None else logits_of(counts, t)


def _logits_of_step(result: Result) -> Callable[[Tensor, int], Tensor] | None:
    """A function of counts and a step that gives logits; None: the result has none."""
    try:
        _ = result.logits
    except AttributeError:  # the network was not converted, or its last layer loses charge
        return None
    name = f"{list(result.places)[-1]}.v"
    v = result.records.get(name)
    if not isinstance(v, Tensor) or not isinstance(result, LayerResult):
        raise ValueError(
            f"the logits of each step need the last layer's potentials: simulate with record=[{name!r}]; or give "
            "result.spikes, whose counts are right less often"
        )
    return lambda counts, t: logits(result._layer, counts, [v[t]], result._given, torch.full_like(result.steps, t + 1))
