"""Neurons of every model: traces of them worked out on paper, and random ones."""

import pytest
import torch
from cases import dyadic, thresholds

from proxykernels.neurons import (
    ALIFNeuron,
    AnyNeuron,
    CubaLIFNeuron,
    IFNeuron,
    IntegerLIFNeuron,
    LIFNeuron,
    LoihiNeuron,
    RefractoryLIFNeuron,
)

# Neuron, currents, spikes, states after each step.
TRACES = [
    pytest.param(IFNeuron(), [0.5, 0.5, 0.5], [0, 1, 0], [0.5, 0.0, 0.5], id="IF"),
    # 0.75; 0.375 + 0.75 = 1.125 fires; from 0 again
    pytest.param(LIFNeuron(decay=0.5), [0.75, 0.75, 0.75], [0, 1, 0], [0.75, 0.0, 0.75], id="LIF-hard"),
    # 0.75; 1.125 fires, 0.125 is left; 0.0625 + 0.75
    pytest.param(
        LIFNeuron(v_threshold=1.0, v_reset=None, decay=0.5),
        [0.75, 0.75, 0.75],
        [0, 1, 0],
        [0.75, 0.125, 0.8125],
        id="LIF-soft",
    ),
    # Without input from 0 halfway to the rest at -1, and again; then -0.75 + 1.75 = 1 fires, and resets to 0.25.
    pytest.param(
        LIFNeuron(v_threshold=1.0, v_reset=0.25, decay=0.5, v_rest=-1.0),
        [-0.0, 0.0, 2.0, 1.0],
        [0, 0, 1, 0],
        [-1.0, -1.0, 0.25, 0.625],
        id="LIF-rest",
    ),
    # Filtered: 1, 0.5, 0.25; potentials 1, 0.5 + 0.5 = 1, ...: threshold 1 is met at once, then 0 + 0.5, 0.25 + 0.25
    pytest.param(
        CubaLIFNeuron(decay=0.5, current_decay=0.5),
        [1.0, 0.0, 0.0],
        [1, 0, 0],
        [(0.0, 1.0), (0.5, 0.5), (0.5, 0.25)],
        id="CubaLIF-hard",
    ),
    pytest.param(
        CubaLIFNeuron(v_threshold=1.0, v_reset=None, decay=0.5, v_rest=0.0, current_decay=0.5),
        [1.5, 0.0, 0.5],
        [1, 1, 0],
        [(0.5, 1.5), (0.0, 0.75), (0.875, 0.875)],
        id="CubaLIF-soft",
    ),
    # Each spike raises the threshold of 1 by 0.5, half of which is left after a step: 1; 1.5; 1.25; 1.125 and + 0.5
    pytest.param(
        ALIFNeuron(decay=0.5, adaptation_decay=0.5, adaptation=0.5),
        [1.0, 1.25, 1.25, 1.25],
        [1, 0, 1, 0],
        [(0.0, 0.5), (1.25, 0.25), (0.0, 0.625), (1.25, 0.3125)],
        id="ALIF",
    ),
    # The soft reset subtracts 1 whatever the threshold has become.
    pytest.param(
        ALIFNeuron(v_threshold=1.0, v_reset=None, decay=1.0, v_rest=0.0, adaptation_decay=1.0, adaptation=0.5),
        [1.5, 1.0],
        [1, 1],
        [(0.5, 0.5), (0.5, 1.0)],
        id="ALIF-soft",
    ),
    # Two steps of rest after a spike, in which the potential stays.
    pytest.param(
        RefractoryLIFNeuron(v_threshold=1.0, v_reset=-0.5, decay=0.5, v_rest=0.0, refractory=2),
        [1.0, 5.0, 5.0, 1.25, 5.0],
        [1, 0, 0, 1, 0],
        [(-0.5, 2.0), (-0.5, 1.0), (-0.5, 0.0), (-0.5, 2.0), (-0.5, 1.0)],
        id="RefractoryLIF",
    ),
    pytest.param(
        RefractoryLIFNeuron(v_threshold=1.0, v_reset=None, decay=1.0, v_rest=0.0, refractory=1),
        [2.5, 1.0, 0.25],
        [1, 0, 1],
        [(1.5, 1.0), (1.5, 0.0), (0.75, 1.0)],
        id="RefractoryLIF-soft",
    ),
    # Rounded toward zero: currents 7, 3, 1 - 6 and -2; potentials 7 + 2, 6 + 3 + 2 = 11 fires, -5 + 2, -2 - 2 + 2.
    pytest.param(
        LoihiNeuron(v_threshold=11.0, decay=0.75, current_decay=0.5, v_bias=2.0),
        [7.0, 0.0, -6.0, 0.0],
        [0, 1, 0, 0],
        [(9.0, 7.0), (0.0, 3.0), (-3.0, -5.0), (-2.0, -2.0)],
        id="Loihi",
    ),
    # A current of 2^23 + 1 is one of 1 - 2^23, at which the potential ends.
    pytest.param(
        LoihiNeuron(v_threshold=11.0, decay=1.0, current_decay=1.0, v_bias=-2.0),
        [2.0**23 - 64.0, 65.0],
        [1, 0],
        [(0.0, 2.0**23 - 64.0), (1.0 - 2.0**23, 1.0 - 2.0**23)],
        id="Loihi-ends",
    ),
]

# Each case of neurons that fire several times in a step: neuron, currents, spikes, potentials after each step.
INTEGER_TRACES = [
    # 2.75 gives 2; 0.75 + 0.25 = 1; 9 of at most 4, and the rest in the next steps; below 0 nothing.
    pytest.param(
        IntegerLIFNeuron(), [2.75, 0.25, 9.0, 0.0, 0.5, -3.0], [2, 1, 4, 4, 1, 0], [0.75, 0, 5, 1, 0.5, -2.5], id="IF"
    ),
    # Half of what is left goes on.
    pytest.param(
        IntegerLIFNeuron(v_threshold=0.5, decay=0.5, max_spike_count=2), [1.75, 0.0, 0.125], [2, 0, 0],
        [0.75, 0.375, 0.3125], id="leaky",
    ),
    # Half to even: 0.5, 1.5, 2.5 and 1.5; what is rounded up is missing afterwards.
    pytest.param(
        IntegerLIFNeuron(rounds=True), [0.5, 1.0, 3.0, 1.0], [0, 2, 2, 2], [0.5, -0.5, 0.5, -0.5], id="rounded"
    ),
]  # fmt: skip


def channelwise(C: int, generator: torch.Generator) -> dict[str, AnyNeuron]:
    """Neurons of each model and reset, whose parameters differ by channel; decays are no multiples of anything, but
    Loihi's."""
    theta = thresholds(C, generator)
    decay, other = (torch.rand(2, C, generator=generator) * 0.5 + 0.5).unbind()
    raised = dyadic(C, generator=generator).abs()
    loihi = (decay * 4096).round() / 4096, (other * 4096).round() / 4096
    made: dict[str, AnyNeuron] = {
        "Loihi": LoihiNeuron(
            v_threshold=theta.ceil(), decay=loihi[0], current_decay=loihi[1], v_bias=(8 * raised).round() - 1
        )
    }
    for name, v_reset in {"hard": 0.0, "below": -0.25, "soft": None}.items():
        made |= {
            f"LIF-{name}": LIFNeuron(v_threshold=theta, v_reset=v_reset, decay=decay, v_rest=0.125),
            f"CubaLIF-{name}": CubaLIFNeuron(
                v_threshold=theta, v_reset=v_reset, decay=decay, v_rest=-0.25, current_decay=other
            ),
            f"ALIF-{name}": ALIFNeuron(
                v_threshold=theta, v_reset=v_reset, decay=decay, v_rest=0.25, adaptation_decay=other, adaptation=raised
            ),
            f"RefractoryLIF-{name}": RefractoryLIFNeuron(
                v_threshold=theta, v_reset=v_reset, decay=decay, v_rest=0.0, refractory=3
            ),
        }
    return made


NAMES = list(channelwise(1, torch.Generator().manual_seed(0)))


def state(neuron, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A state to start from."""
    if neuron.states == 1:
        return dyadic(*shape, generator=generator)
    v = dyadic(shape[0], 2, *shape[1:], generator=generator)
    if isinstance(neuron, RefractoryLIFNeuron):
        v[:, 1] = torch.randint(0, 4, shape, generator=generator)
    return v
