"""NIR graphs of every kind: hostile ones, old versions of nir, random ones there and back, and whose memory it is."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import dyadic
from equality import equal
from oracle import step_loop
from torch import nn

import proxykernels as pk

nir = pytest.importorskip("nir")

T = 12


def eye(n: int = 4) -> np.ndarray:
    return np.eye(n, dtype=np.float32)


def neurons(*shape: int) -> "nir.IF":
    return nir.IF(np.ones(shape or 4, np.float32), np.ones(shape or 4, np.float32))


def graph(nodes: dict, edges: str, shape=(4,)) -> "nir.NIRGraph":
    """Nodes between an input and an output, edges as in "input>a a>output"; nothing is checked by nir."""
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array(shape)})}
    built = nir.NIRGraph(ends, [("input", "output")])
    built.nodes = {**ends, **nodes}
    built.edges = [tuple(edge.split(">")) for edge in edges.split()]
    return built


def chain(**nodes) -> "nir.NIRGraph":
    names = ["input", *nodes, "output"]
    return graph(nodes, " ".join(f"{a}>{b}" for a, b in zip(names, names[1:], strict=False)))


def changed(node, **values):
    """A node with values that its constructor might refuse."""
    for key, value in values.items():
        setattr(node, key, value)
    return node


def nested_in_itself() -> "nir.NIRGraph":
    built = chain(g=neurons())
    built.nodes["g"] = built
    return built


def linear(**values):
    return changed(nir.Affine(eye(), np.zeros(4, np.float32)), **values)


def convolution(**values):
    weight, bias = np.ones((3, 2, 3, 3), np.float32), np.zeros(3, np.float32)
    return changed(nir.Conv2d((8, 8), weight, 1, 1, 1, 1, bias), **values)


def image_net(**values):
    nodes = {"c": convolution(**values), "n": neurons(3, 8, 8)}
    return graph(nodes, "input>c c>n n>output", (2, 8, 8))


# Whose memory


def test_networks_share_nothing_with_a_graph_nor_with_each_other():
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 2, 3, v_threshold=torch.tensor([0.5, 1.0])), pk.Flatten(), pk.FusedIFLinear(32, 3)
    )
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    built = pk.to_nir(net, (1, 6, 6))
    add_one(net)
    first, second = pk.from_nir(built), pk.from_nir(built)
    add_one(second)
    for node in built.nodes.values():
        for key in ("weight", "bias", "v_threshold"):
            if hasattr(node, key):
                getattr(node, key)[...] = 7
    assert all(torch.equal(value, kept[key]) for key, value in first.state_dict().items())
    assert all(torch.equal(value, kept[key] + 1) for key, value in net.named_parameters())


def add_one(net: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            tensor.add_(1)


# Hostile graphs: each works or is refused in one sentence that names the node

UNCONNECTED = {
    "edge to nothing": (lambda: graph({"a": linear(), "n": neurons()}, "input>a a>n n>output n>b"), "needs a node 'b'"),
    "edge from nothing": (lambda: graph({"n": neurons()}, "b>n n>output"), "needs a node 'b', which is not there"),
    "edge twice": (lambda: graph({"n": neurons()}, "input>n input>n n>output"), "from 'input' to 'n' is there twice"),
    "no sender": (lambda: graph({"a": linear(), "n": neurons()}, "input>n a>n n>output"), "node 'a' has no sender"),
    "no receiver": (lambda: graph({"a": linear(), "n": neurons()}, "input>n input>a n>output"), "'a' leads to no out"),
    "two outputs": (lambda: chain(n=neurons(), out=nir.Output({"output": np.array([4])})), "has 'output', 'out'"),
    "two inputs": (lambda: chain(more=nir.Input({"input": np.array([4])})), "one Input node, it has 'input', 'more'"),
    "no neuron": (lambda: chain(a=linear()), "the graph must have neurons, it has none"),
    "nothing at all": (lambda: chain(), "it follows 'input'"),
    "two ends": (lambda: graph({"m": neurons(), "n": neurons()}, "input>m input>n n>output m>output"), "has 2"),
    "nested and empty": (lambda: chain(g=chain(), n=neurons()), "node 'g' is a graph whose input is its output"),
    "nested, two inputs": (
        lambda: chain(g=graph({"m": neurons(), "x": nir.Input({"input": np.array([4])})}, "input>m x>m m>output")),
        "node 'g' must have one Input node, it has 'g.input', 'g.x'",
    ),
    "nested in itself": (lambda: nested_in_itself(), "node 'g' is a graph that holds itself"),
}

VALUES = {
    "complex": (lambda: chain(a=linear(weight=eye() * 1j), n=neurons()), "'a': weight must be real numbers, got comp"),
    "text": (lambda: chain(a=linear(weight=np.array([["x"]])), n=neurons()), "'a': weight must be real numbers"),
    "objects": (lambda: chain(a=linear(weight=eye().astype(object)), n=neurons()), "'a': weight must be real numbers"),
    "none": (lambda: chain(a=linear(weight=None), n=neurons()), "'a': weight must be real numbers, got None"),
    "nan": (lambda: chain(a=linear(weight=eye() * np.nan), n=neurons()), "'a': weight must be finite"),
    "too large": (lambda: chain(a=linear(weight=np.eye(4) * 1e300), n=neurons()), "'a': weight must be finite"),
    "rank 1": (lambda: chain(a=linear(weight=np.ones(4)), n=neurons()), r"'a': weight must have the shape \[out, in\]"),
    "rank 3": (lambda: chain(a=linear(weight=np.ones((4, 4, 1))), n=neurons()), r"'a': weight must have the shape"),
    "nothing": (lambda: chain(a=linear(weight=np.ones((0, 4))), n=neurons()), r"'a': weight must have the shape"),
    "inputs": (lambda: chain(a=linear(weight=np.ones((4, 5))), n=neurons()), r"node 'n' \(behind 'a'\)"),
    "bias": (lambda: chain(a=linear(bias=np.zeros(3)), n=neurons()), r"'a': bias must have the shape \[4\]"),
    "bias nan": (lambda: chain(a=linear(bias=np.full(4, np.nan)), n=neurons()), "'a': bias must be finite"),
    "threshold nan": (lambda: chain(n=changed(neurons(), v_threshold=np.full(4, np.nan))), "'n': v_threshold must be "),
    "threshold 0": (lambda: chain(n=changed(neurons(), v_threshold=np.zeros(4))), "'n': v_threshold must be positive"),
    "no threshold": (lambda: chain(n=changed(neurons(), v_threshold=np.ones(0))), "'n': v_threshold must have a value"),
    "3 thresholds": (lambda: chain(n=changed(neurons(), v_threshold=np.ones(3))), r"neurons, \(4,\), got \(3,\)"),
    "complex threshold": (lambda: chain(n=changed(neurons(), v_threshold=np.ones(4) * 1j)), "'n': v_threshold must be"),
    "r": (lambda: chain(n=changed(neurons(), r="x")), "'n': r must be real numbers"),
    "reset nan": (lambda: chain(n=changed(neurons(), v_reset=np.full(4, np.nan))), "'n': v_reset must be finite"),
    "reset above": (lambda: chain(n=changed(neurons(), v_reset=np.full(4, 2))), "must be finite and, in .* below"),
    "other reset": (lambda: chain(n=changed(neurons(), metadata={"reset": "add"})), "must be 'subtract', 'v_reset' "),
    "kernel": (lambda: image_net(weight=np.ones((3, 2, 3))), r"'c': weight must have the shape \[C_out"),
    "channels": (lambda: image_net(weight=np.ones((3, 5, 3, 3))), r"node 'n' \(behind 'c'\): .* got 2 channels"),
    "padding": (lambda: image_net(padding="reflect"), "'c': padding must be a number, two of them, 'same' or 'valid'"),
    "paddings": (lambda: image_net(padding=(1, 1, 1)), "'c': padding must be an integer or two of them"),
    "stride": (lambda: image_net(stride=0), "'c': stride must be at least 1, got 0"),
    "broken stride": (lambda: image_net(stride=1.5), "'c': stride must be an integer or two of them, got 1.5"),
    "groups": (lambda: image_net(groups=2), "'c': groups must divide the 3 outputs, got 2"),
    "flatten": (lambda: chain(f=nir.Flatten({"input": np.array([4])}, 1, -1), n=neurons()), "'f': Flatten must join"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*UNCONNECTED.values(), *VALUES.values()], ids=[*UNCONNECTED, *VALUES])
def test_what_is_wrong_is_said_with_the_nodes_name(case):
    build, message = case
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        pk.from_nir(build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["input", "output"])
def test_a_graph_has_an_input_and_an_output(end):
    built = chain(n=neurons())
    del built.nodes[end]
    built.edges = [edge for edge in built.edges if end not in edge]
    with pytest.raises(ValueError, match=f"must have one {end.title()} node, it has none"):
        pk.from_nir(built)


@pytest.mark.parametrize("other", [3, None, {}], ids=repr)
def test_other_things_than_graphs(other):
    with pytest.raises(TypeError, match="graph must be a nir.NIRGraph or the path of one, got"):
        pk.from_nir(other)
    for dt in ("x", True):
        with pytest.raises(ValueError, match=f"dt must be a positive number in float32, got {dt!r}"):
            pk.from_nir(chain(n=neurons()), dt=dt)


def test_damaged_files(tmp_path):
    path = tmp_path / "net.nir"
    with pytest.raises(FileNotFoundError):
        pk.from_nir(path)
    nir.write(path, pk.to_nir(nn.Sequential(pk.FusedIFLinear(300, 200)), (300,)))
    whole = path.read_bytes()
    half = len(whole) // 2
    for content in (b"", whole[:half], whole[:half] + b"\xff" * 50 + whole[half + 50 :]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} cannot be read as a graph of NIR: OSError"):
            pk.from_nir(path)


@pytest.mark.parametrize("weight", [np.eye(4, dtype=int), np.eye(4, dtype=bool), np.eye(4, dtype=">f4"), torch.eye(4)])
def test_numbers_of_every_type(weight):
    net = pk.from_nir(chain(a=linear(weight=weight), n=neurons()))
    assert net.a.weight.dtype == torch.float32 and equal(net.a.weight, torch.eye(4))


@pytest.mark.parametrize("padding", ["same", b"same", 1, np.array([1, 1])], ids=repr)
def test_padding_in_words_and_numbers(padding, tmp_path):
    built = image_net(padding=padding)
    count = pk.simulate(pk.from_nir(built), torch.ones(1, 2, 8, 8), 3).count()
    assert count.shape == (1, 3, 8, 8) and bool((count == 3).all())


def test_padding_that_is_more_on_the_right(generator):
    """NIR's numbers pad both sides alike: what a kernel of even size lacks on the left is a tap of weight 0."""
    net = nn.Sequential(pk.FusedIFConv2d(2, 3, (2, 4), padding="same", dilation=(1, 3), v_reset=None))
    net[0].weight.data = dyadic(*net[0].weight.shape, generator=generator)
    x = dyadic(2, 2, 6, 7, generator=generator)
    back = pk.from_nir(pk.to_nir(net, (2, 6, 7)))
    count = pk.simulate(net, x, T).count()
    assert 0 < count.float().mean() < T and equal(pk.simulate(back, x, T).count(), count)


def test_names_that_a_module_cannot_have():
    names = ["forward", "training", "to", "add_module", "_modules", "_sources", "layers", "a.b", "a_b", ".", "T"]
    nodes, edges, before = {}, [], "input"
    for k, name in enumerate(names):
        nodes |= {name: linear(weight=eye() * (k + 1)), f"{name}n": neurons()}
        edges += [f"{before}>{name}", f"{name}>{name}n"]
        before = f"{name}n"
    net = pk.from_nir(graph(nodes, " ".join([*edges, f"{before}>output"])))
    weights = [layer.weight[0, 0].item() for _, layer, _ in net.layers()]
    assert weights == [k + 1 for k in range(len(names))]  # each has its own
    assert [name for name, *_ in net.layers()][7:9] == ["a_b", "a_b_1"] and hasattr(net, "forward_1")
    assert pk.simulate(net, torch.ones(1, 4), 3).count().sum() == 12
    with pytest.raises(KeyError, match="name a_b is taken"):
        net.append("a_b", pk.Flatten(), ("a_b",))


def test_synapses_that_send_to_several_neurons():
    nodes = {"a": linear(weight=eye() / 2), "m": neurons(), "n": changed(neurons(), v_threshold=np.full(4, 2.0))}
    net = pk.from_nir(graph(nodes, "input>a a>m a>n m>n n>output"))
    assert [(name, sources) for name, _, sources in net.layers()] == [("a", ("",)), ("a_1", ("", "a"))]
    assert pk.simulate(net, torch.ones(1, 4), 8).count().tolist() == [[4] * 4]  # alone: 2


def test_layers_whose_names_nodes_would_share():
    net = pk.Network()
    before = ""
    for name in ("output", "a", "a_if", "input", "a_if_1"):
        net.append(name, pk.FusedIFLinear(4, 4, bias=False), (before,))
        nn.init.eye_(net.get_submodule(name).weight)
        before = name
    built = pk.to_nir(net, (4,))
    assert len(built.nodes) == 12 and {"a", "a_if", "a_if_1"} <= set(built.nodes)
    assert pk.simulate(pk.from_nir(built), torch.ones(1, 4), 5).count().tolist() == [[5] * 4]


def test_nested_layers_and_layers_called_twice():
    twice = pk.FusedIFLinear(4, 4, bias=False)
    twice.weight.data = torch.eye(4) / 2
    net = nn.Sequential(nn.Sequential(twice), twice)
    x = torch.full((1, 4), 1.5)
    back = pk.from_nir(pk.to_nir(net, (4,)))
    assert len(back.layers()) == 2
    count = pk.simulate(back, x, 16).count()
    assert equal(count, pk.simulate(net, x, 16).count()) and bool((count == 4).all())


@pytest.mark.parametrize("shape", [8, "x", None, (2, 8.0, 8), (), (2, -8, 8), (0, 8, 8), (1, 2, 8, 8)])
def test_shapes_of_other_things_than_samples(shape):
    with pytest.raises((TypeError, ValueError), match=r"input_shape must be \(C, H, W\), \(C, L\) or \(features,\)"):
        pk.to_nir(nn.Sequential(pk.FusedIFConv2d(2, 3, 3)), shape)


def test_statistics_stay_as_they_are():
    net = nn.Sequential(pk.FusedIFConv2d(2, 3, 3, batch_norm=True)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pk.to_nir(net, (2, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_networks_that_have_no_graph():
    nan = pk.FusedIFLinear(2, 2)
    nan.weight.data.fill_(torch.nan)
    dead = pk.Network()
    dead.append("a", pk.FusedIFLinear(2, 2), ("",))
    dead.append("b", pk.FusedIFLinear(2, 2), ("",))
    for net, message in (
        (nn.Sequential(), "net must have at least one layer"),
        (pk.Network(), "net must have at least one layer"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "layer 0: NIR has no node for Linear"),
        (nn.Sequential(nn.BatchNorm1d(2), pk.FusedIFLinear(2, 2)), "layer 0: NIR has no node for BatchNorm1d"),
        (nn.Sequential(pk.FusedIFLinear(2, 2, device="meta")), "layer 0 is on the meta device"),
        (nn.Sequential(nan), "layer 0: weight must be finite"),
        (dead, "layer a leads to no output"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            pk.to_nir(net, (2,))


# nir before 1.0.6, which sinabs asks for


@pytest.fixture
def old_nir(monkeypatch):
    """nir 1.0.4's IF; nothing, where that is what is installed."""
    if "v_reset" not in nir.IF.__dataclass_fields__:
        return

    @dataclass(eq=False)
    class IF(nir.ir.node.NIRNode):
        r: np.ndarray
        v_threshold: np.ndarray

        def __post_init__(self):
            self.metadata = {}
            self.input_type, self.output_type = {"input": np.array(self.r.shape)}, {"output": np.array(self.r.shape)}

    monkeypatch.setattr(nir, "IF", IF)


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_old_versions_of_nir(old_nir, generator, v_reset):
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3, v_reset=v_reset), pk.Flatten(), pk.FusedIFLinear(144, 5))
    net[2].v_reset = v_reset
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, unit=1 / 32) + 1 / 16
    built = pk.to_nir(net, (2, 8, 8))
    assert not hasattr(built.nodes["0_if"], "v_reset")
    back = pk.from_nir(built)
    x = dyadic(3, 2, 8, 8, generator=generator).abs()
    expected = pk.simulate(net, x, T).spikes.dense()
    assert equal(pk.simulate(back, x, T).spikes.dense(), expected) and 0.05 < expected.mean() < 0.95
    assert [layer.v_reset for _, layer, _ in back.layers() if hasattr(layer, "v_reset")] == [v_reset] * 2


def test_what_old_versions_of_nir_cannot_say(old_nir):
    with pytest.raises(
        ValueError, match="layer 0: the IF of this version of nir has no v_reset, got -0.5; pip install"
    ):
        pk.to_nir(nn.Sequential(pk.FusedIFLinear(2, 2, v_reset=-0.5)), (2,))


def random_network(seed: int) -> tuple[pk.Network, tuple[int, int, int]]:
    """Convolutions of every kind, shortcuts, pooling, neurons alone and fully connected layers, on a dyadic grid."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    net, shapes = pk.Network(), {"": (chance.choice([1, 2, 6]), chance.randint(5, 9), chance.randint(5, 9))}
    start = shapes[""]
    names = iter(random.Random(seed).sample(["a", "forward.", "b_if", "output", "x.y", "x_y", "c", "training"], 8))
    v_reset = chance.choice([0.0, -0.5, None] if "v_reset" in nir.IF.__dataclass_fields__ else [0.0, None])
    before = ""

    def by_channel(value: float, channels: int):
        """For some layers a value a channel."""
        return value + torch.arange(channels) / (8 * channels) if chance.random() < 0.3 else value

    def neuron(channels: int) -> pk.neurons.IFNeuron:
        theta = by_channel(chance.choice([1.0, 1.5, 2.0]), channels)
        make = chance.choice([pk.neurons.IFNeuron, pk.neurons.LIFNeuron, pk.neurons.CubaLIFNeuron])
        names = [name for name in ("decay", "current_decay") if name in make.names()]
        decays = {name: by_channel(chance.choice([0.5, 0.8, 0.875]), channels) for name in names}
        return make(theta, v_reset, **decays)

    def convolution(make, inputs: int, outputs: int, **options):
        kernel, groups = (chance.choice([1, 2, 3]), chance.choice([1, 3])), chance.choice([1, inputs])
        padding = chance.choice([0, 1, (1, 0), "valid"]) if kernel != (3, 3) else "same"
        dilation = (1, chance.choice([1, 2]))
        return make(
            inputs, outputs * groups, kernel, (1, chance.choice([1, 2])) if padding != "same" else 1, padding, dilation,
            groups, chance.random() < 0.7, **options,
        )  # fmt: skip

    for name in names:
        C, H, W = shapes[before]
        kind = chance.choice(["conv", "conv", "conv", "sum", "sum", "if", "pool", "end"])
        if kind == "end" or min(H, W) < 5:
            break
        if hasattr(net, name.replace(".", "_")):
            continue
        name = name.replace(".", "_")
        sources = (before,)
        if kind == "conv":
            layer = convolution(pk.FusedIFConv2d, C, 2, batch_norm=chance.random() < 0.3)
            layer._set_neurons(neuron(layer.out_channels))
        elif kind == "sum" and before:
            other = nn.Conv2d(C, C, 1, bias=False) if chance.random() < 0.5 else nn.Identity()
            layer, sources = pk.FusedSum(nn.Conv2d(C, C, 3, padding=1), other, neuron=neuron(C)), (before, before)
        elif kind == "pool" and before:
            layer = pk.AvgPool2d(2, chance.choice([1, 2]), chance.choice([0, 1]))
        else:
            layer = pk.Population(neuron(C))
        net.append(name, layer, sources)
        parts = tuple(torch.zeros(1, 1, *shapes[source]) for source in sources)
        shapes[name], before = tuple(layer(parts if len(parts) > 1 else parts[0]).shape[2:]), name
    net.append("flat", pk.Flatten(), (before,))
    features = int(np.prod(shapes[before]))
    net.append("fc", pk.FusedLinear(features, 5, chance.random() < 0.5, neuron=neuron(5)), ("flat",))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                span = 24 if isinstance(module, nn.Conv2d) else 8
                module.weight.copy_(dyadic(*module.weight.shape, generator=generator, span=span, unit=1 / 64) + 1 / 16)
                if module.bias is not None:
                    module.bias.copy_(dyadic(*module.bias.shape, generator=generator, span=4) + 1 / 8)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = 0.5
                module.running_var.fill_(3.5)  # 4 with eps: its folding is exact then
                module.bias.fill_(0.25)
    return net.eval(), start


@pytest.mark.slow
def test_random_graphs_there_and_back(tmp_path):
    """Bit-equal, also with the nodes and edges in another order, and through a file; half of them at the oracle too."""
    fired = 0
    for seed in range(24):
        net, shape = random_network(seed)
        generator = torch.Generator().manual_seed(seed)
        x = dyadic(2, *shape, generator=generator).abs()
        expected = pk.simulate(net, x, T)
        built = pk.to_nir(net, shape)
        shuffled = random.Random(seed)
        built.nodes = dict(shuffled.sample([*built.nodes.items()], len(built.nodes)))
        built.edges = shuffled.sample(built.edges, len(built.edges))
        if seed % 4 == 0:
            nir.write(tmp_path / "net.nir", built)
            built = tmp_path / "net.nir"
        back = pk.from_nir(built)
        again = pk.from_nir(pk.to_nir(back, shape))
        for other in (back, again):
            assert equal(pk.simulate(other, x, T).spikes.dense(), expected.spikes.dense()), f"seed {seed}"
        if seed % 2:
            assert equal(step_loop(back, x, T)[back.layers()[-1][0]], expected.spikes.dense()), f"seed {seed}"
        fired += 0.01 < expected.spikes.rate() < 0.99
    assert fired >= 18  # nearly all fire, and not at every step
