"""Delays, against their definition: y[t] = x[t - d], and 0 before the start."""

import itertools

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.layers import Unflatten
from proxykernels.spikes import spike_autograd

T, N = 13, 2
DELAYS = {"none": 0, "one": 1, "some": 4, "longer than the run": 20, "by channel": [0, 3, 1, 20, 5]}
SIZES = {"features": (5,), "row": (5, 4), "images": (5, 3, 2)}


def defined(x, delay):
    """The definition, value by value."""
    steps = torch.as_tensor(delay).expand(x.shape[2]).tolist()
    y = torch.zeros_like(x)
    for t, (c, d) in itertools.product(range(len(x)), enumerate(steps)):
        if t >= d:
            y[t, :, c] = x[t - d, :, c]
    return y


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DELAYS)
def test_definition(generator, name, size):
    layer, bits = pk.Delay(DELAYS[name]), spikes(T, N, *SIZES[size], generator=generator, rate=0.4)
    values = dyadic(T, N, *SIZES[size], generator=generator)
    wanted = defined(bits, DELAYS[name])
    packed = layer(pk.pack(bits))
    assert isinstance(packed, pk.Spikes) and equal(packed.dense(), wanted)
    assert equal(layer(bits), wanted) and equal(layer(values), defined(values, DELAYS[name]))
    assert wanted.any() == (name != "longer than the run")


@pytest.mark.parametrize("kind", ["spikes", "values"])
@pytest.mark.parametrize("name", DELAYS)
def test_any_chunking(generator, name, kind):
    """The state carries what was given in the last steps, however a run is cut."""
    layer = pk.Delay(DELAYS[name])
    x = spikes(T, N, 5, generator=generator, rate=0.4) if kind == "spikes" else dyadic(T, N, 5, generator=generator)
    whole, last = layer.spike(pk.pack(x) if kind == "spikes" else x)
    for cuts in ([1] * T, [2, 1, 7, 3], [12, 1], [T]):
        parts, v, start = [], None, 0
        for steps in cuts:
            part = x[start : start + steps]
            y, v = layer.spike(pk.pack(part) if kind == "spikes" else part, v)
            parts.append(y.dense() if kind == "spikes" else y)
            start += steps
        assert equal(torch.cat(parts), whole.dense() if kind == "spikes" else whole) and equal(v, last)
    assert v.shape == ((N, 5) if layer.steps == 1 else (N, layer.steps, 5))


def network(delay, first: bool) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        *([pk.Delay(delay)] if first else []),
        pk.FusedIFConv2d(5, 5, 3, padding=1, v_threshold=0.5, v_reset=None),
        *([] if first else [pk.Delay(delay)]),
        pk.Flatten(), pk.FusedIFLinear(60, 9, v_threshold=0.5), pk.Delay(2),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randint(-3, 7, parameter.shape) / 16)
    return net.eval()


@pytest.mark.parametrize("first", [True, False], ids=["in front", "behind"])
@pytest.mark.parametrize("name", DELAYS)
def test_in_simulate_engines_streams_and_files(generator, tmp_path, name, first):
    net = network(DELAYS[name], first)
    for given in (
        pk.pack(spikes(T, N, 5, 4, 3, generator=generator, rate=0.4)),
        dyadic(T, N, 5, 4, 3, generator=generator),
        dyadic(N, 5, 4, 3, generator=generator).abs(),
    ):
        expected = layerwise.simulate(net, given, T)
        spiked = expected.spikes.dense()
        assert spiked.any()
        result = pk.simulate(net, given, T)
        assert equal(result.spikes.dense(), spiked) and result.rates == pytest.approx(expected.rates, nan_ok=True)
        assert result.synops == expected.synops and result.state.keys() == expected.state.keys()
        for key, (v,) in expected.state.items():
            assert equal(result.state[key][0], v.float())
        engine = pk.compile(net, given)
        assert equal(engine(given, T).spikes.dense(), spiked)
        engine.save(tmp_path / "engine.safetensors")
        assert equal(pk.load(tmp_path / "engine.safetensors")(given, T).spikes.dense(), spiked)
        stream, parts, start = engine.stream(N), [], 0
        for steps in (1, 5, 1, 6):
            held = isinstance(given, torch.Tensor) and given.ndim == 4
            part = given.expand(T, *given.shape) if held else given
            parts.append(stream(part[start : start + steps]).dense())
            start += steps
            kept, stream = stream.state, engine.stream(N)
            stream.state = kept
        assert equal(torch.cat(parts), spiked)


def test_one_step_after_another_goes_on_in_simulate(generator):
    net, x = network([0, 3, 1, 20, 5], False), dyadic(T, N, 5, 4, 3, generator=generator)
    whole, parts, state = pk.simulate(net, x, T).spikes.dense(), [], None
    for t in range(T):
        result = pk.simulate(net, x[t : t + 1], 1, state=state)
        state = result.state
        parts.append(result.spikes.dense())
    assert equal(torch.cat(parts), whole) and whole.any()


def test_gradients_arrive_as_many_steps_before(generator):
    x = dyadic(T, N, 5, generator=generator).requires_grad_()
    pk.Delay([0, 3, 1, 20, 5]).train()(x)[10].sum().backward()
    steps = x.grad.sum((1, 2)).tolist()
    assert steps == [0.0] * 5 + [2.0, 0, 2, 0, 2, 2, 0, 0]


def test_delays_of_spikes_train(generator):
    layer = pk.FusedIFLinear(5, 6)
    pk.use_surrogate(layer, pk.ATan(2.0))
    net = nn.Sequential(layer, pk.Delay(2), pk.FusedIFLinear(6, 3))
    pk.use_surrogate(net, pk.ATan(2.0))
    net(dyadic(T, N, 5, generator=generator)).sum().backward()
    assert layer.weight.grad.abs().max() > 0


REFUSED = [
    (-1, ValueError, "delay must be at least 0 steps, got -1"),
    ([0, -2], ValueError, "delay must be at least 0 steps, got -2"),
    (1.5, TypeError, "delay must be an integer number of steps, or one for each channel, got 1.5"),
    ([1, 1.5], TypeError, "delay must be an integer"),
    ([], TypeError, "delay must be an integer"),
    (True, TypeError, "delay must be an integer"),
    (torch.ones(3), TypeError, r"got a tensor of torch.float32: delays are not learnable here; .* round them"),
    (nn.Parameter(torch.ones(3)), TypeError, "got a tensor that needs a gradient: delays are not learnable here"),
]


@pytest.mark.parametrize("delay, kind, message", REFUSED, ids=range(len(REFUSED)))
def test_bad_delays(delay, kind, message):
    with pytest.raises(kind, match=message):
        pk.Delay(delay)


def test_other_channels():
    with pytest.raises(ValueError, match="delay has 2 values, one for each channel, and x has 3 channels"):
        pk.Delay([1, 2])(torch.zeros(4, 1, 3))
    with pytest.raises(ValueError, match=r"v must have the shape \[1, 2, 2\], got \[1, 2\]"):
        pk.Delay([1, 2])(torch.zeros(4, 1, 2), torch.zeros(1, 2))


def test_delays_by_channel_are_saved(tmp_path):
    net = pk.Delay([1, 2])
    other = pk.Delay([0, 7])
    other.load_state_dict(net.state_dict())
    assert other.delay.tolist() == [1, 2] and other.steps == 2 and str(pk.Delay(3)) == "Delay(3)"


@pytest.mark.parametrize("mode", ["s", "m"])
def test_delays_of_spikingjelly(generator, mode):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    from spikingjelly.activation_based import functional, neuron

    if not hasattr(layer, "Delay"):
        pytest.skip("this SpikingJelly has no Delay")
    net = nn.Sequential(
        layer.Linear(6, 8),
        neuron.IFNode(v_threshold=0.5),
        layer.Delay(3),
        layer.Linear(8, 5),
        neuron.IFNode(),
        layer.Delay(1),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randint(-3, 7, parameter.shape, generator=generator) / 16)
    functional.set_step_mode(net.eval(), mode)
    ours, x = pk.from_spikingjelly(net), dyadic(T, N, 6, generator=generator)
    functional.reset_net(net)
    with torch.no_grad():
        expected = net(x) if mode == "m" else torch.stack([net(step) for step in x])
    assert equal(pk.simulate(ours, x, T).spikes.dense(), expected) and expected.any()
    assert [m.delay for m in ours.modules() if isinstance(m, pk.Delay)] == [3, 1]


def test_delays_of_nir(generator):
    nir = pytest.importorskip("nir")
    net = network([0, 3, 1, 20, 5], False)
    graph = pk.to_nir(net, (5, 4, 3), dt=0.5)
    x = dyadic(T, N, 5, 4, 3, generator=generator)
    expected = pk.simulate(net, x, T).spikes.dense()
    back = pk.from_nir(graph, dt=0.5)
    assert equal(pk.simulate(back, x, T).spikes.dense(), expected) and expected.any()
    delayed = next(node for node in graph.nodes.values() if isinstance(node, nir.Delay))
    delayed.delay = delayed.delay + 0.2
    with pytest.raises(ValueError, match=r"node '.*': delay must be whole steps of dt = 0.5, at least 0, got \[0.2"):
        pk.from_nir(graph, dt=0.5)


def spikes_with_gradient(x):
    packed = pk.pack(x.detach())
    return packed._like(packed._kept, packed.shape, spike_autograd.Pack.apply(x))


@pytest.mark.parametrize("cuts", [[T], [3] * 4 + [1], [1] * T])
@pytest.mark.parametrize("name", DELAYS)
def test_gradients_of_spikes(generator, name, cuts):
    """Also of runs that are shorter than the delay, and through the state from one to the next."""
    layer, found = pk.Delay(DELAYS[name]), []
    bits, weight = spikes(T, N, 5, generator=generator, rate=0.4), torch.rand(T, N, 5, generator=generator)
    for packs in (False, True):
        x, parts, v, start = bits.clone().requires_grad_(), [], None, 0
        for steps in cuts:
            part = x[start : start + steps]
            y, v = layer.spike(spikes_with_gradient(part) if packs else part, v)
            assert not packs or y._differentiable
            parts.append(y.dense() if packs else y)
            start += steps
        (torch.cat(parts) * weight).sum().backward()
        found.append(x.grad)
    wanted = torch.autograd.functional.vjp(lambda x: defined(x, DELAYS[name]), bits, weight)[1]
    assert equal(found[0], wanted) and equal(found[1], wanted) and wanted.any() == (name != "longer than the run")


BEHIND = {
    "delay": (pk.IF(), pk.Flatten(), pk.Delay(2), pk.IF(v_threshold=2.0)),
    "delay of features as an image": (pk.IF(), Unflatten((5, 1, 1)), pk.Delay([0, 3, 1, 2, 5]), pk.IF(v_threshold=2.5)),
    "maxima": (pk.IF(), Unflatten((5, 1, 1)), pk.RunningMaxPool2d(1), pk.IF(v_threshold=2.0)),
    "maxima of rates": (pk.IF(), Unflatten((5, 1, 1)), pk.MaxRatePool2d(1), pk.IF(v_threshold=2.0)),
    "maxima of the input": (Unflatten((5, 1)), pk.layers.RunningMaxPool1d(1), pk.IF(v_threshold=2.0)),
}


@pytest.mark.parametrize("name", BEHIND)
def test_states_behind_shapes_that_move_nothing(generator, name):
    """A plan leaves Flatten and Unflatten out where the values stay in their places; states have the layers' shapes."""
    net = nn.Sequential(*BEHIND[name])
    x = dyadic(2, 5, *((1, 1) if name == "delay" else ()), generator=generator).abs() * 4
    wanted = layerwise.simulate(net, x, T)
    result, stream = pk.simulate(net, x, T), pk.compile(net, x).stream(2)
    for _ in range(T):
        stream(x)
    assert equal(result.spikes.dense(), wanted.spikes.dense()) and wanted.spikes.rate() > 0.1
    for layer, (v,) in wanted.state.items():
        assert equal(result.state[layer][0], v) and equal(stream.state[layer], v) and v.any()
    again = pk.simulate(net, x, T, state=wanted.state)
    assert equal(again.spikes.dense(), layerwise.simulate(net, x, T, state=result.state).spikes.dense())


@pytest.mark.parametrize(
    "layer",
    [pk.layers.FusedConv1d(5, 3, 3, neuron=pk.neurons.IFNeuron()), pk.layers.MaxPool1d(2)],
    ids=["conv", "pool"],
)
def test_delays_before_layers_of_one_axis(generator, layer):
    """[N, C, L] is a constant input of such a network, as it is without the delay."""
    net, x = nn.Sequential(pk.Delay(2), layer, pk.IF()), dyadic(2, 5, 4, generator=generator).abs() * 4
    wanted = pk.simulate(net, x.expand(T, *x.shape), T)
    assert equal(pk.simulate(net, x, T).spikes.dense(), wanted.spikes.dense()) and wanted.spikes.rate() > 0.05
    assert not wanted.spikes.dense()[:2].any()


@torch.no_grad()
def test_a_convolution_over_time(generator):
    """What docs/supported.md says of 3-d convolutions: one of images for each step of the kernel, behind a delay."""
    kernel = dyadic(4, 2, 3, 3, 3, generator=generator, span=12, unit=1 / 16)  # [C, C_in, steps, 3, 3]
    convolutions = [nn.Conv2d(2, 4, 3, bias=False) for _ in range(3)]
    for k, convolution in enumerate(convolutions):
        convolution.weight.copy_(kernel[:, :, 2 - k])  # the last is the newest step's
    net = pk.Network()
    for k in range(3):
        net.append(f"late{k}", pk.Delay(k), (net.INPUT,))
    net.append("sum", pk.FusedIFSum(*convolutions), ("late0", "late1", "late2"))
    x = dyadic(9, 3, 2, 8, 8, generator=generator)
    steps_last = nn.functional.pad(x.permute(1, 2, 0, 3, 4), (0, 0, 0, 0, 2, 0))
    current = nn.functional.conv3d(steps_last, kernel).permute(2, 0, 1, 3, 4).contiguous()
    expected = pk.if_scan(current)[0].dense()
    assert equal(pk.simulate(net, x, 9).spikes.dense(), expected) and 0.02 < expected.mean() < 0.98
