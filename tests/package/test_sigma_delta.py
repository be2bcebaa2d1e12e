"""Networks of sigma-delta neurons: conversion and simulation, against a plain step loop and the ReLU network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import proxykernels as pk
from proxykernels.kernels import reference
from proxykernels.layers.sigma_delta import SigmaDeltaNeurons


class Residual(nn.Module):
    """All that conversion makes of others: shortcuts, linear bottlenecks, depthwise and grouped convolutions, ReLU6,
    normalisation, max and average pooling, concatenation, a leaky ReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU6())
        self.bottleneck = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.expand = nn.Sequential(nn.Conv2d(6, 12, 1), nn.ReLU6())
        self.grouped = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=3)
        self.leaky, self.pool = nn.LeakyReLU(0.25), nn.MaxPool2d(2)
        self.last = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24 * 4, 9), nn.ReLU(), nn.Linear(9, 5))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.expand(self.bottleneck(self.depthwise(x)))
        x = torch.relu(self.grouped(x) + x)
        return self.last(torch.cat([self.pool(x), self.leaky(self.pool(x) - 0.5)], 1))


@pytest.fixture
def nets(generator):
    ann = Residual()
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2), module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.uniform_(module.bias, -0.2, 0.2)
    return ann.eval(), torch.randn(8, 2, 16, 16, generator=generator)


def exact(ann: nn.Module, x: torch.Tensor, neuron) -> tuple[pk.Network, torch.Tensor]:
    """A network and inputs of which no sum is rounded."""
    net = pk.convert(ann, x, neuron=neuron)
    for parameter in net.parameters():
        parameter.data = (parameter * 16).round() / 16
    for layer in net.modules():
        if isinstance(layer, SigmaDeltaNeurons):
            layer.scale.fill_(1)
    return net, (x * 4).round() / 4


def step_loop(net: pk.Network, x: torch.Tensor, T: int) -> torch.Tensor:
    """What the last layer's values add up to after each step [T, N, ...], of frames [T, N, ...], by plain torch."""
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    values = {"": x - before}
    for name, layer, sources in net.layers():
        inputs = [values[source] for source in sources]
        flat = [part.flatten(0, 1) for part in inputs]
        if isinstance(layer, SigmaDeltaNeurons):
            arrived = 0
            for synapse, part in zip(layer.synapses, flat, strict=True):
                y = synapse(part).unflatten(0, (T, -1))
                if getattr(synapse, "bias", None) is not None:
                    y[1:] -= synapse.bias.view(-1, *[1] * (y.ndim - 3))
                arrived = arrived + y
            if layer.fires:
                highest = torch.inf if layer.limit is None else layer.limit / layer.scale
                highest = torch.as_tensor(highest).expand(arrived.shape[2])
                lowest = 0.0 if layer.rectifies else -torch.inf
                arrived = reference.sigma_delta(arrived, layer.neuron.exponents, lowest=lowest, highest=highest)
            values[name] = arrived
        elif isinstance(layer, pk.RunningMaxPool2d):
            sums = inputs[0].cumsum(0).flatten(0, 1)
            most = F.max_pool2d(sums, layer.kernel_size, layer.stride, layer.padding).unflatten(0, (T, -1))
            values[name] = most - torch.cat([torch.zeros_like(most[:1]), most[:-1]])
        else:
            values[name] = layer(tuple(inputs) if len(inputs) > 1 else inputs[0])
    return values[name].cumsum(0)


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
    assert all(rate > 0 for rate in result.rates.values() if rate == rate)
    assert torch.equal(result.potentials, step_loop(net, sequence, 5))


@torch.no_grad()
def test_outputs_come_to_those_of_the_relu_network(nets):
    ann, x = nets
    expected = ann(x)
    result = pk.simulate(pk.convert(ann, x, neuron="sigma-delta"), x, 24)
    errors = (result.potentials - expected).abs().amax((1, 2)) / expected.abs().max()
    assert errors[0] > 0.05 and errors[7] < 0.03
    assert torch.equal(result.logits, result.potentials[-1])
    assert torch.equal(result.potentials[-1], result.potentials[-2])  # settled, and so silent


@torch.no_grad()
def test_a_video_that_stands_still_costs_nothing(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    constant, video = pk.simulate(net, x, 20), pk.simulate(net, x.expand(40, *x.shape).clone(), 40)
    assert torch.equal(video.potentials[:20], constant.potentials)
    assert constant.synops.total == video.synops.total > 0
    assert constant.rates["stem_0"] == 2 * video.rates["stem_0"] > 0


@torch.no_grad()
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("bytes_together", [1, 1 << 30])
def test_chunks_and_states_go_on(nets, frames, bytes_together, monkeypatch, generator):
    ann, x = nets
    net, x = exact(ann, x, pk.neurons.SigmaDelta(6, signed=True))
    if frames:
        x = x + torch.randint(-1, 2, (7, *x.shape), generator=generator).cumsum(0) / 4
    expected = pk.simulate(net, x, 7)
    assert not torch.equal(expected.potentials[3], expected.potentials[1]) and expected.state == {}
    monkeypatch.setattr("proxykernels.simulation.sigma_delta.BYTES", {"cpu": bytes_together})
    for chunk in (1, 3):
        result = pk.simulate(net, x, 7, chunk=chunk)
        assert torch.equal(result.potentials, expected.potentials) and result.rates == expected.rates
        assert result.synops.accumulates == expected.synops.accumulates
    state: dict = {}
    potentials, before = [], None
    for start, steps in ((0, 1), (1, 4), (5, 2)):
        before = copy.deepcopy(state)
        result = pk.simulate(net, x[start : start + steps] if frames else x, steps, state=state, chunk=2)
        assert all(map(torch.equal, state.get("stem_0", []), before.get("stem_0", [])))  # what is given stays
        potentials.append(result.potentials)
        state = result.state
    assert torch.equal(torch.cat(potentials), expected.potentials)
    assert set(state) > {"", "stem_0", "pool"} and state["stem_0"][0].shape == (8, 64, 12)


@torch.no_grad()
def test_chunks_round_nothing_otherwise(generator):
    """The kernels add in one order, whether they add rows or multiply windows: of floats too."""
    ann = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 70, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(70 * 16, 5),
    ).eval()  # fmt: skip
    x = torch.randn(8, 2, 8, 8, generator=generator)
    net = pk.convert(ann, x, neuron="sigma-delta")
    whole = pk.simulate(net, x, 9)
    assert torch.equal(pk.simulate(net, x, 9, chunk=1).potentials, whole.potentials)
    assert torch.equal(pk.simulate(net, x, 9, chunk=4).potentials, whole.potentials)


@torch.no_grad()
def test_a_state_can_be_of_some_of_the_samples(nets):
    ann, x = nets
    net, x = exact(ann, x, "sigma-delta")
    state = pk.simulate(net, x, 2, state={}).state
    some = {name: [part[2:5] for part in parts] for name, parts in state.items()}
    result = pk.simulate(net, x[2:5], 3, state=some)
    assert torch.equal(result.potentials, pk.simulate(net, x, 5).potentials[2:, 2:5])


@torch.no_grad()
@pytest.mark.parametrize("signed", [False, True])
def test_samples_stop_when_they_have_settled(nets, signed):
    ann, x = nets
    net, x = exact(ann, x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1), pk.neurons.SigmaDelta(signed=signed))
    whole, seen = pk.simulate(net, x, 12), []

    def rule(potentials, t):
        seen.append((t, *potentials.shape))
        return pk.settled(8)(potentials, t)

    result = pk.simulate(net, x, 12, stop=rule, state={}, chunk=1)
    steps = result.steps.tolist()
    assert 2 <= min(steps) < max(steps) < 12 and "stopped after" in repr(result)
    for t in range(1, 12):  # in parts of the samples
        parts = [shape for shape in seen if shape[0] == t]
        assert sum(n for _, _, n, _ in parts) == sum(t <= s for s in steps)
        assert all(shape[1] == t and shape[3] == 5 for shape in parts)
    for k, t in enumerate(steps):
        assert torch.equal(result.potentials[:t, k], whole.potentials[:t, k])
        assert torch.equal(result.potentials[t:, k], whole.potentials[t - 1, k].expand(12 - t, 5))
        first, second = whole.potentials[t - 1, k].topk(2).values
        assert first - second >= 8 * (whole.potentials[t - 1, k] - whole.potentials[t - 2, k]).abs().max()
    assert result.synops.total < whole.synops.total
    k = steps.index(max(steps))
    on = pk.simulate(net, x[k : k + 1], 2, state={name: [v[k : k + 1] for v in s] for name, s in result.state.items()})
    assert torch.equal(on.potentials[:, 0], pk.simulate(net, x[k : k + 1], 12).potentials[steps[k] : steps[k] + 2, 0])


def test_rules_that_do_not_fit(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    for times, error in ((0, ValueError), (-1.0, ValueError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="times must be"):
            pk.settled(times)
    with pytest.raises(ValueError, match=r"pk.settled\(\) for sigma-delta"):
        pk.simulate(net, x, 4, stop=pk.margin(3))
    with pytest.raises(TypeError, match="stop must be a rule such as proxykernels.settled"):
        pk.simulate(net, x, 4, stop=3)
    with pytest.raises(TypeError, match=r"stop must return a bool tensor \[4\]"):
        pk.simulate(net, x, 4, stop=lambda potentials, t: potentials[-1, :, 0])
    with pytest.raises(ValueError, match=r"settled compares .* pk.margin\(3\) for IF neurons"):
        pk.simulate(pk.convert(ann, x), x, 16, stop=pk.settled())


def test_states_that_do_not_fit(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    state = pk.simulate(net, x, 2, state={}).state
    for change, message in (
        ({"no": state["stem_0"]}, r"layers that net has not: \['no'\]"),
        ({"stem_0": state["stem_0"][:1]}, "state of 'stem_0' must be two float32 tensors"),
        ({"stem_0": [v.double() for v in state["stem_0"]]}, "state of 'stem_0' must be two float32 tensors"),
        ({"stem_0": [v / 0 for v in state["stem_0"]]}, "state of 'stem_0' must be finite"),
        ({"stem_0": [v[:7] for v in state["stem_0"]]}, "state of 'stem_0' is of 7 samples, and x has 8"),
        ({"stem_0": [v[:, 1:] for v in state["stem_0"]]}, r"layer stem_0: state must be two tensors \[4, 64, 12\]"),
        ({"pool": [v[:, 1:] for v in state["pool"]]}, r"layer pool: state must be two tensors \[\[4, 64, 12\]"),
        ({"": [state[""][0][..., 1:], state[""][1]]}, "state is of inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.simulate(net, x, 2, state=state | change)
    for chunk, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="chunk must"):
            pk.simulate(net, x, 2, chunk=chunk)


@torch.no_grad()
def test_layers_without_a_relu_send_spikes_of_either_sign(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(signed=True))
    real = pk.convert(ann, x, neuron="sigma-delta")
    silent = {name for name, rate in pk.simulate(real, x, 4).rates.items() if rate != rate}
    result = pk.simulate(net, x, 24)
    assert {name for name, rate in result.rates.items() if rate != rate} < silent
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
    monkeypatch.setattr("proxykernels.simulation.sigma_delta.BYTES", {"cpu": 1})
    one_by_one = pk.simulate(net, x, 4)
    assert torch.equal(whole.potentials, one_by_one.potentials) and whole.rates == one_by_one.rates
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
    assert torch.equal(pk.simulate(other, x, 3).potentials, expected)


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
    with pytest.raises(ValueError, match=r"synapses.0.weight is on meta and the input on cpu; move it with"):
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
    with pytest.raises(TypeError, match="does not take module stem_0"):
        pk.compile(net, x)
    with pytest.raises(ValueError, match="explain is not supported for networks of sigma-delta"):
        pk.explain(net, x, 2)
    with pytest.raises(TypeError, match="of IF neurons"):
        pk.conversion_report(net, x, 2)
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
