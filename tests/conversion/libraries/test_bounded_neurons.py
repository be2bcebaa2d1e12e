"""Neurons and layers of other libraries that are bounded, beyond the currents of a small input: none is taken."""

import pytest
import torch
from torch import nn

import proxykernels as pk


def sj_net(mode, **others):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron

    torch.manual_seed(0)
    modules = {
        "conv": layer.Conv2d(2, 6, 3), "sn1": neuron.IFNode(), "flat": layer.Flatten(),
        "fc": layer.Linear(216, 5), "sn2": neuron.LIFNode(),
    }  # fmt: skip
    net = nn.Sequential()
    for name, module in {**modules, **others}.items():
        net.add_module(name, module)
    functional.set_step_mode(net, mode)
    return net.eval()


def sj_neuron(kind, bound, what, **options):
    """A neuron of SpikingJelly whose potential, or whose input, has a bound."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    base = getattr(neuron, kind)

    class Bounded(base):
        def forward(self, x):
            if self.step_mode == "s":
                return self.bounded(x)
            self.step_mode = "s"
            try:
                return torch.stack([self.bounded(step) for step in x])
            finally:
                self.step_mode = "m"

        def bounded(self, x):
            if what == "potential" and isinstance(self.v, torch.Tensor):
                self.v = self.v.clamp(min=bound)
            return super().forward(x if what == "potential" else x.clamp(-bound, bound))

    return Bounded(**options)


BOUNDS = [*(("potential", bound) for bound in (-8.0, -12.0, -40.0)), *(("input", bound) for bound in (6.0, 9.0, 50.0))]


@pytest.mark.costly
@pytest.mark.parametrize("place", ["sn1", "sn2"])
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("kind", ["IFNode", "LIFNode"])
@pytest.mark.parametrize(("what", "bound"), BOUNDS)
def test_bounded_neurons_of_spikingjelly(what, bound, kind, mode, place):
    net = sj_net(mode, **{place: sj_neuron(kind, bound, what, v_reset=None)})
    with pytest.raises(ValueError, match=f"module '{place}' is not what was made of it: .*spikes differ.* step"):
        pk.from_spikingjelly(net)


@pytest.mark.costly
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("bound", [6.0, 10.0, 30.0])
def test_containers_that_clamp(bound, mode):
    """Beyond the currents of a usual input."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")

    class Clamped(layer.SeqToANNContainer if mode == "m" else nn.Sequential):
        def forward(self, x):
            return super().forward(x).clamp(-bound, bound)

        __module__ = layer.__name__  # torch.fx does not look into it

    for place, module in (("conv", nn.Conv2d(2, 6, 3)), ("fc", nn.Linear(216, 5))):
        with pytest.raises((TypeError, ValueError), match="Sequential: .*'(conv|fc)"):
            pk.from_spikingjelly(sj_net(mode, **{place: Clamped(module)}))


@pytest.mark.costly
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(("what", "bound"), BOUNDS)
def test_bounded_neurons_of_snntorch(what, bound, reset):
    snn = pytest.importorskip("snntorch")

    class Bounded(snn.Leaky):
        def forward(self, x, mem=None):
            if what == "potential":
                self.mem = self.mem.clamp(min=bound)
            return super().forward(x if what == "potential" else x.clamp(-bound, bound), mem)

    torch.manual_seed(0)
    options = {"init_hidden": True, "reset_mechanism": reset}
    for beta in (0.95, 1.0):
        net = nn.Sequential(nn.Linear(8, 12), Bounded(beta, **options), nn.Linear(12, 6), snn.Leaky(0.9, **options))
        with pytest.raises(ValueError, match="module '1' is not what was made of it: .*spikes differ.* step"):
            pk.from_snntorch(net)
