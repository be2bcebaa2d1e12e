"""Modules of torch among a network's layers: what has no time steps is refused, and the sentence says where and why."""

import pytest
import torch
from cases import spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends

REFUSED = [
    (nn.Flatten(), "proxykernels.Flatten"),
    (nn.MaxPool2d(2), "proxykernels.MaxPool2d"),
    (nn.AvgPool2d(2), "proxykernels.AvgPool2d"),
    (nn.AdaptiveAvgPool2d(1), "proxykernels.AdaptiveAvgPool2d"),
    (nn.Linear(4, 2), "FusedIFLinear"),
    (nn.Conv2d(4, 2, 1), "FusedIFConv2d"),
    (nn.BatchNorm2d(4), "FusedIFConv2d.*batch_norm=True"),
    (nn.ReLU(), "no ReLU at all"),
    (nn.Dropout(), "proxykernels.Dropout"),
]


class Net(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.features = nn.Sequential(pk.FusedIFConv2d(1, 4, 3), module)
        self.last = pk.IF()

    def forward(self, x):
        return self.last(self.features(x))


def kind(value):
    return type(value).__name__ if isinstance(value, nn.Module) else ""


@pytest.mark.parametrize("way", ["simulate", "proxy-training", "proxy-evaluation"])
@pytest.mark.parametrize("module, remedy", REFUSED, ids=kind)
def test_refused_by_its_path(module, remedy, way):
    net, x = Net(module), torch.rand(2, 1, 6, 6)
    message = rf"^layer features.1 is an nn.{kind(module)}, .* (one step|two networks); use .*{remedy}"
    with pytest.raises(TypeError, match=message):
        if way == "simulate":
            pk.simulate(net, x, 5)
        else:
            pk.ProxyNet(net, 5).train(way == "proxy-training")(x)


@pytest.mark.parametrize("module, remedy", REFUSED, ids=kind)
def test_called_with_spikes_it_is_a_type_error(module, remedy, generator):
    x = pk.pack(spikes(5, 2, 4, 4, 4, generator=generator))
    with pytest.raises(TypeError, match=f"got Spikes; use .*{remedy}"):
        module(x)
    assert not hasattr(x, "relu")


def test_what_is_right_with_steps_still_runs():
    """On real-valued inputs: nn.Flatten from dimension 2 on, nn.Linear and nn.Dropout; nn.Identity anywhere."""
    torch.manual_seed(0)
    ahead = nn.Flatten(2), nn.Dropout(), nn.Linear(36, 8), pk.IF(v_threshold=0.1)
    net = nn.Sequential(*ahead, nn.Identity(), nn.Sequential(), pk.FusedIFLinear(8, 3, v_threshold=0.05)).eval()
    net[-1].weight.data.abs_()
    x = torch.rand(2, 1, 6, 6)
    expected = net(x.expand(9, *x.shape))
    assert equal(pk.simulate(net, x, 9).spikes.dense(), expected) and expected.any()
    assert equal(pk.ProxyNet(net, 9).eval()(x), expected.sum(0))


def test_one_step_of_a_network_may_go_through_modules_of_torch():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.neurons = nn.Conv2d(1, 4, 3), pk.IF(v_threshold=0.1)

        def forward(self, x):
            return self.neurons(self.convolution(x[0]).expand(x.shape[0], -1, -1, -1, -1))

    torch.manual_seed(0)
    assert pk.simulate(First(), torch.rand(2, 1, 6, 6), 9).spikes.rate() > 0


def test_errors_of_layers_without_neurons_say_where():
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3), pk.MaxPool2d(9))
    with pytest.raises(ValueError, match=r"layer 1: a pooling window of 9 is larger than its input of 4 padded by 0"):
        pk.simulate(net, torch.rand(2, 1, 6, 6), 5, chunk=5)


@pytest.mark.parametrize("call", [lambda net, x: pk.simulate(net, x, 5), lambda net, x: pk.ProxyNet(net, 5)])
def test_a_relu_network_is_sent_to_convert(call):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="must have at least one layer of neurons, .*convert makes .* ReLU network"):
        call(net, torch.rand(2, 1, 6, 6))


def test_a_library_that_does_not_load_is_no_error_of_a_layer(monkeypatch):
    """A stale C++ library says so itself; a layer's name before it would send the reader to the wrong place."""

    def load():
        raise RuntimeError("the C++ library is stale")

    monkeypatch.setattr(backends, "cpu_backend", load)
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3), pk.MaxPool2d(2))
    with pytest.raises(RuntimeError, match=r"^the C\+\+ library is stale"):
        pk.simulate(net, torch.rand(2, 1, 6, 6), 5, chunk=5)
    spikes = pk.Spikes(torch.zeros(2, 5, 16, 1, dtype=torch.uint8), (5, 2, 4, 4, 4))
    with pytest.raises(RuntimeError, match=r"^the C\+\+ library is stale"):
        pk.simulate(nn.Sequential(pk.MaxPool2d(2), pk.IF()), spikes, 5, chunk=5)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_another_librarys_pooling_is_told_what_takes_its_place(mode):
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), layer.MaxPool2d(2, step_mode=mode), pk.FusedIFConv2d(4, 4, 3)).eval()
    with pytest.raises(TypeError, match="layer 1.* takes? .*; use proxykernels.MaxPool2d"):
        pk.simulate(net, torch.rand(2, 2, 8, 8), 4)


def test_what_is_derived_of_torch_may_take_spikes():
    class Pool(nn.MaxPool2d):
        def forward(self, x):
            return pk.max_pool2d(x, self.kernel_size)

    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), Pool(2), pk.FusedIFConv2d(4, 4, 3)).eval()
    assert pk.simulate(net, torch.rand(2, 2, 8, 8), 4).spikes.shape == (4, 2, 4, 1, 1)
