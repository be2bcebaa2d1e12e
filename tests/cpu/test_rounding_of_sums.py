"""Long sums of float weights: how much the kernels that add them up err, beside torch's convolution."""

import pytest
import torch
import torch.nn.functional as F
from cases import spikes

import proxykernels as pk
from proxykernels.kernels import backends, cpu
from proxykernels.kernels.recording import recording

WAYS = [(t, k) for t in cpu.TARGETS if cpu.load(t) and t != "amx" for k in ("events", "lookup")]


@pytest.mark.parametrize("target, kernel", [way for way in WAYS if way[1] != "lookup" or cpu.load(way[0]).has_lookup])
def test_currents_of_many_inputs(monkeypatch, generator, target, kernel):
    """What came before is added to the sum of a few hundred weights, not these to it one by one."""
    kernels = cpu.load(target, kernel)
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(1, 4, 512, 6, 6, generator=generator, rate=0.3)
    weight = torch.randn(32, 512, 3, 3, generator=generator) / 4608**0.5
    with recording() as choices:
        _, v = pk.if_conv2d(pk.pack(x), weight, v_threshold=1e3)
    exact = F.conv2d(x[0].double(), weight.double())
    error, theirs = ((y.double() - exact).pow(2).mean().sqrt() for y in (v, F.conv2d(x[0], weight)))
    assert [choice.kernel for choice in choices] == [kernel]
    assert error < (2.5 if kernel == "lookup" else 1.2) * theirs
