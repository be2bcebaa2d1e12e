"""Triton scans that give numbers, against the definition: of neurons that fire several times in a step, forward and
back, and of readouts."""

import pytest
import torch
from cases import dyadic
from equality import equal
from neuron_cases import INTEGER_TRACES

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.calls.potentials import potentials
from proxykernels.kernels import ops, reference
from proxykernels.kernels.neuron_models import Neuron
from proxykernels.kernels.reference_gradients import surrogate_scan
from proxykernels.neurons import IntegerLIFNeuron, LINeuron

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from proxykernels.kernels.gpu.backend import KERNELS as gpu

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(2, 5, 7), (1, 1, 1), (2, 300, 1), (3, 35, 13), (2, 16, 16)]  # samples, pixels, channels; blocks are of 512


def integer_neuron(C: int, generator: torch.Generator, most: int, rounds: bool, decays: bool) -> Neuron:
    """Integer neurons with a threshold for each channel and, with ``decays``, a decay for each."""
    theta = 0.25 + torch.rand(C, generator=generator)
    decay = torch.rand(C, generator=generator) if decays else torch.ones(C)
    return Neuron("IntegerSoftReset", torch.stack([theta, decay]).to(DEVICE), (float(most), float(rounds)))


def check_scan(result, current, v, neuron: Neuron) -> torch.Tensor:
    """Integers and potentials equal the definition's bit for bit; the integers."""
    sent, after = result
    expected, v_expected = reference.scan(current.transpose(2, 3), v.transpose(1, 2), neuron)
    assert sent.dtype == torch.float32 and sent.is_contiguous() and after.is_contiguous()
    assert equal(sent, expected.transpose(2, 3)) and equal(after, v_expected.transpose(1, 2))
    return sent


@pytest.mark.parametrize("neuron, current, counts, potentials", INTEGER_TRACES)
def test_hand_traces(neuron, current, counts, potentials):
    current = torch.tensor(current, device=DEVICE).view(-1, 1, 1)
    for t in range(1, len(current) + 1):
        s, v = neuron_ops.scan(current[:t], None, neuron)
        assert s.dtype == torch.float32 and s.flatten().tolist() == counts[:t]
        assert v.item() == potentials[t - 1]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("T", [1, 31, 33, 64])
def test_scan_of_any_floats(generator, T, rounds):
    """The division, the product and the sums of a step are each rounded once, so all floats give equal bits."""
    neuron = integer_neuron(7, generator, 3, rounds, decays=True)
    current = 2 * torch.randn(T, 2, 5, 7, generator=generator).to(DEVICE)
    v = torch.randn(2, 5, 7, generator=generator).to(DEVICE)
    before = v.clone()
    sent = check_scan(gpu.if_scan(current, v, neuron), current, v, neuron)
    assert equal(v, before) and sent.max() == 3 and len(sent.unique()) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scan_sizes(generator, shape, dtype):
    neuron = integer_neuron(shape[-1], generator, 255, False, decays=False)
    current = 6 * dyadic(9, *shape, generator=generator).to(DEVICE, dtype)
    sent = check_scan(
        gpu.if_scan(current, torch.zeros(shape, device=DEVICE), neuron), current, torch.zeros(shape), neuron
    )
    assert sent.any()


@pytest.mark.parametrize("T", [1, 7, 33])
def test_a_current_that_is_held(generator, T):
    neuron = integer_neuron(7, generator, 4, True, decays=True)
    current, v = (1 + torch.rand(2, 5, 7, generator=generator).to(DEVICE) for _ in range(2))
    assert check_scan(gpu.if_scan(current, v, neuron, T), current.expand(T, 2, 5, 7), v, neuron).any()


def test_a_scan_in_parts(generator):
    neuron = integer_neuron(7, generator, 4, False, decays=True)
    current, v = 2 * torch.randn(45, 2, 5, 7, generator=generator).to(DEVICE), torch.zeros(2, 5, 7, device=DEVICE)
    expected, v_expected = gpu.if_scan(current, v, neuron)
    parts = []
    for part in current.split((32, 1, 12)):
        sent, v = gpu.if_scan(part, v, neuron)
        parts.append(sent)
    assert expected.any() and equal(torch.cat(parts), expected) and equal(v, v_expected)


@pytest.mark.parametrize("rounds", [False, True])
def test_at_the_threshold_and_beside_it(rounds):
    theta, edges = 0.75, torch.arange(-1.0, 7.0, 0.5)
    h = (theta * edges).repeat(3, 1)
    h[1], h[2] = h[0].nextafter(torch.tensor(9.0)), h[0].nextafter(torch.tensor(-9.0))
    neuron = IntegerLIFNeuron(v_threshold=theta, max_spike_count=4, rounds=rounds)
    s, v = neuron_ops.scan(h.view(1, 1, -1).to(DEVICE), None, neuron)
    expected = (h / theta).clamp(0, 4)
    expected = expected.round() if rounds else expected.floor()
    assert equal(s.view(3, -1).cpu(), expected) and equal(v.view(3, -1).cpu(), h - theta * expected)
    assert not torch.equal(expected[0], expected[2])


@pytest.mark.parametrize("shape", [(5, 0, 4, 3), (5, 2, 0, 3), (0, 2, 4, 3)], ids=str)
def test_a_scan_of_nothing(generator, shape):
    neuron, v = integer_neuron(3, generator, 4, False, decays=False), torch.full(shape[1:], 0.25, device=DEVICE)
    for sent, after in (
        gpu.if_scan(torch.ones(shape, device=DEVICE), v, neuron),
        gpu.if_scan(torch.ones_like(v), v, neuron, shape[0]),
    ):
        assert sent.shape == shape and sent.dtype == torch.float32 and equal(after, v) and after is not v


@pytest.mark.parametrize("held", [False, True], ids=["sequence", "held"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
def test_gradients_are_the_definitions(generator, rounds, detach, held):
    """Thresholds are powers of two, and decays 1/2, so that all is exact; some potentials are 0 and the most."""
    T, N, P, C = 3, 2, 5, 13
    channels = torch.stack([2.0 ** (torch.arange(C) % 3 - 1), torch.full((C,), 0.5)])
    neuron = Neuron("IntegerSoftReset", channels, (3.0, float(rounds)))
    current = dyadic(T, N, P, C, generator=generator, span=20, unit=1 / 4)
    current = current[0] if held else current
    v = dyadic(N, P, C, generator=generator)
    v[:, :1], current.view(-1, N, P, C)[0, :, :1] = 0, 3 * channels[0]
    v[:, 1:2], current.view(-1, N, P, C)[0, :, 1:2] = 0, 0
    grad_spikes = dyadic(T, N, P, C, generator=generator, span=4, unit=1 / 4)
    grad_v, surrogate = dyadic(N, P, C, generator=generator, span=4, unit=1 / 4), pk.ATan(detach_reset=detach).kernel

    leaves = [x.clone().requires_grad_() for x in (current, v, channels)]
    currents = leaves[0].expand(T, N, P, C).transpose(2, 3)
    results = surrogate_scan(currents, leaves[1].transpose(1, 2), neuron._replace(channels=leaves[2]), surrogate)
    expected = torch.autograd.grad(results, leaves, (grad_spikes.transpose(2, 3), grad_v.transpose(1, 2)))
    assert len(results[0].unique()) == 4
    there = [x.to(DEVICE) for x in (grad_spikes, grad_v, current, v)]
    found = gpu.scan_backward(*there, neuron._replace(channels=channels.to(DEVICE)), surrogate)
    assert expected[0].any() and equal(found[0].cpu(), expected[0]) and equal(found[1].cpu(), expected[1])
    assert equal(found[2][1:].float().cpu(), expected[2]) and expected[2].any()
    assert equal(found[2][0], found[0].double().flatten(0, -2).sum(0))  # of a bias


def readout(kind: str, C: int, generator: torch.Generator) -> LINeuron:
    decay = torch.rand(C, generator=generator).to(DEVICE) if kind == "channels" else 1.0 if kind == "sums" else 0.75
    return LINeuron(decay=decay, v_rest=-0.5 if kind == "rest" else 0.0)


@pytest.mark.parametrize("kind", ["sums", "rest", "channels"])
@pytest.mark.parametrize("shape", [(2, 7), (3, 5, 4, 3), (1, 700)], ids=str)
@pytest.mark.parametrize("T", [1, 33])
def test_potentials_of_any_floats(generator, T, shape, kind):
    """Also of currents that are held, and from a state."""
    neuron = readout(kind, shape[1], generator)
    x, v0 = (torch.randn(size, generator=generator).to(DEVICE) for size in ((T, *shape), shape))
    its = neuron.on(shape[1], x.device)
    for current, state in ((x, v0), (x, None), (x[:1].expand(T, *shape), 0.25)):
        on_gpu = lambda x: x.unsqueeze(-1).flatten(3).transpose(2, 3)  # noqa: E731
        first = neuron.rest if state is None else state
        start = first if isinstance(first, torch.Tensor) else torch.full(shape, first, device=DEVICE)
        found = gpu.potentials(on_gpu(current), on_gpu(start[None])[0].contiguous(), its)
        expected = reference.integrate(current, first, its)
        assert found.dtype == torch.float32 and found.is_contiguous()
        assert expected.any() and equal(found.transpose(2, 3).reshape(T, *shape), expected)


@pytest.mark.parametrize("kind", ["rest", "channels"])
@pytest.mark.parametrize("T", [1, 9])
def test_gradients_of_potentials(generator, monkeypatch, T, kind):
    """Second derivatives are those of autograd through the steps of the definition."""
    monkeypatch.setattr(ops, "potentials", gpu.potentials)
    its = readout(kind, 7, generator).on(7, torch.device(DEVICE))
    sizes = (T, 2, 5, 7), (2, 5, 7)
    leaves = [torch.randn(size, generator=generator).to(DEVICE) for size in sizes] + [its.channels[1]]
    outer = torch.randn(sizes[0], generator=generator).to(DEVICE)
    found = []
    for run in (potentials, lambda *given: reference.integrate(*given)):
        current, v, decay = (x.detach().clone().requires_grad_() for x in leaves)
        neuron = its._replace(channels=torch.stack([its.channels[0], decay]))
        given = (current, v) if run is potentials else (current.transpose(2, 3), v.transpose(1, 2))
        after = run(*given, neuron)
        after = after if run is potentials else after.transpose(2, 3)
        gradients = torch.autograd.grad(after, (current, v, decay), outer, create_graph=True)
        again = torch.autograd.grad(sum(x.square().sum() for x in gradients), (decay,))
        found.append([after, *gradients, *again])
    for k, (ours, theirs) in enumerate(zip(*found, strict=True)):
        assert T == 1 or theirs.any()
        assert equal(ours, theirs) if k < 3 else torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_potentials_of_nothing():
    its, v = LINeuron().on(3, torch.device(DEVICE)), torch.ones(2, 5, 3, device=DEVICE)
    assert gpu.potentials(v.new_ones(0, 2, 5, 3), v, its).shape == (0, 2, 5, 3)
    assert gpu.potentials(v.new_ones(4, 0, 5, 3), v[:0], its).shape == (4, 0, 5, 3)
