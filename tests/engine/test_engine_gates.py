"""Gates in compiled networks of sigma-delta and graded neurons: bit-equal to the layers, whole, cut, from a file."""

import pytest
import torch
from equality import equal
from gate_nets import FUNCTIONS, ZOO, Model, convolutions, made
from sigma_delta_nets import by_layers
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.plan.follow_sigma_delta import follow_changes
from proxykernels.running.engine import Engine

NEURONS = [pk.neurons.Graded(0.0), pk.neurons.Graded(0.25), pk.neurons.SigmaDelta(8)]
TARGETS = ("portable", "avx2", "avx512")


def coordinates(m, y):
    """Gates of rows and of columns, neither of which has the shape of the product."""
    rows, columns = m.down(y.mean(3, keepdim=True)).sigmoid(), m.down(y.mean(2, keepdim=True)).sigmoid()
    return m.b(y * m.up(rows * columns)).relu()


NETS = ZOO | {"of rows and columns": lambda: Model(coordinates, **convolutions())}


def frames_of(x: torch.Tensor, T: int) -> torch.Tensor:
    """Frames of which the second equals the first, and others change in some samples only."""
    frames = torch.stack([x + t * (torch.arange(len(x)) % 3 == 0).view(-1, 1, 1, 1) / 8 for t in range(T)])
    frames[1] = frames[0]
    return frames


@torch.no_grad()
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_engines_run_gates_as_layers_do(name, neuron, tmp_path):
    ann, x, outputs = made(name, NETS)
    net = pk.convert(ann, x, neuron=neuron)
    engine = pk.compile(net, x)
    engine.save(tmp_path / "gates")
    expected = by_layers(net, x, 5).potentials
    if neuron == NEURONS[0]:
        assert torch.allclose(expected[0], outputs, 1e-4, 1e-5)
    frames = frames_of(x, 5)
    for each in (engine, pk.load(tmp_path / "gates")):
        assert equal(each(x, 5).potentials, expected)
        assert equal(each(x[:1], 1).potentials, expected[:1, :1]) and each(x[:0], 3).potentials.shape[1] == 0
    assert equal(pk.compile(net, frames)(frames, 5).potentials, by_layers(net, frames, 5).potentials)
    assert equal(pk.simulate(net, x, 5).potentials, expected)


@torch.no_grad()
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("neuron", NEURONS[::2], ids=str)
@pytest.mark.parametrize("name", ["MobileNetV3", "of rows and columns", "GLU"])
def test_streams_go_on_where_they_were(name, neuron, threads):
    ann, x, _ = made(name, NETS)
    net, frames = pk.convert(ann, x, neuron=neuron), frames_of(x, 6)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stream, state = pk.compile(net, x).stream(len(x)), {}
        for start, steps in ((0, 1), (1, 1), (2, 3), (5, 1), (5, 1), (5, 1)):
            part = frames[start : start + steps]
            expected = by_layers(net, part, steps, state=state)
            assert equal(stream(part if steps > 1 else part[0]), expected.potentials)
            state, kept = expected.state, stream.state
            assert kept.keys() == state.keys()
            assert all(equal(*pair) for layer in state for pair in zip(kept[layer], state[layer], strict=True))
    finally:
        torch.set_num_threads(before)
    other = stream.engine.stream(len(x))
    other.state = state
    assert equal(other(x), stream(x))
    stream.reset(samples=[2])
    assert equal(stream(x)[:, 2], by_layers(net, x, 1).potentials[:, 2])


@torch.no_grad()
def test_samples_stop_when_they_have_settled():
    ann, x, _ = made("squeeze and excitation", NETS)
    net = pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(10))
    rule = pk.stop.settled(1)
    expected, result = by_layers(net, x, 16, stop=rule), pk.compile(net, x)(x, 16, stop=rule)
    assert equal(result.potentials, expected.potentials) and equal(result.steps, expected.steps)
    assert expected.steps.min() < expected.steps.max()


@torch.no_grad()
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_rounded_once_on_all_instruction_sets(name, target):
    """The values of float64, rounded: of an identity behind which only the function is."""
    first, last = (nn.Linear(400, 400, bias=False) for _ in range(2))
    first.weight.copy_(torch.eye(400)), last.weight.copy_(torch.eye(400))
    net = nn.Sequential(first, Applied(FUNCTIONS[name]), last).eval()
    torch.manual_seed(1)
    x = torch.cat([torch.linspace(-110, 110, 397), torch.tensor([0.0, 3.0, -3.0])]).repeat(4, 1)
    x[1:] *= torch.tensor([0.1, 1e-3, 1e-9]).view(3, 1)
    converted = pk.convert(net, x, neuron=pk.neurons.Graded(0.0))
    try:
        engine = Engine(follow_changes(converted, (400,)), target=target)
    except RuntimeError:
        pytest.skip(f"this machine has no {target}")
    found = engine(x, 1).potentials[0]
    assert equal(found, reference.function_of_sums(FUNCTIONS[name], x))
    assert torch.allclose(found, net(x), 1e-4, 1e-6)


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "field, value, error",
    [
        ("function", 0, "a function is not known"), ("function", 9, "a function is not known"),
        ("parameters", (1.0,), "a function has other parameters"), ("shape", (3, 8, 8), "another size than it reads"),
    ],
)  # fmt: skip
def test_plans_of_other_functions_are_refused(field, value, error):
    ann, x, _ = made("silu", NETS)
    plan = follow_changes(pk.convert(ann, x, neuron="graded"), tuple(x.shape[1:]))
    operation = next(op for op in plan.operations if op.function)
    object.__setattr__(operation, field, value)
    with pytest.raises((ValueError, RuntimeError), match=error):
        Engine(plan)


@torch.no_grad()
def test_factors_of_other_sizes_are_refused():
    ann, x, _ = made("squeeze and excitation", NETS)
    net = pk.convert(ann, x, neuron="graded")
    with pytest.raises(ValueError, match="computes a function or a product of values, which 8 bits do not have"):
        pk.compile(net, x, precision="int8")
    plan = follow_changes(net, tuple(x.shape[1:]))
    product = next(op for op in plan.operations if op.kind == "product")
    for size in ((8, 4, 8), (4, 8, 8), (8, 8, 1)):
        object.__setattr__(product, "shape", size)
        with pytest.raises((ValueError, RuntimeError), match="the factors of a product have other sizes"):
            Engine(plan)


@torch.no_grad()
def test_other_functions_are_left_to_the_layers():
    """With hooks, or another forward pass than torch's."""
    ann, x, _ = made("squeeze and excitation", NETS)
    net = pk.convert(ann, x, neuron="graded")
    (function,) = [layer for layer in net.modules() if isinstance(layer, nn.Sigmoid)]
    before = pk.simulate(net, x, 1).logits
    seen = []
    handle = function.register_forward_hook(lambda module, given, y: seen.append(y))
    with pytest.raises(TypeError, match="it knows no function Sigmoid"):
        pk.compile(net, x)
    assert equal(pk.simulate(net, x, 1).logits, before) and seen
    handle.remove()
    function.forward = lambda x: x.clamp(0, 1)
    assert not equal(pk.simulate(net, x, 1).logits, before)
