"""A state_dict holds all that changes a layer's results: thresholds, decays, resets, starts and scales."""

import copy
import io

import pytest
import torch
from equality import equal
from safetensors.torch import load, load_model, save, save_model
from torch import nn

import proxykernels as pk
from proxykernels.conversion.libraries import library_neurons

NEURONS = {
    "hard": pk.neurons.IFNeuron(v_threshold=0.5, v_reset=0.25),
    "soft": pk.neurons.IFNeuron(v_threshold=0.5, v_reset=None),
    "leaky": pk.neurons.LIFNeuron(
        v_threshold=0.75, v_reset=0.125, decay=torch.tensor([0.5, 0.75, 0.875, 1.0]), v_rest=0.25
    ),
    "current-based": pk.neurons.CubaLIFNeuron(
        v_threshold=0.75, v_reset=None, decay=0.75, current_decay=0.25, v_rest=-0.25
    ),
    "refractory": pk.neurons.RefractoryLIFNeuron(v_threshold=0.5, v_reset=0.0, decay=0.75, refractory=3),
    "loihi": pk.neurons.LoihiNeuron(v_threshold=2.0, decay=torch.tensor([0.5, 0.75, 0.875, 1.0]), v_bias=1.0),
}
OTHERS = {
    "hard": pk.neurons.IFNeuron(v_threshold=1.0, v_reset=None),
    "soft": pk.neurons.IFNeuron(v_threshold=1.0, v_reset=-0.5),
    "leaky": pk.neurons.LIFNeuron(v_threshold=1.0, v_reset=None, decay=0.5),
    "current-based": pk.neurons.CubaLIFNeuron(v_threshold=1.0, v_reset=0.0, decay=torch.full((4,), 0.5)),
    "refractory": pk.neurons.RefractoryLIFNeuron(v_threshold=1.0, v_reset=None, decay=0.5, refractory=1),
    "loihi": pk.neurons.LoihiNeuron(v_threshold=3.0, decay=0.5),
}


def make_net(neuron, v_init=None) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedConv2d(1, 4, 3, neuron=neuron, v_init=v_init), pk.Population(neuron, v_init=v_init), pk.Flatten(),
        pk.FusedLinear(4 * 36, 4, neuron=neuron, v_init=v_init),
    ).eval()  # fmt: skip
    for parameter in net.parameters():
        parameter.data.mul_(3)  # or nothing would fire behind the first layer
    return net


@pytest.fixture
def x(generator):
    return 4 * torch.rand(12, 3, 1, 8, 8, generator=generator)


@pytest.mark.parametrize("v_init", [None, 0.125], ids=["rest", "start"])
@pytest.mark.parametrize("model", NEURONS)
def test_a_state_dict_makes_one_network_the_other(x, model, v_init):
    start = None if NEURONS[model].states > 1 else v_init
    source = make_net(NEURONS[model], start)
    expected = source(x)
    assert 0.02 < expected.mean() < 0.98
    for own_start in (None, -0.25):
        other = make_net(OTHERS[model], own_start)
        assert not torch.equal(other(x), expected)
        other.load_state_dict(load(save(source.state_dict())))
        assert equal(other(x), expected) and repr(other) == repr(source)


@pytest.mark.parametrize("model", NEURONS)
def test_functional_call_takes_a_state_dict(x, model):
    source, other = make_net(NEURONS[model]), make_net(OTHERS[model])
    expected, own = source(x), other(x)
    assert expected.any() and not torch.equal(own, expected)
    assert equal(torch.func.functional_call(source, source.state_dict(), x), expected)
    assert equal(torch.func.functional_call(other, source.state_dict(), x), expected)
    assert equal(other(x), own) and repr(other) == repr(make_net(OTHERS[model]))


def relu_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def test_a_converted_network_loads_the_scale_of_its_outputs(generator):
    x = torch.rand(4, 1, 8, 8, generator=generator)
    source, other = pk.convert(relu_net(), x), pk.convert(relu_net(), 3 * x, v_init=0.25)
    assert not source.training
    expected, before = pk.simulate(source, x, 32), pk.simulate(other, x, 32).logits
    assert not torch.equal(before, expected.logits)
    other.load_state_dict(load(save(source.state_dict())))
    found = pk.simulate(other, x, 32)
    assert equal(found.logits, expected.logits) and expected.logits.abs().sum() > 0
    old = {key: value for key, value in source.state_dict().items() if not key.endswith(("scale", "v_reset"))}
    assert not other.load_state_dict(old).missing_keys  # an older file: they stay
    assert equal(pk.simulate(other, x, 32).logits, expected.logits)


def test_a_hard_reset_is_loaded_into_a_soft_one(generator):
    x = torch.rand(4, 1, 8, 8, generator=generator)
    source, other = pk.convert(relu_net(), x, v_reset=0.0), pk.convert(relu_net(), x)
    expected = pk.simulate(source, x, 32).rates
    assert expected != pk.simulate(other, x, 32).rates
    other.load_state_dict(source.state_dict())
    assert pk.simulate(other, x, 32).rates == expected and all(expected.values())


def test_values_that_are_good_only_together_are_loaded():
    source, other = pk.IF(v_threshold=0.5, v_reset=0.25), pk.IF(v_threshold=4.0, v_reset=2.0)
    for a, b in ((source, other), (pk.IF(v_threshold=4.0, v_reset=2.0), source)):
        b.load_state_dict(a.state_dict())
        assert (b.v_threshold, b.v_reset) == (a.v_threshold, a.v_reset)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("v_reset", torch.tensor(2.0), "v_reset must be finite and, in float32, below v_threshold"),
        ("v_reset", torch.zeros(4), r"v_reset must be a number .*got tensor"),
        ("v_rest", torch.tensor(torch.nan), "v_rest must be finite"),
        ("refractory", torch.tensor(1.5), "refractory must be an integer"),
        ("decay", torch.tensor(1.5), "decay must be from 0 to 1"),
        ("v_init", torch.tensor(torch.inf), "v_init must be finite"),
        ("scale", torch.tensor(0.0), "scale must be above 0"),
        ("v_threshold", "1.0", "v_threshold must be a torch.Tensor, got str"),
    ],
)
def test_what_is_no_such_value_is_refused_and_nothing_changes(key, value, reason):
    layer = pk.Population(NEURONS["refractory"])
    before = repr(layer)
    with pytest.raises(RuntimeError, match=rf"{key}: .*{reason}"):
        layer.load_state_dict(layer.state_dict() | {key: value})
    assert repr(layer) == before


def test_attributes_take_numbers_and_tensors():
    layer = pk.FusedIFLinear(3, 4)
    for value in (0.5, torch.full((4,), 0.25), torch.tensor(2.0), 1.0):
        layer.v_threshold = value
        assert layer.neuron.v_threshold is layer.v_threshold
        assert ("v_threshold" in dict(layer.named_buffers())) == isinstance(value, torch.Tensor)
        assert equal(layer.state_dict()["v_threshold"].float(), torch.as_tensor(value))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("v_threshold", nn.Parameter(torch.tensor(1e6)), ValueError, "v_threshold requires a gradient.*learn_neurons"),
        ("v_threshold", torch.ones(4, requires_grad=True), ValueError, r"pass v_threshold.detach\(\)"),
        ("v_threshold", "1", TypeError, "v_threshold must be a number or a tensor .* got '1'"),
        ("v_threshold", True, TypeError, "v_threshold must be a number .* got True"),
        ("v_threshold", [1.0, 2.0], TypeError, r"v_threshold must be a number or a tensor .* got \[1.0, 2.0\]"),
        ("v_threshold", None, TypeError, "v_threshold must be a number .* got None"),
        ("v_threshold", -1.0, ValueError, "v_threshold must be positive"),
        ("v_threshold", torch.ones(2, 2), TypeError, "v_threshold must be a number or a float tensor"),
        ("v_reset", "0", TypeError, "v_reset must be a number"),
        ("v_reset", torch.zeros(4), TypeError, "v_reset must be a number"),
        ("decay", nn.Parameter(torch.ones(4)), ValueError, "decay requires a gradient"),
        ("decay", 2, ValueError, "decay must be from 0 to 1, got 2"),
        ("v_rest", "0", TypeError, "v_rest must be a number"),
        ("v_init", nn.Parameter(torch.ones(4)), ValueError, "v_init requires a gradient"),
        ("v_init", "0", TypeError, "v_init must be a number"),
        ("scale", 0, ValueError, "scale must be above 0"),
    ],
)
def test_what_the_constructor_refuses_is_not_assigned(name, value, error, message):
    layer = pk.FusedLIFLinear(3, 4, v_threshold=0.5)
    before, saved = repr(layer), layer.state_dict()
    with pytest.raises(error, match=message):
        setattr(layer, name, value)
    assert repr(layer) == before and layer.state_dict().keys() == saved.keys()


@pytest.mark.parametrize("parametrized", [True, False])
def test_a_learned_parameter_is_assigned_and_checked(parametrized):
    """By learn_neurons, or an nn.Parameter of its own, as imported networks have."""
    layer = pk.FusedLIFLinear(4, 3, decay=torch.full((3,), 0.5))
    for name in ("v_threshold", "decay"):
        if parametrized:
            pk.learn_neurons(layer, name)
        else:
            library_neurons.learn(layer, name, nn.Parameter(torch.as_tensor(getattr(layer, name))))
    parameters = list(layer.parameters())
    layer.v_threshold, layer.decay = 3.0, torch.tensor([0.25, 0.5, 0.75])
    assert layer.v_threshold.item() == pytest.approx(3) and layer.decay.tolist() == pytest.approx([0.25, 0.5, 0.75])
    layer.decay = 0.125
    assert layer.decay.tolist() == pytest.approx([0.125] * 3)
    before = [p.clone() for p in parameters]
    for name, value, message in (
        ("v_threshold", -1.0, "v_threshold must be positive and finite"),
        ("v_threshold", torch.tensor(torch.nan), "v_threshold must be positive and finite .* got nan"),
        ("v_threshold", torch.ones(3), r"v_threshold is learned in the shape \[\], which stays; got \[3\]: assign it"),
        ("decay", torch.full((5,), 0.5), r"decay is learned in the shape \[3\]"),
        ("decay", torch.tensor(2.0), "decay must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            setattr(layer, name, value)
    now = list(layer.parameters())
    assert all(a is b and torch.equal(a, c) for a, b, c in zip(now, parameters, before, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, -0.1])
@pytest.mark.parametrize("parametrized", [True, False])
def test_a_good_state_dict_is_loaded_after_training_diverged(parametrized, bad):
    """What is checked are the values of the file."""
    layer = pk.FusedIFLinear(3, 2, v_threshold=0.5, v_reset=0.25)
    if parametrized:
        pk.learn_neurons(layer, "v_threshold")
    else:
        library_neurons.learn(layer, "v_threshold", nn.Parameter(torch.tensor(0.5)))
    good = {key: value.clone() for key, value in layer.state_dict().items()}
    (key,) = [key for key in good if "v_threshold" in key]
    dict(layer.named_parameters())[key].data.fill_(bad if not parametrized else torch.nan)
    with pytest.raises(RuntimeError, match="v_threshold: v_threshold must be positive and finite"):
        layer.load_state_dict(good | {key: torch.tensor(torch.nan)})
    layer.load_state_dict({key: good[key] for key in ("weight", "bias")}, strict=False)  # says nothing of neurons
    layer.load_state_dict(good)
    assert layer.v_threshold.item() == pytest.approx(0.5)


def test_what_is_assigned_counts(generator):
    """Also what torch has for constants, and values that are good only together."""
    layer, x = pk.FusedIFLinear(4, 3, v_threshold=0.5).eval(), torch.rand(20, 2, 4, generator=generator)
    layer.weight.data.fill_(1)
    assert layer(x).any()
    layer.v_threshold = nn.Parameter(torch.tensor(1e6), requires_grad=False)
    assert not layer(x).any() and "v_threshold=1e+06" in repr(layer) and "v_threshold" not in layer._parameters
    layer.v_reset = 2.0
    layer.v_threshold = 4.0
    layer.v_init = None
    assert (layer.v_reset, layer.v_threshold, layer.v_init) == (2.0, 4.0, 0.0)
    pk.learn_neurons(layer, "v_threshold")
    layer.v_threshold = torch.tensor(1e6)
    assert not layer(x).any()


THRESHOLDS = [0.1, torch.tensor(0.7), torch.tensor([0.25, 0.5, 1.0, 2.0])]


def net_of_thresholds(v_threshold, v_reset=0.0) -> nn.Sequential:
    neuron = {"v_threshold": v_threshold, "v_reset": v_reset}
    torch.manual_seed(0)
    return nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, **neuron),
        pk.IF(**neuron),
        pk.FusedIFConv2d(4, 4, 3, batch_norm=True, **neuron),
        pk.Flatten(),
        pk.FusedIFLinear(64, 4, **neuron),
    ).eval()


@pytest.fixture
def thresholds_x(generator):
    return 4 * torch.rand(3, 1, 8, 8, generator=generator)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(torch.as_tensor(p.v_threshold), torch.as_tensor(q.v_threshold))
               for p, q in pairs if hasattr(p, "v_threshold"))  # fmt: skip


@pytest.mark.parametrize("theirs", THRESHOLDS, ids=["number", "scalar", "channels"])
@pytest.mark.parametrize("own", [1.0, torch.tensor(1.0), torch.ones(4)], ids=["number", "scalar", "channels"])
def test_a_state_dict_brings_its_thresholds(thresholds_x, own, theirs):
    source = net_of_thresholds(theirs)
    expected = pk.simulate(source, thresholds_x, 20)
    assert all(rate > 0 for rate in expected.rates.values())
    other = net_of_thresholds(own)
    assert pk.simulate(other, thresholds_x, 20).rates != expected.rates
    for state in (source.state_dict(), load(save(source.state_dict()))):
        net = copy.deepcopy(other)
        net.load_state_dict(state)
        assert same(net, source)
        assert equal(pk.simulate(net, thresholds_x, 20).spikes.dense(), expected.spikes.dense())
        assert list(net.state_dict()) == list(source.state_dict())


def test_files_of_torch_and_of_safetensors(thresholds_x, tmp_path):
    source, net = net_of_thresholds(0.3), net_of_thresholds(1.0)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    net.load_state_dict(torch.load(buffer, weights_only=True))
    assert [layer.v_threshold for layer in net if hasattr(layer, "v_threshold")] == [0.3] * 4
    save_model(source, str(tmp_path / "net.safetensors"))
    net = net_of_thresholds(torch.ones(4))
    load_model(net, tmp_path / "net.safetensors")
    assert same(net, source)


def test_an_older_state_dict_loads_and_the_layers_keep_their_thresholds():
    for own in (0.5, torch.full((4,), 0.5)):
        source, net = net_of_thresholds(2.0), net_of_thresholds(own)
        state = {key: value for key, value in source.state_dict().items() if "v_threshold" not in key}
        assert not net.load_state_dict(state).missing_keys and same(net, net_of_thresholds(own))


def test_what_is_no_threshold_is_refused():
    net = net_of_thresholds(1.0, v_reset=0.5)
    for value, reason in ((-1.0, "must be positive"), (torch.nan, "must be positive"), (0.25, "below v_threshold")):
        state = net.state_dict() | {"2.v_threshold": torch.tensor(value)}
        with pytest.raises(RuntimeError, match=rf"2\.v_threshold: .*{reason}"):
            net.load_state_dict(state)
        assert net[2].v_threshold == 1.0
    with pytest.raises(RuntimeError, match="Unexpected key.*1.threshold"):
        net.load_state_dict(net.state_dict() | {"1.threshold": torch.tensor(1.0)})


def test_a_threshold_that_asks_for_a_gradient_is_refused(generator):
    for v_threshold in (nn.Parameter(torch.tensor(1.0)), torch.ones(4, requires_grad=True)):
        for make in (pk.IF, lambda **neuron: pk.FusedIFLinear(3, 4, **neuron)):
            with pytest.raises(ValueError, match=r"v_threshold requires a gradient.*pass v_threshold.detach\(\)"):
                make(v_threshold=v_threshold)
        with pytest.raises(ValueError, match="v_threshold requires a gradient"):
            pk.functional.if_scan_surrogate(torch.rand(3, 2, 4), v_threshold=v_threshold)
    frozen = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
    assert equal(pk.IF(v_threshold=frozen).v_threshold, frozen)


@pytest.mark.slow
def test_exported_and_compiled_nets_take_a_loaded_threshold(thresholds_x):
    sequence = thresholds_x.expand(5, *thresholds_x.shape)
    net = net_of_thresholds(1.0)
    net.load_state_dict(net_of_thresholds(0.3).state_dict())
    expected = net(sequence)
    assert expected.sum() > 0 and not torch.equal(expected, net_of_thresholds(1.0)(sequence))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert equal(compiled(sequence), expected)
    assert equal(torch.export.export(net, (sequence,)).module()(sequence), expected)
    net.load_state_dict(net_of_thresholds(0.2).state_dict())
    other = net_of_thresholds(0.2)(sequence)
    assert other.sum() > 0 and equal(compiled(sequence), other) and not torch.equal(other, expected)
