"""What the tests of gradients share: every neuron model, on data whose sums are exact, and every surrogate."""

import torch
from cases import dyadic
from torch import Tensor

import proxykernels as pk
from proxykernels.kernels.neuron_models import MODELS, Neuron

EXACT = pk.Triangle(1.0, detach_reset=True)  # with thresholds that are powers of two, sums of few steps are exact
SURROGATES = {
    "triangle": pk.Triangle(),
    "triangle-detached": EXACT,
    "atan": pk.ATan(),
    "atan-detached": pk.ATan(3.0, detach_reset=True),
    "fast-sigmoid": pk.FastSigmoid(2.0, 1.5),
    "sigmoid": pk.Sigmoid(),
}
SCALARS = {"v_reset": 0.0, "v_rest": 0.0, "refractory": 2.0}


def neuron_of(model: str, C: int) -> Neuron:
    """Thresholds of 1 and 2, other parameters of 1/2."""
    theta = 1.0 + torch.arange(C) % 2
    rows = [theta, *[torch.full((C,), 0.5) for _ in MODELS[model].channels[1:]]]
    return Neuron(model, torch.stack(rows), [SCALARS[name] for name in MODELS[model].scalars])


def start_of(model: str, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """A state [N, P, C] or [N, 2, P, C]: the steps of refractory neurons are whole numbers."""
    v = dyadic(*shape, generator=generator)
    if MODELS[model].states == 1:
        return v
    other = dyadic(*shape, generator=generator)
    if model.startswith("Refractory"):
        other = torch.randint(0, 3, shape, generator=generator).float()
    return torch.stack([v, other], 1)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether they differ by less than a share of the largest value."""
    assert expected.any(), "nothing to compare"
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max())
