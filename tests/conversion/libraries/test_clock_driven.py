"""Networks of SpikingJelly 0.0.0.0.12, whose package is clock_driven: neurons of all steps have names of their own.

Newer versions do not have it, so its modules stand here as that version computes them.
"""

import sys
import types

import pytest
import torch
from cases import dyadic
from equality import equal
from exchange import make_dyadic
from torch import nn

import proxykernels as pk

T = 8


class MemoryModule(nn.Module):
    def __init__(self):
        super().__init__()
        self._memories, self._at_rest = {}, {}

    def register_memory(self, name, value):
        self._memories[name] = self._at_rest[name] = value

    def reset(self):
        self._memories |= self._at_rest

    def __getattr__(self, name):
        memories = self.__dict__.get("_memories", {})
        return memories[name] if name in memories else super().__getattr__(name)

    def __setattr__(self, name, value):
        if name in self.__dict__.get("_memories", {}):
            self._memories[name] = value
        else:
            super().__setattr__(name, value)


class LIFNode(MemoryModule):
    def __init__(self, tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0):
        super().__init__()
        self.register_memory("v", v_reset)
        self.tau, self.decay_input, self.v_threshold, self.v_reset = tau, decay_input, v_threshold, v_reset
        self.detach_reset, self.surrogate_function = False, None

    def forward(self, x):
        current = x / self.tau if self.decay_input else x
        self.v = self.v - (self.v - self.v_reset) / self.tau + current
        spike = (self.v >= self.v_threshold).to(x)
        self.v = (1 - spike) * self.v + spike * self.v_reset
        return spike


class MultiStepLIFNode(LIFNode):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_memory("v_seq", None)

    def forward(self, x_seq):
        spikes = torch.stack([super(MultiStepLIFNode, self).forward(x) for x in x_seq])
        self.v_seq = self.v
        return spikes


class SeqToANNContainer(nn.Sequential):
    def forward(self, x_seq):
        return super().forward(x_seq.flatten(0, 1)).unflatten(0, x_seq.shape[:2])


class MultiStepContainer(nn.Sequential):
    pass


class Dropout(MemoryModule):
    pass


class Dropout2d(Dropout):
    pass


class MultiStepThresholdDependentBatchNorm2d(nn.modules.batchnorm._BatchNorm):
    def forward(self, x_seq):
        return super().forward(x_seq.flatten(0, 1)).view(x_seq.shape)

    def _check_input_dim(self, x):
        pass


@pytest.fixture
def clock_driven(monkeypatch):
    """The package, in the place of an installed one."""
    names = {
        "base": (MemoryModule,),
        "neuron": (LIFNode, MultiStepLIFNode),
        "layer": (
            SeqToANNContainer, MultiStepContainer, Dropout, Dropout2d, MultiStepThresholdDependentBatchNorm2d,
        ),
    }  # fmt: skip
    package = types.ModuleType("spikingjelly")
    inside = types.ModuleType("spikingjelly.clock_driven")
    package.__path__, inside.__path__, package.clock_driven = [], [], inside
    for name, kinds in names.items():
        path = f"spikingjelly.clock_driven.{name}"
        module = types.ModuleType(path)
        for kind in kinds:
            monkeypatch.setattr(kind, "__module__", path)
            setattr(module, kind.__name__, kind)
        setattr(inside, name, module)
        monkeypatch.setitem(sys.modules, path, module)
    for name in [name for name in sys.modules if name.startswith("spikingjelly.activation_based")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "spikingjelly", package)
    monkeypatch.setitem(sys.modules, "spikingjelly.clock_driven", inside)


class Tutorial(nn.Module):
    """As its Fashion-MNIST network: what is in front of the first neurons runs once, and steps are added in a loop."""

    def __init__(self):
        super().__init__()
        self.static = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.conv = nn.Sequential(LIFNode(), nn.MaxPool2d(2))
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(96, 10, bias=False), LIFNode(decay_input=False))

    def forward(self, x):
        x = self.static(x)
        total = self.fc(self.conv(x))
        for _ in range(1, T):
            total += self.fc(self.conv(x))
        return total / T


class MultiStep(nn.Module):
    """All steps in each call, of samples whose steps come second."""

    def __init__(self):
        super().__init__()
        self.conv, self.neurons = SeqToANNContainer(nn.Conv2d(2, 6, 3, padding=1)), MultiStepLIFNode()
        self.norm = MultiStepThresholdDependentBatchNorm2d(6)
        self.rest = SeqToANNContainer(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10))
        self.last = MultiStepLIFNode(decay_input=False)

    def forward(self, x):
        x = self.neurons(self.norm(self.conv(x.permute(1, 0, 2, 3, 4))))
        return self.last(self.rest(x)).mean(0)


@pytest.mark.parametrize("kind", [Tutorial, MultiStep])
def test_networks_of_clock_driven(generator, clock_driven, kind):
    net = make_dyadic(kind(), generator, 1 / 4)
    x = dyadic(3, T, 2, 8, 8, generator=generator).abs() if kind is MultiStep else images(generator)
    with torch.no_grad():
        expected = net(x)
    for module in net.modules():
        if isinstance(module, MemoryModule):
            module.reset()
    ours = pk.from_spikingjelly(net)
    spikes = pk.simulate(ours, x.transpose(0, 1) if kind is MultiStep else x, T).spikes.dense()
    assert equal(spikes.mean(0), expected) and 0.05 < expected.mean() < 0.95


def images(generator):
    return dyadic(3, 2, 8, 8, generator=generator).abs()


def test_a_package_that_lacks_what_it_needs(monkeypatch, tmp_path):
    """The error names what is missing, not the package of an older version."""
    inside = tmp_path / "spikingjelly" / "activation_based"
    inside.mkdir(parents=True)
    (inside.parent / "__init__.py").write_text("")
    (inside / "__init__.py").write_text("import a_package_that_it_needs")
    for name in [name for name in sys.modules if name.split(".")[0] == "spikingjelly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_it_needs"):
        pk.from_spikingjelly(nn.Sequential(nn.Linear(2, 2)))
