"""ProxyNet in all modes of training, and what a first try meets."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.training.twin import PASSES


def make_net(batch_norm=False, v_threshold=1.0):
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 6, 3, padding=1, batch_norm=batch_norm, v_threshold=v_threshold),
        pk.MaxPool2d(2),
        pk.FusedIFConv2d(6, 8, 3, batch_norm=batch_norm, v_threshold=v_threshold),
        pk.Flatten(),
        pk.FusedIFLinear(32, 4, v_threshold=v_threshold),
    )
    for parameter in net.parameters():
        parameter.data *= 2
    return net


@pytest.fixture
def x(generator):
    return torch.rand(6, 1, 8, 8, generator=generator)


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_a_model_in_training_is_copied_without_its_graph(x):
    model = pk.ProxyNet(make_net(), 20)
    loss = model(x).sum()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert twin.ann_rates == {name: rate.detach() for name, rate in model.ann_rates.items()} and twin.rates
    loss.backward()
    assert model.net[0].weight.grad.any() and twin.net[0].weight.grad is None
    assert equal(twin.eval()(x), model.eval()(x)) and model(x).any()


def test_rate_is_count_over_time(x):
    net = make_net()
    count, rate = pk.ProxyNet(net, 20), pk.ProxyNet(net, 20, readout="rate")
    assert equal(rate(x) * 20, count(x)) and count(x).sum() > 0
    ours, theirs = gradients(rate, rate(x).sum()), gradients(count, count(x).sum())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("v_threshold", [1.0, torch.tensor(1.0)])
def test_potential_is_the_sum_of_the_last_layers_currents(x, v_threshold):
    net = make_net(v_threshold=v_threshold)
    model = pk.ProxyNet(net, 20, readout="potential")
    before = net[-1].v_threshold
    hidden = nn.Sequential(*list(net)[:-1])
    counts = pk.simulate(hidden, x, 20).count().float()
    expected = F.linear(counts, net[-1].weight) + 20 * net[-1].bias
    torch.testing.assert_close(model(x).detach(), expected, rtol=1e-5, atol=1e-4)
    assert net[-1].v_threshold is before and counts.sum() > 0
    assert gradients(model, model(x).square().sum())[0].abs().max() > 0


def test_potential_of_neurons_with_several_states(generator):
    x = torch.rand(6, 20, generator=generator)
    torch.manual_seed(0)
    last = pk.FusedLinear(30, 4, neuron=pk.neurons.CubaLIFNeuron(decay=0.9, current_decay=0.5))
    net = nn.Sequential(pk.FusedIFLinear(20, 30), last)
    potentials = pk.ProxyNet(net, 8, readout="potential")(x)
    assert equal(potentials, pk.SurrogateNet(net, 8, readout="potential")(x)) and potentials.shape == (6, 4)
    potentials.sum().backward()
    assert net[0].weight.grad.any()


def test_torchs_dropout_would_drop_other_values_in_the_twin():
    model, x = pk.ProxyNet(nn.Sequential(nn.Dropout(), pk.Dropout(), pk.FusedIFLinear(6, 4)), 8), torch.rand(3, 6)
    assert model.eval()(x).shape == (3, 4)
    with pytest.raises(TypeError, match="layer 0 is an nn.Dropout, .* two networks; use proxykernels.Dropout"):
        model.train()(x)
    model.net[0].p = 0.0
    assert model(x).requires_grad


@pytest.mark.parametrize("v_threshold", [1.0, torch.ones(4)], ids=["one", "per-channel"])
def test_a_relu_network_has_no_gradient_for_thresholds(v_threshold):
    net = nn.Sequential(pk.FusedIFLinear(6, 4, v_threshold=v_threshold), pk.FusedIFLinear(4, 2))
    pk.learn_neurons(net[0], "v_threshold")
    with pytest.raises(ValueError, match="layer 0 learns its v_threshold, .* train with SurrogateNet"):
        pk.ProxyNet(net, 8, clip=True)


def test_unknown_readout_lists_the_known_ones():
    with pytest.raises(ValueError, match="readout must be one of count, rate, potential, got 'spikes'"):
        pk.ProxyNet(make_net(), 4, readout="spikes")


def test_statistics_of_means(generator):
    """The spiking network's currents vary as the twin's do; of all steps they vary more, and are scaled down."""
    deviations, x = {}, torch.rand(40, 20, generator=generator)
    for kind in ("steps", "means"):
        torch.manual_seed(0)
        net = nn.Sequential(
            pk.FusedIFLinear(20, 50, batch_norm=True, v_threshold=3.0, v_reset=None, v_init=1.5),
            pk.FusedIFLinear(50, 30, batch_norm=True, v_threshold=3.0, v_reset=None, v_init=1.5),
            pk.FusedIFLinear(30, 4),
        )
        net[0].bn.momentum = net[1].bn.momentum = None  # a plain average
        model = pk.ProxyNet(net, 40, statistics_of=kind).train()
        model(x)
        variances = net[1].bn.running_var, model.statistics["1"].running_var
        deviations[kind], twin = (variance.sqrt() for variance in variances)
        assert min(model.rates.values()) > 0.05
        model.measure_batch_norm(x, batch=40)
        assert torch.allclose(net[1].bn.running_var.sqrt(), deviations[kind])
    twin = twin / 3.0  # whose inputs are in units of the threshold
    assert (deviations["means"] / twin - 1).abs().max() < 0.2 and (deviations["steps"] / twin).min() > 1.2


class Halved(nn.BatchNorm2d):
    """Normalises otherwise."""


def test_statistics_of_what_is_checked():
    with pytest.raises(ValueError, match="statistics_of must be one of steps, means, got 'rates'"):
        pk.ProxyNet(make_net(), 4, statistics_of="rates")
    net = nn.Sequential(pk.FusedIFConv2d(1, 2, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(8, 2))
    net[0].bn = Halved(2)
    with pytest.raises(ValueError, match="statistics_of='means' needs nn.BatchNorm1d .*, got Halved in layer 0"):
        pk.ProxyNet(net, 4, statistics_of="means")


def test_frozen_statistics_stay_and_are_used(x):
    model = pk.ProxyNet(make_net(batch_norm=True), 12)
    model(x)
    model.freeze_batch_norm()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    output = model(x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    ann = model.ann(x)
    model.eval()
    assert equal(output, model(x)) and equal(ann, model.ann(x))
    model.train()
    assert len(gradients(model, model(x).sum())) == len(list(model.parameters()))  # weights of the norms learn on
    model.freeze_batch_norm(False)
    model(x)
    assert not torch.equal(model.net[0].bn.running_mean, before["net.0.bn.running_mean"])
    assert not torch.equal(model.statistics["0"].running_mean, before["statistics.0.running_mean"])


def test_measured_statistics_are_those_of_the_currents(x):
    net = make_net(batch_norm=True)
    model = pk.ProxyNet(net, 12)
    model(x), model.eval()
    twin = copy.deepcopy(model.statistics)
    model.measure_batch_norm(x, batch=3)
    assert all(torch.equal(a, b) for a, b in zip(twin.buffers(), model.statistics.buffers(), strict=True))
    currents = [F.conv2d(part, net[0].weight, net[0].bias) for part in F.pad(x, (1, 1, 1, 1)).split(3)]
    mean = sum(current.mean((0, 2, 3)) for current in currents) / 2
    torch.testing.assert_close(net[0].bn.running_mean, mean)
    assert net[0].bn.momentum == 0.1 and not net[0].bn.training
    assert equal(model(x), model.snn(x)) and model(x).sum() > 0


def test_autocast_changes_no_spike_and_little_of_the_gradient(x):
    model = pk.ProxyNet(make_net(), 900)  # more counts than bfloat16 can tell apart
    expected = model(x)
    exact = gradients(model, F.mse_loss(expected, torch.full_like(expected, 100.0)))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.float32 and equal(output, expected) and output.max() > 256
    for ours, theirs in zip(gradients(model, F.mse_loss(output, torch.full_like(output, 100.0))), exact, strict=True):
        assert (ours - theirs).norm() < 0.1 * theirs.norm()  # a rounded maximum may win in another pixel


def test_gradients_accumulate_over_parts_of_a_batch(x):
    model = pk.ProxyNet(make_net(), 16)
    whole = gradients(model, F.mse_loss(model(x), torch.ones(6, 4)))
    model.zero_grad()
    for part in x.split(2):
        (F.mse_loss(model(part), torch.ones(2, 4)) / 3).backward()
    for ours, theirs in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.slow
def test_compiled_twin(x):
    model = pk.ProxyNet(make_net(batch_norm=True), 16, clip=True)
    plain = copy.deepcopy(model)
    model.ann = torch.compile(model.ann, backend="aot_eager")
    for _ in range(2):
        ours, theirs = model(x), plain(x)
        assert equal(ours, theirs)
        loss = [model_.ann_rates["0"] + output.sum() for model_, output in ((model, ours), (plain, theirs))]
        for a, b in zip(gradients(model, loss[0]), gradients(plain, loss[1]), strict=True):
            torch.testing.assert_close(a, b)
    assert equal(model.statistics["0"].running_mean, plain.statistics["0"].running_mean)


def test_spikes_are_of_the_current_weights(x):
    """However the weights change, nothing of the old ones is used."""
    model, other = pk.ProxyNet(make_net(), 16), make_net()
    before = model(x)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.5
    expected = pk.ProxyNet(other, 16)(x)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for parameter in model.parameters():
        parameter.grad = -0.5 * parameter.detach()
    optimizer.step()
    assert equal(model(x), expected) and not torch.equal(before, expected)
    model.net.load_state_dict(make_net().state_dict())
    assert equal(model(x), before)
    model.net[0].weight = nn.Parameter(other[0].weight.detach().clone())
    assert not torch.equal(model(x), before)


def test_rates_are_of_the_last_pass(x):
    model = pk.ProxyNet(make_net(), 16, clip=False)
    model(x)
    assert model.rates == pk.simulate(model.net, x, 16).rates
    first = F.relu(F.conv2d(x, model.net[0].weight, model.net[0].bias, padding=1))
    assert list(model.ann_rates) == ["0", "2"]
    torch.testing.assert_close(model.ann_rates["0"], first.mean())
    assert equal(model.ann_output, model.ann(x).detach())


SAID = "gave no spike|diverges"


def deep() -> nn.Sequential:
    return nn.Sequential(
        pk.FusedIFConv2d(1, 16, 3, padding=1), pk.MaxPool2d(2), pk.FusedIFConv2d(16, 32, 3, padding=1),
        pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(32 * 49, 128), pk.FusedIFLinear(128, 10),
    )  # fmt: skip


def leaky(**options) -> nn.Sequential:
    layers = [pk.FusedLIFConv2d(1 if k == 0 else 8, 8, 3, padding=1, **options) for k in range(4)]
    return nn.Sequential(*layers, pk.MaxPool2d(4), pk.Flatten(), pk.FusedLIFLinear(8 * 49, 10, **options))


def fit(model: nn.Module, epochs: int) -> float:
    """Cross-entropy and Adam on the sample images; the share of them that are right, of which no tie is."""
    images, labels = pk.samples.fashion_mnist()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    counts = model.eval()(images)
    first, second = counts.topk(2, 1).values.unbind(1)
    return ((counts.argmax(1) == labels) & (first > second)).float().mean().item()


@pytest.mark.slow
def test_the_defaults_learn():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(pk.ProxyNet(deep(), T=16), 20) > 0.7


@pytest.mark.slow
def test_the_papers_arguments_say_that_they_diverge():
    """With this loss, which is not the paper's."""
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=r"in layer [25] of the twin are [3-9]\.\d thresholds.*clip=True") as said:
        assert fit(pk.ProxyNet(deep(), T=16, **pk.ProxyNet.PAPER), 20) < 0.4
    assert [warning.filename for warning in said] == [__file__]


def test_the_papers_arguments_have_a_name():
    defaults, papers = pk.ProxyNet(deep(), 4), pk.ProxyNet(deep(), 4, **pk.ProxyNet.PAPER)
    assert (defaults.clip, defaults.readout, defaults.statistics_of) == (True, "count", "means")
    assert (papers.clip, papers.readout, papers.statistics_of) == (False, "count", "steps")


def test_a_dead_layer_is_named_once():
    """Deep leaky networks at the defaults: no current comes to the threshold from the second layer on."""
    torch.manual_seed(0)
    model, images = pk.ProxyNet(leaky(), T=16), pk.samples.fashion_mnist()[0][:8]
    with pytest.warns(UserWarning, match="^layer 1 gave no spike.*batch_norm=True") as said:
        for _ in range(3):
            model(images).sum().backward()
    assert [warning.filename for warning in said] == [__file__]
    assert model.rates["0"] > 0 and not any(model.rates[name] for name in "123")


def test_without_a_twin_it_takes_a_while():
    """A surrogate derivative may wake a layer: it is named if it does not in many passes."""
    torch.manual_seed(0)
    model, x = pk.SurrogateNet(leaky(), T=8), pk.samples.fashion_mnist()[0][:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PASSES - 1):
            model(x)
        model.eval()(x)
    with pytest.warns(UserWarning, match=f"^layer 1 gave no spike in {PASSES} passes in a row") as said:
        model.train()(x)
    assert [warning.filename for warning in said] == [__file__]


@pytest.mark.parametrize("kind", [pk.ProxyNet, pk.SurrogateNet])
def test_no_warning_of_what_learns(kind):
    """Normalised leaky layers; a layer that wakes up; a pass without a gradient; a silent output whose twin is not."""
    torch.manual_seed(0)
    images = pk.samples.fashion_mnist()[0][:8]
    net = leaky(batch_norm=True)
    net[-1] = pk.FusedLIFLinear(8 * 49, 10, v_threshold=50.0)
    model, dead = kind(net, T=8), kind(leaky(), T=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PASSES - 1):
            model(images)
        with torch.no_grad():
            dead(images)
        dead.eval()(images)
    assert model.rates["6"] == 0 < min(model.rates[name] for name in "0123")


def test_no_warning_of_a_readout():
    """It never fires, and has no rate."""
    net = nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedLILinear(6, 3))
    model, x = pk.SurrogateNet(net, T=4, readout="potential"), torch.full((2, 4), 9.0)
    net[0].weight.data.abs_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(PASSES + 1):
            model(x)
    assert model.rates.keys() == {"0"} and model.rates["0"]


def test_a_layer_that_wakes_begins_anew():
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedIFLinear(6, 3))
    model, dark, bright = pk.SurrogateNet(net, T=4), torch.zeros(2, 4), torch.full((2, 4), 9.0)
    net[0].bias.data.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (*[dark] * (PASSES - 1), bright, *[dark] * (PASSES - 1)):
            model(x)
    assert model.rates["0"] == 0


class Doubling(pk.neurons.IFNeuron):
    """Neurons of somebody's own: what they compute is not known here."""


class Slow(pk.neurons.LIFNeuron):
    """The same of leaky ones."""


@pytest.mark.parametrize("neuron", [Doubling(), Slow()])
def test_unknown_neurons_are_refused(neuron):
    net = nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedLinear(6, 5, neuron=neuron), pk.FusedIFLinear(5, 3))
    name = type(neuron).__name__
    with pytest.raises(
        TypeError, match=f"layer 1 has {name}s, whose activation .* not known; .* SurrogateNet. Known: IF"
    ):
        pk.ProxyNet(net, 8)
    assert pk.SurrogateNet(net, 8)(torch.rand(2, 4)).shape == (2, 3)


def test_potentials_that_add_up_have_no_twin():
    """Within the network; what passes currents on has, and so has a readout at the end."""
    adding = nn.Sequential(pk.FusedLILinear(4, 6), pk.FusedIFLinear(6, 3))
    with pytest.raises(ValueError, match="layer 0 passes on potentials that add up .* decay=0"):
        pk.ProxyNet(adding, 8)
    passing = nn.Sequential(pk.FusedLILinear(4, 6, decay=0.0), pk.FusedIFLinear(6, 3))
    x = torch.rand(2, 4)
    torch.testing.assert_close(pk.ProxyNet(passing, 8).ann(x), passing[1].affine(passing[0].affine(x)))
    pk.ProxyNet(nn.Sequential(pk.FusedIFLinear(4, 6), pk.FusedLILinear(6, 3)), 8, readout="potential")
