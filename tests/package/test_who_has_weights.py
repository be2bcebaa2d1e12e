"""Networks that were just made have their weights alone: simulate then need not look at all values at each call."""

import gc

import pytest
import torch
from torch import nn

import proxykernels as pk
from proxykernels.running.snapshot import Snapshot


def converted(**options):
    ann = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
    )
    return pk.convert(ann.eval(), torch.rand(9, 1, 8, 8), **options)


def of_own_code():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 9), nn.Linear(9, 3)

        def forward(self, x):
            return self.b(self.a(x).relu())

    return pk.convert(Own().eval(), torch.rand(9, 8))


def of_snntorch():
    snn = pytest.importorskip("snntorch")
    neuron = {"beta": 0.9, "init_hidden": True, "reset_mechanism": "zero"}
    return pk.from_snntorch(nn.Sequential(nn.Linear(8, 5), snn.Leaky(**neuron), nn.Linear(5, 3), snn.Leaky(**neuron)))


def of_spikingjelly():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    parts = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), neuron.IFNode(), nn.Flatten(), nn.Linear(64, 5), neuron.IFNode()
    return pk.from_spikingjelly(nn.Sequential(*parts).eval(), torch.rand(1, 2, 6, 6))


def of_nir():
    pytest.importorskip("nir")
    return pk.from_nir(pk.to_nir(nn.Sequential(pk.FusedIFLinear(8, 5), pk.FusedIFLinear(5, 4)).eval(), (8,)))


MAKERS = {
    "convert": converted, "sigma-delta": lambda: converted(neuron="sigma-delta"), "own code": of_own_code,
    "snnTorch": of_snntorch, "SpikingJelly": of_spikingjelly, "NIR": of_nir,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("maker", MAKERS)
def test_nobody_else_has_the_weights(maker):
    MAKERS[maker]()  # SpikingJelly compiles its steps at their first call, which keeps frames
    gc.collect()
    gc.disable()
    try:
        net = MAKERS[maker]()
        assert not Snapshot(net)._were_shared
    finally:
        gc.enable()
