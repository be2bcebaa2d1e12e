"""What is refused is refused in a sentence that says what to do, wherever it is passed."""

import copy

import nir
import pytest
import torch
from torch import nn

import proxykernels as pk


def images(*size: int) -> torch.Tensor:
    return torch.rand(4, *(size or (3, 8, 8)), generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)
        self.places = nn.Parameter(torch.rand(1, 4, 96, 96))
        self.steps = forward

    def forward(self, x):
        return self.steps(self, x)


def of_autocast(m, x):
    with torch.autocast(x.device.type):
        return m.c(m.a(x).relu().mean((2, 3)))


def of_autocast_by_name(m, x):
    with torch.autocast("cpu"):
        return m.c(m.a(x).relu().mean((2, 3)))


def written(m, x):
    y = m.a(x).relu()
    y[:, 0] = 0
    return m.c(y.mean((2, 3)))


def embedded(m, x):
    return m.c((m.a(x).relu() + m.places).mean((2, 3)))


CONVERTED = {
    "autocast": (of_autocast, images(), "take torch.autocast out of the forward pass"),
    "autocast by name": (of_autocast_by_name, images(), "as under a torch.autocast .*; take it out of the forward pa"),
    "item assignment": (written, images(), r"writes into a tensor, as in y\[:, 0\] = 0: multiply by a mask"),
    "position embedding": (
        embedded, images(3, 96, 96), r"add\(\) has another constant for each of 36,864 values, as a position embedding",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_forward_passes_that_cannot_be_converted(name):
    forward, x, message = CONVERTED[name]
    with pytest.raises(TypeError, match=message):
        pk.convert(Model(forward).eval(), x)


def relu_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def by_hand() -> nn.Module:
    return nn.Sequential(pk.FusedIFConv2d(3, 4, 3), pk.Flatten(), pk.FusedIFLinear(144, 5)).eval()


RUNS = {"simulate": lambda net, x: pk.simulate(net, x, 8), "compile": pk.compile}


@pytest.mark.parametrize("run", RUNS)
def test_networks_that_no_run_takes(run):
    net = pk.convert(relu_network(), images())
    trained = pk.use_surrogate(by_hand(), pk.ATan())
    for wrong, message in (
        (relu_network(), "proxykernels.convert makes a spiking network of a ReLU network"),
        (pk.ProxyNet(net, 8), "net is a ProxyNet, which trains a network: pass that network, the ProxyNet's .net"),
        (pk.SurrogateNet(trained, 8), "net is a SurrogateNet, which trains a network: pass that network"),
        (
            copy.deepcopy(net).to("meta"),
            "net is on the meta device: .* has no values; load the network's weights first",
        ),
        (by_hand().to("meta"), "net is on the meta device: .* has no values; load the network's weights first"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            RUNS[run](wrong, images())


def test_calls_of_networks_without_weights_and_of_images_without_steps():
    net, x = pk.convert(relu_network(), images()), images()
    with pytest.raises(ValueError, match=r"with steps in front, got \[4, 3, 8, 8\].*simulate\(net, x, T\)"):
        net(x)
    for meta in (copy.deepcopy(net).to("meta"), by_hand().to("meta")):
        with pytest.raises(
            ValueError, match="weight is on meta and the input on cpu; it has no values: load them first"
        ):
            meta(x.expand(8, *x.shape))


def test_images_with_their_channels_last():
    message = r"\[\d, 8, 8, 3\] has its 3 channels last, and they must be before H and W: .*\.permute\(0, 3, 1, 2\)"
    net, x = pk.convert(relu_network(), images()), images().permute(0, 2, 3, 1)
    engine = pk.compile(net, images())
    for call in (
        lambda: pk.simulate(net, x, 8), lambda: pk.simulate(by_hand(), x, 8), lambda: pk.compile(net, x),
        lambda: pk.ProxyNet(by_hand(), 8)(x), lambda: engine(x, 8), lambda: engine.stream(4)(x),
        lambda: pk.convert(relu_network(), x),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    sequence = x.expand(8, *x.shape)
    with pytest.raises(ValueError, match=r"x \[8, 4, 8, 8, 3\] has its 3 channels last.*permute\(0, 1, 4, 2, 3\)"):
        pk.simulate(net, sequence, 8)
    square = nn.Sequential(pk.FusedIFConv2d(8, 4, 3), pk.Flatten(), pk.FusedIFLinear(144, 5))
    assert pk.simulate(square, images(8, 8, 8), 4).count().shape == (4, 5)


def test_parameters_of_neurons_where_a_neuron_is_taken():
    for options in ({"v_threshold": 2.0}, {"neuron": pk.neurons.IFNeuron(), "decay": 0.9}):
        with pytest.raises(TypeError, match=r"FusedRecurrentLinear got .*: give it to the neuron, as in neuron="):
            pk.FusedRecurrentLinear(4, 5, **options)


def test_graphs_of_nir_with_nodes_that_the_exporter_did_not_know():
    """As Norse's of a LIFRecurrentCell."""
    affine = nir.Affine(torch.rand(5, 4).numpy(), torch.rand(5).numpy())
    nodes = {"input": nir.Input({"input": torch.tensor([4]).numpy()}), "0": affine, "1": None}
    nodes["output"] = nir.Output({"output": torch.tensor([5]).numpy()})
    graph = nir.NIRGraph.__new__(nir.NIRGraph)
    graph.nodes, graph.edges, graph.metadata = nodes, [("input", "0"), ("0", "1"), ("1", "output")], {}
    with pytest.raises(
        TypeError, match="node '1' is None: the library .*LIFRecurrentCell; build it here, as a proxyker"
    ):
        pk.from_nir(graph)


class Excitation(nn.Module):
    """As a MobileNetV3 has it."""

    def __init__(self, channels):
        super().__init__()
        self.pool, self.a, self.b = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.b(self.a(self.pool(x)).relu()))


def test_all_obstacles_are_named_at_once():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Hardswish(), Excitation(4), nn.Conv2d(4, 4, 3), nn.Hardswish(), Excitation(4),
        nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip
    with pytest.raises(TypeError) as found:
        pk.convert(net, images())
    first, total, *lines = str(found.value).splitlines()
    assert first.startswith("Sequential: module '1' is a Hardswish, which has no counterpart in spikes")
    assert total == "Sequential has 5 such parts; change all of them, then continue training once:"
    assert [line.split(";")[0].strip() for line in lines] == [
        "2 x Hardswish (module '1', module '4')", "2 x squeeze-and-excitation block (module '2', module '5')",
        "1 x GroupNorm (module '6')",
    ]  # fmt: skip
    assert all(any(word in line for word in ("replace", "remove")) for line in lines)
