"""SpikingJelly's neurons that hand on values, and others with spikes that count more or come back to neighbours."""

import copy
import pickle

import pytest
import torch
from cases import dyadic
from equality import equal, in_parts
from exchange import make_dyadic
from torch import nn

import proxykernels as pk
from proxykernels.layers import AllSteps, ValuedNeurons

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
layer = pytest.importorskip("spikingjelly.activation_based.layer")
functional = pytest.importorskip("spikingjelly.activation_based.functional")
pytestmark = [
    pytest.mark.usefixtures("short_proof"),
    pytest.mark.filterwarnings("ignore:.*written in Python|.*learnable|.*as many steps as samples"),
]

N, K = 5, 4


def table(scale: float = 1.0):
    values = [scale * value for value in (1.0, 0.5, 0.25, 0.125)]
    return neuron.FewSpikeTable(values, values, values[:3] + [0.5 * scale])


VALUED = {
    "ternary": lambda: neuron.TernaryIFNode(v_threshold=0.5),
    "ternary, soft": lambda: neuron.TernaryIFNode(v_threshold=0.5, v_reset=None),
    "ternary, leaky": lambda: neuron.TernaryLIFNode(v_threshold=0.5, v_reset=0.25),
    "ternary, leaky, soft": lambda: neuron.TernaryLIFNode(4.0, False, v_threshold=0.5, v_reset=None),
    "analog": lambda: neuron.LIAFNode(torch.relu, False, v_threshold=0.5),
    "analog, of the distance": lambda: neuron.LIAFNode(nn.LeakyReLU(0.25), True, v_threshold=0.5, v_reset=None),
    "quantised": lambda: neuron.STBIFNode(q_threshold=0.5, level=4),
    "quantised, of both signs": lambda: neuron.STBIFNode(q_threshold=0.25, level=8, sym=True),
    "few spikes": lambda: neuron.FewSpikeNode(table()),
    "few spikes, of regions": lambda: neuron.HGNode([table(), table(2.0), table(0.5)], [0.25, 1.0]),
    "few spikes, of outliers": lambda: neuron.OutlierAwareThresholdNode(table(0.5), table(2.0), 0.5, clamp_value=2.0),
}


def network(node, generator, unit: float = 1 / 16) -> nn.Module:
    net = nn.Sequential(layer.Linear(8, 16), node, layer.Linear(16, 4), neuron.IFNode(v_threshold=0.5))
    return make_dyadic(net, generator, unit)


@torch.no_grad()
def given(net, x, mode):
    """What the network gives, and what its first neurons do."""
    hidden = []
    hook = net[1].register_forward_hook(lambda module, taken, value: hidden.append(value))
    functional.reset_net(net)
    functional.set_step_mode(net, mode)
    y = net(x.clone()) if mode == "m" else torch.stack([net(step) for step in x])
    hook.remove()
    functional.reset_net(net)
    return y, hidden[0] if mode == "m" else torch.stack(hidden)


@torch.no_grad()
@pytest.mark.parametrize(
    "name, mode",  # in multi-step mode SpikingJelly's analog nodes give a LIFNode's spikes
    [(name, mode) for name in VALUED for mode in ("s", "m") if not (name.startswith("analog") and mode == "m")],
)
def test_the_same_values(generator, name, mode):
    net = network(VALUED[name](), generator)
    x = dyadic(K, N, 8, generator=generator)
    expected, hidden = given(net, x, mode)
    ours = pk.from_spikingjelly(net, x[0])
    first = nn.Sequential(*list(ours.children())[:2])
    values = first(x)
    assert equal(values, hidden) and 0.05 < (values != 0).float().mean()
    assert hidden.unique().numel() > 2 or "few" not in name
    result = pk.simulate(ours, x, K)
    assert equal(result.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    again = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    whole = any(isinstance(module, AllSteps) for module in ours.modules())
    assert whole == (mode == "m" and name.startswith("few"))
    if whole:
        assert equal(again(x), expected)
        with pytest.raises(ValueError, match=f"x has 2 steps, and each of {K} steps takes all of them"):
            pk.simulate(ours, x[:2], 2)
    else:
        assert equal(in_parts(again, x), expected)
    with pytest.raises(TypeError, match="the engine does not take"):
        pk.compile(ours, x)


@torch.no_grad()
def test_images(generator):
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3), VALUED["ternary"](), layer.AvgPool2d(2), layer.Conv2d(4, 3, 3), VALUED["quantised"](),
        layer.Flatten(), layer.Linear(3, 5), neuron.IFNode(v_threshold=0.25),
    )  # fmt: skip
    make_dyadic(net, generator, 1 / 8)
    x = dyadic(8, 3, 2, 8, 8, generator=generator)
    expected, _ = given(net, x, "m")
    ours = pk.from_spikingjelly(net, x[0])
    assert sum(isinstance(module, ValuedNeurons) for module in ours.modules()) == 2
    assert equal(pk.simulate(ours, x, 8).spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert equal(in_parts(ours, x), expected)


SPIKING = {
    "DSR": lambda: neuron.DSRIFNode(v_threshold=1.5),
    "DSR, leaky": lambda: neuron.DSRLIFNode(v_threshold=0.5, delta_t=0.5),
    "connected": lambda: neuron.ILCIFNode(4, 4, v_threshold=0.5),
    "connected, leaky": lambda: neuron.ILCLIFNode(4, 4, v_threshold=0.5, v_reset=0.25),
    "connected, filtered": lambda: neuron.ILCCUBALIFNode(4, 4),
    "without noise": lambda: neuron.NoisyCUBALIFNode(16, is_training=False, T=8),
    "connected, without noise": lambda: neuron.NoisyILCCUBALIFNode(4, 4, is_training=False, T=8),
}


@torch.no_grad()
@pytest.mark.parametrize(
    "name, biased",  # the bias is of the spikes that come back
    [(name, biased) for name in SPIKING for biased in (False, True) if name.startswith("connected") or not biased],
)
def test_the_same_spikes(generator, name, biased):
    node = SPIKING[name]()
    net = network(node, generator)
    if hasattr(node, "conn"):
        node.conn.weight.copy_(dyadic(*node.conn.weight.shape, generator=generator, span=8, unit=1 / 8))
        node.conn.bias.copy_(dyadic(16, generator=generator, span=4, unit=1 / 8) * biased)
    x = dyadic(8, N, 8, generator=generator)
    expected, hidden = given(net, x, "m")
    ours = pk.from_spikingjelly(net, x[0])
    result = pk.simulate(ours, x, 8)
    exact = name != "DSR, leaky"  # whose decay is exp(-1/4)
    assert (
        equal(result.spikes.dense(), expected) if exact else (result.spikes.dense() != expected).float().mean() < 0.01
    )
    rate = (hidden != 0).double().mean().item()
    assert 0.02 < rate < 0.98 and next(iter(result.rates.values())) == pytest.approx(rate, abs=1e-6 if exact else 0.01)
    assert 0.02 < expected.mean() < 0.98
    assert equal(in_parts(pickle.loads(pickle.dumps(ours)), x), result.spikes.dense())
    if name.startswith("connected"):
        without = copy.deepcopy(net)
        without[1].conn.weight.zero_()
        assert not equal(given(without, x, "m")[0], expected)
    if name.startswith("connected") and not biased:  # a recurrent layer, of neurons that kernels have
        assert equal(pk.compile(ours, x)(x, 8).spikes.dense(), expected)


@torch.no_grad()
def test_a_readout_without_noise(generator):
    net = nn.Sequential(
        layer.Linear(8, 16), neuron.IFNode(), layer.Linear(16, 4),
        neuron.NoisyNonSpikingIFNode(4, is_training=False, T=6, decode="max-mem"),
    )  # fmt: skip
    make_dyadic(net, generator, 1 / 16)
    functional.set_step_mode(net, "m")
    x = dyadic(6, N, 8, generator=generator)
    ours = pk.from_spikingjelly(net, x[0])
    functional.reset_net(net)
    expected = net(x)
    assert equal(pk.simulate(ours, x, 6).potentials.amax(0), expected) and expected.any()


def test_gradients_of_ternary_neurons(generator):
    from spikingjelly.activation_based import surrogate

    node = neuron.TernaryIFNode(v_threshold=0.5, surrogate_function=surrogate.ATan())
    net = nn.Sequential(layer.Linear(8, 16), node, layer.Linear(16, 4))
    net.append(neuron.IFNode(v_threshold=0.5, surrogate_function=surrogate.ATan()))
    make_dyadic(net, generator, 1 / 16)
    functional.set_step_mode(net, "m")
    x = dyadic(6, N, 8, generator=generator)
    ours = pk.from_spikingjelly(net, x[0]).train()
    ours.get_submodule("0").surrogate = pk.ATan()  # it passes values on, and its gradient is theirs
    net(x).sum().backward()
    ours(x).sum().backward()
    weight = ours.get_submodule("0").weight
    assert weight.grad.any()
    torch.testing.assert_close(weight.grad, net[0].weight.grad, rtol=1e-4, atol=1e-4)


class OwnTernary(neuron.TernaryIFNode):
    def single_step_functional_forward(self, inputs, states, **kwargs):
        (spike,), states = super().single_step_functional_forward(inputs, states, **kwargs)
        return (spike.abs(),), states


@pytest.mark.parametrize(
    "make, mode, message",
    [
        (
            lambda: neuron.NoisyCUBALIFNode(16),
            "m",
            "'1': NoisyCUBALIFNode adds random noise, .* is_training=False",
        ),
        (lambda: neuron.NoisyILCCUBALIFNode(4, 4), "m", "module '1': NoisyILCCUBALIFNode adds random noise"),
        (VALUED["analog"], "m", "LIAFNode in multi-step mode gives the spikes of a LIFNode.*set_step_mode"),
        (lambda: OwnTernary(v_threshold=0.5), "s", "module '1' is not what was made of it: .* of its values differ"),
    ],
)
def test_what_is_refused(generator, make, mode, message):
    net = network(make(), generator)
    functional.set_step_mode(net, mode)
    with pytest.raises((TypeError, ValueError), match=message):
        pk.from_spikingjelly(net, torch.rand(3, 8))


def test_standardised_weights_are_computed_once(generator, monkeypatch):
    """The comparison runs the original for many steps, and its weights do not change."""
    calls = []
    plain = layer.WSLinear.get_weight
    monkeypatch.setattr(layer.WSLinear, "get_weight", lambda module: calls.append(1) or plain(module))
    net = nn.Sequential(layer.WSLinear(8, 16), neuron.IFNode(), layer.WSLinear(16, 4), neuron.IFNode())
    x = torch.rand(3, 8, generator=generator)
    ours = pk.from_spikingjelly(net, x)
    assert 0 < len(calls) < 20
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(20)])
    assert (pk.simulate(ours, x, 20).spikes.dense() != expected).float().mean() < 0.01 < expected.mean()
