"""Which neurons a case has, and from where they start."""

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Generator, Tensor

from proxykernels import neurons

from . import draw

MODELS = {  # and how often each is drawn
    "IFNeuron": 6,
    "LIFNeuron": 4,
    "CubaLIFNeuron": 1,
    "ALIFNeuron": 1,
    "RefractoryLIFNeuron": 1,
    "LoihiNeuron": 1,
}
INTEGERS = {"IntegerLIFNeuron": 3, "IFNeuron": 1}  # of networks in which neurons fire several times in a step
MOST_SPIKES = (1, 2, 4, 15)  # in a step
DECAYS = ("half", "any", "channels", "extreme")


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """The fields of a case that say what its neurons are, and from where they start.

    Currents are whole multiples of a unit, so that their sums are exact; from there every operation of a step rounds as
    IEEE has it, and decays may be any numbers.
    """

    unit: int = 0  # all values are multiples of 2^-unit
    theta: str = draw.THETAS[0]
    factor: float = 1.0  # threshold over the mean current
    reset: str = draw.RESETS[0]
    state: str = "none"  # or "number" or "tensor"
    model: str = "IFNeuron"
    decay: str = DECAYS[0]
    rest: str = draw.RESETS[0]

    @staticmethod
    def draw_neurons(random: Random, models: dict[str, int] = MODELS) -> dict:
        drawn = {
            "unit": random.choice((0, 4, 11)),
            "theta": random.choice(draw.THETAS),
            "factor": random.choice((0.3, 1.0, 1.0, 2.0, 4.0)),
            "state": random.choice(("none", "none", "number", "tensor")),
            **draw_model(random, models),
        }
        if drawn["model"] == "LoihiNeuron" and random.random() < 0.8:
            drawn["unit"] = 0  # whose thresholds are whole: smaller currents hardly reach them
        return drawn

    def neuron(self, theta: Tensor | float, C: int, unit: float, g: Generator) -> neurons.IFNeuron:
        """The neurons, of thresholds that were drawn before."""
        return described(self.model, theta, self.reset, self.decay, self.rest, C, unit, g)

    def start(
        self, shape: tuple[int, ...], neuron: neurons.IFNeuron, g: Generator
    ) -> tuple[Tensor | float | None, Tensor]:
        """Where neurons of ``shape`` [N, ...] start from: what the library gets, and what the oracle gets."""
        u = 2.0**-self.unit
        whole = shape if neuron.states == 1 else (shape[0], neuron.states, *shape[1:])
        if self.state == "tensor":
            v = draw.whole(whole, 9, g) * u
            if isinstance(neuron, neurons.RefractoryLIFNeuron):
                v[:, 1] = draw.whole(shape, 3, g).abs()
            return v, v
        given = {"none": None, "number": 2 * u}[self.state]
        v = torch.zeros(whole)
        (v if neuron.states == 1 else v[:, 0]).fill_(neuron.rest if given is None else given)
        return given, v


def draw_model(random: Random, models: dict[str, int]) -> dict:
    """The fields that say which model it is, and its parameters but for thresholds."""
    reset = random.choice(draw.RESETS)
    return {
        "model": random.choices(list(models), list(models.values()))[0],
        "reset": reset,
        "decay": random.choice(DECAYS),
        # Neurons that are reset to where they rest repeat themselves on a held current.
        "rest": random.choice((reset, *draw.RESETS[:3])) if reset != "soft" else random.choice(draw.RESETS[:3]),
    }


def described(
    model: str, theta: Tensor | float, reset: str, decay: str, rest: str, C: int, unit: float, g: Generator
) -> neurons.IFNeuron:
    """One of proxykernels.neurons."""
    if model == "IFNeuron":
        return neurons.IFNeuron(v_threshold=theta, v_reset=draw.reset(reset, unit))
    kind = getattr(neurons, model)
    if kind is neurons.LoihiNeuron:
        return loihi(theta, decay, C, g)
    values = {name: _share(decay, C, g) for name in kind.channelwise if name.endswith("decay")}
    if kind is neurons.IntegerLIFNeuron:
        most, rounds = (int(torch.randint(n, (), generator=g)) for n in (len(MOST_SPIKES), 2))
        return kind(theta, **values, max_spike_count=MOST_SPIKES[most], rounds=bool(rounds))
    if "adaptation" in kind.channelwise:
        values["adaptation"] = draw.whole((C,), 4, g).abs() * unit if decay == "channels" else 3 * unit
    if "refractory" in kind.scalars:
        values["refractory"] = int(torch.randint(0, 4, (), generator=g))
    values |= {"v_threshold": theta, "v_reset": draw.reset(reset, unit), "v_rest": draw.reset(rest, unit)}
    return kind(**values)


def loihi(theta: Tensor | float, decay: str, C: int, g: Generator) -> neurons.LoihiNeuron:
    """Whole thresholds and biases; currents need not be whole."""
    theta = theta.ceil() if isinstance(theta, Tensor) else float(math.ceil(theta))
    decays = [(torch.as_tensor(_share(decay, C, g)) * 4096).round() / 4096 for _ in range(2)]
    of_channels = [d if decay == "channels" else d.item() for d in decays]
    bias = draw.whole((C,), 2, g) if decay == "channels" else 1.0
    return neurons.LoihiNeuron(v_threshold=theta, decay=of_channels[0], current_decay=of_channels[1], v_bias=bias)


def _share(decay: str, C: int, g: Generator) -> Tensor | float:
    if decay == "channels":
        return torch.rand(C, generator=g)
    if decay == "extreme":
        return float(torch.randint(0, 2, (), generator=g))
    return 0.5 if decay == "half" else torch.rand((), generator=g).item()
