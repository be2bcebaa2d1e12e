"""Gradients on a GPU that is not there (pretend_gpu.py), against those on a CPU: run by test_simulation_on_gpu.py.

    LD_PRELOAD=GUARD.so python tests/gpu/train_on_pretend_gpu.py

Autograd asks for a guard of the current device, which a build of torch for CPUs has not: GUARD.so brings one
(pretend_cuda_guard.cpp), for the whole process.
"""

import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parents[part]) for part in (0, 1, 2)]

import pytest  # noqa: E402
import torch  # noqa: E402
from cases import dyadic  # noqa: E402
from equality import equal  # noqa: E402
from pretend_gpu import CARD, SECOND, OnCard, pretend_gpu  # noqa: E402
from torch import nn  # noqa: E402

import proxykernels as pk  # noqa: E402
from proxykernels.training.twin import PASSES  # noqa: E402

del OnCard.__getitem__  # with the guard torch's own indexing works, which autograd follows


RECURRENCES = "full", "elementwise"


@dataclass(frozen=True)
class Leaky(pk.neurons.AnyNeuron):
    """A neuron that no kernel knows: the reference code runs it, and autograd goes back through its step."""

    v_threshold: pk.neurons.Value = 1.0

    def step(self, state, current, fire):
        spikes, v = fire(0.5 * state[0] + current, self.v_threshold, None)
        return spikes, (v,)


def network(kind: str) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    if kind == "python":
        return recurrent_network("full", Leaky())
    if kind in RECURRENCES:
        return recurrent_network(kind, pk.neurons.LIFNeuron(decay=0.5, v_reset=None))
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 3, 3, padding=1), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(12, 4, v_reset=None)
    )
    if kind == "numbers":
        net[0] = pk.FusedConv2d(2, 3, 3, padding=1, neuron=pk.neurons.IntegerLIFNeuron(v_threshold=0.25))
        net[1] = pk.AvgPool2d(2)
        net[3] = pk.learn_neurons(pk.FusedLILinear(12, 4, decay=0.5), "decay")
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 2 + 0.125
    if kind == "proxy":
        return pk.ProxyNet(net, T=7)
    return pk.SurrogateNet(net, T=7, readout="potential" if kind == "numbers" else "count")


def recurrent_network(recurrence: str, neuron: pk.neurons.AnyNeuron) -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    net = nn.Sequential(
        pk.Flatten(),
        pk.FusedRecurrentLinear(32, 9, neuron=neuron, recurrence=recurrence),
        pk.FusedIFLinear(9, 4, v_reset=None),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 2 + 0.125
    return pk.SurrogateNet(net, T=7)


def gradients(model: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients of a weighted sum of it."""
    output, threads = model(x), set()
    output.register_hook(lambda gradient: threads.add(threading.get_ident()))
    (output * weights).sum().backward()
    assert (threads == {threading.get_ident()}) == (output.device.type == "cpu")  # a card has a thread of its own
    return [output.detach(), *(parameter.grad for parameter in model.parameters())]


def main(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weights = dyadic(2, 2, 4, 4, generator=generator).abs(), dyadic(2, 4, generator=generator)
    expected = gradients(network(kind), x, weights)
    assert all(values.any() for values in expected)
    for device in (CARD, SECOND):
        with pytest.MonkeyPatch.context() as monkeypatch, pretend_gpu(monkeypatch) as card:
            found = gradients(card.moved(network(kind), device), card.on_card(x, device), card.on_card(weights, device))
            assert equal(found[0].host, expected[0])
            for ours, theirs in zip(found, expected, strict=True):
                assert isinstance(ours, OnCard) and ours.device == device
                torch.testing.assert_close(ours.host, theirs)
            if device == CARD:
                print(kind, *sorted(card.launches))


def count(kind: str) -> None:
    """Prints the launches and waits of a step of three layers, the second one: new images, and changed weights."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, padding=1), pk.MaxPool2d(2), pk.FusedIFConv2d(4, 4, 3, padding=1), pk.Flatten(),
        pk.FusedIFLinear(16, 3),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch, pretend_gpu(monkeypatch, executes=False) as card:
        model = card.moved((pk.ProxyNet if kind == "proxy" else pk.SurrogateNet)(net, T=16))
        for _ in range(2):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.5)
            model.zero_grad()
            images = card.on_card(dyadic(2, 1, 4, 4, generator=generator).abs())
            card.clear()
            model(images).sum().backward()
        print(f"counted {kind}", card.launches.total(), card.waits.total(), *card.launches.items(), *card.waits.items())
        assert set(model.rates) == {"0", "2", "4"}
        if kind == "proxy":
            (model(images).sum() * torch.inf).backward()
            with pytest.raises(FloatingPointError, match="the gradient that the loss gives the output of ProxyNet"):
                model(images)
            with torch.no_grad():
                model.net[2].weight.mul_(torch.inf)
            with pytest.raises(FloatingPointError, match="the weight of layer 2 holds NaN"):
                model(images)


def watch() -> None:
    """A layer that is silent in many passes is named, for which the card is waited for once."""
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, v_threshold=1e9), pk.Flatten(), pk.FusedIFLinear(16, 3))
    with pytest.MonkeyPatch.context() as monkeypatch, pretend_gpu(monkeypatch, executes=False) as card:
        model = card.moved(pk.ProxyNet(net, T=4))
        images = card.on_card(torch.ones(2, 1, 4, 4))
        for _ in range(PASSES - 1):
            card.clear()
            model(images)
            assert card.waits.total() == 1
        card.clear()
        with pytest.warns(UserWarning, match="gave no spike"):
            model(images)


def count_recurrent(recurrence: str, T: int) -> None:
    """Prints the launches and waits of a recurrent layer's backward pass."""
    generator = torch.Generator().manual_seed(0)
    layer = pk.use_surrogate(
        pk.FusedRecurrentLinear(6, 20, neuron=pk.neurons.LIFNeuron(), recurrence=recurrence), pk.ATan()
    )
    with pytest.MonkeyPatch.context() as monkeypatch, pretend_gpu(monkeypatch, executes=False) as card:
        card.moved(layer)
        loss = layer(card.on_card(dyadic(T, 2, 6, generator=generator).sign().abs())).sum()
        card.clear()
        loss.backward()
        print(recurrence, card.launches.total(), card.waits.total(), *card.launches.items(), *card.waits.items())
        assert card.launches["_recurrent_backward_kernel"] == 1


if __name__ == "__main__":
    for kind in ("proxy", "surrogate", *RECURRENCES, "python", "numbers"):
        main(kind)
    count("surrogate")
    count("proxy")
    watch()
    for recurrence in RECURRENCES:
        count_recurrent(recurrence, 16)
