"""What importers say of networks that they cannot take, and what they show while they compare."""

import types

import pytest
import torch
from torch import nn

import proxykernels as pk
from proxykernels.conversion.libraries import port_proof


def linear_net(forward, **modules) -> nn.Module:
    """A network of SpikingJelly whose forward pass is ``forward(net, x)``."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    net = type("Net", (nn.Module,), {"forward": forward})()
    for name, module in {"fc": nn.Linear(8, 4), "sn": neuron.IFNode(), **modules}.items():
        setattr(net, name, module)
    return net


def in_autocast(net, x):
    with torch.autocast(x.device.type):
        return net.sn(net.fc(x))


def assigning(net, x):
    y = net.fc(x)
    y[:, 0] = 0
    return net.sn(y)


UNCLEAR = {
    "offset": (lambda net, x: net.sn(net.fc(x + net.offset)), "adds a tensor that is no layer's, such as a pos"),
    "autocast": (in_autocast, "Net asks for autocast by x.device.type in its forward pass.*import it without autocast"),
    "assignment": (assigning, "Net assigns to a part of a tensor in its forward pass.*set the weights"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_sentences_of_spikingjelly(name):
    forward, message = UNCLEAR[name]
    with pytest.raises(TypeError, match=message):
        pk.from_spikingjelly(linear_net(forward, offset=nn.Parameter(torch.rand(1, 8))))


def test_recurrent_neurons_behind_a_sum():
    snn = pytest.importorskip("snntorch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 4)
            self.back = snn.RLeaky(0.9, linear_features=12, init_hidden=True)
            self.last = snn.Leaky(0.9, init_hidden=True)

        def forward(self, x):
            return self.last(self.c(self.back(self.a(x) + self.b(x))))

    with pytest.raises(TypeError, match="Net: module 'back': RLeaky takes a sum of 2 inputs.*torch.cat.*in front of"):
        pk.from_snntorch(Net())


def test_forwards_that_were_assigned():
    net = linear_net(lambda net, x: net.sn(net.fc(x)))
    net.forward = types.MethodType(lambda net, x: net.sn(net.fc(x) * 2), net)
    with pytest.raises(TypeError, match="Net has a forward that was assigned to it.*write a subclass of Net"):
        pk.from_spikingjelly(net)
    net = linear_net(lambda net, x: net.sn(net.fc(x)))
    net.fc.forward = lambda x: x[:, :4]
    with pytest.raises(ValueError, match="module 'fc' is a Linear, whose forward .* another one was assigned to it"):
        pk.from_spikingjelly(net)


def test_networks_that_run_for_few_steps_only():
    """Where the original fails, nothing is proved."""

    def forward(net, x):
        assert len(x) < 30, "thirty steps at most"
        return torch.stack([net.sn(net.fc(x[t])) for t in range(len(x))])

    with pytest.raises(ValueError, match="Net cannot be compared .* does not run for 40 steps of 4 samples: thirty"):
        pk.from_spikingjelly(linear_net(forward))


def test_the_comparison_shows_its_progress(monkeypatch):
    """Of all samples and steps of all layers, once it takes two seconds; and it calls the original a few times."""
    import tqdm

    bars, called = [], []

    class Bar:
        def __init__(self, **options):
            self.options, self.done = options, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def update(self, number):
            self.done += number

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    linear = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda module, x: called.append(len(x)) or linear(module, x))
    pk.from_spikingjelly(linear_net(lambda net, x: net.sn(net.fc(x))))
    (bar,) = bars
    steps = port_proof.SHORT * port_proof.BATCH + port_proof.LONG
    assert bar.options["delay"] == 2 and bar.done == bar.options["total"] == steps
    assert steps <= sum(called) <= 2.5 * steps
