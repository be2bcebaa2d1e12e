"""Attention, products and tokens in plans: bit-equal to the layers, in an engine and from a file."""

import pytest
import torch
from attention_nets import attentive
from cases import dyadic
from equality import equal

import proxykernels as pk
from proxykernels.layers import Attention, Multiply, Pixels
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine


@pytest.mark.parametrize(
    "channels, heads, size", [(32, 4, (3, 5)), (96, 2, (8, 8)), (6, 2, (1, 1)), (65, 1, (1, 7)), (36, 12, (9, 8))]
)
@pytest.mark.parametrize("real", [False, True], ids=["of spikes", "of values"])
def test_engines_attend_as_layers_do(generator, tmp_path, channels, heads, size, real):
    net = attentive(channels, heads, generator, real=real)
    x = dyadic(9, 2, 3 * channels if real else 3, *size, generator=generator)
    expected = pk.simulate(net, x, 9, record=["fire"]).spikes.dense()
    engine = pk.compile(net, x)
    engine.save(tmp_path / "attention")
    assert 0 < expected.mean() < 1
    for each in (engine, pk.load(tmp_path / "attention")):
        assert equal(each(x, 9).spikes.dense(), expected)
        assert equal(each(x[:, :0], 9).spikes.dense(), expected[:, :0])
        assert equal(each(x[:1], 1).spikes.dense(), expected[:1])
    spikes = pk.pack((x > 0).float())
    assert equal(
        pk.compile(net, spikes)(spikes, 9).spikes.dense(), pk.simulate(net, spikes, 9, record=["fire"]).spikes.dense()
    )


def test_attention_is_what_its_equation_says(generator):
    q, k, v = ((torch.rand(3, 2, 2, 5, 7, generator=generator) < 0.4).float() for _ in range(3))
    x = torch.cat([part.flatten(2, 3) for part in (q, k, v)], 2)
    expected = (v @ k.transpose(3, 4) @ q).flatten(2, 3)
    assert equal(Attention(2)(pk.pack(x)), expected) and equal(Attention(2)(x), expected)


@pytest.mark.parametrize("heads", [0, 5, 64])
def test_a_file_whose_heads_do_not_divide_the_channels_is_refused(generator, heads):
    plan = follow(attentive(32, 4, generator), (3, 3, 5), True)
    attention = next(op for op in plan.operations if op.heads)
    object.__setattr__(attention, "heads", heads)
    with pytest.raises((ValueError, RuntimeError), match="heads do not divide"):
        Engine(plan)


@pytest.mark.parametrize("heads", [0, 2.5, "a"])
def test_heads_that_attention_does_not_take(heads):
    with pytest.raises((TypeError, ValueError), match="heads"):
        Attention(heads)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 1, 5, 7), (2, 2, 6, 5)])
def test_factors_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="channels that divide the first one"):
        Multiply()((torch.ones(2, 1, 6, 5), torch.ones(shape)))
    with pytest.raises(TypeError, match="two inputs"):
        Multiply()(torch.ones(2, 1, 6, 5))
    with pytest.raises(ValueError, match="a multiple of 6 channels"):
        Attention(2)(torch.ones(2, 1, 8, 5))


@pytest.mark.parametrize("first", [Attention(2), Pixels((5, 2))], ids=["attention", "pixels"])
def test_tokens_are_taken_as_a_sequence(generator, first):
    """[T, N, C, L], in a network whose first layer has no weights that tell how many axes its input has."""
    kind, channels = (pk.FusedIFConv1d, 8) if isinstance(first, Attention) else (pk.FusedIFConv2d, 24)
    last = kind(channels, 5, 1)
    last.weight.data = dyadic(*last.weight.shape, generator=generator)
    net = torch.nn.Sequential(first, last).eval()
    x = (torch.rand(4, 2, 24, 10, generator=generator) < 0.4).float()
    with torch.no_grad():
        expected = net(pk.pack(x))
    expected = expected.dense() if isinstance(expected, pk.Spikes) else expected
    assert expected.any() and expected.shape[:3] == (4, 2, 5)
    assert equal(pk.compile(net, x)(x, 4).spikes.dense(), expected)
    assert equal(pk.simulate(net, x, 4).spikes.dense(), expected)


def test_attention_alone_takes_tokens(generator):
    x = pk.pack((torch.rand(4, 2, 24, 10, generator=generator) < 0.4).float())
    net = torch.nn.Sequential(Attention(2), pk.IF(v_threshold=8.0)).eval()
    with torch.no_grad():
        expected = net(x)
    assert 0 < expected.mean() < 1 and equal(pk.compile(net, x)(x, 4).spikes.dense(), expected)
