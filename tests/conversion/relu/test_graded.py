"""Graded neurons: a pass of the ReLU network with what is small cut, its threshold, and changes of frames."""

import copy

import pytest
import torch
from equality import equal
from sigma_delta_nets import nets_fixture, pooled_fixture  # noqa: F401 - fixtures
from torch import nn

import proxykernels as pk
from proxykernels.conversion.relu import graded
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons


@pytest.fixture(name="classifier")
def classifier_fixture(generator):
    """A network whose answers are not all alike, and samples."""
    ann = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 32, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 70), nn.ReLU(), nn.Linear(70, 6),
    ).eval()  # fmt: skip
    x = torch.randn(300, 1, 8, 8, generator=generator)
    with torch.no_grad():
        ann[-1].bias -= ann(x).mean(0)
        assert len(ann(x).argmax(1).unique()) > 3
    return ann, x


@torch.no_grad()
@pytest.mark.parametrize("net_of", ["nets", "pooled"])
def test_without_a_threshold_a_step_is_the_relu_network(request, net_of):
    ann, x = request.getfixturevalue(net_of)
    net = pk.convert(ann, x, neuron=pk.neurons.Graded())
    result = pk.simulate(net, x, 1)
    assert torch.allclose(result.logits, ann(x), atol=1e-5 * ann(x).abs().max())
    assert all(0 < rate < 1 for rate in result.rates.values())  # zeros are not sent
    later = pk.simulate(net, x, 4)
    assert equal(later.potentials, result.potentials.expand(4, *result.potentials.shape[1:]))
    assert later.synops == result.synops  # a held image is answered by the first step


@torch.no_grad()
def test_a_threshold_cuts_what_is_below_it(classifier):
    """The cut ReLU network in plain torch, whose scales are powers of two: the same sums up to rounding."""
    ann, x = classifier
    net = pk.convert(ann, x, neuron=pk.neurons.Graded(0.3))
    scales = [layer.scale.item() for layer in net.modules() if isinstance(layer, SigmaDeltaNeurons)][:-1]
    assert all(torch.frexp(torch.tensor(scale)).mantissa == 0.5 for scale in scales) and len(set(scales)) > 1
    expected, products, messages = x, 0, []
    for module in ann:
        if isinstance(module, nn.Conv2d | nn.Linear):
            ones = copy.deepcopy(module)
            ones.weight.fill_(1), ones.bias.zero_()
            products += int(ones((expected != 0).float()).sum())
        expected = module(expected)
        if isinstance(module, nn.ReLU):
            theta = 0.3 * scales[len(messages)]
            expected = torch.where(expected >= theta, expected, 0.0)
            messages.append((expected != 0).float().mean().item())
    result = pk.simulate(net, x, 1)
    assert torch.allclose(result.logits, expected, atol=1e-4 * expected.abs().max())
    assert (result.logits - ann(x)).abs().max() > 1e-2 * expected.abs().max()
    assert result.synops.total == products and set(result.synops.accumulates.values()) == {0}
    assert list(result.rates.values())[1:] == pytest.approx(messages[1:])  # the first neurons are behind a pooling


@torch.no_grad()
@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.2])
def test_the_threshold_is_the_largest_within_the_tolerance(tolerance, classifier):
    ann, x = classifier
    net = pk.convert(ann, x, neuron="graded", tolerance=tolerance)
    (threshold,) = {layer.neuron.threshold for layer in net.modules() if isinstance(layer, SigmaDeltaNeurons)}
    assert f"Graded(threshold={threshold}" in net._made["neurons"]
    answers = ann(x).argmax(1)

    def changed(threshold: float) -> float:
        return (graded._outputs(net, x, threshold).argmax(1) != answers).float().mean().item()

    finer = 2 ** (1 / graded.A_DOUBLING)
    assert threshold > 0 and changed(threshold) <= tolerance < changed(threshold * finer)


@torch.no_grad()
def test_more_tolerance_leaves_fewer_products(classifier):
    ann, x = classifier
    work = [pk.simulate(pk.convert(ann, x, neuron="graded", tolerance=t), x, 1).synops.total for t in (0, 0.02, 0.2)]
    assert work[0] > work[1] > work[2] > 0


@torch.no_grad()
def test_outputs_that_are_no_classes_have_a_mean_error(classifier):
    ann, x = classifier
    ann = nn.Sequential(*ann[:5], nn.Conv2d(32, 3, 1))
    net = pk.convert(ann, x, neuron="graded", tolerance=0.05)
    error = (pk.simulate(net, x, 1).logits - ann(x)).abs().mean() / ann(x).abs().mean()
    assert 0.01 < error <= 0.05


@torch.no_grad()
def test_of_frames_only_changes_are_sent(classifier):
    ann, x = classifier
    net = pk.convert(ann, x, neuron=pk.neurons.Graded(0.02))
    frames = x[:5].expand(4, 5, 1, 8, 8).clone()
    still = pk.simulate(net, frames, 4)
    assert still.synops == pk.simulate(net, x[:5], 1).synops
    frames[2:, :, :, 2:5, 2:5] += 3
    moved = pk.simulate(net, frames, 4)
    more = moved.synops.total - still.synops.total
    assert 0 < more < still.synops.total
    errors = [(moved.potentials[t] - ann(frames[-1])).abs().max() for t in (1, 2, 3)]
    assert errors[1] == errors[2] < 0.2 * errors[0]
    stream = pk.compile(net, x[:5]).stream(5)
    assert equal(torch.cat([stream(frame) for frame in frames]), moved.potentials)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tolerance": 0.01}, ValueError, "tolerance is an option for neuron='graded', got 0.01; leave it out"),
        ({"neuron": pk.neurons.Graded(1), "tolerance": 0.01}, ValueError, "tolerance is an option for neuron='graded'"),
        ({"neuron": "graded", "tolerance": 1}, ValueError, "tolerance must be from 0 to below 1"),
        ({"neuron": "graded", "tolerance": "1 %"}, TypeError, "tolerance must be a number"),
        ({"neuron": "graded", "share": True}, ValueError, "share=True is not supported for Graded"),
        ({"neuron": "graded", "v_init": 0.5}, ValueError, "v_init is an option for IF neurons"),
    ],
)
def test_wrong_options(options, error, message, classifier):
    with pytest.raises(error, match=message):
        pk.convert(*classifier, **options)


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)])
def test_wrong_thresholds(value, error):
    with pytest.raises(error, match="threshold must be"):
        pk.neurons.Graded(value)


@torch.no_grad()
def test_saved_and_loaded(classifier, tmp_path):
    ann, x = classifier
    net = pk.convert(ann, x, neuron="graded")
    expected = pk.simulate(net, x, 1)
    torch.save(net, tmp_path / "net.pt")
    assert equal(pk.simulate(torch.load(tmp_path / "net.pt"), x, 1).logits, expected.logits)
    engine = pk.compile(net, x[:1])
    assert all(
        f"{rate:.4f}" in repr(engine) for rate in pk.simulate(net, x[:1], 1).rates.values() if rate < 1
    )  # one step's
    engine.save(tmp_path / "net.safetensors")
    loaded = pk.load(tmp_path / "net.safetensors")(x, 1)
    assert equal(loaded.logits, expected.logits) and loaded.rates == expected.rates
    assert "graded" in pk.model_card(net, expected).lower()


@torch.no_grad()
def test_the_report_compares_what_was_sent(classifier):
    ann, x = classifier
    report = pk.conversion_report(pk.convert(ann, x, neuron=pk.neurons.Graded(0.02)), x, 1)
    assert report.settled and all(0 < row.rate < 1 and 0 < row.error < 0.1 and not row.clipped for row in report.rows)
