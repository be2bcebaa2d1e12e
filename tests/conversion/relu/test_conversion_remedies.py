"""What makes conversion good at few steps, and what a network says of input far from its calibration data."""

import copy
import json
import warnings

import layerwise
import matplotlib
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    images, labels = pk.samples.fashion_mnist()
    return pk.samples.relu_network(), images, labels


def uneven() -> tuple[nn.Sequential, torch.Tensor]:
    """A network whose channels differ in size a hundred times, with grouped weights and flattened features."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip
    with torch.no_grad():
        ann[0].weight *= torch.tensor([1.0, 3.0, 0.3, 10.0]).view(-1, 1, 1, 1)
        ann[0].bias += 0.2
        ann[3].bias += 0.5
        ann[8].bias += 1.0
    return ann.eval(), torch.rand(40, 2, 8, 8)


def test_every_channel_has_a_scale_and_the_twin_is_the_ann():
    ann, x = uneven()
    net = pk.convert(ann, x, method="max")
    first = net.get_submodule("0")
    with torch.no_grad():
        largest = ann[:2](x).amax([0, 2, 3])
        torch.testing.assert_close(first.scale, (1.5 * largest).clamp(0.1 * largest.max(), largest.max()))
        assert len(first.scale.unique()) > 2
        outputs = pk.ProxyNet(net, 1).ann(x) * net.get_submodule("8").scale
        torch.testing.assert_close(outputs, ann(x), rtol=1e-4, atol=1e-5)
    counts = pk.simulate(net, x, 2000).count() / 2000 * net.get_submodule("8").scale
    assert (counts - ann(x).relu()).abs().max() < 0.01 * ann(x).max() and counts.mean() > 0.05


class Shuffled(nn.Module):
    """Channels of very different size that change places."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 6)

    def forward(self, x):
        x = self.first(x).relu()
        return self.second(x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)).flatten(1)


def test_channels_that_change_places_have_one_scale():
    torch.manual_seed(0)
    ann, x = Shuffled().eval(), torch.rand(20, 2, 8, 8)
    ann.first.weight.data *= torch.tensor([1.0, 5.0, 0.2, 20.0]).view(-1, 1, 1, 1)
    net = pk.convert(ann, x, method="max")
    assert len(set(torch.as_tensor(net.first.scale).flatten().tolist())) == 1
    logits = pk.simulate(net, x, 2000).logits
    assert (logits - ann(x)).abs().max() < 0.01 * ann(x).abs().max()


@pytest.mark.slow
def test_few_steps_do_with_the_trained_net(trained):
    ann, images, labels = trained
    result = pk.simulate(pk.convert(ann, images[:64]), images, 8)
    by_counts, by_logits = (
        (value.argmax(1) == labels).float().mean().item() for value in (result.count(), result.logits)
    )
    assert by_logits > 0.91 and by_counts > 0.9


def chain(seed: int, depth: int, relu: nn.Module, gain: float) -> tuple[nn.Sequential, torch.Tensor]:
    """A deep network whose layers all fire, and samples."""
    torch.manual_seed(seed)
    layers = (part for _ in range(depth) for part in (nn.Conv2d(4, 4, 3, padding=1), relu))
    ann = nn.Sequential(*layers, nn.Conv2d(4, 2, 8)).eval()
    with torch.no_grad():
        for conv in ann[:-1:2]:
            conv.weight *= gain
            conv.bias += 0.1
    return ann, torch.rand(64, 4, 8, 8)


def test_potentials_make_up_for_what_fires_too_often():
    """A deep chain, whose rates drift at few steps: the mean error of each layer falls."""
    ann, x = chain(1, 8, nn.ReLU(), 2.0)
    reports = [pk.conversion_report(pk.convert(ann, x, v_init=v_init), x, 8) for v_init in (None, 0.5)]
    drifts = [sum(abs(row.rate - row.activation) for row in report.rows) for report in reports]
    assert min(row.rate for row in reports[0].rows) > 0.01 and drifts[0] < 0.5 * drifts[1]


@torch.no_grad()
def test_each_channel_starts_where_its_counts_err_least():
    """No channel is worse than at half a threshold, or a sixteenth above or below its own in the range."""
    ann, x = chain(3, 4, nn.ReLU(), 1.5)
    net = pk.convert(ann, x)
    inputs: torch.Tensor | pk.Spikes = x.expand(8, *x.shape)
    better = 0
    for k, layer in enumerate([module for module in net.modules() if isinstance(module, pk.layers.Neurons)][:-1]):
        expected = (ann[: 2 * k + 2](x) / torch.as_tensor(layer.scale).view(-1, 1, 1)).clamp(max=1)
        chosen = layer.v_init
        errors = []
        for start in (chosen, torch.full_like(chosen, 0.5), chosen - 1 / 16, chosen + 1 / 16):
            layer._set_value("v_init", start)
            spikes, _ = layer.spike(inputs)
            errors.append(sum((spikes.count(until=T) - T * expected) ** 2 for T in (4, 8)).mean((0, 2, 3)))
        within = (chosen - 0.5).abs() < 15 / 16
        assert within.any() and (errors[0] <= errors[1] + 1e-6).all()
        assert all((errors[0] <= other + 1e-6)[within].all() for other in errors[2:])
        better += int((errors[0] < 0.9 * errors[1]).sum())
        layer._set_value("v_init", chosen)
        inputs, _ = layer.spike(inputs)
    assert better >= 4


def test_the_report_says_what_its_last_row_is():
    """Outputs below 0 have no counts, and those above the scale too few: logits are right where counts err."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    ann[2].bias.data = torch.tensor([-4.0, 4.0, -2.0, 0.5])
    x = torch.rand(32, 6)
    report = pk.conversion_report(pk.convert(ann, x), x, 128)
    assert report.rows[-1].error > 0.5 and report.outputs.error < 0.02 and report.outputs.agreement == 1
    *_, last, line = str(report).splitlines()
    assert last.endswith(f"{report.rows[-1].error:.2%}  (counts: not above one a step, none of negative outputs)")
    assert line == (
        f"logits, counts and potentials: error {report.outputs.error:.2%} of the mean output, "
        "100.00% of the answers are the ReLU network's"
    )
    assert pk.conversion_report(pk.convert(ann, x, v_reset=0.0), x, 8).outputs is None
    rectified = pk.convert(nn.Sequential(*ann, nn.ReLU()), x)
    assert pk.conversion_report(rectified, x, 128).outputs.error < 0.02
    image = pk.convert(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3)), torch.rand(4, 1, 8, 8))
    report = pk.conversion_report(image, torch.rand(4, 1, 8, 8), 64)
    assert report.outputs.agreement is None and str(report).endswith("% of the mean output")


def test_a_clipped_network_is_compared_with_its_clip():
    """Where much is clipped, the potentials are those of what the clipped network computes, and few steps do."""
    ann, x = chain(0, 6, nn.Hardtanh(0, 0.25), 3.0)
    net = pk.convert(ann, x)
    report = pk.conversion_report(net, x, 8)
    for k, row in enumerate(report.rows[:-1]):
        with torch.no_grad():
            activation = ann[: 2 * k + 2](x)
        assert (activation == 0.25).float().mean() > 0.02 and activation.std() > 0.02
        scale = torch.as_tensor(net.get_submodule(row.layer).scale).view(-1, 1, 1)
        assert row.activation == pytest.approx((activation / scale).mean().item(), rel=1e-4)
        assert abs(row.rate - row.activation) < 0.005
        assert net.get_submodule(row.layer).v_init.abs().max() < 1


def test_the_first_class_is_never_level_with_the_second():
    ann, x = uneven()
    net = pk.convert(ann, x)
    outputs = ann(x).relu()
    second = outputs.topk(2, 1).values[:, 1].max().item()
    scale = net.get_submodule("8").scale
    assert second < scale < outputs.max().item()
    result = pk.simulate(net, x, 500)
    counts = result.count().sort(1).values
    assert (counts[:, 2] == 500).any() and (counts[:, 1] < 500).all()
    assert (result.logits - ann(x)).abs().max() < 0.02 * outputs.max()  # which no count of 500 bounds


@pytest.mark.long
def test_calibrated_potentials_are_saved(trained, tmp_path):
    ann, images, _ = trained
    net = pk.convert(ann, images[:32])
    other = pk.convert(ann, images[:32], v_init=0.5)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt"))
    counts = pk.simulate(net, images[:8], 12).count()
    assert counts.any() and equal(pk.simulate(other, images[:8], 12).count(), counts)
    assert net.conv2.v_init.shape == (64,) and len(net.conv2.v_init.unique()) > 4
    bare = {key: value for key, value in net.state_dict().items() if not key.endswith("v_init")}
    net.load_state_dict(bare)  # an older file: they stay
    assert equal(pk.simulate(net, images[:8], 12).count(), counts)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "int16"])
def test_chunks_and_states_go_on(trained, precision):
    ann, images, _ = trained
    net = pk.convert(ann, images[:32])
    whole = pk.simulate(net, images[:4], 24, precision=precision)
    chunked = layerwise.simulate(net, images[:4], 24, chunk=5, precision=precision)
    first = pk.simulate(net, images[:4], 10, precision=precision)
    rest = pk.simulate(net, images[:4], 14, state=first.state, precision=precision)
    assert whole.count().any() and equal(chunked.count(), whole.count())
    assert equal(first.count() + rest.count(), whole.count())
    torch.testing.assert_close(chunked.logits, whole.logits, rtol=1e-4, atol=1e-4)


def test_potentials_of_channels_are_checked():
    for v_init, message in (
        (torch.rand(2, 2), r"v_init must be a number or one value a channel \[C\], got \[2, 2\]"),
        (torch.tensor([1.0, float("nan")]), "v_init"),
    ):
        with pytest.raises(ValueError, match=message):
            pk.FusedIFConv2d(1, 2, 3, v_init=v_init)
    layer = pk.FusedIFConv2d(1, 3, 3, v_init=torch.zeros(2))
    with pytest.raises(ValueError, match="one value for each of 3 channels, got 2"):
        pk.simulate(nn.Sequential(layer), torch.rand(1, 1, 4, 4), 3)
    with pytest.raises(ValueError, match="v_init must be a number for neurons of 2 states"):
        pk.FusedConv2d(1, 2, 3, neuron=pk.neurons.CubaLIFNeuron(), v_init=torch.zeros(2))


@pytest.mark.parametrize("kind", ["conv1d", "linear", "population", "sum"])
def test_potentials_of_channels_in_every_layer(kind, generator):
    v = torch.tensor([0.75, -0.5, 0.25])
    torch.manual_seed(0)
    x = (torch.rand(6, 4, 3, *([5] if kind in ("conv1d", "population") else []), generator=generator) < 0.5).float()
    make = {
        "conv1d": lambda start: pk.FusedIFConv1d(3, 3, 3, v_reset=None, v_init=start),
        "linear": lambda start: pk.FusedIFLinear(3, 3, v_reset=None, v_init=start),
        "population": lambda start: pk.IF(v_threshold=0.75, v_reset=None, v_init=start),
        "sum": lambda start: pk.FusedIFSum(nn.Linear(3, 3), nn.Identity(), v_reset=None, v_init=start),
    }[kind]
    layer = make(v)
    for parameter in layer.parameters():
        parameter.data.abs_()
    inputs = (x, x) if kind == "sum" else x
    spikes, after = layer.spike(inputs)
    start = v.view(-1, *[1] * (after.ndim - 2)).expand(after.shape).contiguous()
    plain = copy.deepcopy(layer)
    plain._set_value("v_init", 0.0)
    expected, end = plain.spike(inputs, start)
    assert spikes.count().any() and equal(spikes.dense(), expected.dense()) and equal(after, end)
    assert not torch.equal(plain.spike(inputs)[0].dense(), expected.dense())


@pytest.mark.slow
def test_report(trained):
    ann, images, _ = trained
    net = pk.convert(ann, images[:64])
    report = pk.conversion_report(net, images[:16], 64)
    result = pk.simulate(net, images[:16], 64)
    assert [row.layer for row in report.rows] == ["conv1", "conv2", "conv3", "linear1", "linear2"]
    for row in report.rows:
        assert row.rate == pytest.approx(result.rates[row.layer], abs=1e-4) and row.rate > 0.01
    with torch.no_grad():
        wanted = ann[:2](images[:16])
        scaled = wanted / net.conv1.scale.view(-1, 1, 1)
    first = report.rows[0]
    assert first.activation == pytest.approx(scaled.mean().item(), rel=1e-4)
    assert first.clipped == pytest.approx((scaled > 1).float().mean().item(), abs=1e-4)
    short = pk.conversion_report(net, images[:16], 8)
    assert all(a.error < b.error for a, b in zip(report.rows[:-1], short.rows[:-1], strict=True))
    with torch.no_grad():
        outputs = ann(images[:16])
    off = ((result.logits - outputs).abs().mean() / outputs.abs().mean()).item()
    assert report.outputs.error == pytest.approx(off, rel=1e-3) and report.outputs.error < report.rows[-1].error
    assert report.outputs.agreement == (result.logits.argmax(1) == outputs.argmax(1)).float().mean().item()
    assert "conv1" in str(report) and "error" in str(report)
    ax = pk.plot.conversion(report)
    assert len(ax.patches) == 2 * len(report.rows)
    with pytest.raises(TypeError, match="report must be what conversion_report returns, got \\w*Result"):
        pk.plot.conversion(result)
    with pytest.raises(TypeError, match="net must be a network that convert made, whose layers have a scale"):
        pk.conversion_report(nn.Sequential(pk.FusedIFLinear(3, 3)), torch.rand(2, 3), 4)
    for x, error, message in (
        (images[:0], ValueError, r"x must be samples \[N, ...\], at least one, got \[0, 1, 28, 28\]"),
        (images.to("meta"), TypeError, "x must be a tensor that holds its values"),
        (images[:, :, :9], ValueError, "x of shape .* does not go through net"),
        (torch.rand(3), ValueError, r"x of shape \[3\] .* does not go through net"),
    ):
        with pytest.raises(error, match=message):
            pk.conversion_report(net, x, 4)


FAR = r"x has values from .* to .*, and the network was calibrated on values from .* to .*: {}. Scale x"
FEW, MANY = "hardly any neuron will fire", "neurons will fire at nearly every step"
SILENT = r"no neuron of the network fired in \d+ steps. It was calibrated on values from"


def images(largest: float = 1.0) -> torch.Tensor:
    return largest * torch.rand(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5, bias=False)
    return nn.Sequential(*layers).eval()


def frames(x):
    return x.expand(16, *x.shape)


def streamed(net, x):
    stream = pk.compile(net, images(255)).stream(len(x))
    for _ in range(16):
        stream(x)


WAYS = {
    "simulate": lambda net, x: pk.simulate(net, x, 16),
    "with a record": lambda net, x: pk.simulate(net, x, 16, record=[net.layers()[0][0]]),
    "a sequence": lambda net, x: pk.simulate(net, frames(x), 16),
    "call": lambda net, x: net(frames(x)),
    "engine": lambda net, x: pk.compile(net, images(255))(x, 16),
    "stream": streamed,
}


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in found]


@pytest.mark.parametrize("neuron", ["if", "sigma-delta"])
@pytest.mark.parametrize("way", WAYS)
def test_an_input_of_another_range(way, neuron):
    if neuron == "sigma-delta" and way in ("with a record", "call"):
        pytest.skip("not for them")
    net, run = pk.convert(model(), images(255), neuron=neuron), WAYS[way]
    assert not said(lambda: run(net, images(255)))
    with pytest.warns(UserWarning, match=FAR.format(FEW)) as found:
        run(net, images())
    assert len(found) == 1 and found[0].filename == __file__
    if "compile" not in run.__code__.co_names and way != "stream":
        assert not said(lambda: run(net, images()))  # once for each network
        assert said(lambda: run(copy.deepcopy(net), images()))


@pytest.mark.parametrize("way", ["simulate", "a sequence", "call"])
def test_an_input_that_is_too_large(way):
    net = pk.convert(model(), images())
    with pytest.warns(UserWarning, match=FAR.format(MANY)):
        WAYS[way](net, images(255))


def test_other_kinds_of_input():
    net = pk.convert(model(), images(255))
    with pytest.warns(UserWarning, match=FAR.format(FEW)):
        pk.simulate(net, pk.encode.rate(images(), 16), 16)
    counts = frames(images(200).to(torch.uint8))
    assert not said(lambda: pk.simulate(net, counts, 16))
    net = pk.convert(model(), images())
    with pytest.warns(UserWarning, match=FAR.format(MANY)):
        pk.simulate(net, counts, 16)


@pytest.mark.parametrize("way", WAYS)
def test_silent_networks(way):
    """Values of the same range, to which no weight of the first layer is positive."""
    net = pk.convert(model(), images(255))
    for layer in net.modules():
        if isinstance(layer, pk.FusedIFConv2d | pk.FusedIFLinear):
            with torch.no_grad():
                layer.weight.copy_(-layer.weight.abs())
            layer.v_init = 0.0
    with pytest.warns(UserWarning, match=SILENT) as found:
        WAYS[way](net, images(255))
    assert len(found) == 1


def test_nothing_is_said_of_few_steps_blank_images_and_networks_of_ones_own():
    net = pk.convert(model(), images(255))
    for run in (
        lambda: pk.simulate(net, torch.zeros(2, 2, 8, 8), 16), lambda: pk.simulate(net, images(30), 2),
        lambda: net(torch.zeros(16, 2, 2, 8, 8)), lambda: pk.simulate(net, images(255)[:0], 16),
    ):  # fmt: skip
        assert not said(run)
    by_hand = nn.Sequential(pk.FusedIFLinear(4, 3, v_threshold=1e6))
    assert not said(lambda: pk.simulate(by_hand, torch.rand(2, 4), 16))


def test_engines_keep_the_range_in_files(tmp_path):
    net = pk.convert(model(), images(255))
    pk.compile(net, images(255)).save(tmp_path / "engine")
    engine = pk.load(tmp_path / "engine")
    assert engine.plan.calibrated == net.calibrated and 250 < net.calibrated[1] <= 255
    with pytest.warns(UserWarning, match=FAR.format(FEW)):
        engine(images(), 16)
    torch.save(net, tmp_path / "net")
    with pytest.warns(UserWarning, match=FAR.format(FEW)):
        pk.simulate(torch.load(tmp_path / "net", weights_only=False), images(), 16)


@pytest.mark.parametrize("damage", ["x", [1], [1, "x"], {"a": 1}, [True, False], [10**400, 0]])
def test_damaged_ranges(tmp_path, damage, monkeypatch):
    net = pk.convert(model(), images())
    engine, dumps = pk.compile(net, images()), json.dumps

    def damaged(value, **options):
        return dumps(value | {"calibrated": damage} if "calibrated" in value else value, **options)

    monkeypatch.setattr(json, "dumps", damaged)
    engine.save(tmp_path / "engine")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="engine cannot be loaded: it"):
        pk.load(tmp_path / "engine")
