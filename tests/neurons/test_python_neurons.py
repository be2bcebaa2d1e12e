"""Neurons that a user writes in Python, and pk.use_reference(): every layer runs them by the reference code."""

import copy
import pickle
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import dyadic
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends, reference
from proxykernels.kernels.neuron_models import MODELS, Neuron
from proxykernels.neurons import AnyNeuron, Value
from proxykernels.neurons.base import _warned

pytestmark = pytest.mark.filterwarnings("ignore:.* is written in Python")


@dataclass(frozen=True)
class Quadratic(AnyNeuron):
    """h = v + v**2 / 4 + I; its values stay exact for some steps only, so tests take short runs or dyadic inputs."""

    v_threshold: Value = 1.0
    v_reset: float | None = 0.0

    def step(self, state, current, fire):
        (v,) = state
        spikes, v = fire(v + v * v * 0.25 + current, self.v_threshold, self.v_reset)
        return spikes, (v,)


@dataclass(frozen=True)
class Izhikevich(AnyNeuron):
    a: Value = 0.25
    b: Value = 0.5
    c: float = -0.5
    d: Value = 0.5

    scalars: ClassVar[tuple[str, ...]] = ("c",)
    states: ClassVar[int] = 2

    def step(self, state, current, fire):
        v, u = state
        spikes, v = fire(v + 0.25 * v * v + current - u, 1.0, self.c)
        return spikes, (v, u + self.a * (self.b * v - u) + self.d * spikes)


@dataclass(frozen=True)
class PythonLIF(AnyNeuron):
    """A leaky neuron, which the kernels have as well."""

    v_threshold: Value = 1.0
    decay: Value = 0.5
    v_reset: float | None = 0.0
    v_rest: float = 0.0

    scalars: ClassVar[tuple[str, ...]] = ("v_rest",)

    def step(self, state, current, fire):
        (v,) = state
        spikes, v = fire(self.v_rest + self.decay * (v - self.v_rest) + current, self.v_threshold, self.v_reset)
        return spikes, v


def quadratic_loop(currents, v_reset=0.0):
    """The plain loop that Quadratic stands for."""
    v, spikes = torch.zeros_like(currents[0]), []
    for current in currents:
        h = v + v * v * 0.25 + current
        s = (h >= 1).float()
        v = h - s if v_reset is None else torch.where(s.bool(), v_reset, h)
        spikes.append(s)
    return torch.stack(spikes), v


def izhikevich_loop(currents):
    v, u, spikes = torch.zeros_like(currents[0]), torch.zeros_like(currents[0]), []
    for current in currents:
        h = v + 0.25 * v * v + current - u
        s = (h >= 1).float()
        v = torch.where(s.bool(), -0.5, h)
        u = u + 0.25 * (0.5 * v - u) + 0.5 * s
        spikes.append(s)
    return torch.stack(spikes), torch.stack([v, u], 1)


def dyadic_layer(layer, generator):
    for parameter in layer.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return layer.eval()


def binary(*shape, generator):
    return (torch.rand(*shape, generator=generator) < 0.4).float()


@pytest.mark.parametrize("kind", ["spikes", "real", "held"])
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_layers_equal_a_plain_loop(generator, kind, v_reset):
    """FusedLinear, FusedConv2d, FusedConv1d and Population, in one call and in two."""
    neuron = Quadratic(v_reset=v_reset)
    T, N = 9, 3
    for layer, size in (
        (pk.FusedLinear(12, 20, neuron=neuron), (12,)),
        (pk.FusedConv2d(4, 10, 3, padding=1, groups=2, neuron=neuron), (4, 6, 5)),
        (pk.layers.FusedConv1d(4, 10, 3, stride=2, neuron=neuron), (4, 9)),
        (pk.Population(neuron), (7, 3)),
    ):
        dyadic_layer(layer, generator)
        if kind == "spikes":
            x = binary(T, N, *size, generator=generator)
        elif kind == "real":
            x = dyadic(T, N, *size, generator=generator)
        else:
            x = dyadic(N, *size, generator=generator).expand(T, N, *size)
        with torch.no_grad():
            currents = layer.affine(x.flatten(0, 1)).unflatten(0, (T, N))
            y = layer(x)
            expected, last = quadratic_loop(currents, v_reset)
            assert equal(y, expected) and 0.02 < y.mean() < 0.98
            first, v = layer(x[:4], torch.zeros_like(currents[0]))
            second, v = layer(x[4:], v)
            assert equal(torch.cat([first, second]), expected) and equal(v, last)


def test_two_states_parameters_by_channel_and_a_scalar(generator):
    layer = dyadic_layer(pk.FusedConv2d(3, 8, 3, neuron=Izhikevich(a=torch.full((8,), 0.25))), generator)
    x = binary(12, 2, 3, 7, 7, generator=generator)
    with torch.no_grad():
        expected, last = izhikevich_loop(layer.affine(x.flatten(0, 1)).unflatten(0, (12, 2)))
        y, v = layer(pk.pack(x), torch.zeros(2, 2, 8, 5, 5))
    assert equal(y.dense(), expected) and equal(v, last) and 0.02 < expected.mean() < 0.98
    assert layer.states == 2 and layer.neuron.scalars == ("c",)


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_a_step_that_the_kernels_know_gives_their_results(generator, v_reset):
    """In every layer: the fused ones, a sum, a recurrent layer; and in simulate, net(x) and chunks."""
    ours = PythonLIF(decay=0.75, v_reset=v_reset, v_rest=0.125)
    theirs = pk.neurons.LIFNeuron(decay=0.75, v_reset=v_reset, v_rest=0.125)

    def network(neuron):
        net = pk.Network()
        net.append("stem", pk.FusedConv2d(2, 8, 3, padding=1, neuron=neuron), (pk.Network.INPUT,))
        net.append("pool", pk.MaxPool2d(2), ("stem",))
        body = pk.FusedSum(nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), neuron=neuron)
        net.append("join", body, ("pool", "pool"))
        net.append("flat", pk.Flatten(), ("join",))
        net.append("back", pk.FusedRecurrentLinear(8 * 9, 16, neuron=neuron), ("flat",))
        net.append("last", pk.FusedLinear(16, 5, neuron=neuron), ("back",))
        return net.eval()

    one, other = network(ours), network(theirs)
    for parameter in one.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) * 0.5
    other.load_state_dict(one.state_dict())
    x = binary(10, 3, 2, 6, 6, generator=generator)
    with torch.no_grad():
        for given in (x, pk.pack(x)):
            a, b = one(given), other(given)
            a, b = (y if isinstance(y, torch.Tensor) else y.dense() for y in (a, b))
            assert equal(a, b) and 0.02 < b.mean() < 0.98
        results = [pk.simulate(net, x, 10) for net in (one, other)]
        chunks = pk.simulate(one, x, 10, chunk=3)
    for result in (results[0], chunks):
        assert equal(result.spikes.dense(), results[1].spikes.dense()) and result.rates == results[1].rates
        assert all(equal(v, results[1].state[name][0]) for name, (v,) in result.state.items())
    assert min(results[1].rates.values()) > 0.02
    first = pk.simulate(one, x[:4], 4)
    rest = pk.simulate(one, x[4:], 6, state=first.state)
    assert equal(torch.cat([first.spikes.dense(), rest.spikes.dense()]), results[1].spikes.dense())


@pytest.mark.parametrize("surrogate", [pk.ATan(2.0), pk.Triangle(1.0)], ids=str)
@pytest.mark.parametrize("recurrent", [False, True])
def test_surrogate_gradients_are_those_of_the_kernels(generator, surrogate, recurrent):
    grads = []
    state = generator.get_state()
    for neuron in (PythonLIF(decay=0.75), pk.neurons.LIFNeuron(decay=0.75)):
        generator.set_state(state)
        layer = pk.FusedRecurrentLinear if recurrent else pk.FusedLinear
        net = nn.Sequential(pk.FusedConv2d(2, 4, 3, neuron=neuron), pk.Flatten(), layer(4 * 9, 6, neuron=neuron))
        net = pk.learn_neurons(pk.use_surrogate(net, surrogate), "decay").train()
        for name, parameter in net.named_parameters():
            if "decay" not in name:
                parameter.data = dyadic(*parameter.shape, generator=generator)
        x = dyadic(6, 2, 2, 5, 5, generator=generator).requires_grad_()
        y = net(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        grads.append([x.grad, *(p.grad for p in net.parameters())])
        assert 0.02 < y.mean() < 0.98
    for one, other in zip(*grads, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)


def test_surrogate_net_and_second_derivatives(generator):
    layer = pk.use_surrogate(dyadic_layer(pk.FusedLinear(6, 4, neuron=Izhikevich()), generator), pk.ATan())
    x = dyadic(5, 2, 6, generator=generator).requires_grad_()
    (first,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert first.abs().max() > 0 and second.abs().max() > 0
    net = pk.SurrogateNet(nn.Sequential(layer), 5, surrogate=pk.ATan())
    net(x[0].detach()).sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_one_warning_says_that_it_is_slow(recwarn):
    warnings.simplefilter("always")

    @dataclass(frozen=True)
    class Own(Quadratic):
        def step(self, state, current, fire):
            return super().step(state, current, fire)

    layer = pk.FusedLinear(4, 3, neuron=Own()).eval()
    x = torch.rand(5, 1, 4)
    with pk.use_reference():
        layer(x)
    assert not recwarn.list
    layer(x), pk.simulate(nn.Sequential(layer), x, 5), pk.Population(Own())(x)
    (told,) = recwarn.list
    assert "Own is written in Python" in str(told.message) and Own.family in _warned


def test_compile_and_export_refuse_it_by_name():
    net = nn.Sequential(pk.FusedIFLinear(4, 4), pk.FusedLinear(4, 3, neuron=Quadratic())).eval()
    with pytest.raises(
        TypeError, match=r"does not take module 1 \(FusedLinear\): Quadratic is written in Python.*simulate"
    ):
        pk.compile(net, torch.rand(1, 4))
    with pytest.raises(TypeError, match="Quadratic"):
        pk.to_nir(net, (4,))
    with pytest.raises(TypeError, match="Quadratic"):
        pk.ProxyNet(net, 4)


def test_a_neuron_of_no_model_never_reaches_the_kernels():
    """It corrupted memory: its place in a list of Python's is that of another model in C++."""

    @dataclass(frozen=True)
    class Unknown(pk.neurons.IFNeuron):
        family: ClassVar[str] = "Unknown"

    with pytest.raises(ValueError, match="model 'UnknownHardReset' is not known here; give its class.*step"):
        pk.FusedLinear(4, 3, neuron=Unknown())(torch.rand(3, 1, 4))
    with pytest.raises(TypeError, match="does not support item assignment"):
        MODELS["UnknownHardReset"] = MODELS["HardReset"]
    kernels = backends.cpu_backend()
    neuron = Neuron("UnknownHardReset", torch.ones(1, 3), (0.0,))
    with pytest.raises(ValueError, match="neuron model 'UnknownHardReset'"):
        kernels.if_scan(torch.ones(2, 1, 1, 3), torch.zeros(1, 1, 3), neuron)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda v: v, r"must return \(spikes, \(v,\)\), got \[1, 3"),
        (lambda v: (v > 0, (v, v)), "must return"),
        (lambda v: (v > 0, (v[:, :1],)), "all of the current's shape .*; got"),
        (lambda v: (v[:, :1] > 0, v), "all of the current's shape .*; got"),
        (lambda v: (v + 2, (v,)), "spikes of 0 and 1; got 2"),
        (lambda v: None, "got NoneType"),
    ],
)
def test_a_step_that_returns_something_else_is_refused(returned, message):
    @dataclass(frozen=True)
    class Odd(AnyNeuron):
        def step(self, state, current, fire):
            return returned(state[0])

    with pytest.raises((TypeError, ValueError), match=message):
        pk.Population(Odd())(torch.rand(3, 1, 3))


def test_a_class_that_is_not_complete_is_refused():
    class Plain(AnyNeuron):
        tau: float = 2.0

        def step(self, state, current, fire):
            return state

    with pytest.raises(TypeError, match="Plain has the fields tau: write @dataclass"):
        Plain()

    @dataclass(frozen=True)
    class Stateless(Quadratic):
        states: ClassVar[int] = 0

    with pytest.raises(TypeError, match="states of Stateless"):
        Stateless()

    @dataclass(frozen=True)
    class Named(Quadratic):
        scalars: ClassVar[tuple[str, ...]] = ("gain",)

    with pytest.raises(TypeError, match="must have its fields.*gain"):
        Named()

    @dataclass(frozen=True)
    class Silent(Quadratic):
        fires: ClassVar[bool] = False

    with pytest.raises(TypeError, match="must fire"):
        Silent()
    with pytest.raises(ValueError, match="v_threshold must be finite"):
        pk.Population(Quadratic(v_threshold=float("nan")))
    with pytest.raises(TypeError, match="v_reset must be a number"):
        pk.Population(Quadratic(v_reset="hard"))
    with pytest.raises(TypeError, match="c must be a number, the same for all channels"):
        pk.Population(Izhikevich(c=torch.zeros(3)))
    with pytest.raises(ValueError, match="c must be finite in float32, got inf"):
        pk.Population(Izhikevich(c=float("inf")))


def test_a_step_cannot_change_what_it_is_given():
    @dataclass(frozen=True)
    class InPlace(AnyNeuron):
        def step(self, state, current, fire):
            (v,) = state
            v += current
            current.zero_()
            return fire(v, 1.0, 0.0)

    x, v = torch.full((4, 1, 3), 0.5), torch.full((1, 3), 0.25)
    y, after = pk.Population(InPlace())(x, v)
    assert equal(x, torch.full((4, 1, 3), 0.5)) and equal(v, torch.full((1, 3), 0.25))
    assert y[:, 0, 0].tolist() == [0, 1, 0, 1] and after.max() == 0


def test_classes_of_one_name_are_apart():
    """A notebook defines a class again, and layers of the former one go on as they were."""
    made = []
    for threshold in (1.0, 2.0):

        @dataclass(frozen=True)
        class Own(AnyNeuron):
            v_threshold: Value = threshold

            def step(self, state, current, fire):
                return fire(state[0] + current, self.v_threshold, None)

        made.append(pk.Population(Own()))
    x = torch.ones(4, 1, 2)
    assert [layer(x).sum().item() for layer in made] == [8, 4]
    assert made[0].neuron.family != made[1].neuron.family


def test_copies_state_dicts_and_assignments(generator):
    layer = dyadic_layer(pk.FusedLinear(6, 4, neuron=Izhikevich(d=0.25)), generator)
    x = binary(12, 2, 6, generator=generator)
    expected = layer(x)
    fresh = pk.FusedLinear(6, 4, neuron=Izhikevich()).eval()
    fresh.load_state_dict(layer.state_dict())
    assert fresh.d == 0.25 and fresh.c == -0.5
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert equal(again(x), expected)
    layer.d = torch.full((4,), 4.0)
    assert not torch.equal(layer(x), expected)
    assert "Izhikevich" in repr(layer) or "d=[4]" in repr(layer)


def test_rounded_weights_and_what_cannot_be_learned(generator):
    layer = dyadic_layer(pk.FusedLinear(6, 4, neuron=Quadratic()), generator)
    x = binary(5, 2, 6, generator=generator)
    rounded, plain = (pk.simulate(nn.Sequential(layer), x, 5, precision=given) for given in ("int8", None))
    assert equal(rounded.spikes.dense(), plain.spikes.dense()) and plain.spikes.dense().any()
    with pytest.raises(ValueError, match="b must be above 0 to be learned"):
        pk.learn_neurons(pk.Population(Izhikevich(b=-1.0)), "b")


def test_compiled_by_torch(generator):
    layer = dyadic_layer(pk.FusedLinear(6, 4, neuron=Quadratic()), generator)
    x = binary(5, 2, 6, generator=generator)
    with torch.no_grad():
        expected = layer(x)
        assert equal(torch.compile(layer, backend="eager", fullgraph=True)(x), expected) and expected.any()


def test_vmap(generator):
    layer = dyadic_layer(pk.Population(Quadratic()), generator)
    x = dyadic(3, 5, 2, 6, generator=generator)
    assert equal(torch.vmap(layer)(x), torch.stack([layer(one) for one in x]))


def test_use_reference_runs_no_kernel(generator, monkeypatch):
    """Layers, net(x), simulate and gradients; with the kernels they have the same spikes on exact data."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, v_reset=None), pk.MaxPool2d(2), pk.Flatten(), pk.FusedLIFLinear(32, 6, decay=0.75)
    ).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = binary(8, 3, 2, 6, 6, generator=generator)
    network = pk.Network()
    for k, layer in enumerate(net):
        network.append(f"l{k}", layer, (f"l{k - 1}" if k else "",))
    network.eval()
    with torch.no_grad():
        expected, simulated = net(x), pk.simulate(net, x, 8)
    calls = []
    steps = reference.step
    monkeypatch.setattr(reference, "step", lambda *given: calls.append(1) or steps(*given))
    with torch.no_grad():
        assert equal(network(x), expected) and not calls
        with pk.use_reference():
            monkeypatch.setattr(backends, "cpu_backend", None)  # nobody may ask for it
            for run in (lambda: net(x), lambda: network(x), lambda: pk.simulate(net, x, 8).spikes.dense()):
                assert equal(run(), expected) and len(calls) == 16
                calls.clear()
            again = pk.simulate(net, x, 8)
            monkeypatch.undo()
    assert again.rates == simulated.rates and min(simulated.rates.values()) > 0.02
    assert all(equal(again.state[k][0], simulated.state[k][0]) for k in simulated.state)


def test_use_reference_ends_and_nests():
    layer = pk.FusedIFLinear(4, 3)
    with pk.use_reference():
        with pk.use_reference():
            pass
        assert backends.reference_is_asked()
        with pytest.raises(RuntimeError, match="compile before or after pk.use_reference"):
            pk.compile(nn.Sequential(layer), torch.rand(1, 4))
    assert not backends.reference_is_asked()
    with pytest.raises(KeyError), pk.use_reference():
        raise KeyError
    assert not backends.reference_is_asked()
    assert pk.explain(nn.Sequential(layer).eval(), torch.rand(2, 4), 4).rows
