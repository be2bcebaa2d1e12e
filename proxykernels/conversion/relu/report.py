"""The error of a conversion, layer by layer: rates of the converted network beside activations of the ReLU network."""

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
from ...spikes import Spikes
from ..graph.prepared import without_autocast
from .calibrate import activation, follow


@dataclass(frozen=True)
class Row:
    """One layer of neurons.

    Attributes:
        layer: its name.
        scale: the activation that a spike a step stands for, in other words the threshold in the ReLU network's units:
            the mean of its channels.
        rate: spikes a neuron and step, from 0 to 1.
        activation: the ReLU network's mean activation, in scales: what the rate should be.
        clipped: share of the activations above the scale, which no rate can reach.
        error: mean distance of a neuron's rate from its activation, as a share of the mean activation.
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
    """

    rows: list[Row]
    T: int
    N: int

    def __str__(self) -> str:
        cells = []
        for row in self.rows:
            shares = row.rate, row.activation, row.clipped, row.error
            cells.append((row.layer, f"{row.scale:.4g}", *(f"{share:.2%}" for share in shares)))
        title = f"{self.N} samples, T = {self.T}; error: of the rates, as a share of the mean activation"
        return "\n".join([title, *table([("layer", "scale", "rate", "activation", "clipped", "error"), *cells])])


@without_autocast()
@torch.no_grad()
def conversion_report(net: Network, x: Tensor, T: int) -> ConversionReport:
    """Compare the firing rates of a converted network with the activations of its ReLU network, layer by layer.

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
        raise TypeError(
            "net must be a network of IF neurons, and has sigma-delta neurons, whose rates stand for nothing; compare "
            "simulate(net, x, T).logits with the ReLU network's outputs"
        )
    neurons = [layer for _, layer, _ in net.layers() if isinstance(layer, Neurons)] if isinstance(net, Network) else []
    if not any(layer.scale is not None for layer in neurons):
        raise TypeError("net must be a network of IF neurons that convert made, whose layers have a scale")
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
