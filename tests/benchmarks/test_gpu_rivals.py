"""The rivals for a GPU, as far as they can be tested without one: what is captured there as a graph is run as it is."""

import pytest
import torch
from cases import dyadic
from common import nets
from gpu import rivals as gpu_rivals
from speed import rivals

import proxykernels as pk


@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("compiler", [None, lambda step: step], ids=["plain", "compiled"])
def test_replayed_step_counts_the_same_spikes(generator, precision, v_reset, compiler):
    """On a grid that 16 bits hold too; a second run starts at rest again."""
    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(12, 4, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8).abs()
    images = dyadic(2, 1, 6, 6, generator=generator, span=2, unit=1 / 2)
    steps = []

    def capture(step):
        steps.append(step)
        return step

    counts = gpu_rivals.replayed(net, images, precision, capture, compiler)
    for batch, T in ((images, 9), (images.flip(0), 4)):
        expected = pk.simulate(net, batch, T).count()
        assert torch.equal(counts(batch, T).int(), expected)
    assert expected.any() and len(steps) == 1


def test_graphs_need_a_gpu():
    for name in gpu_rivals.GPU_RIVALS:
        with pytest.raises(rivals.NotOffered, match="needs --device cuda"):
            rivals.build(name, nets.small(), torch.zeros(1, 1, 28, 28), gpu_rivals.GPU_RIVALS)


def test_precision_of_float32_is_put_back():
    before = [setting.fp32_precision for setting in gpu_rivals.FLOAT32_SETTINGS]
    with pytest.raises(KeyError), gpu_rivals.float32_precision("tf32"):
        assert all(setting.fp32_precision == "tf32" for setting in gpu_rivals.FLOAT32_SETTINGS)
        raise KeyError
    assert [setting.fp32_precision for setting in gpu_rivals.FLOAT32_SETTINGS] == before


def test_fastest_number_of_steps_at_once_is_taken(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(rivals.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(rivals, "GPU_MULTI_STEPS", (4, 16, 64))
    images = torch.zeros(1, device="meta")

    def counts(images, T, at_once):
        for _ in range({4: 3, 16: 1, 64: 2}[at_once]):
            next(clock)
        return torch.zeros(1)

    assert rivals._best_at_once(counts, images) == 16
    assert rivals._best_at_once(counts, torch.zeros(1)) == rivals.MULTI_STEP
