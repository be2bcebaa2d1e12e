"""Statistics of a batch in training: sums of a launch, in the place of all currents in memory."""

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from oracle import normalises_as_torch
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

import proxykernels as pk
from proxykernels.calls import currents as spike_currents
from proxykernels.kernels import backends

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def generator():
    return torch.Generator(DEVICE).manual_seed(0)


@pytest.mark.parametrize("T, groups", [(5, 1), (33, 2)])
def test_moments(generator, T, groups):
    x = spikes(T, 2, 4, 4, 3, generator=generator)
    weight, bias = dyadic(6, 4 // groups, 3, 3, generator=generator), dyadic(6, generator=generator)
    window = (1, 1), (1, 1), (1, 1), groups
    mean, variance, count = spike_currents.batch_moments(pk.pack(x), weight, bias, *window)
    currents = nn.functional.conv2d(x.flatten(0, 1).double(), weight.double(), bias.double(), 1, 1, 1, groups)
    assert count == currents[:, 0].numel() and currents.std() > 0.1
    assert equal(mean, currents.mean((0, 2, 3)))
    assert torch.allclose(variance, currents.var((0, 2, 3), correction=0), rtol=1e-6)


@pytest.mark.slow
def test_operator(generator):
    words = pk.pack(spikes(5, 2, 3, 4, 4, generator=generator))._words
    arguments = words, 5, [4, 4], dyadic(2, 3, 3, 3, generator=generator), torch.zeros(2), [1, 1], [1, 1], [1, 1], 1
    torch.library.opcheck(torch.ops.proxykernels.conv2d_current_sums.default, arguments)


@pytest.mark.costly
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bias", [True, False])
def test_layer(generator, momentum, bias):
    """Spikes, potentials and running statistics are those of torch normalising all currents, but for rounding."""
    x = spikes(9, 3, 4, 5, 4, generator=generator)
    layer = pk.FusedIFConv2d(4, 6, 3, padding=1, bias=bias, batch_norm=True).train()
    layer.bn.momentum, layer.bn.running_mean[:] = momentum, 0.25
    layer.weight.data = dyadic(6, 4, 3, 3, generator=generator)
    norm = nn.BatchNorm2d(6, momentum=momentum)
    normalises_as_torch(layer, norm, pk.pack(x))


def test_no_currents_are_kept_in_training(monkeypatch, generator):
    """ProxyNet's spiking network unpacks no spikes for its second layer, and scans no currents."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 3, 3, batch_norm=True), pk.FusedIFConv2d(3, 4, 3, batch_norm=True), pk.Flatten(),
        pk.FusedIFLinear(16, 2),
    )  # fmt: skip
    kernels = backends.cpu_backend() if DEVICE == "cpu" else backends.gpu_backend()
    scans = []
    monkeypatch.setattr(kernels, "unpack", lambda *_: pytest.fail("spikes were unpacked"))
    scan = kernels.if_scan
    monkeypatch.setattr(kernels, "if_scan", lambda *operands: scans.append(1) or scan(*operands))
    model = pk.ProxyNet(net, T=5).train()
    model(torch.rand(2, 2, 6, 6, generator=generator)).sum().backward()
    assert len(scans) <= 1 and net[1].bn.num_batches_tracked == 1 and net[0].weight.grad.any()
