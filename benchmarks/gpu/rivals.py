"""Rivals that only a GPU can run: a step of the plain loop captured as a CUDA graph and replayed, compiled or not.

A graph spares the launches of a loop from Python, which on a small network take longer than the work itself;
torch.compile fuses what stands between the convolutions. ``fp32`` computes in full float32, ``tf32`` rounds weights to
10 bits in the tensor cores, and ``fp16`` and ``bf16`` keep weights, spikes and currents in 16 bits, and potentials in
float32. cuDNN tries its algorithms first (``torch.backends.cudnn.benchmark``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from common.stages import stages
from speed.rivals import NotOffered
from speed.step_loops import Counts, PlainNeurons, whole_step
from torch import Tensor, nn

FLOAT32_SETTINGS = torch.backends.cudnn.conv, torch.backends.cuda.matmul
Capture = Callable[[Callable[[], None]], Callable[[], None]]  # a step, to what replays it


DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@contextmanager
def settings(precision: str) -> Iterator[None]:
    """Convolutions and matrix products of a name in DTYPES; cuDNN tries which algorithm is fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with float32_precision("tf32" if precision == "tf32" else "ieee"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


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
def replayed(
    net: nn.Sequential,
    images: Tensor,
    precision: str,
    capture: Capture = capture,
    compiler: Callable[[Callable], Callable] | None = None,
) -> Counts:
    """The loop of rivals.plain for batches like ``images``, its step captured once and replayed T times.

    Args:
        precision: a name in DTYPES.
        compiler: torch.compile, of the step; None: it runs as it is.
    """
    parts = stages(net, images.device, channels_last=True)
    for part in parts:
        part.synapses.to(DTYPES[precision])

    def currents_of(images: Tensor) -> Tensor:
        with settings(precision):
            return parts[0].synapses(images.to(DTYPES[precision]).contiguous(memory_format=torch.channels_last))

    held = currents_of(images)
    with settings(precision):
        fire, potentials = _plain_step(parts, held) if compiler is None else _compiled_step(parts, held, compiler)
        total = torch.zeros_like(fire(), dtype=torch.float32)
        replay = capture(lambda: total.add_(fire()))

    @torch.inference_mode()
    def counts(images: Tensor, T: int) -> Tensor:
        held.copy_(currents_of(images))
        for state in (total, *potentials()):
            state.zero_()
        for _ in range(T):
            replay()
        return total.clone()

    return counts


def _plain_step(parts: list, held: Tensor) -> tuple[Callable[[], Tensor], Callable[[], list[Tensor]]]:
    """A step, to its spikes, and its potentials, which it makes at its first call and then changes in place."""
    neurons = [PlainNeurons(part) for part in parts]

    def step() -> Tensor:
        spikes = neurons[0](held)
        for part, fire in zip(parts[1:], neurons[1:], strict=True):
            spikes = fire(part.synapses(spikes))
        return spikes

    return step, lambda: [one.v for one in neurons]


def _compiled_step(
    parts: list, held: Tensor, compiler: Callable[[Callable], Callable]
) -> tuple[Callable[[], Tensor], Callable[[], list[Tensor]]]:
    """The same, compiled."""
    step, currents, potentials = compiler(whole_step(parts)), held, []
    for part in [*parts[1:], None]:
        potentials.append(torch.zeros_like(currents, dtype=torch.float32))
        currents = currents if part is None else part.synapses(torch.zeros_like(currents))
    return lambda: step(held, potentials), lambda: potentials


def _graph(precision: str, compiler: Callable | None, net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    if images.device.type != "cuda":
        raise NotOffered("needs --device cuda")
    what = "the plain loop's step" if compiler is None else "the step under torch.compile"
    counts = replayed(net, images, precision, compiler=compiler)
    return f"{what} as a CUDA graph, {precision}, channels last, cudnn.benchmark", counts


# As rivals.RIVALS.
GPU_RIVALS = {f"graph-{precision}": ("torch", partial(_graph, precision, None)) for precision in DTYPES}
GPU_RIVALS |= {
    f"compiled-graph-{precision}": ("torch", partial(_graph, precision, torch.compile))
    for precision in DTYPES
    if precision != "fp32"
}
