"""A model card: what a simulation measured, as the README that model hubs show."""

import torch
from torch import Tensor, nn

from .. import checks
from .._version import __version__
from ..network import Network
from ..running.result import Result
from ..spikes import Spikes

HEAD = """---
library_name: proxykernels
tags:
- spiking-neural-network
---
# {title}

A spiking network of {layers} layers with neurons and {weights:,} weights, for proxykernels {version}.
"""
LAYER = "layer", "rate, %", "additions an image", "multiply-accumulates an image"


def model_card(net: nn.Module, result: Result, labels: Tensor | None = None, *, title: str = "Spiking network") -> str:
    """The model card of a network, filled by :func:`convert` and by what a simulation of test images measured.

    It has how the network was converted, the number of steps, the accuracy, the synaptic operations and energy of an
    image, the energy of a pass of the ReLU network that was converted, and each layer's rate.

    Args:
        net: the network, as the simulation took it.
        result: what ``simulate(net, images, T)`` returns, of images that neither trained nor calibrated it.
        labels: their classes, int64 [N]; the network's output is [N, classes]. None: the card has no accuracy.
        title: the heading.

    Returns:
        Markdown with the metadata of a model hub: ``Path("README.md").write_text(card)``.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or there are not as many labels as samples.
    """
    checks.module("net", net)
    if not isinstance(result, Result):
        raise TypeError(f"result must be what simulate returns, got {type(result).__name__}")
    _, N, *outputs = result.output.shape
    if not N:
        raise ValueError("result must have a sample, got none")
    if labels is not None:
        if len(outputs) != 1:
            raise ValueError(f"labels are of outputs [N, classes], and result has {[N, *outputs]}; leave them out")
        checks.labels("labels", labels, N, outputs[0])
    weights = sum(parameter.numel() for parameter in net.parameters())
    head = HEAD.format(title=title, layers=len(result.places), weights=weights, version=__version__)
    made = [*net._made.items()] if isinstance(net, Network) else []
    about = _table(("", ""), [*made, *_measured(result, labels)])
    return "\n".join([head, *about, "", *_table(LAYER, _layers(result)), ""])


def _measured(result: Result, labels: Tensor | None) -> list[tuple[str, ...]]:
    T, N = result.output.shape[:2]
    steps, synops = result.steps.float(), result.synops
    rows: list[tuple[str, ...]] = [("steps T", f"{T}"), ("images measured", f"{N:,}")]
    if steps.min() < T:
        rows.append(("steps taken, mean", f"{steps.mean():.1f}"))
    shares = {} if labels is None else _accuracies(result, labels.to(result.output.device))
    rows += [(f"accuracy {how}, %", f"{100 * share:.2f}") for how, share in shares.items()]
    rows.append(("synaptic operations an image", f"{synops.total / N:,.0f}"))
    rows.append(("energy an image, estimated for 45 nm without memory, µJ", f"{1e6 * synops.joules / N:.3g}"))
    if result.relu_joules is not None:
        rows.append(("the same of a pass of the ReLU network, µJ", f"{1e6 * result.relu_joules / N:.3g}"))
    return rows


def _accuracies(result: Result, labels: Tensor) -> dict[str, float]:
    """By how the class is read from the output: the share of the samples that are right."""
    found = {}
    try:
        found["by the logits"] = _right(result.logits, labels)
    except AttributeError:  # the network was not converted
        pass
    if isinstance(result.output, Spikes):
        found["by counts (ties and silence are wrong)"] = _right(result.count(), labels, 0)
    elif not found:
        found["by the last potentials"] = _right(result.potentials[-1], labels)
    return found


def _right(outputs: Tensor, labels: Tensor, least: float = -torch.inf) -> float:
    """The share of samples whose class is above all others, and above ``least``."""
    outputs = outputs.float()
    true = outputs.gather(1, labels.unsqueeze(1))
    others = outputs.scatter(1, labels.unsqueeze(1), least).amax(1, keepdim=True)
    return (true > others).float().mean().item()


def _layers(result: Result) -> list[tuple[str, ...]]:
    N, synops = result.output.shape[1], result.synops
    return [
        (
            name,
            f"{100 * result.rates[name]:.2f}" if name in result.rates else "",  # of a readout
            f"{synops.accumulates.get(name, 0) / N:,.0f}",
            f"{synops.multiply_accumulates.get(name, 0) / N:,.0f}",
        )
        for name in result.places
    ]


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [columns, ("---",) * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |" for cells in lines]
