"""Networks of sigma-delta neurons: against a plain loop and the ReLU network, states, and samples that settle."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from sigma_delta_nets import by_layers, exact, nets_fixture, step_loop  # noqa: F401 - a fixture
from torch import nn

import proxykernels as pk


@pytest.mark.alike
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
        ({"neuron": "sigma"}, "neuron must be 'if', 'sigma-delta', 'graded', or"),
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
    with pytest.raises(ValueError, match="record is not supported for networks of sigma-delta"):
        pk.simulate(net, x, 2, record=["stem_0"])
    for run in (lambda: pk.simulate(net, x, 2, precision="int8"), lambda: pk.compile(net, x, precision="int8")):
        with pytest.raises(ValueError, match="precision must be None for a network of sigma-delta neurons.*'int8'"):
            run()
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


@pytest.mark.alike
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
    monkeypatch.setattr("proxykernels.running.sigma_delta_layers.BYTES", {"cpu": bytes_together})
    for run, chunk in product((pk.simulate, by_layers), (1, 3)):
        result = run(net, x, 7, chunk=chunk)
        assert equal(result.potentials, expected.potentials) and result.rates == expected.rates
        assert result.synops.accumulates == expected.synops.accumulates
    for run in (pk.simulate, by_layers):
        state: dict = {}
        potentials = []
        for start, steps in ((0, 1), (1, 4), (5, 2)):
            before = copy.deepcopy(state)
            result = run(net, x[start : start + steps] if frames else x, steps, state=state, chunk=2)
            assert all(map(torch.equal, state.get("stem_0", []), before.get("stem_0", [])))  # what is given stays
            potentials.append(result.potentials)
            state = result.state
        assert equal(torch.cat(potentials), expected.potentials)
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
    for run, chunk in product((pk.simulate, by_layers), (1, 4)):
        assert equal(run(net, x, 9, chunk=chunk).potentials, whole.potentials)


@torch.no_grad()
def test_a_state_can_be_of_some_of_the_samples(nets):
    ann, x = nets
    net, x = exact(ann, x, "sigma-delta")
    state = pk.simulate(net, x, 2, state={}).state
    some = {name: [part[2:5] for part in parts] for name, parts in state.items()}
    result = pk.simulate(net, x[2:5], 3, state=some)
    assert equal(result.potentials, pk.simulate(net, x, 5).potentials[2:, 2:5])


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 3, 5, 100])
def test_a_rule_is_asked_after_each_chunk(nets, chunk, monkeypatch):
    ann, x = nets
    net, x = exact(ann, x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1), "sigma-delta")
    results, seen = [], []
    for run in (pk.simulate, by_layers):
        asked: set[int] = set()

        def rule(potentials, t, asked=asked):
            asked.add(t)
            return pk.stop.settled(8)(potentials, t)

        results.append(run(net, x, 14, chunk=chunk, stop=rule))
        seen.append(asked)
    assert seen[0] == seen[1] <= {*range(chunk, 14, chunk)} and bool(seen[0]) == (chunk < 14)
    assert equal(results[0].steps, results[1].steps) and equal(results[0].potentials, results[1].potentials)
    assert chunk == 100 or results[0].steps.min() < 14
    assert chunk > 3 or len(results[0].steps.unique()) > 1
    monkeypatch.setattr("proxykernels.running.sigma_delta_layers._Samples", None)  # the plan runs chunks as well
    assert equal(pk.simulate(net, x, 14, chunk=chunk).potentials, pk.simulate(net, x, 14).potentials)


@torch.no_grad()
@pytest.mark.parametrize("signed", [False, True])
def test_samples_stop_when_they_have_settled(nets, signed):
    ann, x = nets
    net, x = exact(ann, x * torch.linspace(0.1, 4, 8).view(-1, 1, 1, 1), pk.neurons.SigmaDelta(signed=signed))
    whole, seen = pk.simulate(net, x, 12), []

    def rule(potentials, t):
        seen.append((t, *potentials.shape))
        return pk.stop.settled(8)(potentials, t)

    result = pk.simulate(net, x, 12, stop=rule, state={}, chunk=1)
    steps = result.steps.tolist()
    assert 2 <= min(steps) < max(steps) < 12 and "stopped after" in repr(result)
    for t in range(1, 12):  # in parts of the samples
        parts = [shape for shape in seen if shape[0] == t]
        assert sum(n for _, _, n, _ in parts) == sum(t <= s for s in steps)
        assert all(shape[1] == t and shape[3] == 5 for shape in parts)
    for k, t in enumerate(steps):
        assert equal(result.potentials[:t, k], whole.potentials[:t, k])
        assert equal(result.potentials[t:, k], whole.potentials[t - 1, k].expand(12 - t, 5))
        first, second = whole.potentials[t - 1, k].topk(2).values
        assert first - second >= 8 * (whole.potentials[t - 1, k] - whole.potentials[t - 2, k]).abs().max()
    assert result.synops.total < whole.synops.total
    k = steps.index(max(steps))
    on = pk.simulate(net, x[k : k + 1], 2, state={name: [v[k : k + 1] for v in s] for name, s in result.state.items()})
    assert equal(on.potentials[:, 0], pk.simulate(net, x[k : k + 1], 12).potentials[steps[k] : steps[k] + 2, 0])


@pytest.mark.parametrize("run", [pk.simulate, by_layers], ids=["plan", "layers"])
def test_of_no_samples_no_rule_is_asked(nets, run):
    ann, x = nets
    asked = []
    net = pk.convert(ann, x, neuron="sigma-delta")
    for samples in (x[:0], x):
        result = run(net, samples, 4, stop=lambda seen, t: asked.append(t) or torch.ones(seen.shape[1]).bool())
        assert len(result.steps) == len(samples) and bool(asked) == bool(len(samples))


def test_rules_that_do_not_fit(nets):
    ann, x = nets
    net = pk.convert(ann, x, neuron="sigma-delta")
    for times, error in ((0, ValueError), (-1.0, ValueError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="times must be"):
            pk.stop.settled(times)
    with pytest.raises(ValueError, match=r"pk.stop.settled\(\) for sigma-delta"):
        pk.simulate(net, x, 4, stop=pk.stop.margin(3))
    with pytest.raises(TypeError, match="stop must be a rule such as proxykernels.stop.settled"):
        pk.simulate(net, x, 4, stop=3)
    with pytest.raises(TypeError, match=r"stop must return a bool tensor \[8\]"):
        pk.simulate(net, x, 4, stop=lambda potentials, t: potentials[-1, :, 0])
    with pytest.raises(ValueError, match=r"settled compares .* pk.stop.margin\(3\) for IF neurons"):
        pk.simulate(pk.convert(ann, x), x, 16, stop=pk.stop.settled())


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
        ({"stem_0": [v[:, 1:] for v in state["stem_0"]]}, r"state of 'stem_0' must be two tensors \[\[8, 64, 12\]"),
        ({"pool": [v[:, 1:] for v in state["pool"]]}, r"state of 'pool' must be two tensors \[\[8, 64, 12\]"),
        ({"": [state[""][0][..., 1:], state[""][1]]}, "state is of inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.simulate(net, x, 2, state=state | change)
    for chunk, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="chunk must"):
            pk.simulate(net, x, 2, chunk=chunk)


@torch.no_grad()
@pytest.mark.parametrize("first", ["maxima", "neurons"])
def test_inputs_that_no_window_of_a_pooling_reads(generator, first):
    """Their sums are part of the state as well, also where nothing else has changed."""
    layers = [] if first == "maxima" else [nn.Conv2d(1, 1, 1), nn.ReLU()]
    ann = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()
    x = torch.rand(4, 1, 5, 5, generator=generator) + 0.25  # row and column 4 are not read
    net, x = exact(ann, x, pk.neurons.SigmaDelta(4))
    if layers:
        net.get_parameter("0.synapses.0.weight").fill_(1)
    later = x.clone()
    later[:, :, 4, 1:4] += 1
    frames, stream = torch.stack([x, later, later]), pk.compile(net, x).stream(4)
    wanted = by_layers(net, frames, 3, state={})
    result = pk.simulate(net, frames[1:], 2, state=pk.simulate(net, frames[:1], 1, state={}).state)
    for frame in frames:
        stream(frame)
    assert any(parts[0].numel() == 100 and parts[0].any() for name, parts in wanted.state.items() if name)
    for name, parts in wanted.state.items():
        for state in (result.state, stream.state):
            assert all(map(equal, state[name], parts))
    assert equal(result.potentials, wanted.potentials[1:]) and result.potentials.any()
