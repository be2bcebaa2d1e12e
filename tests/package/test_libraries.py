"""Networks of other libraries, and NIR: the same spikes as in the library they come from or go to."""

import copy

import pytest
import torch
from cases import dyadic
from oracle import step_loop
from torch import nn

import proxykernels as pk

T = 24


def make_dyadic(net: nn.Module, generator, unit: float = 1 / 32) -> nn.Module:
    """Random weights and statistics on a grid, with normalisations whose folding is exact."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 0.5
            module.running_mean.copy_(dyadic(*module.running_mean.shape, generator=generator, span=2))
            module.running_var.fill_(3.5)  # 4 with eps
            module.weight.data = torch.randint(1, 4, module.weight.shape, generator=generator).float()
            module.bias.data = dyadic(*module.bias.shape, generator=generator, span=2)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = dyadic(*module.weight.shape, generator=generator, span=12, unit=unit)
            if module.bias is not None:
                module.bias.data = dyadic(*module.bias.shape, generator=generator, span=4, unit=unit)
    return net.eval()


def images(generator, N: int = 3) -> torch.Tensor:
    return dyadic(N, 2, 8, 8, generator=generator).abs()


# SpikingJelly


def spikingjelly_sequential(v_reset):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based.neuron import IFNode

    return nn.Sequential(
        layer.Conv2d(2, 8, 3, padding=1, bias=False), layer.BatchNorm2d(8), IFNode(v_reset=v_reset),
        layer.MaxPool2d(2), layer.Conv2d(8, 9, 3), IFNode(v_threshold=1.5, v_reset=v_reset), layer.AvgPool2d(2),
        layer.Flatten(), layer.Dropout(0.3), layer.Linear(9, 10), IFNode(v_reset=v_reset),
    )  # fmt: skip


def spikingjelly_residual(v_reset):
    """A module of its own kind with a shortcut, and a container for torch's modules."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based.neuron import IFNode

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = layer.SeqToANNContainer(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
            self.sn1, self.sn2, self.sn3 = (IFNode(v_reset=v_reset) for _ in range(3))
            self.conv = layer.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Sequential(layer.Flatten(), layer.Linear(512, 10))

        def forward(self, x):
            x = self.sn1(self.stem(x))
            return self.sn3(self.head(self.sn2(x + self.conv(x))))

    return Net()


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None], ids=["hard", "below", "soft"])
@pytest.mark.parametrize("build", [spikingjelly_sequential, spikingjelly_residual])
def test_from_spikingjelly(generator, build, v_reset):
    net = make_dyadic(build(v_reset), generator)
    before = copy.deepcopy(net.state_dict())
    from spikingjelly.activation_based import functional

    x = images(generator)
    functional.set_step_mode(net, "m")
    with torch.no_grad():
        expected = net(x.expand(T, *x.shape).contiguous())
    ours = pk.from_spikingjelly(net)
    actual = pk.simulate(ours, x, T)
    assert torch.equal(actual.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
    assert torch.equal(step_loop(ours, x, T)[ours.layers()[-1][0]], expected)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_what_spikingjelly_nets_may_not_hold():
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based.neuron import IFNode, LIFNode

    for net, message in (
        (nn.Sequential(layer.Linear(3, 4), LIFNode()), "module '1' is a LIFNode"),
        (nn.Sequential(layer.Conv2d(3, 4, 3), layer.MaxPool2d(2), IFNode()), "'1' follows module '0' with no neuron"),
        (nn.Sequential(IFNode(), layer.Linear(3, 4)), "must end in neurons"),
        (3, "net must be a torch.nn.Module"),
    ):
        with pytest.raises(TypeError, match=message):
            pk.from_spikingjelly(net)


# snnTorch


def snntorch_net(reset, **options):
    snn = pytest.importorskip("snntorch")
    options = {"beta": 1.0, "init_hidden": True, "reset_mechanism": reset, **options}
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), snn.Leaky(**options), nn.MaxPool2d(2),
        nn.Conv2d(8, 9, 3), snn.Leaky(threshold=1.5, **options), nn.Flatten(), nn.Linear(36, 10),
        snn.Leaky(**options),
    )  # fmt: skip


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_from_snntorch(generator, reset):
    """On the grid potentials often equal the threshold, where snnTorch does not fire: equal for "zero" even so."""
    net = make_dyadic(snntorch_net(reset), generator)
    x = images(generator)
    if reset == "subtract":  # off the grid by a fraction of a unit: no potential equals a threshold
        net[2].threshold.fill_(1 + 2**-16)
        net[5].threshold.fill_(1.5 + 2**-16)
        net[8].threshold.fill_(1 + 2**-16)
    from snntorch import utils

    utils.reset(net)
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(T)])
    actual = pk.simulate(pk.from_snntorch(net), x, T)
    assert torch.equal(actual.spikes.dense(), expected) and 0.02 < expected.mean() < 0.98


def test_what_snntorch_nets_may_not_hold():
    for options, message in (
        ({"beta": 0.9}, "only Leaky.beta=1"),
        ({"reset": "none"}, "needs reset_mechanism 'zero'"),
        ({"reset": "subtract", "reset_delay": False}, "reset_delay=False"),
        ({"graded_spikes_factor": 2.0}, "graded_spikes_factor is not supported"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.from_snntorch(snntorch_net(**{"reset": "zero", **options}))


# NIR


def nir_net(v_reset=0.0, v_threshold=1.0):
    neuron = {"v_reset": v_reset, "v_threshold": v_threshold}
    return nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1, batch_norm=True, **neuron), pk.AvgPool2d(2),
        nn.Sequential(pk.FusedIFConv2d(8, 6, 3, stride=2, padding=1, bias=False, **neuron)), pk.Flatten(),
        pk.FusedIFLinear(24, 10, **neuron), pk.FusedIFLinear(10, 10, bias=False, **neuron),
    )  # fmt: skip


def nir_residual(v_reset=0.0, v_threshold=1.0):
    neuron = {"v_reset": v_reset, "v_threshold": v_threshold}
    net = pk.Network()
    net.append("stem", pk.FusedIFConv2d(2, 6, 3, padding=1, **neuron), ("",))
    net.append("block", pk.FusedIFSum(nn.Conv2d(6, 6, 3, padding=1), nn.Identity(), **neuron), ("stem", "stem"))
    net.append("down", pk.FusedIFSum(nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 8, 1, 2), **neuron), ("block", "stem"))
    net.append("pool", pk.AdaptiveAvgPool2d(2), ("down",))
    net.append("again", pk.IF(**neuron), ("pool",))
    net.append("flatten", pk.Flatten(), ("again",))
    net.append("fc", pk.FusedIFLinear(32, 10, **neuron), ("flatten",))
    return net


NIR_NETS = {"sequential": nir_net, "residual": nir_residual}


@pytest.fixture
def nir():
    return pytest.importorskip("nir", minversion="1.0.6")


@pytest.mark.parametrize("v_reset", [0.0, -0.5, None], ids=["hard", "below", "soft"])
@pytest.mark.parametrize("name", NIR_NETS)
def test_round_trip(nir, generator, tmp_path, name, v_reset):
    net = make_dyadic(NIR_NETS[name](v_reset, 1.25), generator, 1 / 16)
    x = images(generator)
    expected = pk.simulate(net, x, T)
    graph = pk.to_nir(net, (2, 8, 8))
    nir.write(tmp_path / "net.nir", graph)
    for source in (graph, tmp_path / "net.nir"):
        back = pk.from_nir(source)
        result = pk.simulate(back, x, T)
        assert torch.equal(result.spikes.dense(), expected.spikes.dense())
        assert {layer.v_reset for layer in back.children() if hasattr(layer, "v_reset")} == {v_reset}
    assert 0.02 < expected.spikes.rate() < 0.98


def test_thresholds_by_channel(nir, generator):
    net = make_dyadic(nn.Sequential(pk.FusedIFConv2d(2, 4, 3, v_threshold=torch.tensor([0.5, 1, 2, 4]))), generator)
    back = pk.from_nir(pk.to_nir(net, (2, 8, 8)))
    assert torch.equal(back.get_submodule("0").v_threshold, torch.tensor([0.5, 1, 2, 4]))
    x = images(generator)
    assert torch.equal(pk.simulate(back, x, T).spikes.dense(), pk.simulate(net, x, T).spikes.dense())


def test_spikingjelly_runs_the_graph(nir, generator):
    """Bit-equal: it fires at v >= v_threshold too."""
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    net = make_dyadic(nir_net(), generator, 1 / 16)
    x = images(generator)
    theirs, state, steps = exchange.import_from_nir(pk.to_nir(net, (2, 8, 8)), dt=1.0), None, []
    with torch.no_grad():
        for _ in range(T):
            y, state = theirs(x, state)
            steps.append(y)
    assert torch.equal(torch.stack(steps), pk.simulate(net, x, T).spikes.dense())


@pytest.mark.parametrize("v_threshold", [1.0, 1.0 + 2**-16], ids=["on-the-grid", "off-the-grid"])
def test_norse_runs_the_graph(nir, generator, v_threshold):
    """It fires at v > v_threshold: bit-equal where no potential equals the threshold, and elsewhere not.

    No pooling, of which it knows none; one image, because it flattens the batch as well.
    """
    norse = pytest.importorskip("norse.torch")
    first, _, second, flatten, *linear = nir_net(v_threshold=v_threshold)
    second[0].stride = (4, 4)
    net = make_dyadic(nn.Sequential(first, second, flatten, *linear), generator, 1 / 16)
    x = images(generator, 1)
    theirs, state, steps = norse.from_nir(pk.to_nir(net, (2, 8, 8))), None, []
    with torch.no_grad():
        for _ in range(T):
            y, state = theirs(x, state)
            steps.append(y.view(1, 10))
    assert torch.equal(torch.stack(steps), pk.simulate(net, x, T).spikes.dense()) == (v_threshold != 1.0)


def test_graph_from_spikingjelly(nir, generator):
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    from spikingjelly.activation_based import functional, layer, neuron

    net = make_dyadic(
        nn.Sequential(
            layer.Conv2d(2, 6, 3, padding=1), neuron.IFNode(), layer.AvgPool2d(2), layer.Flatten(),
            layer.Linear(96, 10, bias=False), neuron.IFNode(v_threshold=0.5),
        ),
        generator,
    )  # fmt: skip
    x = images(generator)
    graph = exchange.export_to_nir(net, x)
    functional.reset_net(net)
    with torch.no_grad():
        expected = torch.stack([net(x) for _ in range(T)])
    assert torch.equal(pk.simulate(pk.from_nir(graph, dt=1e-4), x, T).spikes.dense(), expected)
    with pytest.raises(ValueError, match=r"r \* dt must be 1"):
        pk.from_nir(graph)


def test_what_nir_cannot_say(nir):
    for layers, message in (
        ([pk.FusedIFConv2d(2, 4, 3), pk.MaxPool2d(2)], "layer 1: NIR has no node for MaxPool2d"),
        ([pk.FusedIFConv2d(2, 4, 3, v_init=0.5)], "layer 0: NIR cannot say a potential to start from, v_init=0.5"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.AvgPool2d(2, ceil_mode=True)], "no ceil_mode"),
        ([pk.FusedIFConv2d(2, 4, 3), pk.AdaptiveAvgPool2d(4)], r"no average pooling of \(6, 6\) to \(4, 4\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.to_nir(nn.Sequential(*layers), (2, 8, 8))
    with pytest.raises(TypeError, match="net must be a proxykernels.Network or an nn.Sequential, got FusedIFLinear"):
        pk.to_nir(pk.FusedIFLinear(3, 4), (3,))


def test_graphs_that_are_not_supported(nir):
    import numpy as np

    one = np.ones(4, np.float32)
    neuron, matrix = nir.IF(one, one), nir.Linear(np.eye(4, dtype=np.float32))
    ends = {"input": nir.Input({"input": np.array([4])}), "output": nir.Output({"output": np.array([4])})}
    for nodes, edges, message in (
        ({"a": matrix, "n": neuron}, "input-a a-n n-a n-output", "the graph has a cycle"),
        ({"a": nir.LIF(one, one, one, one)}, "input-a a-output", "'a': a nir.LIF in this place is not supported"),
        ({"a": matrix, "b": matrix, "n": neuron}, "input-a a-b b-n n-output", "'a' must send to an IF"),
        ({"a": matrix, "n": nir.IF(one, one * np.arange(1, 5), one * np.arange(4) - 9)}, "input-a a-n n-output",
         "v_reset must be the same"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=message):
            pk.from_nir(nir.NIRGraph({**ends, **nodes}, [tuple(edge.split("-")) for edge in edges.split()]))
