"""What answers to packets of events: an engine's stream, frames in plain PyTorch, SpikingJelly."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from common.stages import Stage, stages
from torch import Tensor, nn

import proxykernels as pk
from speed.rivals import NotOffered
from speed.step_loops import Fire, PlainNeurons

Size = tuple[int, int]  # height and width


class Packet(NamedTuple):
    """Events of ``length`` from ``start`` on, in microseconds: times, columns, rows and polarities, as of a camera."""

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    start: int
    length: int


Answer = Callable[[Packet], Tensor]  # counts of output spikes so far, [1, outputs]


class Steps:
    """A step of a network in torch on frames [1, 2, H, W], with neurons of ``make``, which keep their potentials."""

    def __init__(self, net: nn.Sequential, make: Callable[[Stage], Fire], channels_last: bool):
        self.parts = stages(net, torch.device("cpu"), channels_last=channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.neurons = [make(part) for part in self.parts]

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        for part, fire in zip(self.parts, self.neurons, strict=True):
            x = fire(part.synapses(x))
        return x

    def seconds(self, size: Size) -> float:
        """The time of the fastest of five steps without events."""
        x, times = torch.zeros(1, 2, *size).contiguous(memory_format=self.memory_format), []
        for _ in range(5):
            start = time.perf_counter()
            self(x)
            times.append(time.perf_counter() - start)
        return min(times)


def are_faster_last(net: nn.Sequential, make: Callable[[Stage], Fire], size: Size) -> bool:
    """Whether the steps are faster with channels last than with channels first, here."""
    return Steps(net, make, True).seconds(size) < Steps(net, make, False).seconds(size)


def engine(net: nn.Sequential, size: Size) -> Answer:
    stream = pk.compile(net, pk.events([], [], [], [], size=size, T=1)).stream()

    def answer(packet: Packet) -> Tensor:
        stream(pk.events(packet.t, packet.x, packet.y, packet.p, size=size, T=1))
        return stream.count()

    return answer


def plain(net: nn.Sequential, size: Size) -> Answer:
    """One frame for all packets, in which the places of the last one are cleared."""
    steps = Steps(net, PlainNeurons, are_faster_last(net, PlainNeurons, size))
    frame = torch.zeros(1, 2, *size).contiguous(memory_format=steps.memory_format)
    values = frame.as_strided((frame.numel(),), (1,)).numpy()
    _, of_p, of_y, of_x = frame.stride()
    places = np.empty(0, np.int64)

    def filled(packet: Packet) -> Tensor:
        nonlocal places
        values[places] = 0
        places = packet.p * np.int64(of_p) + packet.y * np.int64(of_y) + packet.x * np.int64(of_x)
        values[places] = 1
        return frame

    return _counting(steps, filled)


def spikingjelly(net: nn.Sequential, size: Size) -> Answer:
    """Its frames have numbers of events, of which 1 is left here: a step's input is spikes."""
    try:
        from spikingjelly.activation_based.neuron import IFNode
        from spikingjelly.datasets.utils import integrate_events_segment_to_frame
    except (ImportError, OSError) as error:
        raise NotOffered(f"absent ({error}); to compare with it: pip install spikingjelly") from error

    def make(part: Stage) -> Fire:
        return IFNode(part.v_threshold, part.v_reset, step_mode="s").eval()

    steps = Steps(net, make, are_faster_last(net, make, size))

    def frame(packet: Packet) -> Tensor:
        counts = integrate_events_segment_to_frame(packet.x, packet.y, packet.p, *size)
        frame = torch.from_numpy(counts).float().clamp_(max=1).unsqueeze(0)
        return frame.contiguous(memory_format=steps.memory_format)

    return _counting(steps, frame)


def _counting(steps: Steps, frame: Callable[[Packet], Tensor]) -> Answer:
    counts: Tensor | float = 0.0

    def answer(packet: Packet) -> Tensor:
        nonlocal counts
        counts = counts + steps(frame(packet))
        return counts

    return answer


CONTENDERS: dict[str, Callable[[nn.Sequential, Size], Answer]] = {
    "proxykernels": engine,
    "plain": plain,
    "spikingjelly-s": spikingjelly,
}
