"""What a user reads who takes a wrong turn: the argument, its value, and what to do."""

import inspect

import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk

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
