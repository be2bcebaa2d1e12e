"""Early exit by logits: samples stop where their first class leads after 1, 4, 16, ... steps."""

import pytest
import torch
from torch import nn

import proxykernels as pk


def network(classes: int = 5, rectifies: bool = False) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 24, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(24 * 16, classes), *[nn.ReLU()] * rectifies,
    ]  # fmt: skip
    images = torch.rand(24, 1, 12, 12)
    return pk.convert(nn.Sequential(*layers).eval(), images), images


def expected(engine: pk.Engine, images: torch.Tensor, T: int, lead: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps of each sample, and its logits after these, from runs without a rule."""
    steps = torch.full((len(images),), T)
    logits = {t: engine(images, t).logits for t in (1, 4, 16, T)}
    for t in (16, 4, 1):
        first, second = logits[t].topk(2, dim=1).values.unbind(1)
        steps[(first - second) * t >= lead] = t
    return steps, torch.stack([logits[t][n] for n, t in enumerate(steps.tolist())])


@pytest.mark.parametrize("precision", [None, "int8"])
@pytest.mark.parametrize("rectifies", [False, True])
def test_samples_stop_where_logits_lead(precision, rectifies):
    net, images = network(rectifies=rectifies)
    engine = pk.compile(net, images, precision=precision)
    leads = torch.cat([engine(images, T).logits.topk(2, dim=1).values.diff(dim=1).abs() * T for T in (1, 4, 16)])
    found = [expected(engine, images, 24, lead) for lead in leads.sort(dim=0).values.flatten().tolist()]
    best = max(range(len(found)), key=lambda k: len(found[k][0].unique()))
    lead, (steps, logits) = leads.sort(dim=0).values[best].item(), found[best]
    assert len(steps.unique()) >= 3 and steps.max() == 24
    rule = pk.stop.margin(lead, of="logits")
    for run in (engine, lambda *args, **options: pk.simulate(net, *args, precision=precision, **options)):
        result = run(images, 24, stop=rule)
        assert torch.equal(result.steps, steps) and torch.equal(result.logits, logits)
        dense = result.spikes.dense()
        assert dense.any() and not any(dense[t:, n].any() for n, t in enumerate(steps.tolist()))
        alone = [run(image[None], 24, stop=rule) for image in images]
        assert torch.equal(torch.cat([one.steps for one in alone]), steps)
    if precision == "int8":  # sums are exact, so layers one by one say the same
        layers = pk.simulate(net, images, 24, precision=precision, chunk=1, stop=rule)
        assert torch.equal(layers.steps, steps) and torch.equal(layers.logits, logits)


@pytest.mark.parametrize("precision", [None, "int8"])
@pytest.mark.parametrize("rectifies", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_classes_that_are_pixels_of_maps(seed, rectifies, precision):
    """A threshold a channel, and fewer samples at each run: of layers whose pixels are left behind in between."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3), *[nn.ReLU()] * rectifies, nn.Flatten()]
    images = torch.rand(16, 1, 6, 6)
    engine = pk.compile(pk.convert(nn.Sequential(*layers).eval(), images), images, precision=precision)
    lead = 4.000001 * engine(images, 4).logits.topk(2, dim=1).values.diff(dim=1).abs().median().item()
    steps, logits = expected(engine, images, 16, lead)
    result = engine(images, 16, stop=pk.stop.margin(lead, of="logits"))
    assert len(steps.unique()) > 1 and result.spikes.dense().any()
    assert torch.equal(result.steps, steps)
    torch.testing.assert_close(result.logits, logits, atol=1e-6 if precision is None else 0, rtol=0)  # int8: exact sums


def test_rate_and_operations_are_those_of_the_steps_that_ran():
    net, images = network()
    engine = pk.compile(net, images, precision="int8")
    first = engine(images, 1)
    early = engine(
        images,
        4,
        stop=pk.stop.margin(first.logits.topk(2, dim=1).values.diff(dim=1).abs().median().item(), of="logits"),
    )
    again = early.steps == 4
    assert again.any() and not again.all()
    rest = engine(images[again], 4)
    for layer, additions in early.synops.accumulates.items():
        assert additions == first.synops.accumulates[layer] + rest.synops.accumulates[layer]
        products = [result.synops.multiply_accumulates[layer] for result in (early, first, rest)]
        assert products[0] == products[1] + products[2]
    assert sum(early.synops.accumulates.values()) > 0


@pytest.mark.parametrize("run", ["simulate", "engine"])
def test_errors(run):
    net, images = network()
    plain = nn.Sequential(pk.Flatten(), pk.FusedIFLinear(144, 10))
    one = network(classes=1)[0]
    for module in (plain, one):
        call = pk.compile(module, images) if run == "engine" else lambda *a, m=module, **o: pk.simulate(m, *a, **o)
        with pytest.raises(ValueError, match="of='logits'"):
            call(images, 4, stop=pk.stop.margin(1, of="logits"))
    if run == "simulate":
        state = pk.simulate(net, images, 4).state
        for options in ({}, {"chunk": 1}):
            with pytest.raises(ValueError, match="leave state out"):
                pk.simulate(net, images, 4, state=state, stop=pk.stop.margin(1, of="logits"), **options)


def test_sigma_delta_has_settled():
    images = torch.rand(4, 1, 12, 12)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3)).eval()
    net = pk.convert(ann, images, neuron="sigma-delta")
    for run in (pk.compile(net, images), lambda *args, **options: pk.simulate(net, *args, **options)):
        with pytest.raises(ValueError, match="settled"):
            run(images, 4, stop=pk.stop.margin(1, of="logits"))


@pytest.mark.parametrize("arguments, message", [
    ({"lead": 0}, "lead must be above 0, got 0"), ({"lead": 1, "at": [4, 1]}, "at must be ascending"),
    ({"lead": 1, "at": []}, "at must be ascending"),
    ({"lead": 1, "of": "spikes", "at": [1]}, "leave at out"),
    ({"lead": 1, "of": "rates"}, "of must be 'spikes' or 'logits'"),
])  # fmt: skip
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pk.stop.margin(**{"of": "logits"} | arguments)
