"""Controls of sigma-delta neurons: the same activations sent in one pass, in powers of two or in whole numbers.

The network is the one that sigma-delta neurons run in, with its thresholds; common/one_pass.py has how activations are
sent. Weights are in float32, or in 8 bits, 127 units to the largest of an output channel: those of every contender that
sends no float32, and of sigma-delta neurons too.
"""

import copy
from collections.abc import Iterator

import torch
from common import cost
from common.cost import FLOAT32, INT8
from common.one_pass import BATCH, Found, in_one_pass, ways
from common.subjects import Subject
from torch import Tensor

import proxykernels as pk

STEPS, MOST = (1, 2, 3, 4), 127
COLUMNS = [
    "net", "sent_as", "weights", "T", "images", "right", "same_class", "messages_a_neuron", "bits_a_message",
    "bits_a_neuron", "million_additions", "million_products", "arithmetic_uj", "device", "commit",
]  # fmt: skip


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
