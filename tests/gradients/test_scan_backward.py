"""The scan back in time, of every neuron model and surrogate, against autograd through the oracle."""

import pytest
import torch
from cases import dyadic
from gradient_cases import EXACT, SURROGATES, close, neuron_of, start_of

from proxykernels.kernels import ops, reference_gradients
from proxykernels.kernels.neuron_models import MODELS

SHAPES = [(3, 2, 5, 13), (1, 2, 3, 4), (2, 1, 17, 64), (1, 3, 1, 10), (4, 1, 1, 700)]  # the last is over a strip


def operands(model, shape, generator, held):
    T, N, P, C = shape
    current = 1.5 * dyadic(*shape, generator=generator)
    current = current[0] if held else current
    grad_spikes = dyadic(*shape, generator=generator, span=4, unit=1 / 4)
    v = start_of(model, (N, P, C), generator)
    grad_v = dyadic(*v.shape, generator=generator, span=4, unit=1 / 4)
    return grad_spikes, grad_v, current, v, neuron_of(model, C)


def oracle(grad_spikes, grad_v, current, v, neuron, surrogate):
    """Autograd through the definition: gradients of currents, state, and a bias and the parameters of a channel."""
    C = current.shape[-1]
    leaves = [x.clone().requires_grad_() for x in (current, v, torch.zeros(C), neuron.channels)]
    currents = leaves[0].expand(grad_spikes.shape) + leaves[2]
    channels_first = currents.transpose(-1, -2), leaves[1].transpose(-1, -2)
    results = reference_gradients.surrogate_scan(*channels_first, neuron._replace(channels=leaves[3]), surrogate.kernel)
    given = grad_spikes.transpose(-1, -2), grad_v.transpose(-1, -2)
    *gradients, bias, channels = torch.autograd.grad(results, leaves, given)
    return *gradients, torch.cat([bias[None], channels]).double()


@pytest.mark.parametrize("held", [False, True], ids=["sequence", "held"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_the_oracles(instruction_set, generator, model, surrogate, shape, held):
    given = operands(model, shape, generator, held)
    expected = oracle(*given, surrogate)
    actual = ops.scan_backward(*given, surrogate.kernel)
    exact = surrogate == EXACT and (model.startswith("Leaky") or MODELS[model].channels == ("theta",))
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs) if exact else close(ours, theirs)


@pytest.mark.parametrize("model", MODELS)
def test_no_gradient_of_the_last_state(instruction_set, generator, model):
    grad_spikes, grad_v, *rest = operands(model, (3, 2, 5, 13), generator, held=False)
    none = ops.scan_backward(grad_spikes, None, *rest, EXACT.kernel)
    zero = ops.scan_backward(grad_spikes, torch.zeros_like(grad_v), *rest, EXACT.kernel)
    assert none[0].any() and all(torch.equal(a, b) for a, b in zip(none, zero, strict=True))


@pytest.mark.triton
@pytest.mark.parametrize("held", [False, True], ids=["sequence", "held"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 13), (2, 1, 9, 64)], ids=str)  # the second is over a block
@pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
@pytest.mark.parametrize("model", MODELS)
def test_triton(kernels_can_run, generator, model, surrogate, shape, held):
    from proxykernels.kernels.gpu.backend import KERNELS as gpu

    device = "cuda" if torch.cuda.is_available() else "cpu"
    *given, neuron = operands(model, shape, generator, held)
    expected = oracle(*given, neuron, surrogate)
    neuron = neuron._replace(channels=neuron.channels.to(device))
    actual = gpu.scan_backward(*(x.to(device) for x in given), neuron, surrogate.kernel)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape and close(ours.cpu(), theirs)
