"""Networks of recurrent neurons and a leaky readout on recordings, trained here and in other libraries: what
train_digits.py, train_gestures.py and train_vowels.py share."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common.cost import FLOAT32
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk

TEST_BATCH = 500
Run = Callable[[Tensor], Tensor]  # potentials [T, N, classes] of inputs [T, N, ...]


class Recordings(NamedTuple):
    """inputs [T, N, ...], zeros behind each one's end; how many steps count [N]; labels [N]."""

    inputs: Tensor
    lengths: Tensor
    labels: Tensor


class Training(NamedTuple):
    epochs: int
    batch: int
    lr: float  # the highest, where it rises and falls
    smoothing: float = 0.1  # of labels
    rises: bool = True  # OneCycleLR; else it stays as it is


def learn(call: Run, net: nn.Module, heard: Recordings, unheard: Recordings, how: Training, name: str) -> dict:
    """Accuracy on ``unheard``, and processor seconds of an epoch and of the test, of one training of ``net``, which
    ``call`` runs."""
    batches = -(-len(heard.labels) // how.batch)
    optimizer = torch.optim.Adam(net.parameters(), how.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.lr, how.epochs * batches) if how.rises else None
    start = time.thread_time()
    for _ in tqdm(range(how.epochs), name, leave=False, unit="epoch"):
        for batch in torch.randperm(len(heard.labels)).split(how.batch):
            lengths = heard.lengths[batch]
            inputs = heard.inputs[: int(lengths.max()), batch]
            answers = mean(call(inputs), lengths)
            loss = F.cross_entropy(answers, heard.labels[batch], label_smoothing=how.smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
    seconds, start = (time.thread_time() - start) / how.epochs, time.thread_time()
    with torch.no_grad():
        parts = zip(unheard.inputs.split(TEST_BATCH, 1), unheard.lengths.split(TEST_BATCH), strict=True)
        answers = torch.cat([mean(call(inputs), lengths) for inputs, lengths in parts]).argmax(1)
    took = time.thread_time() - start
    return {
        "accuracy": f"{(answers == unheard.labels).float().mean().item():.4f}",
        "train_s": f"{seconds:.4f}",
        "test_s": f"{took:.4f}",
    }


def mean(potentials: Tensor, lengths: Tensor) -> Tensor:
    """The mean over the steps of each recording, [N, classes]."""
    there = torch.arange(len(potentials))[:, None] < lengths
    return (potentials * there.unsqueeze(2)).sum(0) / lengths.unsqueeze(1)


def cost(net: nn.Module, unheard: Recordings, steps_a_second: float) -> dict[str, str]:
    """Spikes a neuron and step of each layer; and additions of a second, and their energy, as this library counts
    them."""
    result = pk.simulate(net.eval(), unheard.inputs, len(unheard.inputs), lengths=unheard.lengths)
    seconds = unheard.lengths.sum().item() / steps_a_second
    additions = result.synops.total / seconds
    return {
        "rate": " ".join(f"{rate:.4f}" for rate in result.rates.values() if rate == rate),  # a readout has none
        "million_additions": f"{additions / 1e6:.3f}",
        "arithmetic_uj": f"{1e6 * FLOAT32.addition * additions:.3f}",
    }


def recurrent(inputs: int, neurons: int, classes: int, decay: float, readout: float) -> list[nn.Module]:
    """Recurrent leaky neurons that reset by subtraction, and leaky integrators."""
    neuron = pk.neurons.LIFNeuron(decay=decay, v_reset=None)
    return [
        pk.FusedRecurrentLinear(inputs, neurons, neuron=neuron),
        pk.FusedLILinear(neurons, classes, decay=readout),
    ]


def in_snntorch(layers: nn.Sequential, reset_delay: bool = False) -> Run:
    """``recurrent``'s layers in snnTorch, with the same parameters. ``reset_delay``: whether it resets a step later."""
    import snntorch as snn
    from snntorch import surrogate

    first, last = layers
    decay, neurons = first.neuron.decay, first.out_features
    lif = snn.RLeaky(decay, linear_features=neurons, spike_grad=surrogate.atan(2.0), reset_delay=reset_delay)
    lif.recurrent = nn.Linear(neurons, neurons, bias=False)
    lif.recurrent.weight = first.recurrent_weight
    leaky = snn.Leaky(last.neuron.decay, reset_mechanism="none")

    def call(inputs: Tensor) -> Tensor:
        (fired, v), readout, potentials = lif.reset_mem(), leaky.reset_mem(), []
        for step in inputs.float():
            fired, v = lif(F.linear(step, first.weight, first.bias), fired, v)
            _, readout = leaky(F.linear(fired, last.weight, last.bias), readout)
            potentials.append(readout)
        return torch.stack(potentials)

    return call


def in_spikingjelly(layers: nn.Sequential) -> Run:
    """The same in SpikingJelly: its neurons by steps, for the recurrence needs the step before."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    first, last = layers
    lif = neuron.LIFNode(1 / (1 - first.neuron.decay), False, v_reset=None, surrogate_function=surrogate.ATan(2.0))

    def call(inputs: Tensor) -> Tensor:
        functional.reset_net(lif)
        fired, readout, potentials = None, torch.zeros(()), []
        for currents in F.linear(inputs.float(), first.weight, first.bias):  # all steps in one product
            fired = lif(currents if fired is None else currents + F.linear(fired, first.recurrent_weight))
            readout = last.neuron.decay * readout + F.linear(fired, last.weight, last.bias)
            potentials.append(readout)
        return torch.stack(potentials)

    return call


CALLS = {"proxykernels": lambda layers: layers, "snntorch": in_snntorch, "spikingjelly": in_spikingjelly}
