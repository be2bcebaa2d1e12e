"""Convolutions of few spikes, which only visit what these reach: spikes, states and operations as layer by layer."""

import layerwise
import pytest
import torch
from equality import equal
from oracle import make_dyadic
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine

TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
n = pk.neurons
NEURONS = {
    "hard": n.IFNeuron(v_threshold=0.5),
    "soft": n.IFNeuron(v_threshold=0.5, v_reset=None),
    "hard, to another potential": n.IFNeuron(v_threshold=0.25, v_reset=-0.375),
    "leaky": n.LIFNeuron(v_threshold=0.5, decay=0.75),
    "leaky, soft": n.LIFNeuron(v_threshold=0.25, v_reset=None, decay=0.875),
    "leaky, all at once": n.LIFNeuron(v_threshold=0.25, v_reset=None, decay=0.0),
    "leaky, none": n.LIFNeuron(v_threshold=0.25, v_reset=0.125, decay=1.0),
    "leaky, to a rest": n.LIFNeuron(v_threshold=0.5, v_reset=0.0, decay=0.5, v_rest=0.25),
    "leaky, soft, to a rest": n.LIFNeuron(v_threshold=0.25, v_reset=None, decay=0.5, v_rest=-0.5),
    "current-based": n.CubaLIFNeuron(v_threshold=0.5, v_reset=None, decay=0.5, current_decay=0.5),
    "adaptive": n.ALIFNeuron(v_threshold=0.25),
    "refractory": n.RefractoryLIFNeuron(v_threshold=0.25),
}
# C_in, C_out, kernel, stride, padding, dilation
WINDOWS = [
    (2, 16, 5, 4, 2, 1), (2, 8, 3, 1, 1, 1), (1, 2, (2, 3), (3, 1), (0, 2), (1, 2)), (3, 17, 3, 2, 0, 2),
    (9, 33, (1, 4), 1, (0, 3), 1), (20, 100, 3, 3, 2, 1), (2, 64, 1, 2, 0, 1), (2, 6, 3, 4, 0, 1),
]  # fmt: skip
CUTS = (1, 1, 2, 7, 1, 33)


def network(window, neuron, bias: bool, pool: bool = True) -> nn.Module:
    C_in, C_out, *sizes = window
    layers = [pk.FusedConv2d(C_in, C_out, *sizes, bias=bias, neuron=neuron)]
    layers += [pk.MaxPool2d(3, 2, 1)] * pool + [pk.FusedConv2d(C_out, 7, 3, padding=1, bias=bias, neuron=neuron)]
    net = nn.Sequential(*layers).eval()
    for layer in net[::2] if pool else net:
        layer.weight.data += layer.weight.abs().mean()  # all of them fire
    make_dyadic(net, 1 / 32)
    return net


def events(T: int, *shape: int, rate: float = 0.01) -> Tensor:
    """In some pixels, more at some steps than at others, and none at the last ones of each ten."""
    x = torch.rand(T, *shape) < rate * torch.rand(T, *[1] * len(shape)) * 2
    x[..., -5:] &= torch.rand(()) < 0.5
    x[torch.arange(T) % 10 > 6] = False
    return x


def compiled(net: nn.Module, x: Tensor, target: str = TARGETS[0]) -> Engine:
    return Engine(follow(net, x.shape[2:], False), target=target)


def check(net: nn.Module, x: Tensor, target: str = TARGETS[0], cuts=CUTS) -> None:
    """Whole, and in a stream that is cut, whose states are read and set at some cuts."""
    T, N = x.shape[:2]
    given, engine = pk.pack(x), compiled(net, x, target)
    expected = layerwise.simulate(net, given, T)
    spikes = expected.spikes.dense()
    assert all(rate > 0 for rate in expected.rates.values())
    for _ in range(2):
        result = engine(given, T)
        assert equal(result.spikes.dense(), spikes) and equal(result.count(), expected.count())
        assert result.synops == expected.synops and result.rates == pytest.approx(expected.rates)
    stream, parts, t = engine.stream(N), [], 0
    reached, known = None, 0  # the layers' states, and when
    for k in range(T):
        if t == T:
            break
        steps = min(cuts[k % len(cuts)], T - t)
        parts.append(stream(given[t : t + steps]).dense())
        t += steps
        if k % 3 == 1:  # is read, and set in another stream
            state = stream.state
            reached, known = layerwise.simulate(net, given[known:t], t - known, state=reached).state, t
            for name, v in state.items():
                assert equal(v, reached[name][0] if len(reached[name]) == 1 else torch.stack(reached[name], 1)), name
            if k % 2:
                stream = engine.stream(N)
                stream.state = state
                assert equal(stream.count(), spikes[:t].sum(0, dtype=torch.int32))
    assert equal(torch.cat(parts), spikes)


def test_it_is_chosen_where_few_spikes_come():
    torch.manual_seed(0)
    engine = compiled(network(WINDOWS[1], NEURONS["hard"], True), events(1, 1, 2, 40, 40))
    many = "pixel tiles" if engine.target == "amx" else "patterns"
    for rate, steps, way in ((0.01, 1, "scattered"), (0.01, 20, "scattered"), (0.9, 1, many)):
        engine(pk.pack(torch.rand(steps, 1, 2, 40, 40) < rate), steps)
        assert engine.ways[0] == way


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("neuron", NEURONS)
def test_neurons(neuron, bias, target):
    torch.manual_seed(len(neuron))
    check(network(WINDOWS[0], NEURONS[neuron], bias), events(47, 1, 2, 37, 41, rate=0.03), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("neuron", ["soft", "leaky", "current-based"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows(window, neuron, N, target):
    torch.manual_seed(N)
    rate = max(0.3 / window[0] / (1 + len(WINDOWS[0])), 0.01)
    check(network(window, NEURONS[neuron], N == 3, window[3] == 1), events(21, N, window[0], 23, 34, rate=rate), target)


@pytest.mark.costly
@pytest.mark.parametrize("T", [1, 2, 7, 33])
@pytest.mark.parametrize("threads", [1, 2])
def test_steps_of_a_call(T, threads):
    """Also of an image that two threads share."""
    torch.manual_seed(T)
    net = network(WINDOWS[1], NEURONS["leaky"], False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(net, events(66, 1, 2, 61, 65), cuts=(T,))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("neuron", ["hard", "soft", "leaky, soft", "adaptive"])
def test_few_and_many_in_turn(neuron):
    """Ways change from call to call, and what one leaves the next goes on from."""
    torch.manual_seed(5)
    x = events(60, 2, 2, 30, 31)
    x[5:8] = True
    x[20] = torch.rand(x.shape[1:]) < 0.5
    x[30:39] |= torch.rand(9, *x.shape[1:]) < 0.4
    check(network(WINDOWS[1], NEURONS[neuron], False), x, cuts=(1, 2, 1, 8, 1))


def test_all_of_a_layer_fires():
    """More than a list has room for: two steps of silence go before, and two come after."""
    net = network((2, 16, 3, 1, 1, 1), n.IFNeuron(v_threshold=0.0625, v_reset=None), False)
    for parameter in net.parameters():
        parameter.data = parameter.abs() + 1 / 16
    x = torch.zeros(9, 1, 2, 40, 40, dtype=torch.bool)
    x[2, ..., ::2, ::2] = True
    x[5, 0, 1, 20, 20] = True
    for cuts in ((1,), (9,), (3, 6)):
        check(net, x, cuts=cuts)


def test_a_start_above_the_threshold_and_states_that_are_set_above_it():
    torch.manual_seed(1)
    net = nn.Sequential(
        pk.FusedConv2d(
            2,
            5,
            3,
            bias=False,
            v_init=torch.tensor([0.0, 0.75, -1, 0, 3]),
            neuron=n.IFNeuron(v_threshold=0.5, v_reset=None),
        )
    ).eval()
    make_dyadic(net, 1 / 32)
    x = events(10, 1, 2, 20, 22)
    check(net, x)
    stream, given = compiled(net, x).stream(), pk.pack(x)
    stream(given[:3])
    state = {name: v + torch.randint(-2, 3, v.shape) * 0.25 for name, v in stream.state.items()}
    stream.state = state
    expected = layerwise.simulate(net, given[3:], 7, state={name: [v] for name, v in state.items()})
    assert equal(stream(given[3:4]).dense(), expected.spikes.dense()[:1])
    assert equal(stream(given[4:]).dense(), expected.spikes.dense()[1:]) and expected.count().any()


def test_potentials_decay_over_long_silences():
    """As by one multiplication for each step, down to values that have no more bits, and states are right when read."""
    torch.manual_seed(2)
    net = network(WINDOWS[1], n.LIFNeuron(v_threshold=0.5, decay=0.9), False)
    x = torch.zeros(1300, 1, 2, 12, 12, dtype=torch.bool)
    x[:6] = torch.rand(6, *x.shape[1:]) < 0.02
    x[40, 0, 0, 3, 4] = x[700, 0, 1, 6, 6] = x[1299, 0, 1, 2, 2] = True
    check(net, x, cuts=(1, 60))


def drifting(v_reset: float | None, bias: Tensor) -> nn.Sequential:
    """Whose neurons take a hundred steps and more to fire by their biases."""
    net = nn.Sequential(
        pk.FusedConv2d(2, 8, 3, padding=1, neuron=n.IFNeuron(v_threshold=0.5, v_reset=v_reset)),
        pk.FusedConv2d(8, 5, 3, padding=1, neuron=n.IFNeuron(v_threshold=1.0, v_reset=v_reset)),
    ).eval()
    for layer in net:
        layer.weight.data += layer.weight.abs().mean()
    make_dyadic(net, 1 / 32)
    for layer in net:
        layer.bias.data = bias[: len(layer.bias)]
    return net


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("v_reset", [None, 0.0, -0.25])
@pytest.mark.costly
@pytest.mark.parametrize("cuts", [(1,), (1, 3, 40), (400,)], ids=str)
def test_biases_that_take_long(cuts, v_reset, target):
    """Pixels that their biases cannot make fire for a while are left alone, and right when read, reached or due."""
    torch.manual_seed(8)
    bias = torch.tensor([2, -1, 0, 1, -2, 1, 2, -1]) / 512
    x = torch.zeros(400, 2, 2, 21, 29, dtype=torch.bool)
    x[7:20, :, :, :9] = torch.rand(13, 2, 2, 9, 29) < 0.01
    x[150, 1, 0, 15, 20] = x[270:, 0, 1, 3, 3] = True
    net = drifting(v_reset, bias)
    check(net, x, target, cuts)
    spikes = layerwise.simulate(net[:1], pk.pack(x), 400).spikes.dense()
    assert spikes[200:260].any() and not spikes[60:120, :, :, 12:].any()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("v_reset", [None, -0.3])
def test_biases_whose_sums_are_rounded(v_reset, target):
    """By one addition for each step."""
    torch.manual_seed(9)
    for scale in (0.004, 0.03, 0.2):
        net = drifting(v_reset, torch.rand(8) * scale)
        x = torch.zeros(500, 1, 2, 20, 20, dtype=torch.bool)
        alone = net[:1]
        check(alone, x, target, (1, 7, 60))


def test_early_exit():
    torch.manual_seed(3)
    net = network(WINDOWS[0], NEURONS["leaky"], False)
    net = nn.Sequential(*net, pk.Flatten(), pk.FusedIFLinear(7 * 25, 4, v_threshold=4.0)).eval()
    make_dyadic(net, 1 / 32)
    x = events(64, 5, 2, 37, 37, rate=0.1)
    x = pk.pack(x & (torch.rand(5, 1, 1, 1) < torch.linspace(0.05, 1, 5).view(-1, 1, 1, 1)))
    expected = layerwise.simulate(net, x, 64, stop=pk.stop.margin(2))
    result = pk.compile(net, x)(x, 64, stop=pk.stop.margin(2))
    assert equal(result.steps, expected.steps) and len(expected.steps.unique()) > 1
    assert equal(result.spikes.dense(), expected.spikes.dense()) and expected.count().any()


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_rounded_weights(precision):
    torch.manual_seed(4)
    net = network(WINDOWS[0], n.IFNeuron(v_threshold=0.3, v_reset=None), True)
    for parameter in net.parameters():
        parameter.data += 0.01 * torch.randn(parameter.shape)
    x = pk.pack(events(30, 2, 2, 40, 44, rate=0.04))
    expected = layerwise.simulate(net, x, 30, precision=precision)
    engine = pk.compile(net, x, precision=precision)
    assert equal(engine(x, 30).spikes.dense(), expected.spikes.dense()) and expected.count().any()
    stream = engine.stream(2)
    assert equal(torch.cat([stream(x[t : t + 1]).dense() for t in range(30)]), expected.spikes.dense())


def test_groups_and_shortcuts_go_by_as_before():
    torch.manual_seed(6)
    net = pk.Network()
    net.append("first", pk.FusedIFConv2d(4, 8, 3, padding=1, groups=2, v_threshold=0.25), ("",))
    net.append("second", pk.FusedIFConv2d(8, 8, 3, padding=1, v_threshold=0.25), ("first",))
    third = pk.FusedSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), neuron=n.IFNeuron(v_threshold=0.5))
    net.append("third", third, ("second", "first"))
    net.append("pool", pk.MaxPool2d(2), ("third",))
    make_dyadic(net.eval(), 1 / 32)
    check(net, events(20, 2, 4, 19, 21))


def test_pooling_windows():
    torch.manual_seed(7)
    for sizes in ((2,), (3, 2, 1), (3, 1), ((1, 4), (2, 3), (0, 2)), (2, 5), (3, 2, 0)):
        net = nn.Sequential(*network(WINDOWS[1], NEURONS["soft"], False, pool=False))
        net.insert(1, pk.MaxPool2d(*sizes, ceil_mode=len(sizes) == 3))
        check(net.eval(), events(12, 2, 2, 19, 26))
