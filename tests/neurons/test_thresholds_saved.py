"""Thresholds are saved by state_dict, and come back from it whatever the layer was made with."""

import copy
import io

import pytest
import torch
from equality import equal
from safetensors.torch import load, load_model, save, save_model
from torch import nn

import proxykernels as pk

THRESHOLDS = [0.1, torch.tensor(0.7), torch.tensor([0.25, 0.5, 1.0, 2.0])]


def make_net(v_threshold, v_reset=0.0) -> nn.Sequential:
    neuron = {"v_threshold": v_threshold, "v_reset": v_reset}
    torch.manual_seed(0)
    return nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, **neuron),
        pk.IF(**neuron),
        pk.FusedIFConv2d(4, 4, 3, batch_norm=True, **neuron),
        pk.Flatten(),
        pk.FusedIFLinear(64, 4, **neuron),
    ).eval()


@pytest.fixture
def x(generator):
    return 4 * torch.rand(3, 1, 8, 8, generator=generator)


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(torch.as_tensor(p.v_threshold), torch.as_tensor(q.v_threshold))
               for p, q in pairs if hasattr(p, "v_threshold"))  # fmt: skip


@pytest.mark.parametrize("theirs", THRESHOLDS, ids=["number", "scalar", "channels"])
@pytest.mark.parametrize("own", [1.0, torch.tensor(1.0), torch.ones(4)], ids=["number", "scalar", "channels"])
def test_a_state_dict_brings_its_thresholds(x, own, theirs):
    source = make_net(theirs)
    expected = pk.simulate(source, x, 20)
    assert all(rate > 0 for rate in expected.rates.values())
    other = make_net(own)
    assert pk.simulate(other, x, 20).rates != expected.rates
    for state in (source.state_dict(), load(save(source.state_dict()))):
        net = copy.deepcopy(other)
        net.load_state_dict(state)
        assert same(net, source)
        assert equal(pk.simulate(net, x, 20).spikes.dense(), expected.spikes.dense())
        assert list(net.state_dict()) == list(source.state_dict())


def test_files_of_torch_and_of_safetensors(x, tmp_path):
    source, net = make_net(0.3), make_net(1.0)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    net.load_state_dict(torch.load(buffer, weights_only=True))
    assert [layer.v_threshold for layer in net if hasattr(layer, "v_threshold")] == [0.3] * 4
    save_model(source, str(tmp_path / "net.safetensors"))
    net = make_net(torch.ones(4))
    load_model(net, tmp_path / "net.safetensors")
    assert same(net, source)


def test_an_older_state_dict_loads_and_the_layers_keep_their_thresholds():
    for own in (0.5, torch.full((4,), 0.5)):
        source, net = make_net(2.0), make_net(own)
        state = {key: value for key, value in source.state_dict().items() if "v_threshold" not in key}
        assert not net.load_state_dict(state).missing_keys and same(net, make_net(own))


def test_what_is_no_threshold_is_refused():
    net = make_net(1.0, v_reset=0.5)
    for value, reason in ((-1.0, "must be positive"), (torch.nan, "must be positive"), (0.25, "below v_threshold")):
        state = net.state_dict() | {"2.v_threshold": torch.tensor(value)}
        with pytest.raises(RuntimeError, match=rf"2\.v_threshold: .*{reason}"):
            net.load_state_dict(state)
        assert net[2].v_threshold == 1.0
    with pytest.raises(RuntimeError, match="Unexpected key.*1.threshold"):
        net.load_state_dict(net.state_dict() | {"1.threshold": torch.tensor(1.0)})


def test_a_threshold_that_asks_for_a_gradient_is_refused(generator):
    for v_threshold in (nn.Parameter(torch.tensor(1.0)), torch.ones(4, requires_grad=True)):
        for make in (pk.IF, lambda **neuron: pk.FusedIFLinear(3, 4, **neuron)):
            with pytest.raises(ValueError, match=r"v_threshold requires a gradient.*pass v_threshold.detach\(\)"):
                make(v_threshold=v_threshold)
        with pytest.raises(ValueError, match="v_threshold requires a gradient"):
            pk.functional.if_scan_surrogate(torch.rand(3, 2, 4), v_threshold=v_threshold)
    frozen = nn.Parameter(torch.full((4,), 2.0), requires_grad=False)
    assert equal(pk.IF(v_threshold=frozen).v_threshold, frozen)


@pytest.mark.slow
def test_exported_and_compiled_nets_take_a_loaded_threshold(x):
    sequence = x.expand(5, *x.shape)
    net = make_net(1.0)
    net.load_state_dict(make_net(0.3).state_dict())
    expected = net(sequence)
    assert expected.sum() > 0 and not torch.equal(expected, make_net(1.0)(sequence))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert equal(compiled(sequence), expected)
    assert equal(torch.export.export(net, (sequence,)).module()(sequence), expected)
    net.load_state_dict(make_net(0.2).state_dict())
    other = make_net(0.2)(sequence)
    assert other.sum() > 0 and equal(compiled(sequence), other) and not torch.equal(other, expected)
