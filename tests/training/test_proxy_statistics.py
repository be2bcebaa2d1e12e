"""ProxyNet's two sets of running statistics: what they begin as, when they learn, and when they stay."""

import copy

import pytest
import torch
from equality import equal
from torch import nn
from torch.optim.swa_utils import update_bn

import proxykernels as pk


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        pk.FusedIFConv2d(1, 6, 3, padding=1, batch_norm=True, v_reset=None),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(96, 8, batch_norm=True, v_reset=None),
        pk.FusedIFLinear(8, 4, v_reset=None),
    )


@pytest.fixture
def x(generator):
    return 3 * torch.rand(12, 1, 8, 8, generator=generator)


def changes(model: nn.Module, x: torch.Tensor) -> set[str]:
    """The buffers that a training pass writes to."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(x)
    return {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}


@pytest.mark.parametrize("statistics_of", ["steps", "means"])
def test_the_twin_of_a_trained_network_begins_with_its_statistics(x, statistics_of):
    net = make_net()
    trained = pk.ProxyNet(net, 8, statistics_of=statistics_of)
    for _ in range(20):
        trained(x)
    model = pk.ProxyNet(net, 8)
    for name, bn in (("0", net[0].bn), ("3", net[3].bn)):
        own = model.statistics[name]
        assert equal(own.running_mean, bn.running_mean) and bn.running_mean.abs().min() > 0
        assert equal(own.running_var, bn.running_var) and own.running_var is not bn.running_var


@pytest.mark.parametrize("statistics_of", ["steps", "means"])
def test_passes_without_gradients_teach_both(x, statistics_of):
    model = pk.ProxyNet(make_net(), 8, statistics_of=statistics_of)
    for _ in range(40):
        model(x)
    learnt = copy.deepcopy(model)
    update_bn([x[:6], x[6:]], learnt)
    for name in model.statistics:
        own, before = learnt.statistics[name], model.statistics[name]
        assert own.num_batches_tracked == 2 and (own.running_mean - before.running_mean).abs().max() < 0.3
        assert (own.running_mean != 0).all() and (own.running_var != 1).all()


@pytest.mark.parametrize("statistics_of", ["steps", "means"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_normalisation_in_evaluation_mode_stays_in_both(x, statistics_of, whole):
    model = pk.ProxyNet(make_net(), 8, statistics_of=statistics_of)
    assert {"net.0.bn.running_mean", "statistics.0.running_mean"} <= changes(model, x)
    (model.net[0] if whole else model.net[0].bn).eval()
    changed = changes(model, x)
    assert not any(name.startswith(("net.0.", "statistics.0.")) for name in changed)
    assert {"net.3.bn.running_mean", "statistics.3.running_mean"} <= changed
    model.net[3].bn.eval()
    same = copy.deepcopy(model).eval()
    assert equal(model.snn(x), same.snn(x)) and equal(model.ann(x), same.ann(x)) and same.snn(x).any()


def test_a_single_image_at_the_end_counts_as_one(generator):
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, batch_norm=True), pk.Flatten(), pk.FusedIFLinear(144, 3))
    model = pk.ProxyNet(net, 4)
    x = torch.cat([torch.zeros(25, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    model.measure_batch_norm(x)
    currents = nn.functional.conv2d(x, net[0].weight, net[0].bias)
    assert torch.allclose(net[0].bn.running_mean, currents.mean((0, 2, 3)), atol=1e-5)
    assert currents.std() > 0.01


def test_what_cannot_be_measured_leaves_all_as_it_was(x):
    model = pk.ProxyNet(make_net(), 4, statistics_of="means")
    model(x)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="at least two values for each channel"):
        model.measure_batch_norm(x[:1])
    bn = model.net[3].bn
    assert bn.momentum == 0.1 and not bn.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_of_a_network_of_another_type(x, dtype):
    model = pk.ProxyNet(make_net().to(dtype), 8)
    model(x.to(dtype)).sum().backward()
    assert model.statistics["0"].running_mean.dtype == dtype and model.net[0].weight.grad.any()


def test_of_a_normalisation_without_parameters(x):
    net = make_net()
    net[0].bn = nn.BatchNorm2d(6, affine=False)
    model = pk.ProxyNet(net, 8)
    model(x).sum().backward()
    assert model.statistics["0"].running_mean.any() and net[0].weight.grad.any()
