"""Max pooling before sigma-delta neurons: which poolings convert puts there, and what these networks give."""

import pytest
import torch
from equality import equal
from sigma_delta_nets import Skip, by_layers, exact, nets_fixture, pooled_fixture, step_loop  # noqa: F401 - fixtures
from torch import nn

import proxykernels as pk


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_simulation_is_the_step_loop(pooled, frames, signed, generator):
    net, x = exact(*pooled, pk.neurons.SigmaDelta(4, signed))
    sequence = x.expand(5, *x.shape)
    if frames:
        moved = torch.randint(-4, 5, (5, *x.shape), generator=generator) / 4
        x = sequence = torch.where(torch.rand(5, *x.shape, generator=generator) < 0.1, moved, sequence)
    result = pk.simulate(net, x, 5)
    assert all(rate > 0 for rate in result.rates.values() if rate == rate)
    assert equal(result.potentials, step_loop(net, sequence, 5))
    for chunk in (1, 3):
        parts = pk.simulate(net, x, 5, chunk=chunk)
        assert equal(parts.potentials, result.potentials) and parts.rates == result.rates


@torch.no_grad()
def test_neurons_come_behind_the_pooling_that_alone_takes_them(pooled):
    ann, x = pooled
    net = pk.convert(ann, x, neuron="sigma-delta")
    pools = {name: layer.pool.kernel_size for name, layer, _ in net.layers() if getattr(layer, "pool", None)}
    assert pools == {"stem_0": (3, 3), "left": (2, 2), "right": (2, 2), "last_0": (2, 2)}
    assert not any(isinstance(layer, pk.RunningMaxPool2d) for _, layer, _ in net.layers())
    result = pk.simulate(net, x, 24)
    products = result.synops.multiply_accumulates
    assert products["stem_0"] and sum(products.values()) == products["stem_0"]  # spikes are additions
    assert result.synops.accumulates["last_0"] > 0
    expected = ann(x)
    errors = (result.potentials - expected).abs().amax((1, 2)) / expected.abs().max()
    assert errors[0] > 0.05 and errors[9] < 0.03
    assert equal(result.potentials[-1], result.potentials[-2])  # settled, and so silent


@torch.no_grad()
@pytest.mark.parametrize("places", [1, 2])
def test_spikes_are_counted_behind_the_pooling(places):
    """Windows of two pixels: a neuron sends the larger one."""
    ann = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(1, 3, 1), nn.ReLU()).eval()
    x = torch.tensor([1.0, 0.5, -1.0, -2.0][: 2 * places]).view(1, 1, -1)
    net = pk.convert(ann, x.abs(), neuron=pk.neurons.SigmaDelta(3))
    for name, layer, _ in net.layers():
        layer.scale.fill_(1)
        for parameter in layer.parameters():
            parameter.fill_(parameter.ndim > 1)
        assert (layer.pool is not None) == (name == "0")
    result = pk.simulate(net, x, 4)
    assert result.rates["0"] == 1 / (4 * places)
    assert result.synops.accumulates == {"0": 0, "3": 3}
    assert result.logits[0, :, 0].tolist() == [1, 1, 1] and not result.logits[..., 1:].any()


@torch.no_grad()
@pytest.mark.parametrize("taken", ["a layer", "a pooling", "real values"])
def test_other_poolings_are_of_what_was_sent(taken, generator):
    ann, x = Skip(taken).eval(), torch.randn(8, 2, 8, 8, generator=generator)
    net, x = exact(ann, x, "sigma-delta")
    running = [name for name, layer, _ in net.layers() if isinstance(layer, pk.RunningMaxPool2d)]
    assert running == ["pool_1" if taken == "a pooling" else "pool"]
    assert (net.first.pool is not None) == (taken == "a pooling")
    result = pk.simulate(net, x, 6)
    assert result.logits.any() and equal(result.potentials, step_loop(net, x.expand(6, *x.shape), 6))


@torch.no_grad()
def test_states_go_on(pooled):
    net, x = exact(*pooled, "sigma-delta")
    expected = pk.simulate(net, x, 6).potentials
    first = pk.simulate(net, x, 2, state={})
    z, a = first.state["stem_0"]
    assert z.shape == (8, 18 * 18, 12) and a.shape == (8, 81, 12) and z.any() and a.any()
    last = pk.simulate(net, x, 4, state=first.state)
    assert equal(torch.cat([first.potentials, last.potentials]), expected)
    assert not torch.equal(expected[1], expected[2])
    with pytest.raises(ValueError, match=r"stem_0.*must be two tensors \[\[8, 324, 12\], \[8, 81, 12\]\]"):
        pk.simulate(net, x, 1, state=first.state | {"stem_0": [a, a]})


@torch.no_grad()
def test_samples_stop_when_they_have_settled(pooled):
    ann, x = pooled
    net = pk.convert(ann, x, neuron="sigma-delta")
    whole, result = pk.simulate(net, x, 12), pk.simulate(net, x, 12, stop=pk.stop.settled(8))
    assert 2 < result.steps.max() <= 12 and result.steps.min() < result.steps.max()
    for k, t in enumerate(result.steps.tolist()):
        assert equal(result.potentials[:t, k], whole.potentials[:t, k])


@torch.no_grad()
def test_what_arrives_before_the_pooling_counts_as_memory(pooled, monkeypatch):
    """Samples that go together must fit, with all that lies between their layers."""
    from proxykernels.running import sigma_delta_layers

    ann, x = pooled
    net = pk.convert(ann, x, neuron="sigma-delta")
    needed = []
    run = sigma_delta_layers._Samples.run
    monkeypatch.setattr(
        sigma_delta_layers._Samples, "run", lambda self, *given: (run(self, *given), needed.append(self.needed))[0]
    )
    by_layers(net, x[:1], 4)
    assert needed[0] >= 4 * 4 * 18 * 18 * 12
