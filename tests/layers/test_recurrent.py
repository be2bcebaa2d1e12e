"""FusedRecurrentLinear and readouts: what they compute, their state, and what they refuse."""

from dataclasses import replace

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.neurons import CubaLIFNeuron, IFNeuron, LIFNeuron, LINeuron


def layer(inputs=6, outputs=9, **options) -> pk.FusedRecurrentLinear:
    """With weights of a dyadic grid."""
    options.setdefault("neuron", IFNeuron(v_threshold=1.0, v_reset=None))
    made, generator = pk.FusedRecurrentLinear(inputs, outputs, **options), torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8)
    return made.eval()


def by_hand(net, x):
    """The layer's spikes, of IF and leaky neurons: a loop that shares no code with the package."""
    neuron, R = net.neuron, net.recurrent_weight
    decay, rest = getattr(neuron, "decay", 1.0), getattr(neuron, "v_rest", 0.0)
    v = torch.full((x.shape[1], len(R)), rest)
    s, found = torch.zeros_like(v), []
    for step in x:
        back = s @ R.t() if R.ndim == 2 else s * R
        h = rest + decay * (v - rest) + (step @ net.weight.t() + net.bias + back)
        s = (h >= neuron.v_threshold).float()
        v = h - neuron.v_threshold * s if neuron.v_reset is None else torch.where(s > 0, neuron.v_reset, h)
        found.append(s)
    return torch.stack(found).detach()


def test_a_spike_goes_round():
    """Three neurons in a ring: one spike goes in, and comes by every third step."""
    ring = pk.FusedRecurrentLinear(1, 3, bias=False, neuron=IFNeuron())
    ring.weight.data = torch.tensor([[1.0], [0.0], [0.0]])
    ring.recurrent_weight.data = torch.eye(3).roll(1, 0)  # neuron i receives of neuron i - 1
    x = torch.zeros(7, 1, 1)
    x[0] = 1
    assert ring.eval()(x)[:, 0].argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert ring(x).sum() == 7


def test_a_neuron_that_excites_itself():
    alone = pk.FusedRecurrentLinear(1, 2, bias=False, neuron=IFNeuron(), recurrence="elementwise")
    alone.weight.data, alone.recurrent_weight.data = torch.ones(2, 1), torch.tensor([1.0, 0.5])
    x = torch.zeros(5, 1, 1)
    x[0] = 1
    assert alone.eval()(x)[:, 0].tolist() == [[1, 1], [1, 0], [1, 0], [1, 0], [1, 0]]


@pytest.mark.parametrize("recurrence", ["full", "elementwise"])
@pytest.mark.parametrize(
    "neuron",
    [IFNeuron(), IFNeuron(v_reset=None), LIFNeuron(decay=0.5), LIFNeuron(v_reset=-0.5, decay=0.5, v_rest=0.25)],
    ids=str,
)
def test_a_plain_loop(neuron, recurrence):
    net = layer(neuron=neuron, recurrence=recurrence)
    x = spikes(40, 3, 6, generator=torch.Generator().manual_seed(0))
    x = x + spikes(40, 3, 6, generator=torch.Generator().manual_seed(1)) > 0
    wanted = by_hand(net, x.float())
    assert 0.02 < wanted.mean() < 0.9
    assert equal(net(x), wanted) and equal(net(pk.pack(x)).dense(), wanted)


@pytest.mark.parametrize("neuron", [IFNeuron(), CubaLIFNeuron(v_reset=None)], ids=str)
def test_a_state_goes_on_where_it_ended(neuron):
    net, x = layer(neuron=neuron), spikes(30, 3, 6, generator=torch.Generator().manual_seed(0))
    whole, last = net.spike(x)
    rest = torch.zeros(3, neuron.states + 1, 9)
    first, v = net(x[:11], rest)
    second, v = net(x[11:], v)
    assert whole.count().any() and v[:, -1].any()
    assert equal(torch.cat([first, second]), whole.dense()) and equal(v, last)


def test_in_networks():
    x = spikes(40, 3, 6, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(layer(), pk.FusedIFLinear(9, 4), layer(4, 5)).eval()
    y = net(x)
    for chunk in (None, 1, 7, 40):
        result = layerwise.simulate(net, x, T=40, chunk=chunk)
        assert y.any() and equal(result.spikes.dense(), y)
    halves = [pk.simulate(net, x[:20], T=20)]
    halves.append(pk.simulate(net, x[20:], T=20, state=halves[0].state))
    assert equal(torch.cat([half.spikes.dense() for half in halves]), y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_parameters_of_every_type(dtype):
    x = spikes(9, 2, 6, generator=torch.Generator().manual_seed(2), rate=0.5)
    expected = by_hand(layer(), x)
    net = nn.Sequential(layer().to(dtype))
    assert expected.any() and net[0].bias.dtype == dtype and net[0].bias.any()
    for run in (layerwise.simulate, pk.simulate, lambda net, x, T: pk.compile(net, x)(x, T)):
        assert equal(run(net, x, len(x)).spikes.dense(), expected)


def test_operations_count_what_comes_back():
    x = spikes(40, 3, 6, generator=torch.Generator().manual_seed(0))
    full, alone = (pk.simulate(layer(recurrence=kind), x, T=40) for kind in ("full", "elementwise"))
    for result, reached in ((full, 9), (alone, 1)):
        name, fired = "FusedRecurrentLinear", int(result.spikes.count().sum())
        assert fired and result.synops.accumulates[name] == 9 * int(x.sum()) + reached * fired


def test_records_and_a_start_that_is_given():
    net, x = layer(v_init=0.5), spikes(20, 2, 6, generator=torch.Generator().manual_seed(0))
    result = pk.simulate(nn.Sequential(net), x, T=20, chunk=6, record=["0", "0.v"])
    assert equal(result.records["0"], result.spikes) and result.records["0.v"].shape == (20, 2, 9)
    assert equal(result.records["0.v"][-1], result.state["0"][0][:, 0])
    channels = layer(v_init=torch.arange(9) / 8)
    assert not torch.equal(channels(x), net(x))


def test_a_saved_layer():
    net, other = layer(), layer(neuron=IFNeuron(v_threshold=0.5))
    with torch.no_grad():
        other.recurrent_weight.zero_()
    other.load_state_dict(net.state_dict())
    x = spikes(20, 2, 6, generator=torch.Generator().manual_seed(0))
    assert set(net.state_dict()) >= {"weight", "bias", "recurrent_weight", "v_threshold"}
    assert net(x).any() and equal(other(x), net(x))


REFUSED = {
    "shape": (lambda: layer(neuron=IFNeuron(), recurrence="all"), ValueError, "recurrence must be one of full"),
    "readout": (lambda: layer(neuron=LINeuron()), TypeError, "neuron must fire, .*LINeuron, which FusedLinear takes"),
    "bias": (lambda: pk.FusedRecurrentLinear(3, 4, 1.0, neuron=IFNeuron()), TypeError, "bias must be True or False"),
    "features": (lambda: layer()(torch.zeros(4, 2, 5)), ValueError, "x must have 6 features"),
    "state-shape": (
        lambda: layer()(torch.zeros(4, 2, 6), torch.zeros(2, 9)), ValueError, r"v must have the shape .*\[2, 2, 9\]"
    ),
    "spikes-of-the-state": (
        lambda: layer()(torch.zeros(4, 2, 6), torch.full((2, 2, 9), 0.5)),
        ValueError,
        r"v\[:, 1\] must be the spikes of the step before, 0 or 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 2.0**101])
def test_recurrent_weights_that_are_not_finite(value):
    net = layer()
    with torch.no_grad():
        net.recurrent_weight[2, 3] = value
    with pytest.raises(ValueError, match="recurrent_weight must be finite"):
        net(torch.ones(4, 2, 6))


def test_weights_of_another_shape():
    net = layer()
    net.recurrent_weight = nn.Parameter(torch.zeros(9, 8))
    with pytest.raises(ValueError, match=r"recurrent_weight must have the shape \[9, 9\], or \[9\]"):
        net(torch.ones(4, 2, 6))


def test_engines_streams_and_files(tmp_path):
    """Of layers in a row, on spikes, values and constant ones; and a state that is set."""
    net = nn.Sequential(
        layer(), pk.FusedIFLinear(9, 7, v_threshold=0.5), layer(7, 5, recurrence="elementwise", neuron=CubaLIFNeuron())
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net[1].parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator, span=8))
    net.eval()
    inputs = {
        "spikes": spikes(90, 3, 6, generator=generator),
        "values": dyadic(90, 3, 6, generator=generator),
        "held": dyadic(3, 6, generator=generator),
    }
    for x in inputs.values():
        steps = x if x.ndim == 3 else x.expand(90, 3, 6)
        y, engine = net(steps), pk.compile(net, x)
        assert y.any() and equal(engine(x, 90).spikes.dense(), y)
        stream = engine.stream(3)
        assert equal(torch.cat([stream(steps[t : t + 7]).dense() for t in range(0, 90, 7)]), y)
        engine.save(tmp_path / "net")
        assert equal(pk.load(tmp_path / "net")(x, 90).spikes.dense(), y)
        result, by_layers = pk.simulate(net, x, 90), layerwise.simulate(net, x, 90, chunk=16)
        assert result.rates == by_layers.rates and result.synops == by_layers.synops
        for name, (v,) in by_layers.state.items():
            assert equal(result.state[name][0], v) and equal(stream.state[name], v)
    assert "currents" in str(engine) and set(result.rates) == {"0", "1", "2"}


def test_states_of_streams_and_simulations_are_looked_at():
    net, x = nn.Sequential(layer()).eval(), spikes(8, 2, 6, generator=torch.Generator().manual_seed(0))
    stream = pk.compile(net, x).stream(2)
    stream(x)
    wrong = {"0": stream.state["0"] + 0.5}
    with pytest.raises(ValueError, match="state of 0 must end in the spikes of the step before"):
        stream.state = wrong
    with pytest.raises(ValueError, match=r"layer 0: v must end in the spikes of the step before"):
        pk.simulate(net, x, 8, state={"0": [wrong["0"]]})


def test_early_exit():
    """Samples that stop leave the others' states as they are."""
    x = spikes(64, 9, 6, generator=torch.Generator().manual_seed(0), rate=0.4)
    net = nn.Sequential(layer(), pk.FusedIFLinear(9, 3)).eval()
    whole, result = pk.simulate(net, x, 64), pk.simulate(net, x, 64, stop=pk.stop.margin(4))
    assert 1 < len(result.steps.unique())
    for n, steps in enumerate(result.steps.tolist()):
        assert equal(result.spikes.dense()[:steps, n], whole.spikes.dense()[:steps, n])


def test_proxy_net_refuses():
    net = nn.Sequential(layer())
    with pytest.raises(TypeError, match="layer 0 is recurrent, and a ReLU twin has no steps .*SurrogateNet"):
        pk.ProxyNet(net, T=4)


def test_a_call_in_training_says_what_trains_it():
    from proxykernels.layers import base

    net = layer().train()
    base._warned.discard(type(net))
    with pytest.warns(UserWarning, match=r"from this call\. Train with a surrogate derivative"):
        net(torch.ones(4, 2, 6))


def test_a_damaged_file_is_refused(tmp_path):
    """What the library does not look at, the reader does."""
    from proxykernels.plan import file
    from proxykernels.plan.follow import follow

    plan = follow(nn.Sequential(layer()).eval(), (6,), False)
    operation = plan.operations[1]
    for changed in (
        {"recurrent": torch.zeros(9, 8)},
        {"recurrent": torch.full((9, 9), torch.nan)},
        {"neurons": replace(operation.neurons, start=torch.zeros(1, 9))},
        {"windows": (replace(operation.windows[0], slot=0),)},
        {"neurons": replace(operation.neurons, fires=False)},
    ):
        broken = replace(plan, operations=[plan.operations[0], replace(operation, **changed)])
        file.save(broken, tmp_path / "net")
        with pytest.raises(ValueError, match="cannot be loaded"):
            pk.load(tmp_path / "net")


def integrated(current, decay, v_rest=0.0):
    """By hand: [T, N, ...]."""
    v, steps = torch.full_like(current[0], v_rest), []
    for step in current:
        v = v_rest + decay * (v - v_rest) + step
        steps.append(v)
    return torch.stack(steps)


@pytest.mark.parametrize("decay", [1.0, 0.5, torch.tensor([0.25, 0.5, 1.0, 0.0])], ids=["sum", "leaky", "by-channel"])
@pytest.mark.parametrize("kind", ["spikes", "dense", "real", "held"])
def test_linear(generator, kind, decay):
    layer = pk.FusedLILinear(6, 4, decay=decay, v_rest=-0.25)
    layer.weight.data, layer.bias.data = dyadic(4, 6, generator=generator), dyadic(4, generator=generator)
    x = spikes(9, 2, 6, generator=generator) if kind in ("spikes", "dense") else dyadic(9, 2, 6, generator=generator)
    x = x[:1].expand(9, 2, 6) if kind == "held" else x
    expected = integrated(nn.functional.linear(x, layer.weight, layer.bias), decay, -0.25)
    with torch.no_grad():
        y = layer(pk.pack(x) if kind == "spikes" else x)
        first, v = layer(x[:4], torch.full((2, 4), -0.25))
        rest, last = layer(x[4:], v)
    assert y.dtype == torch.float32 and expected.std() > 0.1 and equal(y, expected)
    assert equal(torch.cat([first, rest]), expected) and equal(last, expected[-1])


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda n: pk.FusedConv2d(3, 4, 3, padding=1, stride=2, neuron=n), (3, 5, 4)),
        (lambda n: pk.layers.FusedConv1d(3, 4, 3, padding=1, neuron=n), (3, 7)),
        (lambda n: pk.FusedSum(nn.Linear(5, 5), nn.Identity(), neuron=n), (5,)),
        (lambda n: pk.FusedSum(nn.Conv1d(3, 3, 3, padding=1), nn.Identity(), neuron=n), (3, 6)),
        (pk.Population, (2, 3, 3)),
    ],
    ids=["conv2d", "conv1d", "sum", "stepwise-sum", "alone"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_any_layer(generator, layer, shape, packed):
    layer = layer(pk.neurons.LINeuron(decay=0.5)).eval()
    for parameter in layer.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = spikes(40, 2, *shape, generator=generator)
    several = isinstance(layer, pk.FusedSum)
    with torch.no_grad():
        current = torch.stack([layer.affine((step, step) if several else step) for step in x])
        given = pk.pack(x) if packed else x
        y = layer((given, given) if several else given)
    assert current.std() > 0.1 and equal(y, integrated(current, 0.5))


@pytest.mark.parametrize("chunk", [None, 7])
def test_a_network_may_end_in_potentials(generator, chunk):
    net = nn.Sequential(pk.FusedLIFConv2d(1, 4, 3), pk.Flatten(), pk.FusedLILinear(36, 3, decay=0.75))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(2, 1, 5, 5, generator=generator).abs()
    result = pk.simulate(net, x, 50, chunk=chunk, record=["0", "2"])
    hidden = result.records["0"].dense().flatten(2)
    current = nn.functional.linear(hidden, net[2].weight, net[2].bias)
    assert hidden.mean() > 0.02
    torch.testing.assert_close(result.potentials, integrated(current, 0.75).detach(), rtol=1e-5, atol=1e-5)
    assert equal(result.records["2"], result.potentials)
    assert equal(result.state["2"][0], result.potentials[-1])
    half = layerwise.simulate(net, x, 25, chunk=chunk)
    assert equal(pk.simulate(net, x, 25, state=half.state).potentials, result.potentials[25:])
    assert "2" not in result.rates and "potentials (50, 2, 3)" in repr(result)
    assert "2" in str(pk.explain(net, x, 5))
    with pytest.raises(AttributeError, match="take result.potentials"):
        result.count()
    with pytest.raises(ValueError, match="stop counts output spikes"):
        pk.simulate(net, x, 50, stop=pk.stop.margin(2))
    with pytest.raises(AttributeError, match="take result.spikes"):
        _ = pk.simulate(net[:1], x, 5).potentials


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["sequence", "one-step", "held"])
def test_outputs_share_no_memory(generator, decay, kind):
    """Neither with the input nor with the state: what is written to one of them changes no other."""
    x = torch.rand(6, 2, 5, generator=generator)
    x = x if kind == "sequence" else x[:1] if kind == "one-step" else x[:1].expand(6, 2, 5)
    weighted = pk.FusedLILinear(5, 3, decay=decay).eval()
    weighted.weight.data.fill_(1)
    for layer, features in ((pk.LI(decay=decay), 5), (weighted, 3)):
        start = torch.ones(2, features)
        with torch.no_grad():
            given = [x, start, *layer(x, start)]
        assert given[3].any() and equal(given[2][-1], given[3])
        assert len({tensor.untyped_storage().data_ptr() for tensor in given}) == 4


def test_int16_reads_out_too(generator):
    net = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(25, 20), pk.FusedLILinear(20, 3))
    x = torch.rand(2, 1, 5, 5, generator=generator)
    whole = pk.simulate(net, x, 40, precision="int16").potentials
    chunks = layerwise.simulate(net, x, 40, precision="int16", chunk=3).potentials
    assert whole.std() > 0.1 and equal(whole, chunks)


def test_state_dict(generator):
    layer, other = pk.FusedLILinear(3, 2, decay=0.25), pk.FusedLILinear(3, 2)
    other.load_state_dict(layer.state_dict())
    assert other.decay == 0.25 and "decay=0.25" in repr(other)
    with pytest.raises(ValueError, match="decay must be from 0 to 1, got 1.5"):
        pk.FusedLILinear(3, 2, decay=1.5)


def test_training_by_proxy_reads_potentials(generator):
    net = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(25, 20), pk.FusedLILinear(20, 3))
    with pytest.raises(ValueError, match="layer 2 gives potentials and no spikes: readout must be 'potential'"):
        pk.ProxyNet(net, 8)
    x = torch.rand(4, 1, 5, 5, generator=generator)
    model = pk.ProxyNet(net, 8, readout="potential").train()
    output = model(x)
    output.square().sum().backward()
    assert equal(output, layerwise.simulate(net, x, 8, chunk=8).potentials[-1])
    assert all(parameter.grad.any() for parameter in net.parameters())
