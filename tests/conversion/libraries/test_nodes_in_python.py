"""Neurons of SpikingJelly that no kernel has: the same spikes, by steps in Python."""

import pytest
import torch
from torch import nn

import proxykernels as pk

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
pytestmark = [
    pytest.mark.usefixtures("short_proof"),
    pytest.mark.filterwarnings("ignore:.*written in Python|.*learnable"),
]

NODES = {
    "KLIF": lambda: neuron.KLIFNode(),
    "KLIF, scaled": lambda: neuron.KLIFNode(scale_reset=True, decay_input=False, v_reset=0.25),
    "KLIF, soft, scaled": lambda: neuron.KLIFNode(scale_reset=True, v_reset=None),
    "QIF": lambda: neuron.QIFNode(),
    "QIF, soft": lambda: neuron.QIFNode(v_reset=None),
    "EIF": lambda: neuron.EIFNode(tau=3.0, delta_T=0.5),
    "EIF, soft": lambda: neuron.EIFNode(v_reset=None),
    "Izhikevich": lambda: neuron.IzhikevichNode(a=0.2, b=0.3),
}


def network(node) -> nn.Module:
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    if hasattr(node, "k"):
        node.k.data.fill_(1.3)
    net = nn.Sequential(layer.Linear(8, 16), node, layer.Linear(16, 4), neuron.IFNode())
    torch.manual_seed(0)
    nn.init.uniform_(net[0].weight, -0.6, 0.8)
    nn.init.uniform_(net[2].weight, -0.3, 0.3)
    for module in net:
        module.step_mode = "m"
    return net.eval()


@pytest.mark.parametrize("name", NODES)
def test_the_same_spikes(name):
    net = network(NODES[name]())
    x = torch.rand(50, 3, 8)
    ours = pk.from_spikingjelly(net, x[0])
    fired = []
    net[1].register_forward_hook(lambda module, inputs, given: fired.append(given))
    with torch.no_grad():
        expected = net(x)
    result = pk.simulate(ours, x, 50)
    assert 0.02 < fired[0].mean() < 0.98 and 0.02 < expected.mean() < 0.98
    assert next(iter(result.rates.values())) == pytest.approx(fired[0].mean().item(), abs=0.005)
    assert (result.spikes.dense() != expected).float().mean() < 0.01


def test_izhikevich_neurons_that_start_elsewhere_are_refused():
    with pytest.raises(ValueError, match="w_rest=0.5"):
        pk.from_spikingjelly(network(neuron.IzhikevichNode(w_rest=0.5)), torch.rand(3, 8))
