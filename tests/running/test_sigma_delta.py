"""Networks of sigma-delta neurons: conversion and simulation, against a plain step loop and the ReLU network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from sigma_delta_nets import by_layers, exact, nets_fixture, step_loop  # noqa: F401 - a fixture
from torch import nn

import proxykernels as pk


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_simulation_is_the_step_loop(nets, frames, signed, generator):
    ann, x = nets
    net, x = exact(ann, x, pk.neurons.SigmaDelta(4, signed))
    sequence = x.expand(5, *x.shape)
    if frames:
        moved = torch.randint(-4, 5, (5, *x.shape), generator=generator) / 4
        x = sequence = torch.where(torch.rand(5, *x.shape, generator=generator) < 0.1, moved, sequence)
    result = pk.simulate(net, x, 5)
    assert all(rate > 0 for rate in result.rates.values())
    assert equal(result.potentials, step_loop(net, sequence, 5))
    assert equal(by_layers(net, x, 5).potentials, result.potentials)


@torch.no_grad()
def test_outputs_come_to_those_of_the_relu_network(nets):
    ann, x = nets
    expected = ann(x)
    result = pk.simulate(pk.convert(ann, x, neuron="sigma-delta"), x, 24)
    errors = (result.potentials - expected).abs().amax((1, 2)) / expected.abs().max()
    assert errors[0] > 0.05 and errors[7] < 0.03
    assert equal(result.logits, result.potentials[-1])
    assert equal(result.potentials[-1], result.potentials[-2])  # settled, and so silent


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types(nets, dtype):
    """Float32 holds these parameters: of doubles nothing changes, of halves what their rounding does."""
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    rounded = copy.deepcopy(net).to(dtype)
    given = pk.simulate(rounded, x.to(dtype), 8).logits
    wanted = pk.simulate(copy.deepcopy(rounded).float(), x.to(dtype).float(), 8).logits
    assert wanted.any() and equal(given.float(), wanted)


@torch.no_grad()
def test_a_video_that_stands_still_costs_nothing(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    constant, video = pk.simulate(net, x, 20), pk.simulate(net, x.expand(40, *x.shape).clone(), 40)
    assert equal(video.potentials[:20], constant.potentials)
    assert constant.synops.total == video.synops.total > 0
    assert constant.rates["stem_0"] == 2 * video.rates["stem_0"] > 0


@torch.no_grad()
def test_layers_without_a_relu_send_spikes_of_either_sign(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(signed=True))
    real = pk.convert(ann, x, neuron="sigma-delta")
    real_result = pk.simulate(real, x, 4)
    silent = real_result.places.keys() - real_result.rates.keys()
    result = pk.simulate(net, x, 24)
    assert result.places.keys() - result.rates.keys() < silent
    assert "signed" in repr(net.bottleneck_0) and result.rates["bottleneck_0"] > 0
    expected = ann(x)
    errors = (result.potentials - expected).abs().amax((1, 2)) / expected.abs().max()
    assert errors[0] > 0.05 and errors[9] < 0.03
    assert result.synops.multiply_accumulates["expand_0"] == 0 < result.synops.accumulates["expand_0"]
    with pytest.raises(TypeError, match="signed must be a bool"):
        pk.neurons.SigmaDelta(signed=1)


@torch.no_grad()
def test_batches_are_their_samples(nets, monkeypatch):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    whole = pk.simulate(net, x, 4)
    monkeypatch.setattr("proxykernels.running.sigma_delta_layers.BYTES", {"cpu": 1})
    one_by_one = by_layers(net, x, 4)
    assert equal(whole.potentials, one_by_one.potentials) and whole.rates == one_by_one.rates
    assert pk.simulate(net, x[:0], 3).potentials.shape == (3, 0, 5)


@torch.no_grad()
def test_operations_are_counted():
    ann = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()).eval()
    net = pk.convert(ann, torch.ones(1, 3), neuron=pk.neurons.SigmaDelta(1))
    for parameter in net.parameters():
        parameter.fill_(1)
    result = pk.simulate(net, torch.ones(1, 3), 6)  # each of the four sends 1 four times
    assert result.rates == {"0": 4 / 6, "2": 1.0}
    assert result.synops.multiply_accumulates == {"0": 12, "2": 0}
    assert result.synops.accumulates == {"0": 0, "2": 4 * 4 * 2}
    assert "accumulates" in repr(result) and result.state == {} and result.steps.tolist() == [6]
    assert (result.logits == 6 * net.get_submodule("2").scale).all()


@torch.no_grad()
def test_the_state_dict_is_the_network(nets):
    ann, x = nets
    net, other = (pk.convert(ann, part, neuron="sigma-delta") for part in (x, x[:2]))
    expected = pk.simulate(net, x, 3).potentials
    assert not torch.equal(pk.simulate(other, x, 3).potentials, expected)
    other.load_state_dict(net.state_dict())
    assert equal(pk.simulate(other, x, 3).potentials, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "sigma"}, "neuron must be 'if', 'sigma-delta' or"),
        ({"neuron": "sigma-delta", "v_init": 0.5}, "v_init is an option for IF neurons"),
        ({"neuron": "sigma-delta", "method": "max"}, "method is an option for IF neurons"),
        ({"neuron": "sigma-delta", "share": True}, "share=True is not supported"),
    ],
)
def test_wrong_options_of_convert(options, message, nets):
    with pytest.raises(ValueError, match=message):
        pk.convert(*nets, **options)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (13, ValueError), (2.5, TypeError), (True, TypeError)])
def test_wrong_exponents(value, error):
    with pytest.raises(error, match="exponents must be"):
        pk.neurons.SigmaDelta(value)


def test_what_these_networks_do_not_take(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    unknown = {"record": ["stem_0"], "precision": "int8"}
    for name, value in unknown.items():
        with pytest.raises(ValueError, match=f"{name} is not supported for networks of sigma-delta"):
            pk.simulate(net, x, 2, **{name: value})
    with pytest.raises(TypeError, match="x must be floating point for a network of sigma-delta"):
        pk.simulate(net, pk.pack(torch.ones(2, 8, 2, 16, 16)), 2)
    with pytest.raises(TypeError, match="x must be floating point for a network of sigma-delta"):
        pk.simulate(net, x.numpy(), 2)
    with pytest.raises(ValueError, match="x must be finite"):
        pk.simulate(net, x / 0, 2)
    with pytest.raises(ValueError, match="run on a CPU or a CUDA GPU, got x on meta"):
        pk.simulate(net, x.to("meta"), 2)
    with pytest.raises(ValueError, match="net is on the meta device: its stem_0.synapses.0.weight has no values"):
        pk.simulate(copy.deepcopy(net).to("meta"), x, 2)
    with pytest.raises(ValueError, match="layer stem_0: weight must be finite"):
        broken = pk.convert(ann, x, neuron="sigma-delta")
        next(broken.parameters()).data.fill_(torch.nan)
        pk.simulate(broken, x, 2)
    with pytest.raises(TypeError, match="what convert returned"):
        pk.simulate(nn.Sequential(net), x, 2)
    with pytest.raises(TypeError, match="sigma-delta neurons.* proxykernels.simulate"):
        net.stem_0(x)
    for use in (pk.ProxyNet, pk.SurrogateNet):
        with pytest.raises(ValueError, match="Sigma-delta neurons are for proxykernels.simulate"):
            use(net, 2)
    with pytest.raises(TypeError, match="NIR has no node for SigmaDelta"):
        pk.to_nir(net, x.shape[1:])
    with pytest.raises(ValueError, match="explain is not supported for networks of sigma-delta neurons$"):
        pk.explain(net, x, 2)
    with pytest.raises(TypeError, match="already"):
        pk.convert(net, x)
    with pytest.raises(AttributeError, match="potentials"):
        _ = pk.simulate(net, x, 2).spikes


def test_inputs_that_the_weights_do_not_fit(nets):
    ann, images = nets
    net = pk.convert(ann, images, neuron="sigma-delta")
    with pytest.raises(ValueError, match="layer stem.*x must have C_in = 2.* got 3 channels"):
        pk.simulate(net, torch.cat([images, images[:, :1]], 1), T=2)
    with pytest.raises(ValueError, match="layer last.*x must have C_in = 96.* got"):
        pk.simulate(net, F.pad(images, (0, 16, 0, 16)), T=2)
    small = pk.convert(nn.Sequential(nn.Conv2d(2, 3, 5), nn.ReLU()), images, neuron="sigma-delta")
    with pytest.raises(ValueError, match=r"layer 0.*kernel_size \(5, 5\).*is larger than the input \(4, 4\)"):
        pk.simulate(small, images[..., :4, :4], T=2)


@torch.no_grad()
@pytest.mark.parametrize("signed", [False, True])
def test_the_report_compares_what_was_sent(nets, signed):
    ann, x = nets
    net = pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(signed=signed))
    first, last = (pk.conversion_report(net, x, T) for T in (2, 24))
    fires = list(pk.simulate(net, x, 2).rates)
    assert [row.layer for row in first.rows] == [row.layer for row in last.rows] == fires
    assert all(0 < row.rate <= 1 and row.activation > 0 for row in first.rows)
    assert all(after.error < before.error for before, after in zip(first.rows, last.rows, strict=True))
    expected = ann(x)
    logits = pk.simulate(net, x, 2).logits
    error = (logits - expected).abs().mean() / expected.abs().mean()
    assert first.outputs.error == pytest.approx(error.item(), rel=1e-3) and last.outputs.error < first.outputs.error
    assert first.outputs.agreement == (logits.argmax(1) == expected.argmax(1)).float().mean() and "answers" in str(last)
    assert not first.settled and "more steps lower the errors" in str(first).splitlines()[-1]
    assert last.settled and "settled: no more steps lower the errors" in str(last).splitlines()[-1]
    assert pk.conversion_report(net, x, 40).outputs == last.outputs


@torch.no_grad()
def test_errors_that_no_step_lowers_are_reported(generator):
    """Of a deep network with random weights, which enlarges what each layer leaves unsent."""
    layers = [nn.Linear(16, 32), nn.ReLU()]
    for _ in range(12):
        layers += [nn.Linear(32, 32), nn.ReLU()]
        nn.init.normal_(layers[-2].weight, std=0.6, generator=generator)
    ann, x = nn.Sequential(*layers, nn.Linear(32, 5)).eval(), torch.randn(64, 16, generator=generator)
    coarse, fine = (
        pk.conversion_report(pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(K)), x[:8], 64) for K in (4, 12)
    )
    assert coarse.settled and fine.settled and coarse.outputs.error > 8 * fine.outputs.error > 0
    assert coarse.rows[-1].error > 2 * coarse.rows[0].error
