"""What a user reads who takes a wrong turn or gives another network's state; and numbers of NumPy, which are taken."""

import copy
import inspect

import layerwise
import numpy as np
import pytest
import torch
from equality import equal
from network_changes import dyadic, image
from torch import nn

import proxykernels as pk
from proxykernels import layers, neurons

IMAGES = torch.rand(4, 1, 8, 8)
CONV, LINEAR = pk.FusedIFConv2d(2, 4, 3, groups=2).eval(), pk.FusedIFLinear(10, 3).eval()


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(pk.FusedIFConv2d(1, 4, 3), pk.Flatten(), pk.FusedIFLinear(144, outputs)).eval()


class Twice(nn.Module):
    """One layer that is two populations."""

    def __init__(self):
        super().__init__()
        self.neurons = pk.IF(v_threshold=0.5)

    def forward(self, x):
        return self.neurons(self.neurons(x))


CONSTANT = r"without steps it is a constant input: proxykernels.simulate\(net, x, T\)"
TURNS = {
    "channels": (lambda: CONV(torch.rand(5, 2, 3, 8, 8)), r"x must have C_in = 2, as weights .* in 2 groups .*, got 3"),
    "channels of spikes": (lambda: CONV(pk.pack(torch.ones(5, 2, 3, 8, 8))), "x must have C_in = 2, .* got 3 channels"),
    "features": (lambda: LINEAR(torch.rand(5, 2, 9)), r"x must have 10 features, as weights \[3, 10\] .* got 9"),
    "simulated": (lambda: pk.simulate(network(), torch.rand(2, 3, 8, 8), 4), "layer 0: x must have C_in = 1, .* got 3"),
    "an image": (lambda: network()(IMAGES), rf"x must have the shape \[T, N, C_in, H, W\], got .*; {CONSTANT}"),
    "features without steps": (lambda: LINEAR(torch.rand(4, 10)), CONSTANT),
    "a signal": (lambda: pk.FusedIFConv1d(2, 3, 3)(torch.rand(2, 2, 9)), CONSTANT),
    "an image to pool": (lambda: pk.MaxPool2d(2)(IMAGES), CONSTANT),
    "stop": (lambda: pk.simulate(network(), IMAGES, 4, stop=3), "stop must be a rule .*margin.*, got 3"),
    "one class": (lambda: pk.simulate(network(1), IMAGES, 4, stop=pk.stop.margin(3)), r"margin .* got \[4, 1\]"),
    "tau": (
        lambda: pk.FusedLIFConv2d(1, 8, 3, tau=2.0),
        r"^FusedLIFConv2d has no argument 'tau': decay .*from_tau\(tau\) to FusedConv2d",
    ),
    "tau of neurons alone": (lambda: pk.LIF(tau=2.0), r"^LIF has no argument 'tau': .* to Population"),
    "beta": (lambda: pk.FusedLIFLinear(1, 8, beta=0.9), "no argument 'beta': decay is what snnTorch calls"),
    "a leak of none": (lambda: pk.FusedIFConv2d(1, 8, 3, decay=0.5), r"not leak; those of FusedLIFConv2d\(..., decay"),
    "an unknown word": (lambda: pk.FusedIFLinear(1, 8, biased=True), "no argument 'biased': it has in_feat"),
    "a state too few": (
        lambda: pk.simulate(Twice(), IMAGES[:, 0, 0], 4, state={"neurons": [torch.zeros(4, 8)]}),
        r"state of layer neurons must have one tensor for each of its 2 call\(s\) in a step, got 1",
    ),
    "a state too many": (
        lambda: pk.simulate(LINEAR, torch.rand(4, 10), 4, state={"FusedIFLinear": [torch.zeros(4, 3)] * 2}),
        r"state of layer FusedIFLinear must have one tensor for each of its 1 call\(s\) in a step, got 2",
    ),
    "a state too few in training": (
        lambda: pk.SurrogateNet(Twice(), 4)(IMAGES[:, 0, 0], {"neurons": [torch.zeros(4, 8)]}),
        r"state of layer neurons must have one tensor for each of its 2 call\(s\) in a step, got 1",
    ),
    "a state of no layer in training": (
        lambda: pk.SurrogateNet(Twice(), 4)(IMAGES[:, 0, 0], {"others": [torch.zeros(4, 8)]}),
        r"state holds layers that net has not: \['others'\]; it has \['neurons'\]",
    ),
    "a state that is no list": (
        lambda: pk.simulate(LINEAR, torch.rand(4, 10), 4, state={"FusedIFLinear": torch.zeros(4, 3)}),
        "state of layer FusedIFLinear must be a list of tensors, got Tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
def test_a_wrong_turn_is_told_the_way(turn):
    call, words = TURNS[turn]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_states_of_two_populations_go_on():
    net, x = Twice(), torch.rand(4, 8)
    whole, first = pk.simulate(net, x, 12), pk.simulate(net, x, 5)
    second = pk.simulate(net, x, 7, state=first.state)
    assert whole.count().any() and equal(first.count() + second.count(), whole.count())


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_event_frames_may_be_enlarged_first(generator, mode):
    """bool and integers count as elsewhere: a spike, or so many events."""
    net = nn.Sequential(pk.Upsample(scale_factor=2, mode=mode), pk.FusedIFConv2d(1, 4, 3)).eval()
    events = torch.randint(0, 4, (6, 2, 1, 8, 8), generator=generator)
    for frames in (events, events > 1, (events > 1).to(torch.uint8)):
        expected = net(frames.float())
        assert equal(pk.simulate(net, frames, 6).spikes.dense(), expected) and expected.any()
        y = net(frames)
        assert equal(y.dense() if isinstance(y, pk.Spikes) else y, expected)


TORCHS = {"Conv2d": nn.Conv2d, "Conv1d": nn.Conv1d, "Linear": nn.Linear}
FIELDS = {
    "IF": ["v_threshold", "v_reset"],
    "LIF": ["decay", "v_threshold", "v_reset", "v_rest"],
    "LI": ["decay", "v_rest"],
}


@pytest.mark.parametrize("kind", TORCHS)
@pytest.mark.parametrize("neurons", FIELDS)
def test_signatures_show_the_arguments(neurons, kind):
    """To help(), inspect and completion: torch's first, in its order and with its defaults, then the neurons'."""
    layer = getattr(pk, f"Fused{neurons}{kind}", None)
    if layer is None:
        assert neurons == "LI"
        return
    mine, theirs = inspect.signature(layer).parameters, inspect.signature(TORCHS[kind]).parameters
    assert list(mine) == [*theirs, *FIELDS[neurons], "v_init", "batch_norm"]
    assert all(mine[name].default == parameter.default for name, parameter in theirs.items())
    assert all(mine[name].kind is inspect.Parameter.KEYWORD_ONLY for name in FIELDS[neurons])


@pytest.mark.parametrize("name", [name for name in pk.__all__ if isinstance(getattr(pk, name), type)])
def test_no_layer_hides_its_arguments(name):
    if getattr(pk, name).__init__ is nn.Module.__init__:  # it takes none
        return
    kinds = {parameter.kind for parameter in inspect.signature(getattr(pk, name)).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


T = 5
CEIL = dict(kernel_size=3, ceil_mode=True)


def two_layers(pool: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(dyadic(pk.FusedIFConv2d(2, 4, 3)), pool, pk.Flatten(), dyadic(pk.FusedIFLinear(16, 5))).eval()


BETWEEN = {
    "rates": lambda: pk.MaxRatePool2d(2),
    "rates, ceil": lambda: pk.MaxRatePool2d(**CEIL),
    "maxima": lambda: pk.RunningMaxPool2d(2),
    "delay": lambda: nn.Sequential(pk.Delay(1), pk.MaxPool2d(2)),
    "delays": lambda: nn.Sequential(pk.MaxPool2d(2), pk.Delay([2, 0, 3, 1])),
    "neurons": lambda: nn.Sequential(pk.MaxPool2d(2), pk.IF()),
}
WRONG = {
    "samples": (lambda v: v[:1], "must have the shape"),
    "channels": (lambda v: v[:, :1], "must have the shape"),
    "values": (torch.sum, "must have the shape"),
    "half of a row": (lambda v: v[..., :1], "must have the shape"),
    "integers": (lambda v: v.int(), "must be floating point"),
    "sparse": (lambda v: v.to_sparse(), "must be a dense tensor"),
    "elsewhere": (lambda v: v.to("meta"), "is on meta"),
    "infinite": (lambda v: v + torch.inf, "must be finite"),
    "huge": (lambda v: v + 1e38, "must be finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("between", BETWEEN)
def test_a_wrong_state_is_refused(between, wrong):
    net, (change, error) = two_layers(BETWEEN[between]()), WRONG[wrong]
    kept = pk.simulate(net, image(), T).state
    stream = pk.compile(net, image()).stream(3)
    name = list(kept)[1]
    kept[name] = [change(kept[name][0])]
    for run in (pk.simulate, layerwise.simulate):
        with pytest.raises((TypeError, ValueError), match=f"layer {name}: v {error}"):
            run(net, image(), T, state=kept)
    with pytest.raises((TypeError, ValueError), match=f"state of {name} {error}"):
        stream.state = {layer: v for layer, (v,) in kept.items()}


@pytest.mark.parametrize("wrong", [0.5, -1.0, 2.0**24 + 2])
@pytest.mark.parametrize("between", ["rates", "rates, ceil"])
def test_counts_of_spikes_are_whole(between, wrong):
    """Other types would give other spikes by a plan than by layers."""
    net = two_layers(BETWEEN[between]())
    kept = pk.simulate(net, image(), T).state
    stream = pk.compile(net, image()).stream(3)
    kept["1"][0][-1, -1, 2, 2] = wrong
    error = rf"must hold counts of spikes, whole numbers from 0 to 2\*\*24, got {wrong:.9g}; take the state of"
    for run in (pk.simulate, layerwise.simulate):
        with pytest.raises(ValueError, match=f"layer 1: v {error}"):
            run(net, image(), T, state=kept)
    with pytest.raises(ValueError, match=f"state of 1 {error}"):
        stream.state = {layer: v for layer, (v,) in kept.items()}


@pytest.mark.parametrize("between", BETWEEN)
def test_plans_and_layers_go_on_from_each_other(between):
    """They keep states of the same shapes, also where ceil_mode adds pixels."""
    net = two_layers(BETWEEN[between]())
    by_plan, by_layers = pk.simulate(net, image(), T), layerwise.simulate(copy.deepcopy(net), image(), T, chunk=2)
    for (name, (v,)), (_, (w,)) in zip(by_plan.state.items(), by_layers.state.items(), strict=True):
        assert equal(v, w), name
    expected = pk.simulate(net, image(), 2 * T).spikes[T:]
    assert expected.count().any()
    assert equal(pk.simulate(net, image(), T, state=by_layers.state).spikes, expected)
    assert equal(layerwise.simulate(net, image(), T, state=by_plan.state).spikes, expected)


def test_a_row_of_rates_with_ceil_mode():
    torch.manual_seed(0)
    net = nn.Sequential(dyadic(pk.FusedIFConv1d(2, 4, 3)), pk.layers.MaxRatePool1d(**CEIL)).eval()
    x = image()[:, :, 0]
    for run in (pk.simulate, layerwise.simulate):
        first = run(net, x, T)
        assert first.state["1"][0].shape == (3, 4, 4)
        assert equal(layerwise.simulate(net, x, T, state=first.state).spikes, pk.simulate(net, x, 2 * T).spikes[T:])


def test_sigma_delta_states_elsewhere():
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
    net = pk.convert(ann, image(), neuron="sigma-delta")
    stream = pk.compile(net, image()).stream(3)
    stream(image())
    kept = stream.state
    for name, (z, a) in kept.items():
        with pytest.raises(ValueError, match=f"state of '{name}' is on meta and the input on cpu"):
            stream.state = kept | {name: [z.to("meta"), a]}
        with pytest.raises(TypeError, match=f"state of '{name}' must be a dense tensor"):
            pk.simulate(net, image(), T, state=kept | {name: [z, a.to_sparse()]})
    outputs = kept[""][1]
    with pytest.raises(ValueError, match=r"\(the input and the outputs\) must be .* \[3, 5\]\], .* got .* \[3, 4\]\]"):
        pk.simulate(net, image(), T, state=kept | {"": [kept[""][0], outputs[:, :4]]})


ONE, TWO, THREE = map(np.int64, (1, 2, 3))


def join() -> pk.Network:
    net = pk.Network()
    synapses = nn.Conv2d(2, 4, THREE, stride=TWO, padding=ONE, groups=TWO), nn.Conv2d(2, 4, ONE, stride=TWO)
    net.append("join", pk.FusedIFSum(*synapses), (pk.Network.INPUT,) * 2)
    return net


ON_IMAGES = {
    "convolution": lambda: pk.FusedIFConv2d(TWO, 4, THREE, stride=TWO, padding=TWO, dilation=TWO, groups=TWO),
    "sum": join,
    "max": lambda: pk.MaxPool2d(THREE, ONE, ONE),
    "max of two": lambda: pk.MaxPool2d((TWO, THREE)),
    "average": lambda: pk.AvgPool2d(TWO, divisor_override=THREE),
    "adaptive": lambda: pk.AdaptiveAvgPool2d((TWO, None)),
    "adaptive, square": lambda: pk.AdaptiveAvgPool2d(TWO),
    "running": lambda: pk.RunningMaxPool2d(TWO),
    "unflatten": lambda: nn.Sequential(pk.Flatten(), pk.Unflatten((TWO, np.int64(4), np.int64(9)))),
}
ROWS = {
    "convolution of rows": lambda: pk.FusedIFConv1d(2, 4, THREE, stride=TWO, padding=TWO, dilation=TWO, groups=TWO),
    "max of rows": lambda: layers.MaxPool1d(THREE),
    "average of rows": lambda: layers.AvgPool1d(TWO),
    "adaptive of rows": lambda: layers.AdaptiveAvgPool1d((TWO,)),
}


@pytest.mark.parametrize("name", [*ON_IMAGES, *ROWS])
def test_windows(name, tmp_path):
    torch.manual_seed(0)
    rows = name in ROWS
    net = nn.Sequential(dyadic((ON_IMAGES | ROWS)[name]()), pk.IF(v_threshold=0.5)).eval()
    x = image()[:, :, 0] if rows else image()
    expected = layerwise.simulate(copy.deepcopy(net), x, T).spikes
    engine = pk.compile(net, x)
    engine.save(tmp_path / "engine")
    assert expected.count().any()
    for run in (lambda x, T: pk.simulate(net, x, T), engine, pk.load(tmp_path / "engine")):
        assert equal(run(x, T).spikes, expected)


def test_a_change_is_noticed():
    net = nn.Sequential(dyadic(pk.FusedIFConv2d(2, 4, 3)), layers.AvgPool2d(TWO, ONE), pk.IF(v_threshold=0.5)).eval()
    for kernel_size in (TWO, THREE, (ONE, TWO), (ONE, THREE)):
        net[1].kernel_size = kernel_size
        expected = layerwise.simulate(copy.deepcopy(net), image(), T).spikes
        assert equal(pk.simulate(net, image(), T).spikes, expected) and expected.count().any()


def test_resting_potentials():
    layer = dyadic(pk.FusedRecurrentLinear(6, 4, neuron=neurons.LIFNeuron(v_rest=np.float32(0.5)))).eval()
    x = image().flatten(1)[:, :6].expand(T, 3, 6)
    spikes = layer(x)
    layer.v_rest = 0.5
    assert equal(spikes, layer(x)) and spikes.any()
