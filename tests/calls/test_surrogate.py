"""if_scan_surrogate against autograd through the oracle."""

import pytest
import torch
from cases import RESETS, dyadic, thresholds
from equality import equal

import proxykernels as pk
from proxykernels.kernels import reference_gradients
from proxykernels.neurons import IFNeuron

TRIANGLE = pk.Triangle(1.0, detach_reset=True)

SHAPES = [
    pytest.param((1, 2, 3), id="one-step"),
    pytest.param((7, 2, 5, 3, 3), id="odd"),
    pytest.param((33, 3, 64), id="whole-strip"),
    pytest.param((20, 2, 33, 4, 5), id="over-a-strip"),
    pytest.param((12, 0, 4, 2, 2), id="no-images"),
]


def oracle(current, gradient, v_threshold, v_reset):
    leaf = current.detach().clone().requires_grad_()
    neuron = IFNeuron(v_threshold=v_threshold, v_reset=v_reset).on(current.shape[2], current.device)
    spikes, _ = reference_gradients.surrogate_scan(leaf, None, neuron, TRIANGLE.kernel)
    return spikes.detach(), torch.autograd.grad(spikes, leaf, gradient)[0]


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_oracles(instruction_set, generator, shape, v_reset):
    """On random floats too: the operations are the same, in the same order."""
    theta = thresholds(shape[2], generator)
    for current in (dyadic(*shape, generator=generator), torch.randn(shape, generator=generator)):
        current.view(-1)[:1] = 3  # above every threshold: some neuron fires in the smallest shape too
        gradient = torch.randn(shape, generator=generator)
        leaf = current.clone().requires_grad_()
        spikes = pk.functional.if_scan_surrogate(leaf, v_threshold=theta, v_reset=v_reset)
        (ours,) = torch.autograd.grad(spikes, leaf, gradient)
        expected, theirs = oracle(current, gradient, theta, v_reset)
        assert theirs.any() and expected.any() or not expected.numel()
        assert equal(spikes, expected) and equal(ours, theirs)


def test_golden_gradient():
    """Worked by hand: currents 0.75 each, theta 1, hard reset; potentials h are 0.75, 1.5, 0.75."""
    current = torch.full((3, 1, 1), 0.75, requires_grad=True)
    spikes = pk.functional.if_scan_surrogate(current)
    spikes.backward(torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1))
    # g = 1 - |h - 1| = 0.75, 0.5, 0.75. Step 3 keeps 4 * 0.75 = 3; the spike of step 2 cuts it: 2 * 0.5 = 1;
    # step 1 passes that on: 0.75 + 1.
    assert spikes.flatten().tolist() == [0, 1, 0] and current.grad.flatten().tolist() == [1.75, 1, 3]


def test_channels_last_and_half_precision(generator):
    current = dyadic(6, 2, 5, 4, 3, generator=generator)
    gradient = dyadic(6, 2, 5, 4, 3, generator=generator)
    _, expected = oracle(current, gradient, 1.0, 0.0)
    leaf = current.movedim(2, -1).contiguous().movedim(-1, 2).bfloat16().requires_grad_()
    (ours,) = torch.autograd.grad(pk.functional.if_scan_surrogate(leaf), leaf, gradient)
    assert ours.dtype == torch.bfloat16 and equal(ours, expected.bfloat16())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="v_threshold must be positive"):
        pk.functional.if_scan_surrogate(torch.zeros(2, 1, 3), v_threshold=0.0)
    with pytest.raises(ValueError, match=r"current must have the shape \[T, N, ...\]"):
        pk.functional.if_scan_surrogate(torch.zeros(3))
