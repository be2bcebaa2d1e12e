"""Long sums of float weights: how much the kernels that add them up err, beside torch's convolution."""

import pytest
import torch
import torch.nn.functional as F
from cases import spikes

import proxykernels as pk
from proxykernels.kernels import backends, cpu
from proxykernels.kernels.recording import recording

TARGETS = [target for target in cpu.TARGETS if cpu.load(target) and target != "amx"]


@pytest.mark.parametrize("T", [1, 8])
@pytest.mark.parametrize("target", TARGETS)
def test_currents_of_many_inputs(monkeypatch, generator, target, T):
    """What came before is added to the sum of a few hundred weights, not these to it one by one."""
    kernels = cpu.load(target, "plan")
    monkeypatch.setattr(backends, "cpu_backend", lambda: kernels)
    x = spikes(T, 4, 512, 6, 6, generator=generator, rate=0.3)
    x[:-1] = 0.0
    weight = torch.randn(32, 512, 3, 3, generator=generator) / 4608**0.5
    with recording() as choices:
        _, v = pk.if_conv2d(pk.pack(x), weight, v_threshold=1e3)
    exact = F.conv2d(x[-1].double(), weight.double())
    error, theirs = ((y.double() - exact).pow(2).mean().sqrt() for y in (v, F.conv2d(x[-1], weight)))
    (choice,) = choices
    assert choice.kernel in (("patterns",) if T == 1 else ("rows", "tables"))
    assert error < (2.5 if choice.kernel == "tables" else 1.2) * theirs
