"""Controls of sigma-delta neurons: the same activations sent in one pass, in powers of two or in whole numbers, and
graded neurons, which cut small ones.

The network is the one that sigma-delta neurons run in, with its thresholds; common/one_pass.py has how activations are
sent. Weights are in float32, or in 8 bits, 127 units to the largest of an output channel: those of every contender that
sends no float32, and of sigma-delta neurons too. Graded networks of 8 bits round as precision="int8" does.
"""

import copy
from collections.abc import Iterator
from functools import partial

import torch
from common import cost
from common.cost import FLOAT32, INT8, Work
from common.one_pass import BATCH, Found, in_one_pass, ways
from common.subjects import Subject
from torch import Tensor

import proxykernels as pk
from proxykernels.running.result import Result

STEPS, MOST = (1, 2, 3, 4), 127
TOLERANCES = (0.0, 0.005, 0.01, 0.02, 0.05)  # of graded neurons: the share of calibration samples with another class
ARITHMETIC = {"float32": FLOAT32, "int8": INT8}  # by the weights
COLUMNS = [
    "net", "sent_as", "weights", "T", "images", "right", "same_class", "messages_a_neuron", "bits_a_message",
    "bits_a_neuron", "million_additions", "million_products", "arithmetic_uj", "device", "commit",
]  # fmt: skip


def rows(subject: Subject, few: int) -> Iterator[dict]:
    """Each way in one pass, sigma-delta neurons after T steps, and graded ones; of the first ``few`` images the
    operations."""
    with torch.no_grad():
        expected = torch.cat([subject.ann(batch) for batch in subject.images.split(BATCH)])
    made = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    for weights in ARITHMETIC:
        net = made if weights == "float32" else with_rounded_weights(made)
        sent = {name: way for name, way in ways().items() if weights != "int8" or name != "float32"}
        for name, way in sent.items():
            found = in_one_pass(net, subject.images, few, way)
            yield _row(subject, expected, found, name, weights, "", (way.values - 1).bit_length())
        for T, found in in_steps(net, subject.images, few):
            values = 2 * pk.neurons.SigmaDelta().exponents
            yield _row(subject, expected, found, "sigma-delta", weights, T, (values - 1).bit_length())
    for name, net in graded_nets(subject).items():
        for weights in ARITHMETIC:
            found = in_one_step(net, subject.images, few, weights)
            yield _row(subject, expected, found, name, weights, 1, 32 if weights == "float32" else 8)


def _row(
    subject: Subject, expected: Tensor, found: Found, name: str, weights: str, T: int | str, bits: int
) -> dict[str, str | int]:
    logits, work, messages = found
    return {
        "sent_as": name, "weights": weights, "T": T, "images": len(logits),
        "right": f"{subject.accuracy(logits):.4f}",
        "same_class": f"{(logits.argmax(1) == expected.argmax(1)).float().mean():.4f}",
        "messages_a_neuron": f"{messages:.3f}", "bits_a_message": bits,
        "bits_a_neuron": f"{bits * messages:.2f}", "million_additions": f"{work.additions / 1e6:.2f}",
        "million_products": f"{work.products / 1e6:.2f}",
        "arithmetic_uj": work.row(ARITHMETIC[weights], 4)["arithmetic_uj"],
    }  # fmt: skip


def graded_nets(subject: Subject) -> dict[str, pk.Network]:
    """Networks of graded neurons: one that sends all that is not 0, and one for each of TOLERANCES."""
    nets = {"graded, threshold 0": pk.convert(subject.ann, subject.calibration, neuron=pk.neurons.Graded())}
    for tolerance in TOLERANCES:
        name = f"graded, tolerance {tolerance:g}"
        nets[name] = pk.convert(subject.ann, subject.calibration, neuron="graded", tolerance=tolerance)
    return nets


def in_one_step(net: pk.Network, images: Tensor, few: int, weights: str) -> Found:
    """Graded neurons, whose first step answers."""
    run = partial(pk.simulate, net, T=1, precision=None if weights == "float32" else weights)
    logits = torch.cat([run(batch).logits for batch in images.split(BATCH)])
    return Found(logits, *_counted(net, run(images[:few]), 1, few))


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
        yield T, Found(potentials[T - 1], *_counted(net, pk.simulate(net, images, T), T, len(images)))


def _counted(net: pk.Network, result: Result, T: int, images: int) -> tuple[Work, float]:
    """The work and the messages a neuron of a simulation."""
    spikes = sum(count * result.rates[name] for name, count in result.places.items() if count)
    work = cost.of_simulation(net, result, T, images, values=2, bits=cost.CODE_BITS)
    return work, T * spikes / sum(result.places.values())
