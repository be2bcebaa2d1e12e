"""Calls may be captured in a CUDA graph: nothing then waits for the device, thresholds in a tensor neither."""

import pytest
import torch
from cases import OnGPU, dyadic, fine, spikes, thresholds
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.checks import neuron_checks
from proxykernels.kernels import reference
from proxykernels.running import replay


@pytest.fixture
def capture(monkeypatch):
    """Says whether the stream is being captured."""
    monkeypatch.setattr(OnGPU, "reads", 0)

    def set_capturing(now: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now)

    set_capturing(False)
    return set_capturing


def test_thresholds_are_read_once_a_version(capture):
    theta = torch.tensor([1.0, 2.0]).as_subclass(OnGPU)
    for _ in range(3):
        neuron_checks.neuron(theta, 0.0)
    assert OnGPU.reads == 1
    with pytest.raises(ValueError, match="below v_threshold = 1,"):  # the values that are known are still compared
        neuron_checks.neuron(theta, 1.0)
    assert OnGPU.reads == 1
    theta[1] = -1
    for _ in range(2):
        with pytest.raises(ValueError, match="v_threshold must be positive and finite in float32, got -1"):
            neuron_checks.neuron(theta, 0.0)
    assert OnGPU.reads == 2
    neuron_checks.neuron(torch.ones(2).as_subclass(OnGPU), 0.0)
    assert OnGPU.reads == 3


def test_thresholds_are_not_read_in_a_capture(capture):
    theta = torch.tensor([1.0, 2.0]).as_subclass(OnGPU)
    capture(True)
    assert neuron_checks.neuron(theta, 0.5) == 0.5
    theta += 1
    assert neuron_checks.neuron(theta, None) is None
    assert OnGPU.reads == 0
    capture(False)
    theta[0] = -1
    with pytest.raises(ValueError, match="v_threshold must be positive"):
        neuron_checks.neuron(theta, 0.0)


@pytest.mark.gpu
@pytest.mark.triton
def test_a_captured_layer_replays_with_new_spikes():
    with torch.device("cuda"):
        generator = torch.Generator("cuda").manual_seed(0)
        first, second = (spikes(33, 2, 16, 6, 6, generator=generator) for _ in range(2))
        weight, theta = fine(20, 16, 3, 3, generator=generator), thresholds(20, generator)
        x, other = pk.pack(first), pk.pack(second)
        expected, _ = reference.if_conv2d(second, weight, v_threshold=theta, padding=1)
        pk.if_conv2d(x, weight, padding=1, v_threshold=theta)  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = pk.if_conv2d(x, weight, padding=1, v_threshold=theta)
        x._words.copy_(other._words)
        graph.replay()
        assert 0 < expected.mean() < 1
        assert equal(y.dense(), expected)


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("kind", ["held", "spikes"])
def test_chunks_of_a_simulation_are_replayed(monkeypatch, generator, kind):
    """The first chunk runs as it is, the second is captured; it and the next four are replays; the last is shorter."""
    net, T = nn.Sequential(pk.FusedIFConv2d(3, 20, 3, padding=1), pk.MaxPool2d(2), pk.FusedIFConv2d(20, 9, 3)), 201
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(2, 3, 8, 8, generator=generator).abs() if kind == "held" else spikes(T, 2, 3, 8, 8, generator=generator)
    x = x if kind == "held" else pk.pack(x)
    expected = pk.simulate(net, x, T)
    replays, captures = [], replay.capture_graph

    def capture(step):
        given, again = captures(step)
        return given, lambda: replays.append(again())

    monkeypatch.setattr(replay.Replay.__init__, "__defaults__", (capture,))
    result = pk.simulate(net.cuda(), x.to("cuda"), T, chunk=32)
    assert len(replays) == 5 and 0.01 < expected.spikes.rate() < 0.9
    assert equal(result.spikes.dense().cpu(), expected.spikes.dense())
    assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops
    assert all(torch.equal(v.cpu(), expected.state[name][0]) for name, (v,) in result.state.items())
