"""The error of a conversion, layer by layer: rates of the converted network beside activations of the ReLU network.

Of sigma-delta neurons: what they have sent, beside these activations.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import checks
from ...kernels import heap
from ...layers import Neurons
from ...layers.sigma_delta import SigmaDeltaNeurons
from ...network import Network
from ...simulation.result import table
from ...simulation.sigma_delta import simulate
from ...spikes import Spikes
from ..graph.prepared import without_autocast
from .calibrate import activation, follow, relu_value


@dataclass(frozen=True)
class Row:
    """One layer of neurons.

    Attributes:
        layer: its name.
        scale: the activation that a spike a step stands for, in other words the threshold in the ReLU network's units:
            the mean of its channels.
        rate: spikes a neuron and step, from 0 to 1.
        activation: the ReLU network's mean activation, in scales: what the rate should be. Of sigma-delta neurons: the
            mean size of what they should have sent.
        clipped: share of the activations above the scale, which no rate can reach; sigma-delta neurons take a spike
            more for each scale.
        error: mean distance of a neuron's rate, or of what it has sent, from its activation, as a share of the mean.
    """

    layer: str
    scale: float
    rate: float
    activation: float
    clipped: float
    error: float


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`conversion_report` found; ``print`` shows a table, ``pk.plot.conversion`` a picture.

    Attributes:
        rows: a :class:`Row` for each layer that fires, in the order of the network.
        T: steps. N: samples.
        outputs: of sigma-delta neurons, the largest error of an output, as a share of the largest output; else None.
        settled: whether no sigma-delta neuron has anything left to send, so that no more steps lower the errors.
    """

    rows: list[Row]
    T: int
    N: int
    outputs: float | None = None
    settled: bool = False

    def __str__(self) -> str:
        cells = []
        for row in self.rows:
            shares = row.rate, row.activation, row.clipped, row.error
            cells.append((row.layer, f"{row.scale:.4g}", *(f"{share:.2%}" for share in shares)))
        what = "the rates" if self.outputs is None else "what was sent"
        title = f"{self.N} samples, T = {self.T}; error: of {what}, as a share of the mean activation"
        lines = [title, *table([("layer", "scale", "rate", "activation", "clipped", "error"), *cells])]
        if self.outputs is not None:
            after = "settled: no more steps lower the errors" if self.settled else "more steps lower the errors"
            lines.append(f"outputs: off by {self.outputs:.2%} of the largest; {after}")
        return "\n".join(lines)


@without_autocast()
@torch.no_grad()
def conversion_report(net: Network, x: Tensor, T: int) -> ConversionReport:
    """Compare the firing rates of a converted network with the activations of its ReLU network, layer by layer.

    Of sigma-delta neurons, what they have sent after T steps is compared. The errors of neurons that have settled stay:
    each has left up to 3/4 of its smallest spike unsent. They grow from layer to layer in a network that enlarges small
    differences, as deep networks with random weights do.

    Args:
        net: a network from :func:`convert`; it is not changed.
        x: samples [N, ...], constant for all steps.
        T: number of steps.

    Returns:
        A :class:`ConversionReport`: ``.rows``, and a table when it is printed.

    Raises:
        TypeError: ``net`` was not made by convert. ValueError: x does not go through it, or T is not positive.
    """
    T = checks.steps(T)
    checks.floating("x", x)
    checks.finite("x", x)
    if isinstance(net, Network) and any(isinstance(layer, SigmaDeltaNeurons) for layer in net.modules()):
        return _of_changes(net, x, T)
    neurons = [layer for _, layer, _ in net.layers() if isinstance(layer, Neurons)] if isinstance(net, Network) else []
    if not any(layer.scale is not None for layer in neurons):
        raise TypeError("net must be a network that convert made, whose layers have a scale")
    rows: list[Row] = []

    def fire(name: str, layer: Neurons, current: Tensor, inputs: Any) -> tuple[Any, Tensor]:
        spikes, after = layer.spike(inputs)
        if isinstance(spikes, Spikes):
            wanted, rate = activation(layer, current), spikes.count() / T
            rows.append(
                Row(
                    name,
                    torch.as_tensor(layer.scale, dtype=torch.float32, device=heap.CPU).mean().item(),
                    rate.mean().item(),
                    wanted.mean().item(),
                    (wanted > 1).float().mean().item(),
                    ((rate - wanted).abs().mean() / wanted.mean()).item(),
                )
            )
        return spikes, after

    follow(net, x, T, fire)
    return ConversionReport(rows, T, len(x))


def _of_changes(net: Network, x: Tensor, T: int) -> ConversionReport:
    """The report of sigma-delta neurons: their state holds what they have sent."""
    result = simulate(net, x, T, chunk=None, state={}, stop=None)
    after = simulate(net, x, 1, chunk=None, state=result.state, stop=None)
    values, rows, name = {Network.INPUT: x.float()}, list[Row](), Network.INPUT
    for name, layer, sources in net.layers():
        value = relu_value(layer, tuple(values[source] for source in sources))
        if isinstance(layer, SigmaDeltaNeurons) and layer.fires:
            value = activation(layer, value) if layer.rectifies else value
            sent, wanted = result.state[name][1], value.flatten(2).transpose(1, 2) if value.ndim > 2 else value[:, None]
            size = wanted.abs().mean()
            rows.append(
                Row(
                    name,
                    layer.scale.float().mean().item(),
                    result.rates[name],
                    size.item(),
                    (wanted.abs() > 1).float().mean().item(),
                    ((sent - wanted).abs().mean() / size).item(),
                )
            )
        values[name] = value
    found, wanted = result.state[Network.INPUT][1], values[name]
    error = ((found - wanted).abs().max() / wanted.abs().max()).item()
    return ConversionReport(rows, T, len(x), error, not any(rate > 0 for rate in after.rates.values()))
