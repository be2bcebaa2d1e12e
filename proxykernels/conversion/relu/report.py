"""What is told of a network: the error of its conversion, layer by layer, and a model card for model hubs.

The error is that of the converted network's rates beside the activations of the ReLU network. For sigma-delta neurons
it is that of what they have sent.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ... import checks
from ..._version import __version__
from ...kernels import heap
from ...layers import Neurons
from ...layers.sigma_delta_neurons import SigmaDeltaNeurons
from ...network import Network
from ...neurons import Graded, IFNeuron
from ...running.result import Result, logits, table
from ...running.sigma_delta_layers import simulate
from ...spikes import Spikes
from ..graph.prepared import without_autocast
from .side_by_side import activation, follow, relu_value, spread

HEAD = """---
library_name: proxykernels
tags:
- spiking-neural-network
---
# {title}

A spiking network of {layers} layers with neurons and {weights:,} weights, for proxykernels {version}.
"""
COLUMNS = "layer", "rate, %", "additions an image", "multiply-accumulates an image"


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
            more for each scale, graded neurons clip nothing.
        error: mean distance of a neuron's rate, or of what it has sent, from its activation, as a share of the mean.
    """

    layer: str
    scale: float
    rate: float
    activation: float
    clipped: float
    error: float


@dataclass(frozen=True)
class Outputs:
    """The network's logits next to the ReLU network's outputs. The last row has the error of counts only, which stop at
    one a step, and which negative outputs do not have.

    Attributes:
        error: mean distance of the logits from the outputs, as a share of the outputs' mean absolute value.
        agreement: share of the samples whose largest output is the same; None if they are not [N, classes].
    """

    error: float
    agreement: float | None


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`conversion_report` found; ``print`` shows a table, ``pk.plot.conversion`` a picture.

    Attributes:
        rows: a :class:`Row` for each layer that fires, in the order of the network.
        outputs: the :class:`Outputs`; None with a hard reset, which loses charge, so that there are no logits.
        T: steps. N: samples.
        settled: whether no sigma-delta neuron has anything left to send, so that no more steps lower the errors; None:
            there are none.
    """

    rows: list[Row]
    outputs: Outputs | None
    T: int
    N: int
    settled: bool | None = None

    def __str__(self) -> str:
        cells = []
        for row in self.rows:
            shares = row.rate, row.activation, row.clipped, row.error
            cells.append((row.layer, f"{row.scale:.4g}", *(f"{share:.2%}" for share in shares)))
        what = "the rates" if self.settled is None else "what was sent"
        title = f"{self.N} samples, T = {self.T}; error: of {what}, as a share of the mean activation"
        lines = [title, *table([("layer", "scale", "rate", "activation", "clipped", "error"), *cells])]
        if self.outputs is not None:
            of = "outputs"
            if self.settled is None:
                lines[-1] += "  (counts: not above one a step, none of negative outputs)"
                of = "logits, counts and potentials"
            lines.append(f"{of}: error {self.outputs.error:.2%} of the mean output")
            if self.outputs.agreement is not None:
                lines[-1] += f", {self.outputs.agreement:.2%} of the answers are the ReLU network's"
        if self.settled is not None:
            lines.append("settled: no more steps lower the errors" if self.settled else "more steps lower the errors")
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
        A :class:`ConversionReport`: ``.rows``, ``.outputs``, and a table when it is printed.

    Raises:
        TypeError: ``net`` was not made by convert. ValueError: x does not go through it, or T is not positive.
    """
    T = checks.steps(T)
    checks.floating("x", x)
    checks.held("x", x)
    checks.finite("x", x)
    if not x.ndim or not len(x):
        raise ValueError(f"x must be samples [N, ...], at least one, got {list(x.shape)}")
    if isinstance(net, Network) and any(isinstance(layer, SigmaDeltaNeurons) for layer in net.modules()):
        return _of_changes(net, x, T)
    neurons = [layer for _, layer, _ in net.layers() if isinstance(layer, Neurons)] if isinstance(net, Network) else []
    if not any(layer.scale is not None for layer in neurons):
        raise TypeError("net must be a network that convert made, whose layers have a scale")
    rows: list[Row] = []
    outputs: Outputs | None = None

    def fire(name: str, layer: Neurons, current: Tensor, inputs: Any) -> tuple[Any, Tensor]:
        nonlocal outputs
        spikes, after = layer.spike(inputs)
        if layer is neurons[-1] and isinstance(layer.neuron, IFNeuron) and layer.neuron.v_reset is None:
            steps = torch.full((len(x),), T, dtype=torch.int64, device=x.device)
            found = logits(layer, spikes.count(), [after], (), steps)
            outputs = _outputs(layer, found, current, one_tensor=net._parts is None)
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

    try:
        follow(net, x, T, fire)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # of torch's modules
        reason = str(error).splitlines()[0]
        raise ValueError(f"x of shape {list(x.shape)} and {x.dtype} does not go through net: {reason}") from error
    return ConversionReport(rows, outputs, T, len(x))


def _of_changes(net: Network, x: Tensor, T: int) -> ConversionReport:
    """The report of sigma-delta neurons; their state contains what they have sent."""
    result = simulate(net, x, T, chunk=None, state={}, stop=None)
    after = simulate(net, x, 1, chunk=None, state=result.state, stop=None)
    rows, name = list[Row](), Network.INPUT
    values, scales = {name: x.float()}, {name: torch.ones((), dtype=torch.float32, device=x.device)}
    for name, layer, sources in copy.deepcopy(net).float().layers():
        value, scales[name] = relu_value(layer, tuple(values[source] for source in sources)), scales[sources[0]]
        if isinstance(layer, SigmaDeltaNeurons):
            value, scales[name] = activation(layer, value) if layer.rectifies else value, layer.scale
            if layer.fires:
                rows.append(_of_sent(name, layer, result.state[name][1], value, result.rates[name]))
        values[name] = value
    outputs = _compared(result.logits, values[name] * spread(scales[name], values[name]), one_tensor=net._parts is None)
    return ConversionReport(rows, outputs, T, len(x), settled=not any(rate > 0 for rate in after.rates.values()))


def _of_sent(name: str, layer: SigmaDeltaNeurons, sent: Tensor, wanted: Tensor, rate: float) -> Row:
    """The row of a layer whose neurons have ``sent`` [N, P, C]; ``wanted``: the activations [N, C, ...]."""
    wanted = wanted.flatten(2).transpose(1, 2) if wanted.ndim > 2 else wanted.unsqueeze(1)
    size = wanted.abs().mean()
    clipped = 0.0 if isinstance(layer.neuron, Graded) else (wanted.abs() > 1).float().mean().item()
    error = (sent - wanted).abs().mean() / size
    return Row(name, layer.scale.float().mean().item(), rate, size.item(), clipped, error.item())


def _outputs(layer: Neurons, found: Tensor, current: Tensor, *, one_tensor: bool) -> Outputs:
    """The outputs of the last layer: logits ``found`` beside the ReLU network's ``current``, in scales."""
    scale = torch.as_tensor(layer.scale, dtype=torch.float32, device=current.device)
    scale = scale.view(-1, *[1] * (current.ndim - 2)) if scale.ndim else scale
    wanted = (activation(layer, current) if layer.rectifies else current) * scale
    return _compared(found, wanted, one_tensor=one_tensor)


def _compared(found: Tensor, wanted: Tensor, *, one_tensor: bool) -> Outputs:
    """Logits beside the ReLU network's outputs."""
    error = ((found - wanted).abs().mean() / wanted.abs().mean()).item()
    if not one_tensor or wanted.ndim != 2 or wanted.shape[1] < 2:
        return Outputs(error, None)
    return Outputs(error, (found.argmax(1) == wanted.argmax(1)).float().mean().item())


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
    about = _markdown(("", ""), [*made, *_measured(result, labels)])
    return "\n".join([head, *about, "", *_markdown(COLUMNS, _layer_rows(result)), ""])


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
    """The accuracy for each way to read the class from the output."""
    found = {}
    try:
        found["by the logits"] = share_right(result.logits, labels).item()
    except AttributeError:  # the network was not converted
        pass
    if isinstance(result.output, Spikes):
        found["by counts (ties and silence are wrong)"] = share_right(result.count(), labels, 0).item()
    elif not found:
        found["by the last potentials"] = share_right(result.potentials[-1], labels).item()
    return found


def share_right(outputs: Tensor, labels: Tensor, least: float = -torch.inf) -> Tensor:
    """The share of samples [N, classes] whose class is above all others, and above ``least``; float32 []."""
    true = outputs.gather(1, labels.unsqueeze(1))
    others = outputs.scatter(1, labels.unsqueeze(1), least).amax(1, keepdim=True)
    return (true > others).float().mean()


def _layer_rows(result: Result) -> list[tuple[str, ...]]:
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


def _markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [columns, ("---",) * len(columns), *rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |" for cells in lines]
