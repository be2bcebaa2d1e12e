"""Nodes of NIR in every place: sums, scales, matrix products in a row, graphs in graphs, integrators of any r."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import dyadic
from equality import equal
from torch import nn

import proxykernels as pk

nir = pytest.importorskip("nir")

T = 16


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().copy()


def chain(shape: tuple[int, ...], **nodes) -> "nir.NIRGraph":
    """Nodes in a row; nothing is checked by nir."""
    names = ["input", *nodes, "output"]
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array(shape)})}
    built = nir.NIRGraph(ends, [("input", "output")])
    built.nodes = {"input": ends["input"], **nodes, "output": ends["output"]}
    built.edges = list(zip(names, names[1:], strict=False))
    return built


def neurons(*shape: int, theta: float = 1.0, r: float = 1.0) -> "nir.IF":
    return nir.IF(np.full(shape, r), np.full(shape, theta))


def fired(currents: torch.Tensor, theta: float = 1.0, subtract: bool = False) -> torch.Tensor:
    """IF neurons, as a loop."""
    v, steps = torch.zeros_like(currents[0]), []
    for current in currents:
        h = v + current
        steps.append((h >= theta).float())
        v = h - theta * steps[-1] if subtract else torch.where(h >= theta, 0.0, h)
    return torch.stack(steps)


def assert_fires(graph, x, expected: torch.Tensor, **options) -> pk.Network:
    net = pk.from_nir(graph, **options)
    actual = pk.simulate(net, x, len(expected)).spikes.dense()
    assert 0.02 < expected.mean() < 0.98 and equal(actual, expected)
    return net


def test_the_cnn_of_the_paper(generator):
    """Its nodes, as sinabs wrote them (paper/02_cnn in NIR's repository): SumPool2d, and neurons that subtract."""

    def convolution(outputs, inputs, kernel, stride, size):
        weight = dyadic(outputs, inputs, kernel, kernel, generator=generator, span=12, unit=1 / 32)
        zeros = np.zeros(outputs, np.float32)
        return weight, nir.Conv2d(size, array(weight), stride, 1, 1, 1, zeros)

    def product(outputs, inputs):
        weight = dyadic(outputs, inputs, generator=generator, span=12, unit=1 / 32)
        return weight, nir.Affine(array(weight), np.zeros(outputs, np.float32))

    pool = lambda: nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))  # noqa: E731
    w0, c0 = convolution(16, 2, 5, 2, (34, 34))
    w2, c2 = convolution(16, 16, 3, 1, (16, 16))
    w5, c5 = convolution(8, 16, 3, 1, (8, 8))
    w9, a9 = product(256, 128)
    w11, a11 = product(10, 256)
    graph = chain(
        (2, 34, 34), n0=c0, n1=neurons(16, 16, 16), n2=c2, n3=neurons(16, 16, 16), n4=pool(), n5=c5,
        n6=neurons(8, 8, 8), n7=pool(), n8=nir.Flatten({"input": np.array([8, 4, 4])}, 0, -1), n9=a9, n10=neurons(256),
        n11=a11, n12=neurons(10),
    )  # fmt: skip
    x = (torch.rand(T, 3, 2, 34, 34, generator=generator) < 0.2).float()

    def each(function, y):
        return function(y.flatten(0, 1)).unflatten(0, y.shape[:2])

    def expected(subtract):
        y = fired(each(lambda y: F.conv2d(y, w0, None, 2, 1), x), 1.0, subtract)
        y = fired(each(lambda y: F.conv2d(y, w2, None, 1, 1), y), 1.0, subtract)
        y = each(lambda y: 4 * F.avg_pool2d(y, 2), y)
        y = fired(each(lambda y: F.conv2d(y, w5, None, 1, 1), y), 1.0, subtract)
        y = each(lambda y: 4 * F.avg_pool2d(y, 2), y).flatten(2)
        return fired(F.linear(fired(F.linear(y, w9), 1.0, subtract), w11), 1.0, subtract)

    assert_fires(graph, pk.pack(x), expected(False))
    net = assert_fires(graph, pk.pack(x), expected(True), reset="subtract")
    back = pk.from_nir(pk.to_nir(net, (2, 34, 34)))  # which notes the reset
    assert equal(pk.simulate(back, pk.pack(x), T).spikes.dense(), expected(True))
    assert sum(type(node) is nir.SumPool2d for node in pk.to_nir(net, (2, 34, 34)).nodes.values()) == 2
    with pytest.raises(ValueError, match="reset must be 'subtract', 'v_reset' or None, got 'zero'"):
        pk.from_nir(graph, reset="zero")


def test_convolutions_along_one_axis_with_a_value_for_each_neuron(generator):
    weight = dyadic(6, 3, 3, generator=generator, span=12, unit=1 / 32)
    graph = chain((3, 20), conv=nir.Conv1d(20, array(weight), 1, 1, 1, 1, np.zeros(6)), sn=neurons(6, 20))
    x = dyadic(4, 3, 20, generator=generator, span=8, unit=1 / 8)
    assert_fires(graph, x, fired(F.conv1d(x, weight, padding=1).expand(T, -1, -1, -1)))


def test_sum_pooling_of_every_kind_there_and_back(generator):
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), pk.SumPool2d((3, 2), (1, 2), (1, 0)), pk.FusedIFConv2d(4, 3, 3))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8, unit=1 / 16)
    x = dyadic(2, 2, 9, 8, generator=generator).abs()
    expected = pk.simulate(net, x, T).spikes.dense()
    assert_fires(pk.to_nir(net, (2, 9, 8)), x, expected)


@pytest.mark.parametrize("r, dt", [(2.0, 1.0), (0.5, 1.0), (3.0, 0.25), (1e4, 2e-4)])
def test_integrators_of_any_r(generator, r, dt):
    """h = v + r dt I, whose threshold and reset are divided here."""
    x = dyadic(3, 6, generator=generator, unit=1 / 8).abs()
    graph = chain((6,), n=neurons(6, theta=1.5, r=r))
    net = assert_fires(graph, x, fired((x * (r * dt)).expand(T, 3, 6), 1.5), dt=dt)
    assert net.n.v_threshold == pytest.approx(1.5 / (r * dt))


def test_an_r_that_differs_by_channel(generator):
    x, r = dyadic(2, 3, 4, 4, generator=generator, unit=1 / 8).abs(), torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    node = nir.IF(array(r.expand(3, 4, 4)), np.ones((3, 4, 4)))
    assert_fires(chain((3, 4, 4), n=node), x, fired((x * r).expand(T, 2, 3, 4, 4)))


def test_an_r_that_asks_for_another_dt():
    for r in (1e4, 1e-4):
        with pytest.raises(ValueError, match=r"node 'n': r \* dt must be 1, or near it: r is .* and dt is 1.0; fr"):
            pk.from_nir(chain((4,), n=neurons(4, r=r)))
    with pytest.raises(ValueError, match="node 'n': r must be above 0"):
        pk.from_nir(chain((4,), n=neurons(4, r=-1.0)))


def test_products_in_a_row_and_at_the_end(generator):
    """What no neurons take is carried on as real values, and at the end they are the network's potentials."""
    a, b, c, d = (dyadic(5, 5, generator=generator, unit=1 / 8) for _ in range(4))
    bias = dyadic(5, generator=generator, unit=1 / 8)
    graph = chain(
        (5,), a=nir.Linear(array(a)), b=nir.Affine(array(b), array(bias)), n=neurons(5), c=nir.Linear(array(c)),
        d=nir.Affine(array(d), array(bias)),
    )  # fmt: skip
    x = dyadic(4, 5, generator=generator).abs()
    spikes = fired(F.linear(F.linear(x, a), b, bias).expand(T, 4, 5))
    expected = F.linear(F.linear(spikes, c), d, bias)
    result = pk.simulate(pk.from_nir(graph), x, T)
    assert 0.05 < spikes.mean() < 0.95 and equal(result.potentials, expected)


def test_pooling_and_flattening_of_currents(generator):
    weight = dyadic(3, 2, 3, 3, generator=generator, unit=1 / 8)
    zeros = np.zeros(3, np.float32)
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    graph = chain((2, 8, 8), c=nir.Conv2d((8, 8), array(weight), 1, 0, 1, 1, zeros), p=pool, n=neurons(3, 3, 3))
    x = dyadic(2, 2, 8, 8, generator=generator).abs()
    assert_fires(graph, x, fired(F.avg_pool2d(F.conv2d(x, weight), 2).expand(T, 2, 3, 3, 3)))


SCALES = {
    "features": ((6,), (6,)),
    "channels": ((3, 4, 5), (3, 1, 1)),
    "channels alone": ((3, 4, 5), (3,)),
    "pixels": ((3, 4, 5), (3, 4, 5)),
    "number": ((3, 4, 5), (1,)),
    "many features": ((1500,), (1500,)),
}


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("name", SCALES)
def test_scales(generator, name, place):
    shape, of = SCALES[name]
    scale = dyadic(*of, generator=generator, unit=1 / 4) + 1 / 8
    node = nir.Scale(array(scale))
    spread = scale.view(-1, *[1] * (len(shape) - 1)) if len(of) == 1 else scale
    x = dyadic(2, *shape, generator=generator, unit=1 / 4).abs()
    if place == "before":
        assert_fires(chain(shape, s=node, n=neurons(*shape)), x, fired((x * spread).expand(T, 2, *shape)))
    else:
        expected = fired(x.expand(T, 2, *shape))
        result = pk.simulate(pk.from_nir(chain(shape, n=neurons(*shape), s=node)), x, T)
        assert 0.05 < expected.mean() < 0.95 and equal(result.potentials, expected * spread)


def test_graphs_in_graphs(generator, tmp_path):
    """Unfolded at any depth, and read from a file."""
    a, b, c = (dyadic(5, 5, generator=generator, unit=1 / 8) for _ in range(3))
    inner = chain((5,), fc=nir.Linear(array(b)), n=neurons(5))
    outer = chain((5,), fc=nir.Linear(array(a)), n=neurons(5), deep=inner)
    graph = chain((5,), block=outer, fc=nir.Linear(array(c)), n=neurons(5))
    x = dyadic(4, 5, generator=generator).abs()
    y = fired(F.linear(x, a).expand(T, 4, 5))
    expected = fired(F.linear(fired(F.linear(y, b)), c))
    net = assert_fires(graph, x, expected)
    assert [name for name, *_ in net.layers()] == ["block_fc", "block_deep_fc", "fc"]
    nir.write(tmp_path / "nested.nir", graph)
    assert_fires(tmp_path / "nested.nir", x, expected)


def test_a_block_with_a_shortcut_of_its_own(generator):
    """Several nodes of a graph in a graph may take its input."""
    a = dyadic(5, 5, generator=generator, unit=1 / 8)
    block = chain((5,), fc=nir.Linear(array(a)), n=neurons(5))
    block.edges = [("input", "fc"), ("fc", "n"), ("input", "n"), ("n", "output")]
    x = dyadic(4, 5, generator=generator).abs()
    first = fired(x.expand(T, 4, 5))
    assert_fires(chain((5,), m=neurons(5), g=block), x, fired(F.linear(first, a) + first))


# What is wrong with it is said in one sentence, before memory is asked for

WRONG = {
    "a large input": (lambda: chain((10**9,), n=neurons(4)), "'input': a sample of the shape .* has 1e\\+09 values"),
    "a large image": (lambda: chain((3, 10**5, 10**5), n=neurons(4)), "node 'input': a sample of the shape"),
    "an overflow": (lambda: chain((2**40, 2**40, 2**40), n=neurons(4)), "node 'input': a sample of the shape"),
    "negative": (lambda: chain((-1, 8, 8), n=neurons(4)), "node 'input': the shape of an input must be at least 1 "),
    "zero": (lambda: chain((0,), n=neurons(4)), "node 'input': the shape of an input must be at least 1 "),
    "broken": (lambda: chain((2.5,), n=neurons(4)), "node 'input': the shape of an input must be integers"),
    "stride": (lambda: chain((2, 8, 8), p=pool(stride=0), n=neurons(2, 4, 4)), "'p': stride must be at least 1, got"),
    "padding": (
        lambda: chain((2, 8, 8), p=pool(padding=9), n=neurons(2, 4, 4)),
        "'p': padding must be at most half of kernel_size",
    ),
    "window": (lambda: chain((2, 8, 8), p=pool(kernel_size=99), n=neurons(2, 4, 4)), "node 'p': SumPool2d cannot take"),
    "large padding": (
        lambda: chain((2, 8, 8), c=conv(padding=10**6), n=neurons(3, 8, 8)),
        "padding must be at most 32768",
    ),
    "scale": (
        lambda: chain((4,), s=nir.Scale(np.ones(3)), n=neurons(4)),
        r"node 's': scale must have a value for each",
    ),
    "scale nan": (lambda: chain((4,), s=nir.Scale(np.full(4, np.nan)), n=neurons(4)), "node 's': scale must be finite"),
    "no neurons": (lambda: chain((4,), s=nir.Scale(np.ones(4))), "the graph must have neurons, it has none"),
}


def pool(**values):
    node = nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    for key, value in values.items():
        setattr(node, key, np.array([value, value]))
    return node


def conv(**values):
    node = nir.Conv2d((8, 8), np.ones((3, 2, 3, 3), np.float32), 1, 1, 1, 1, np.zeros(3, np.float32))
    for key, value in values.items():
        setattr(node, key, value)
    return node


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name):
    build, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        pk.from_nir(build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key, value", [("stride", 0), ("input_shape", -8), ("padding", -1)])
def test_files_that_nir_cannot_compute_with(tmp_path, key, value):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.nir"
    nir.write(path, chain((2, 8, 8), c=conv(), n=neurons(3, 8, 8)))
    with h5py.File(path, "r+") as file:
        dataset = file["node/nodes/c"][key]
        dataset[...] = np.full(dataset.shape, value)
    try:
        net = pk.from_nir(path)  # input_shape is nir's alone: the input tells it here
    except (TypeError, ValueError) as error:
        assert "\n" not in str(error) and ("'c'" in str(error) or "net.nir" in str(error))
    else:
        assert key == "input_shape" and pk.simulate(net, torch.ones(1, 2, 8, 8), 2).count().sum() > 0


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "net.nir"
    path.write_bytes(b"nothing")
    with pytest.raises((ValueError, OSError), match="net.nir|file signature"):
        pk.from_nir(path)
    with pytest.raises(FileNotFoundError):
        pk.from_nir(tmp_path / "other.nir")


def test_a_graph_without_a_shape_that_no_made_up_input_fits():
    """It cannot be compared with the graph's equations, and a warning says so."""
    kernel = np.ones((1, 1, 20_001), np.float32)
    conv = nir.Conv1d(20_005, kernel, 1, 0, 1, 1, np.zeros(1, np.float32))
    graph = chain((1, 20_005), c=conv, n=neurons(1, 5))
    graph.nodes["input"].input_type = None
    with pytest.warns(UserWarning, match="not compared with the graph's equations: .* give its Input a shape"):
        assert pk.from_nir(graph, reset="v_reset") is not None


def test_a_translation_that_is_wrong_is_found(monkeypatch):
    """The comparison with the graph's own equations: defects that are planted."""
    from proxykernels.conversion.nir import from_nir

    flat = nir.Flatten({"input": np.array([3, 4, 4])}, 0, -1)
    graph = chain((2, 8, 8), c=conv(), n=neurons(3, 8, 8), p=pool(), f=flat, m=neurons(48))
    pk.from_nir(graph)
    right = from_nir.synapse

    def wrong(nir, node):
        module = right(nir, node)
        module.weight.data *= 1.01
        return module

    monkeypatch.setattr(from_nir, "synapse", wrong)
    with pytest.raises(
        ValueError, match="node 'n' is not what was made of it: .* of the currents that its neurons take"
    ):
        pk.from_nir(graph)
    monkeypatch.undo()
    neuron = from_nir.neuron
    monkeypatch.setattr(from_nir, "neuron", lambda nir, node, dt, reset, most: neuron(nir, node, dt, "subtract"))
    with pytest.raises(ValueError, match="node 'n' is not what was made of it: .* of its spikes differ"):
        pk.from_nir(graph)
