"""ProxyNet: the spiking network forward, the ReLU network backward; sequences, NaN and infinity."""

import pytest
import torch
import torch.nn.functional as F
from cases import bright_halves, learned, spikes
from equality import equal
from torch import nn

import proxykernels as pk


def make_pair(v_threshold=1.0):
    """A spiking network and a plain torch ReLU network with the same weights."""
    neuron = {"v_threshold": v_threshold}
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 6, 3, padding=1, **neuron), pk.MaxPool2d(2),
        pk.FusedIFConv2d(6, 8, 3, **neuron), pk.AvgPool2d(2),
        pk.Flatten(), pk.FusedIFLinear(8, 12, **neuron), pk.FusedIFLinear(12, 4, **neuron),
    )  # fmt: skip
    relu = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4),
    )  # fmt: skip
    for parameter in net.parameters():
        parameter.data *= 2
    for ours, theirs in zip(net.parameters(), relu.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    return net, relu


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_gradient_is_that_of_the_relu_network_at_the_spikes(generator, loss):
    torch.manual_seed(0)
    net, relu = make_pair()
    x, labels = torch.rand(5, 1, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3, 1])

    def loss_of(output):
        return (
            F.cross_entropy(output, labels) if loss == "cross-entropy" else F.mse_loss(output, F.one_hot(labels) * 3.0)
        )

    model = pk.ProxyNet(net, T=20, **pk.ProxyNet.PAPER)
    output = model(x)
    counts = pk.simulate(net, x, 20).count()
    assert equal(output, counts.float()) and counts.sum() > 0
    loss_of(output).backward()
    leaf = counts.float().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(leaf), leaf)
    relu(x).backward(gradient)
    for ours, theirs in zip(net.parameters(), relu.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5 * theirs.grad.abs().max().item())


@pytest.mark.parametrize("v_threshold", [0.5, 2.0])
def test_clipped_twin(generator, v_threshold):
    torch.manual_seed(0)
    net, relu = make_pair(v_threshold)
    for k, layer in enumerate(relu):
        if isinstance(layer, nn.ReLU):
            relu[k] = nn.Hardtanh(0.0, v_threshold)
    x = 3 * torch.rand(5, 1, 8, 8, generator=generator)
    model = pk.ProxyNet(net, T=4, clip=True)
    torch.testing.assert_close(model.ann(x), relu(x))
    gradient = torch.ones(5, 4)
    model.ann(x).backward(gradient)
    relu(x).backward(gradient)
    for ours, theirs in zip(net.parameters(), relu.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("readout", ["count", "rate", "potential"])
@pytest.mark.parametrize("clip", [True, False])
def test_counts_lower_no_output_below_zero(generator, clip, readout):
    """Where the twin is clipped; they raise it, and potentials do both."""
    torch.manual_seed(0)
    net, _ = make_pair()
    model = pk.ProxyNet(net, T=20, clip=clip, readout=readout)
    x, gradient = torch.rand(5, 1, 8, 8, generator=generator), torch.randn(5, 4, generator=generator)
    model(x).backward(gradient)
    ours = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    ann = model.ann(x)
    lowered = (ann < 0) & (gradient > 0)
    assert lowered.any() and ((ann < 0) & (gradient < 0)).any() and (lowered != (gradient > 0)).any()
    ann.backward(gradient.masked_fill(lowered, 0) if clip and readout != "potential" else gradient)
    for actual, parameter in zip(ours, net.parameters(), strict=True):
        torch.testing.assert_close(actual, parameter.grad)


@pytest.mark.parametrize("options", [{}, {"clip": False}, {"readout": "potential"}], ids=str)
def test_gradient_by_torch_func(generator, options):
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, v_threshold=0.25), pk.Flatten(), pk.FusedIFLinear(144, 3))
    model = pk.ProxyNet(net, T=6, **options)
    x = torch.rand(5, 1, 8, 8, generator=generator)

    def loss(parameters):
        return torch.func.functional_call(model, parameters, x).square().sum()

    parameters = dict(model.named_parameters())
    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    found = torch.func.grad(loss)(parameters)
    assert all(torch.equal(found[name], e) and e.any() for name, e in zip(parameters, expected, strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_vmap_is_refused(generator, training):
    """Of samples, of their gradients, and of weights; the twin alone counts nothing."""
    models = [pk.ProxyNet(pk.FusedIFLinear(6, 5, v_threshold=0.25), T=8).train(training) for _ in range(3)]
    model, x = models[0], torch.rand(4, 2, 6, generator=generator)
    parameters, _ = torch.func.stack_module_state(models)

    def call(parameters, x):
        return torch.func.functional_call(model, parameters, x).sum()

    for run in (
        lambda: torch.vmap(model)(x),
        lambda: torch.vmap(model.snn)(x),
        lambda: torch.vmap(torch.func.grad(call), (None, 0))(dict(model.named_parameters()), x),
        lambda: torch.vmap(call, (0, None))(parameters, x[0]),
    ):
        with pytest.raises(TypeError, match=r"does not run within torch.vmap: give it all samples as one batch"):
            run()
    torch.testing.assert_close(torch.vmap(model.ann)(x), torch.stack([model.ann(sample) for sample in x]))


def test_evaluation_runs_the_spiking_network_alone(generator, monkeypatch):
    net, _ = make_pair()
    model, x = pk.ProxyNet(net, T=10), torch.rand(2, 1, 8, 8, generator=generator)
    expected = model.snn(x)

    def never(x):
        raise AssertionError("the ReLU network ran")

    monkeypatch.setattr(model, "ann", never)
    with torch.no_grad():
        assert equal(model(x), expected)
    model.eval()
    assert equal(model(x), expected) and not model(x).requires_grad


def test_weights_are_shared_and_statistics_are_not(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(4 * 36, 3))
    model = pk.ProxyNet(net, T=12)
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    x = torch.rand(6, 1, 8, 8, generator=generator)
    model(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p is not net[0].bias)
    current = F.conv2d(x, net[0].weight, net[0].bias)
    for statistics in (net[0].bn, model.statistics["0"]):  # the first layer's current is the same for both
        torch.testing.assert_close(statistics.running_mean, 0.1 * current.mean((0, 2, 3)))
    assert net[0].bn.running_mean is not model.statistics["0"].running_mean
    model.eval()
    restored = pk.ProxyNet(
        nn.Sequential(pk.FusedIFConv2d(1, 4, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(4 * 36, 3)), T=12
    ).eval()
    restored.load_state_dict(model.state_dict())
    assert equal(restored(x), model(x)) and equal(restored.ann(x), model.ann(x))


def test_it_learns(generator):
    """A task that it must solve in seconds: which half of the image is bright."""
    torch.manual_seed(0)
    images, labels = bright_halves(256, 0.0, 0.8)
    images += 0.1 * torch.rand(256, 1, 8, 8, generator=generator)
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, padding=1), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(64, 2))
    model = pk.ProxyNet(net, T=16, clip=True)
    assert learned(model, images, labels) > 0.95


def test_output_threshold_is_the_scale_of_the_currents(generator):
    """Random weights leave the output almost silent; then the highest output fires at the rate that is asked for."""
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFLinear(20, 40, bias=False, batch_norm=True, v_threshold=3.0, v_reset=None),
        pk.FusedIFLinear(40, 8, bias=False, v_threshold=3.0, v_reset=None),
    )
    images = torch.rand(50, 20, generator=generator)
    model = pk.ProxyNet(net, 32, readout="rate").train()
    assert 0 <= model.snn(images).mean() < 0.02
    theta = model.fit_output_threshold(images, 0.4)
    assert theta == net[1].v_threshold and net[0].v_threshold == 3.0
    assert model.snn(images).amax(1).mean().item() == pytest.approx(0.4, abs=0.04)
    assert pk.ProxyNet(net, 32).net.state_dict()["1.v_threshold"] == theta
    alone = pk.ProxyNet(net[1], 32)  # no network around it
    assert alone.fit_output_threshold(images[:, :1].expand(50, 40).abs()) == net[1].v_threshold
    net[1].v_threshold, net[1].v_init = theta, 1.0  # no part of the currents
    assert model.fit_output_threshold(images, 0.4) == pytest.approx(theta, rel=0.02)


@pytest.mark.parametrize(
    ("rate", "weight", "error", "message"),
    [
        (0, 1.0, ValueError, "rate must be above 0 and at most 1, got 0"),
        ("half", 1.0, TypeError, "rate must be a number, got 'half'"),
        (0.5, -1.0, ValueError, "the highest currents of layer 0 have the mean -"),
    ],
)
def test_output_threshold_says_what_does_not_fit(rate, weight, error, message):
    net = nn.Sequential(pk.FusedIFLinear(3, 2, bias=False))
    nn.init.constant_(net[0].weight, weight)
    with pytest.raises(error, match=message):
        pk.ProxyNet(net, 4).fit_output_threshold(torch.ones(5, 3), rate)
    assert net[0].v_threshold == 1.0


def test_output_threshold_is_of_neurons_that_integrate_and_fire():
    leaky = nn.Sequential(pk.FusedLIFLinear(3, 2, decay=0.5))
    with pytest.raises(ValueError, match="layer 0 must have IF neurons with one number as v_threshold, got LIFNeuron"):
        pk.ProxyNet(leaky, 4).fit_output_threshold(torch.ones(5, 3))


T = 20


def sequence(kind: str, generator: torch.Generator):
    """A sequence as ProxyNet takes it, and dense."""
    if kind == "held":
        x = torch.rand(5, 1, 8, 8, generator=generator).expand(T, 5, 1, 8, 8)
        return x, x
    x = spikes(T, 5, 1, 8, 8, generator=generator, rate=0.4)
    if kind == "real":
        x = x * torch.rand(T, 5, 1, 8, 8, generator=generator)
    if kind == "counts":
        x = torch.randint(0, 4, x.shape, generator=generator) * x
        return x.to(torch.int16), x
    return (pk.pack(x) if kind == "Spikes" else x.bool() if kind == "bool" else x), x


@pytest.mark.parametrize("kind", ["spikes", "Spikes", "bool", "counts", "real", "held"])
def test_gradient_is_that_of_the_relu_network_on_the_mean(generator, kind):
    torch.manual_seed(0)
    net, relu = make_pair()
    x, dense = sequence(kind, generator)
    model = pk.ProxyNet(net, T, **pk.ProxyNet.PAPER)
    output = model(x)
    counts = pk.simulate(net, x, T).count()
    assert equal(output, counts.float()) and counts.sum() > 0
    gradient = torch.randn(5, 4, generator=generator)
    output.backward(gradient)
    expected = relu(dense.mean(0))
    torch.testing.assert_close(model.ann(x), expected)
    expected.backward(gradient)
    for ours, theirs in zip(net.parameters(), relu.parameters(), strict=True):
        assert theirs.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5 * theirs.grad.abs().max().item())
    model.eval()
    assert equal(model(x), output)


def test_spikes_behind_a_dropout_count_more(generator):
    x = pk.Dropout(0.5).train()(pk.pack(spikes(T, 5, 1, 8, 8, generator=generator)))
    net, relu = make_pair()
    torch.testing.assert_close(pk.ProxyNet(net, T, clip=False).ann(x), relu(x.dense().mean(0)))


def test_features_over_time(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFLinear(6, 16), pk.FusedIFLinear(16, 3))
    model = pk.ProxyNet(net, T)
    x = 2 * torch.rand(T, 4, 6, generator=generator)
    output = model(x)
    assert output.shape == (4, 3) and output.sum() > 0
    torch.testing.assert_close(model.ann(x), model.ann(x.mean(0)))
    for dtype in (torch.float64, torch.bfloat16):
        model.to(dtype)
        assert model.ann(pk.pack(x > 1)).dtype == model.ann(x.to(dtype)).dtype == dtype


def test_other_shapes_are_refused_before_any_work(generator, monkeypatch):
    model = pk.ProxyNet(make_pair()[0], T)
    monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: pytest.fail("the twin ran"))
    for training in (True, False):
        model.train(training)
        with pytest.raises(ValueError, match="x is a sequence of 19 steps, and T is 20"):
            model(torch.rand(19, 5, 1, 8, 8, generator=generator))
        with pytest.raises(ValueError, match=r"x must be a constant input, .* or a sequence, .*; got \[8\]"):
            model(torch.rand(8, generator=generator))
    model.train()
    with pytest.raises(TypeError, match="x must be floating point, got torch.uint8 .* a constant input"):
        model(torch.ones(5, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=r"x is a sequence of 5 steps, and T is 20; .* pass proxykernels.time_first\(x\)"
    ):
        model(torch.rand(5, T, 1, 8, 8, generator=generator))


def test_statistics_are_measured_on_sequences(generator):
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFConv2d(1, 6, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(216, 4))
    model = pk.ProxyNet(net, T, statistics_of="steps")
    for kind in ("Spikes", "bool", "counts", "real", "held"):
        x, dense = sequence(kind, generator)
        model.measure_batch_norm(x, batch=5)
        current = F.conv2d(dense.flatten(0, 1), net[0].weight, net[0].bias)
        torch.testing.assert_close(net[0].bn.running_mean, current.mean((0, 2, 3)))
        if kind != "held":  # of which one step is normalised, for all
            torch.testing.assert_close(net[0].bn.running_var, current.var((0, 2, 3)))


@pytest.mark.costly
@pytest.mark.parametrize("packed", [True, False])
def test_it_learns_from_events(generator, packed):
    """Which half of the image sends more events."""
    torch.manual_seed(0)
    rates, labels = bright_halves(128, 0.05, 0.4)
    events = (torch.rand(16, *rates.shape, generator=generator) < rates).float()
    x = pk.pack(events) if packed else events
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, padding=1), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(64, 2))
    model = pk.ProxyNet(net, T=16, clip=True)
    assert learned(model, x, labels) > 0.95


@pytest.fixture
def x(generator):
    return torch.rand(5, 1, 8, 8, generator=generator)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return pk.ProxyNet(make_pair()[0], 20, clip=False)


@pytest.mark.parametrize(("clip", "value"), [(True, torch.nan), (False, torch.nan), (False, torch.inf)])
@pytest.mark.parametrize(("index", "which"), [(0, "weight"), (2, "bias"), (6, "weight")])
def test_weights_that_are_not_finite_name_their_layer(model, x, index, which, value, clip):
    model.clip = clip
    assert torch.isfinite(model(x)).all()
    getattr(model.net[index], which).data[0] = value
    with pytest.raises(FloatingPointError, match=f"the {which} of layer {index} holds NaN or infinite values"):
        model(x)


def test_a_step_by_gradients_that_are_not_finite_is_the_last(model, x):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model(x).sum().backward()
    model.net[2].weight.grad[0, 0, 0, 0] = torch.nan
    optimizer.step()
    with pytest.raises(FloatingPointError, match="the weight of layer 2 holds NaN"):
        model(x)


def test_overflow_names_its_layer(model, x):
    model.half()
    model.net[2].weight.data[0] = 6e4
    with pytest.raises(FloatingPointError, match="layer 2 overflows, whose weights are finite"):
        model(x.half())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_whose_gradient_is_not_finite(model, x, value):
    output = model(x)
    assert output.sum() > 0
    loss = (output * torch.tensor([1.0, 1.0, value, 1.0])).sum()
    with pytest.raises(
        FloatingPointError, match="the gradient that the loss gives the output of ProxyNet is not finite"
    ):
        loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_bad_input_is_named(model, x):
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="x must be finite"):
        model(x)


def test_a_scaled_loss_may_overflow_in_half_precision(model, x):
    """torch.amp.GradScaler skips such a step, and goes on with a lower scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.autocast("cpu", torch.float16):
        loss = model(x).square().sum()
    assert loss > 0
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 2.0**40
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_evaluation_names_the_layer_too(model, x):
    """There the spiking network runs alone."""
    model.eval()
    model.net[6].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="layer 6: bias must be finite"):
        model(x)
