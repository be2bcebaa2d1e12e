"""What a network answers to many images, and what an image costs it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk
from proxykernels.running.result import Result

AT_ONCE = 100  # images


class Answers(NamedTuple):
    """The answers for all images.

    Attributes:
        outputs: [N, classes]. rate: spikes per neuron and step. additions, products, steps: per image, on average.
    """

    outputs: Tensor
    rate: float
    additions: float
    products: float
    steps: float = math.nan


def neurons_of(net: nn.Module, images: Tensor) -> dict[str, int]:
    """The number of neurons of each layer that has some, for inputs like ``images`` [N, C, H, W]."""
    return {name: places for name, places in pk.simulate(net, images[:1], 1).places.items() if places}


def spiking(
    run: Callable[[Tensor], Result],
    images: Tensor,
    neurons: dict[str, int],
    read: Callable[[Result], Tensor],
    name: str,
) -> Answers:
    """The answers of a spiking network. ``run`` simulates a batch, ``read`` takes the outputs from the result."""
    outputs, spikes, additions, products, steps = [], 0.0, 0, 0, 0
    for x in tqdm(images.split(AT_ONCE), name, unit="batch", leave=False, mininterval=1.0):
        result = run(x)
        outputs.append(read(result))
        spikes += len(x) * sum(result.rates[layer] * count for layer, count in neurons.items())
        additions += sum(result.synops.accumulates.values())
        products += sum(result.synops.multiply_accumulates.values())
        steps += int(result.steps.sum())
    N = len(images)
    return Answers(torch.cat(outputs), spikes / N / sum(neurons.values()), additions / N, products / N, steps / N)


def relu(run: Callable[[Tensor], Tensor], images: Tensor, name: str) -> Tensor:
    """The logits [N, classes] of a ReLU network."""
    batches = tqdm(images.split(AT_ONCE), name, unit="batch", leave=False, mininterval=1.0)
    return torch.cat([run(x).clone() for x in batches])  # a copy: OpenVINO writes over the last one
