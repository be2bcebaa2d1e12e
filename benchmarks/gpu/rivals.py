"""Rivals that only a GPU can run: the plain loop's step captured as a CUDA graph and replayed, in three precisions.

A graph spares the launches of a loop from Python, which on a small network take longer than the work itself. The other
rivals compute in full float32 there, as the first of these does; ``tf32`` rounds weights to 10 bits in the tensor
cores, and ``fp16`` keeps weights, spikes and currents in float16, and potentials in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from common.stages import stages
from speed.rivals import Counts, NotOffered, PlainNeurons
from torch import Tensor, nn

FLOAT32_SETTINGS = torch.backends.cudnn.conv, torch.backends.cuda.matmul
Capture = Callable[[Callable[[], None]], Callable[[], None]]  # a step, to what replays it


@contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """Convolutions and matrix products of float32 as "ieee" or as "tf32"."""
    before = [setting.fp32_precision for setting in FLOAT32_SETTINGS]
    set_float32_precision(precision)
    try:
        yield
    finally:
        for setting, precision_before in zip(FLOAT32_SETTINGS, before, strict=True):
            setting.fp32_precision = precision_before


def set_float32_precision(precision: str) -> None:
    for setting in FLOAT32_SETTINGS:
        setting.fp32_precision = precision


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph, after three runs on a side stream as torch.cuda.graph asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@torch.inference_mode()
def replayed(net: nn.Sequential, images: Tensor, precision: str, capture: Capture = capture) -> Counts:
    """The loop of rivals.plain for batches like ``images``, its step captured once and replayed T times.

    Args:
        precision: "fp32", "tf32" or "fp16".
    """
    dtype = torch.float16 if precision == "fp16" else torch.float32
    parts = stages(net, images.device, channels_last=True)
    for part in parts:
        part.synapses.to(dtype)

    def currents_of(images: Tensor) -> Tensor:
        with float32_precision("tf32" if precision == "tf32" else "ieee"):
            return parts[0].synapses(images.to(dtype).contiguous(memory_format=torch.channels_last))

    held, total = currents_of(images), None
    fire = [PlainNeurons(part) for part in parts]

    def step() -> None:
        nonlocal total
        spikes = fire[0](held)
        for part, fire_part in zip(parts[1:], fire[1:], strict=True):
            spikes = fire_part(part.synapses(spikes))
        if total is None:
            total = torch.zeros_like(spikes, dtype=torch.float32)
        total.add_(spikes)

    step()  # makes the potentials and the counts, which the graph then changes in place
    with float32_precision("tf32" if precision == "tf32" else "ieee"):
        replay = capture(step)

    @torch.inference_mode()
    def counts(images: Tensor, T: int) -> Tensor:
        held.copy_(currents_of(images))
        for state in (total, *(neurons.v for neurons in fire)):
            state.zero_()
        for _ in range(T):
            replay()
        return total.clone()

    return counts


def _graph(precision: str, net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    if images.device.type != "cuda":
        raise NotOffered("needs --device cuda")
    return f"the plain loop's step as a CUDA graph, {precision}, channels last", replayed(net, images, precision)


# As rivals.RIVALS.
GPU_RIVALS = {f"graph-{precision}": ("torch", partial(_graph, precision)) for precision in ("fp32", "tf32", "fp16")}
