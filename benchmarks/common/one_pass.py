"""The activations of a network of sigma-delta neurons sent in one pass, in powers of two or in whole numbers.

A layer's activations are sent once: as two signed powers, the nearest and the nearest to what that leaves; or rounded
to 8 or 4 bits, up to the threshold. A message is what is not 0.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import proxykernels as pk
from common import cost
from common.cost import Work
from proxykernels.conversion.relu.side_by_side import activation, relu_value
from proxykernels.kernels.reference import nearest_power
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons

BATCH = 50

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
    """The result of a contender: its logits, and the operations and messages per image."""

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
