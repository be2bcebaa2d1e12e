"""Accuracy against the number of steps."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .. import checks
from ..conversion.relu.report import share_right
from ..running.result import LayerResult, Result, logits
from ..spikes import Spikes
from .pictures import given_or_new, legend

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
