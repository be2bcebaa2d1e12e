"""Gradients of recurrent neurons: those of autograd through a plain loop, in all that has one."""

import pytest
import torch
import torch.nn.functional as F
from cases import dyadic, spikes
from equality import equal
from gradient_cases import EXACT, SURROGATES, close, neuron_of, start_of
from torch import nn

import proxykernels as pk
from proxykernels.calls import gradients as recurrent
from proxykernels.kernels import backends, reference_gradients
from proxykernels.kernels.neuron_models import MODELS
from proxykernels.neurons import ALIFNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, RefractoryLIFNeuron

RECURRENCES = ["full", "elementwise"]
NEURONS = {
    "hard": IFNeuron(),
    "soft": IFNeuron(v_reset=None),
    "leaky": LIFNeuron(decay=0.5, v_reset=-0.5, v_rest=0.25),
    "leaky-soft": LIFNeuron(v_reset=None, decay=torch.tensor([0.5, 0.75, 0.25, 1.0, 0.0])),
    "current-based": CubaLIFNeuron(decay=0.5, current_decay=0.5),
    "adaptive": ALIFNeuron(decay=0.5, adaptation_decay=0.5, adaptation=0.25),
    "refractory": RefractoryLIFNeuron(decay=0.5, refractory=1),
}


def recurrent_of(C: int, recurrence: str, generator) -> torch.Tensor:
    return dyadic(*((C, C) if recurrence == "full" else (C,)), generator=generator, span=2, unit=1 / 2)


def operands(model, recurrence, size, generator):
    """The arguments of recurrent_scan_backward but for the surrogate, which comes before the last."""
    (N, T, C), weight = size, recurrent_of(size[2], recurrence, generator)
    v = start_of(model, (N, 1, C), generator).view(N, MODELS[model].states, 1, C)
    v = torch.cat([v, spikes(N, 1, 1, C, generator=generator, rate=0.3)], 1)
    current = dyadic(T, N, 1, C, generator=generator, unit=1 / 4, span=8)
    coarse = {"generator": generator, "span": 2, "unit": 1.0}
    grad_spikes, grad_v = dyadic(T, N, 1, C, **coarse), dyadic(*v.shape, **coarse)
    return grad_spikes, grad_v, current, v, neuron_of(model, C), weight


def oracle(grad_spikes, grad_v, current, v, neuron, weight, surrogate):
    """Autograd through the definition: spikes; gradients of currents, states, and a bias and a channel's parameters."""
    bias = torch.zeros(current.shape[-1])
    leaves = [x.clone().requires_grad_() for x in (current, v, bias, neuron.channels)]
    currents, start = (leaves[0] + leaves[2]).squeeze(2), leaves[1].squeeze(2)
    neuron = neuron._replace(channels=leaves[3])
    found = reference_gradients.surrogate_recurrent_scan(currents, start, neuron, weight, surrogate.kernel)
    outer = grad_spikes.squeeze(2), torch.zeros_like(start) if grad_v is None else grad_v.squeeze(2)
    of_current, of_v, of_bias, of_channels = torch.autograd.grad(found, leaves, outer)
    return found[0], (of_current, of_v, torch.cat([of_bias[None], of_channels]).double())


def check(kernels, given, weight, surrogate, exact: bool) -> None:
    device = "cuda" if torch.cuda.is_available() and kernels is not backends.cpu_backend() else "cpu"
    fired, expected = oracle(*given, weight, surrogate)
    assert fired.any() and expected[0].any()
    *tensors, neuron = given
    tensors = [None if x is None else x.to(device) for x in tensors]
    neuron = neuron._replace(channels=neuron.channels.to(device))
    actual = kernels.recurrent_scan_backward(*tensors, neuron, surrogate.kernel, weight.to(device))
    for ours, wanted in zip(actual, expected, strict=True):
        assert ours.shape == wanted.shape and ours.dtype == wanted.dtype
        assert equal(ours.cpu(), wanted) if exact and ours.dtype == torch.float32 else close(ours.cpu(), wanted)


@pytest.mark.parametrize("size", [(3, 3, 5), (1, 2, 33), (2, 1, 16), (11, 2, 70)], ids=str)  # N, T, C
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("model", MODELS)
def test_the_kernel_is_bit_equal(instruction_set, generator, model, recurrence, size):
    """The triangle, thresholds that are powers of two and few steps: every sum is exact."""
    *given, weight = operands(model, recurrence, size, generator)
    check(backends.cpu_backend(), given, weight, EXACT, exact=True)


@pytest.mark.triton
@pytest.mark.costly
@pytest.mark.parametrize("size", [(3, 3, 5), (1, 2, 33), (2, 9, 1), (2, 2, 70)], ids=str)  # N, T, C
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("model", MODELS)
def test_triton(kernels_can_run, generator, model, recurrence, surrogate, size):
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    *given, weight = operands(model, recurrence, size, generator)
    check(gpu, given, weight, SURROGATES[surrogate], exact=SURROGATES[surrogate] == EXACT and size[1] <= 3)


@pytest.mark.triton
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("model", ["HardReset", "SynapticSoftReset"])
def test_triton_of_other_tensors(kernels_can_run, generator, model, recurrence):
    """Steps that are one tensor, others that are not contiguous, half precision, and no gradient of the last state."""
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    grad_spikes, _, current, v, neuron, weight = operands(model, recurrence, (2, 6, 9), generator)
    held = [x[:1].expand(x.shape) for x in (grad_spikes, current)]
    check(gpu, (held[0], None, held[1], v, neuron), weight, EXACT, exact=False)
    apart = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (grad_spikes, current)]
    check(gpu, (apart[0], None, apart[1], v, neuron), weight.t().contiguous().t(), EXACT, exact=False)
    half = gpu.recurrent_scan_backward(grad_spikes.half(), None, current.half(), v, neuron, EXACT.kernel, weight.half())
    whole = gpu.recurrent_scan_backward(grad_spikes, None, current, v, neuron, EXACT.kernel, weight)
    assert whole[0].any() and all(equal(a, b) for a, b in zip(half, whole, strict=True))


@pytest.mark.triton
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("model", ["HardReset", "AdaptiveSoftReset"])
@pytest.mark.parametrize("last", [True, False], ids=["last-state", "spikes"])
def test_triton_beyond_what_a_program_holds(kernels_can_run, monkeypatch, generator, model, recurrence, last):
    from proxykernels.kernels.gpu import backend

    monkeypatch.setattr(backend, "MOST_NEURONS", 8)
    monkeypatch.setattr(backend, "recurrent_scan_backward", None)
    grad_spikes, grad_v, *rest, weight = operands(model, recurrence, (3, 3, 9), generator)
    check(backend.KERNELS, (grad_spikes, grad_v if last else None, *rest), weight, EXACT, exact=True)


@pytest.mark.triton
@pytest.mark.parametrize("size", [(0, 3, 5), (2, 0, 5)], ids=["no-samples", "no-steps"])
def test_triton_of_nothing(kernels_can_run, generator, size):
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    grad_spikes, grad_v, current, v, neuron, weight = operands("HardReset", "full", size, generator)
    found = gpu.recurrent_scan_backward(grad_spikes, grad_v, current, v, neuron, EXACT.kernel, weight)
    assert equal(found[1], grad_v) and equal(found[2], torch.zeros(2, 5, dtype=torch.float64))
    assert found[0].shape == current.shape


@pytest.mark.alike
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("recurrence", RECURRENCES)
@pytest.mark.parametrize("kind", ["spikes", "real", "held"])
def test_gradients_of_a_layer(generator, monkeypatch, kind, recurrence, neuron, surrogate):
    """By input, weights, biases, recurrent weights and state, over several pieces of steps: those of the definition."""
    monkeypatch.setattr(recurrent, "PIECE_BYTES", 1)
    T, N, C = 70, 2, 5
    neuron, surrogate = NEURONS[neuron], SURROGATES[surrogate]
    made = pk.FusedRecurrentLinear(6, C, neuron=neuron, recurrence=recurrence)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator, span=8, unit=1 / 16))
        made.bias += 0.25
    dense = spikes(T, N, 6, generator=generator) if kind == "spikes" else dyadic(T, N, 6, generator=generator)
    leaf = (dense[0] if kind == "held" else dense).clone().requires_grad_()
    x = leaf.expand(T, -1, -1) if kind == "held" else leaf
    v = torch.zeros(N, neuron.states + 1, C)
    v[:, 0], v[:, -1] = dyadic(N, C, generator=generator), spikes(N, C, generator=generator, rate=0.5)
    v.requires_grad_()
    current = F.linear(x, made.weight, made.bias)
    expected, after = reference_gradients.surrogate_recurrent_scan(
        current, v, neuron.on(C, v.device), made.recurrent_weight, surrogate.kernel
    )
    outer = dyadic(*expected.shape, generator=generator), dyadic(*v.shape, generator=generator)
    leaves = [leaf, v, *made.parameters()]
    theirs = torch.autograd.grad([expected, after], leaves, outer)
    made.surrogate = surrogate
    y, last = made(x, v)
    ours = torch.autograd.grad([y, last], leaves, outer)
    assert expected.mean() > 0.02 and equal(y, expected) and equal(last, after)
    for actual, wanted in zip(ours, theirs, strict=True):
        assert close(actual, wanted, 1e-4)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_a_plain_loop_in_float64(recurrence):
    """A loop that shares no code with the package."""
    torch.manual_seed(1)
    made = pk.FusedRecurrentLinear(8, 24, neuron=LIFNeuron(decay=0.9, v_reset=None), recurrence=recurrence)
    made.surrogate = pk.ATan(2.0)
    with torch.no_grad():
        made.weight *= 3
    x = (torch.rand(30, 4, 8) < 0.4).float()
    target = torch.randn(30, 4, 24)
    loss = (made(x) * target).sum()
    loss.backward()

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x >= 0).double()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient / (1 + (torch.pi * x) ** 2)

    W, b, R = (p.detach().double().requires_grad_() for p in (made.weight, made.bias, made.recurrent_weight))
    v = s = torch.zeros(4, 24, dtype=torch.float64)
    total = 0
    for step, wanted in zip(x.double(), target.double(), strict=True):
        h = 0.9 * v + step @ W.t() + b + (s @ R.t() if R.ndim == 2 else s * R)
        s = Spike.apply(h - 1)
        v = h - s
        total = total + (s * wanted).sum()
    total.backward()
    assert abs(loss - total) < 1e-3  # the same spikes
    for ours, theirs in ((made.weight, W), (made.bias, b), (made.recurrent_weight, R)):
        assert close(ours.grad.double(), theirs.grad, 1e-4)


def test_a_second_derivative(generator):
    made = pk.use_surrogate(pk.FusedRecurrentLinear(4, 5, neuron=LIFNeuron()), pk.Sigmoid())
    x = dyadic(6, 2, 4, generator=generator).requires_grad_()
    (first,) = torch.autograd.grad(made(x).sum(), made.recurrent_weight, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), made.weight)
    assert first.any() and second.any()


def test_a_network_learns():
    """To fire when its input fired three steps before, which only what comes back can know."""
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedRecurrentLinear(1, 24, neuron=LIFNeuron(decay=0.5, v_reset=None)), pk.FusedLILinear(24, 1, decay=0.0)
    )
    pk.use_surrogate(net, pk.ATan())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        x = (torch.rand(24, 32, 1) < 0.3).float()
        y = net(x)
        loss = F.mse_loss(y[3:], x[:-3])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.6 * 0.21  # what a mean would have


def test_surrogate_net():
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedRecurrentLinear(6, 20, neuron=LIFNeuron(v_threshold=0.5)), pk.FusedIFLinear(20, 3))
    x = (torch.rand(130, 5, 6) < 0.4).float()  # of several parts in time
    model = pk.SurrogateNet(net, T=130, surrogate=pk.ATan())
    model(x).sum().backward()
    ours = net[0].recurrent_weight.grad.clone()
    net.zero_grad()
    pk.use_surrogate(net, pk.ATan())
    net(x).sum().backward()
    assert close(ours, net[0].recurrent_weight.grad, 1e-4)
    one, state = model(x, {})
    two, _ = model(x, state)
    assert state["0"][0].shape == (5, 2, 20) and not torch.equal(one, two)
