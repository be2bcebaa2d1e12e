"""The rivals for a GPU, as far as they can be tested without one: what is captured there as a graph is run as it is."""

import pytest
import torch
from cases import dyadic
from common import nets
from equality import equal
from gpu import rivals as gpu_rivals
from speed import rivals

import proxykernels as pk


@pytest.mark.costly
@pytest.mark.triton
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("captured", [False, True])
def test_layer_by_layer_counts_the_same_spikes(triton_kernels, monkeypatch, generator, precision, v_reset, captured):
    """Chunks of 4, 4 and 1 steps; each is captured once, and what the capture runs is forgotten."""
    monkeypatch.setattr(gpu_rivals, "CHUNK", 4)
    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(12, 4, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator, span=8).abs()
    images = dyadic(2, 1, 6, 6, generator=generator, span=2, unit=1 / 2)
    captures = []

    def capture(chunk):
        captures.append(chunk)
        chunk()
        return chunk

    counts = gpu_rivals.by_layers(net, images, precision, capture if captured else None)
    for batch, T in ((images, 9), (images.flip(0), 4)):
        expected = pk.simulate(net, batch, T).count()
        assert equal(counts(batch, T).int(), expected) and 0 < expected.float().mean() < T
    assert len(captures) == 2 * captured


@pytest.mark.triton
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_scan_is_that_of_the_definition(triton_kernels, generator, v_reset):
    """Of 1030 neurons, two programs, that leak; currents of 7 steps, then the same at every step."""
    from common.stages import Stage
    from gpu.multi_step_scan import scan

    part = Stage(torch.nn.Sequential(), 1.0, v_reset, decay=0.5)

    def by_hand(currents):
        v, spikes = torch.zeros(1030), []
        for current in currents:
            h = 0.5 * v + current
            spikes.append((h >= 1).float())
            v = torch.where(h >= 1, 0.0 if v_reset == 0 else h - 1, h)
        return torch.stack(spikes), v

    currents, v = dyadic(7, 1030, generator=generator, span=32), torch.zeros(1030)
    expected, v_expected = by_hand(currents)
    spikes = scan(currents, v, part, currents)
    assert spikes is currents and equal(spikes, expected) and 0.05 < spikes.mean() < 0.95
    assert equal(v, v_expected)
    held, v = dyadic(1030, generator=generator, span=32), torch.zeros(1030)
    expected, _ = by_hand(held.expand(7, -1))
    assert equal(scan(held, v, part, torch.empty(7, 1030), held=True), expected)


def test_graphs_need_a_gpu():
    for name in gpu_rivals.GPU_RIVALS:
        with pytest.raises(rivals.NotOffered, match="needs --device cuda"):
            rivals.build(name, nets.small(), torch.zeros(1, 1, 28, 28), gpu_rivals.GPU_RIVALS)
