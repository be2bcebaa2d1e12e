"""Controls of sigma-delta neurons: the same activations sent in one pass, in powers of two or in whole numbers.

The network is the one that sigma-delta neurons run in, with its thresholds. A layer's activations are sent once: as two
signed powers, the nearest and the nearest to what that leaves; or rounded to 8 or 4 bits, up to the threshold. A
message is what is not 0. Weights are in float32, or in 8 bits, 127 units to the largest of an output channel: those of
every contender that sends no float32, and of sigma-delta neurons too.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import proxykernels as pk
from proxykernels.conversion.relu.calibrate import activation, relu_value
from proxykernels.kernels.reference import nearest_power
from proxykernels.layers.sigma_delta import SigmaDeltaNeurons

from . import cost
from .subjects import Subject
from .work import FLOAT32, INT8, Work

BATCH, STEPS, MOST = 50, (1, 2, 3, 4), 127
COLUMNS = [
    "net", "sent_as", "weights", "T", "images", "right", "same_class", "messages_a_neuron", "bits_a_message",
    "bits_a_neuron", "million_additions", "million_products", "arithmetic_uj", "device", "commit",
]  # fmt: skip

Send = Callable[[Tensor], tuple[Tensor, Tensor]]  # activations, in thresholds, to what stands for them and messages


class Way(NamedTuple):
    """How an activation is sent.

    Attributes:
        values: those that a message can have. adds: whether they are powers, so that a weight is added for each.
    """

    send: Send
    values: int
    adds: bool = False


class Found(NamedTuple):
    """Of a contender: its logits, and the operations and messages of an image."""

    logits: Tensor
    work: Work
    messages_a_neuron: float


class Part(NamedTuple):
    """What a layer gives: values, the messages that each takes, and whether these are powers."""

    values: Tensor
    messages: Tensor
    adds: bool


def powers(x: Tensor, exponents: int) -> tuple[Tensor, Tensor]:
    """As two signed powers of two."""
    first = nearest_power(x, exponents)
    second = nearest_power(x - first, exponents)
    return first + second, (first != 0).float() + (second != 0).float()


def rounded(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """As whole numbers of ``bits`` bits; what is larger than the threshold is cut off."""
    most = 2**bits - 1
    x = (x.clamp(max=1) * most).round() / most
    return x, (x != 0).float()


def ways() -> dict[str, Way]:
    exponents = pk.neurons.SigmaDelta().exponents
    return {
        "float32": Way(lambda x: (x, (x != 0).float()), 2**32),
        "8 bits": Way(lambda x: rounded(x, 8), 2**8),
        "4 bits": Way(lambda x: rounded(x, 4), 2**4),
        "two signed powers": Way(lambda x: powers(x, exponents), 2 * exponents, adds=True),
    }


def rows(subject: Subject, few: int) -> Iterator[dict]:
    """Each way in one pass, and sigma-delta neurons after T steps; operations of the first ``few`` images."""
    with torch.no_grad():
        expected = torch.cat([subject.ann(batch) for batch in subject.images.split(BATCH)])
    made = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    for weights, arithmetic in (("float32", FLOAT32), ("int8", INT8)):
        net = made if weights == "float32" else with_rounded_weights(made)
        sent = {name: way for name, way in ways().items() if weights != "int8" or name != "float32"}
        found = {(name, ""): in_one_pass(net, subject.images, few, way) for name, way in sent.items()}
        found |= {("sigma-delta", T): result for T, result in in_steps(net, subject.images, few)}
        for (name, T), (logits, work, messages) in found.items():
            values = ways()[name].values if name in ways() else 2 * pk.neurons.SigmaDelta().exponents
            bits = (values - 1).bit_length()
            yield {
                "sent_as": name, "weights": weights, "T": T, "images": len(logits),
                "right": f"{subject.accuracy(logits):.4f}",
                "same_class": f"{(logits.argmax(1) == expected.argmax(1)).float().mean():.4f}",
                "messages_a_neuron": f"{messages:.3f}", "bits_a_message": bits,
                "bits_a_neuron": f"{bits * messages:.2f}", "million_additions": f"{work.additions / 1e6:.2f}",
                "million_products": f"{work.products / 1e6:.2f}",
                "arithmetic_uj": work.row(arithmetic, 4)["arithmetic_uj"],
            }  # fmt: skip


@torch.no_grad()
def with_rounded_weights(net: pk.Network) -> pk.Network:
    """A copy whose weights are whole multiples of a unit, one of each output channel."""
    net = copy.deepcopy(net)
    for weight in net.parameters():
        if weight.ndim > 1:
            unit = weight.flatten(1).abs().amax(1).clamp(min=1e-30).view(-1, *[1] * (weight.ndim - 1)) / MOST
            weight.copy_((weight / unit).round() * unit)
    return net


def in_steps(net: pk.Network, images: Tensor, few: int) -> Iterator[tuple[int, Found]]:
    """Sigma-delta neurons after each of STEPS."""
    results = [pk.simulate(net, batch, max(STEPS)) for batch in images.split(BATCH)]
    potentials = torch.cat([result.potentials for result in results], 1)
    images = images[:few]
    for T in STEPS:
        result = pk.simulate(net, images, T)
        spikes = sum(count * result.rates[name] for name, count in result.places.items() if count)
        messages = T * spikes / sum(result.places.values())
        work = cost.of_simulation(net, result, T, len(images), values=2, bits=cost.CODE_BITS)
        yield T, Found(potentials[T - 1], work, messages)


@torch.no_grad()
def in_one_pass(net: pk.Network, images: Tensor, few: int, way: Way) -> Found:
    """The ReLU network whose activations are sent so."""
    batches = tqdm(images.split(BATCH), "one pass", unit="batch", leave=False, mininterval=1.0)
    logits = torch.cat([_outputs(net, batch, way, None)[0] for batch in batches])
    work, images = Work(), images[:few]
    counts = [_outputs(net, batch, way, work)[1:] for batch in images.split(BATCH)]
    messages, neurons = (sum(part) for part in zip(*counts, strict=True))
    work.additions, work.products = work.additions / len(images), work.products / len(images)
    return Found(logits, work, messages / neurons)


def _outputs(net: pk.Network, x: Tensor, way: Way, work: Work | None) -> tuple[Tensor, float, int]:
    """The logits of images [N, ...], their messages and neurons; the operations are added to ``work``, if wanted."""
    parts = {pk.Network.INPUT: Part(x, (x != 0).float(), False)}
    messages, neurons, name, layer = 0.0, 0, pk.Network.INPUT, None
    for name, layer, sources in net.layers():
        given = [parts[source] for source in sources]
        y = relu_value(layer, tuple(part.values for part in given))
        if isinstance(layer, SigmaDeltaNeurons) and work is not None:
            for synapse, part in zip(layer.synapses, given, strict=True):
                used = cost.uses(synapse, part.messages)
                work.additions += used * part.adds
                work.products += used * (not part.adds)
        if isinstance(layer, SigmaDeltaNeurons) and layer.fires:
            y, sent = way.send(activation(layer, y) if layer.rectifies else y)
            messages, neurons = messages + sent.sum().item(), neurons + sent.numel()
            parts[name] = Part(y, sent, way.adds)
        elif isinstance(layer, pk.Flatten | pk.Concatenate):  # puts messages elsewhere
            sent = relu_value(layer, tuple(part.messages for part in given))
            parts[name] = Part(y, sent, all(part.adds for part in given))
        else:
            parts[name] = Part(y, (y != 0).float(), False)
    scale: Any = layer.scale if isinstance(layer, SigmaDeltaNeurons) else 1
    return y * scale, messages, neurons
