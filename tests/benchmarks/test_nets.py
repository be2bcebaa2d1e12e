"""The networks of the benchmarks: their shapes, and weights from files or random."""

import pytest
import torch
from common import nets

import proxykernels as pk


@pytest.mark.costly
@pytest.mark.parametrize("decay", [None, 0.5, 1 - 1 / 16])
@pytest.mark.parametrize("v_reset", [0.0, None])
def test_random_weights_give_realistic_firing_rates(monkeypatch, tmp_path, v_reset, decay):
    monkeypatch.setattr(nets, "WEIGHTS", tmp_path)
    net, trained = nets.load("small", v_reset, decay=decay)
    rates = pk.simulate(net, pk.samples.fashion_mnist()[0][:8], 32).rates
    assert not trained
    assert all(0.01 < rate < 0.2 for rate in rates.values()), rates


def test_stored_weights_are_loaded(monkeypatch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setattr(nets, "WEIGHTS", tmp_path)
    state = {key: value.half() for key, value in nets.small(0.5).state_dict().items()}
    safetensors.save_file(state, tmp_path / "small.safetensors", {"v_threshold": "0.5"})
    net, trained = nets.load("small", None)
    assert trained and not net.training
    assert net.conv1.v_threshold == 0.5 and net.conv1.v_reset is None
    assert net.conv1.weight.dtype == torch.float32
    loaded = {key: value for key, value in net.state_dict().items() if not key.endswith("v_reset")}  # it is given
    assert all(torch.equal(value, state[key].float()) for key, value in loaded.items())


def test_paper_network_has_its_shapes():
    net = nets.paper()
    assert [tuple(layer.weight.shape) for layer in net if hasattr(layer, "weight")] == [
        (128, 1, 3, 3),
        (128, 128, 3, 3),
        (128, 128, 3, 3),
        (2560, 6272),
        (1152, 2560),
        (256, 1152),
        (10, 256),
    ]
    assert all(layer.bias is None for layer in net if hasattr(layer, "weight"))
