"""A network one step at a time in plain PyTorch: what rivals that have no faster way are run in."""

from collections.abc import Callable

import torch
from common.stages import Stage, stages
from torch import Tensor, nn

Fire = Callable[[Tensor], Tensor]  # currents of a step, to the spikes of neurons that remember their potentials
Counts = Callable[[Tensor, int], Tensor]  # images [N, C, H, W] and T, to output spikes [N, classes]


def single_steps(net: nn.Sequential, images: Tensor, neurons: Callable[[Stage], Fire]) -> Counts:
    """A loop over T with channels-last images; ``neurons`` makes a stage's neurons, at rest, for each run."""
    parts = stages(net, images.device, channels_last=True)

    @torch.inference_mode()
    def counts(images: Tensor, T: int) -> Tensor:
        held = parts[0].synapses(images.contiguous(memory_format=torch.channels_last))
        fire = [neurons(part) for part in parts]
        total = 0
        for _ in range(T):
            spikes = fire[0](held)
            for part, fire_part in zip(parts[1:], fire[1:], strict=True):
                spikes = fire_part(part.synapses(spikes))
            total = total + spikes
        return total

    return counts


class PlainNeurons:
    """Neurons as a careful user of PyTorch writes them: nothing is allocated in the loop."""

    def __init__(self, stage: Stage):
        self.v_threshold, self.v_reset, self.decay = stage.v_threshold, stage.v_reset, stage.decay
        self.v: Tensor | None = None

    def __call__(self, currents: Tensor) -> Tensor:
        if self.v is None:
            self.v, self.spikes = torch.zeros_like(currents, dtype=torch.float32), torch.empty_like(currents)
        torch.add(currents, self.v, alpha=self.decay, out=self.v)
        torch.ge(self.v, self.v_threshold, out=self.spikes)
        if self.v_reset is None:
            self.v.sub_(self.spikes, alpha=self.v_threshold)
        else:  # to 0, as v - v * spikes: exact, and faster than masked_fill_
            self.v.addcmul_(self.v, self.spikes, value=-1)
        return self.spikes


def whole_step(parts: list[Stage]) -> Callable[[Tensor, list[Tensor]], Tensor]:
    """A function (constant currents, potentials, updated in place) -> output spikes: one step of all layers."""

    def step(held: Tensor, potentials: list[Tensor]) -> Tensor:
        currents = held
        for index, (part, v) in enumerate(zip(parts, potentials, strict=True)):
            v = v.mul_(part.decay).add_(currents) if part.decay < 1 else v.add_(currents)
            fired = v >= part.v_threshold
            spikes = fired.to(currents.dtype)
            if part.v_reset is None:
                v -= part.v_threshold * fired.to(v.dtype)
            else:
                v.masked_fill_(fired, part.v_reset)
            if index + 1 < len(parts):
                currents = parts[index + 1].synapses(spikes)
        return spikes

    return step
