"""Calls may be captured in a CUDA graph: nothing then waits for the device, thresholds in a tensor neither."""

import pytest
import torch
from cases import OnGPU, dyadic, spikes, thresholds

import proxykernels as pk
from proxykernels import checks
from proxykernels.kernels import reference


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
        checks.neuron(theta, 0.0)
    assert OnGPU.reads == 1
    with pytest.raises(ValueError, match="below v_threshold = 1,"):  # the values that are known are still compared
        checks.neuron(theta, 1.0)
    assert OnGPU.reads == 1
    theta[1] = -1
    for _ in range(2):
        with pytest.raises(ValueError, match="v_threshold must be positive and finite in float32, got -1"):
            checks.neuron(theta, 0.0)
    assert OnGPU.reads == 2
    checks.neuron(torch.ones(2).as_subclass(OnGPU), 0.0)
    assert OnGPU.reads == 3


def test_thresholds_are_not_read_in_a_capture(capture):
    theta = torch.tensor([1.0, 2.0]).as_subclass(OnGPU)
    capture(True)
    assert checks.neuron(theta, 0.5) == 0.5
    theta += 1
    assert checks.neuron(theta, None) is None
    assert OnGPU.reads == 0
    capture(False)
    theta[0] = -1
    with pytest.raises(ValueError, match="v_threshold must be positive"):
        checks.neuron(theta, 0.0)


@pytest.mark.gpu
@pytest.mark.triton
def test_a_captured_layer_replays_with_new_spikes():
    with torch.device("cuda"):
        generator = torch.Generator("cuda").manual_seed(0)
        first, second = (spikes(33, 2, 16, 6, 6, generator=generator) for _ in range(2))
        weight, theta = dyadic(20, 16, 3, 3, generator=generator), thresholds(20, generator)
        x, other = pk.pack(first), pk.pack(second)
        expected, _ = reference.if_conv2d(second, weight, v_threshold=theta, padding=1)
        pk.if_conv2d(x, weight, padding=1, v_threshold=theta)  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = pk.if_conv2d(x, weight, padding=1, v_threshold=theta)
        x._words.copy_(other._words)
        graph.replay()
        assert 0 < expected.mean() < 1
        assert torch.equal(y.dense(), expected)
