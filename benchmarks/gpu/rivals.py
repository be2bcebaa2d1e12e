"""Rivals that only a GPU can run: layer by layer, CHUNK steps at once.

Dense spikes are convolved by cuDNN, then the neurons are scanned over the steps (multi_step_scan.py). It is the
strongest: large products, few launches. It passes all spikes and currents through memory. layers-graph-...: a chunk is
captured as a CUDA graph. A captured step, replayed T times, does the same work in smaller products and more launches.

``fp32`` computes in full float32, ``tf32`` rounds weights to 10 bits in the tensor cores, and ``fp16`` and ``bf16``
keep weights, spikes and currents in 16 bits, and potentials in float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from common.stages import stages
from speed.rivals import NotOffered
from speed.step_loops import Counts
from torch import Tensor, nn

CHUNK = 64  # steps at once: as many as ours
FLOAT32_SETTINGS = torch.backends.cudnn.conv, torch.backends.cuda.matmul
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Capture = Callable[[Callable[[], None]], Callable[[], None]]  # a chunk, to what replays it


@contextmanager
def float32_precision(precision: str) -> Iterator[None]:
    """Convolutions and matrix products of float32 as a name in DTYPES says: "tf32", else as "ieee"."""
    before = [setting.fp32_precision for setting in FLOAT32_SETTINGS]
    set_float32_precision("tf32" if precision == "tf32" else "ieee")
    try:
        yield
    finally:
        for setting, precision_before in zip(FLOAT32_SETTINGS, before, strict=True):
            setting.fp32_precision = precision_before


def set_float32_precision(precision: str) -> None:
    for setting in FLOAT32_SETTINGS:
        setting.fp32_precision = precision


def capture(chunk: Callable[[], None]) -> Callable[[], None]:
    """The chunk as a CUDA graph, after three runs on a side stream as torch.cuda.graph asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            chunk()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        chunk()
    return graph.replay


@torch.inference_mode()
def by_layers(net: nn.Sequential, images: Tensor, precision: str, capture: Capture | None = None) -> Counts:
    """For batches like ``images``: a product of all steps of a chunk, and a scan of the neurons.

    Args:
        precision: a name in DTYPES.
        capture: of a chunk, once for each number of steps; None: chunks run as they are.
    """
    from gpu.multi_step_scan import scan  # needs Triton

    parts = stages(net, images.device, channels_last=True)
    for part in parts:
        part.synapses.to(DTYPES[precision])

    def currents_of(images: Tensor) -> Tensor:
        return parts[0].synapses(images.to(DTYPES[precision]).contiguous(memory_format=torch.channels_last))

    with float32_precision(precision):
        held = values = currents_of(images)
        potentials = [torch.zeros(values.numel(), device=images.device)]
        for part in parts[1:]:
            values = part.synapses(values)
            potentials.append(torch.zeros(values.numel(), device=images.device))
    total = torch.zeros_like(values, dtype=torch.float32)

    def chunk(steps: int) -> None:
        spikes = _for_steps(held, steps)
        scan(held, potentials[0], parts[0], spikes, held=True)
        for part, v in zip(parts[1:], potentials[1:], strict=True):
            currents = part.synapses(spikes)
            spikes = scan(currents, v, part, currents)
        total.add_(spikes.view(steps, *total.shape).sum(0, dtype=torch.float32))

    @cache
    def runner(steps: int) -> Callable[[], None]:
        run = partial(chunk, steps)
        return run if capture is None else capture(run)

    @torch.inference_mode()
    def counts(images: Tensor, T: int) -> Tensor:
        with float32_precision(precision):
            sizes = [min(CHUNK, T - first) for first in range(0, T, CHUNK)]
            runners = [runner(steps) for steps in sizes]  # a capture runs the chunk: before the start
            held.copy_(currents_of(images))
            for state in (total, *potentials):
                state.zero_()
            for run in runners:
                run()
        return total.clone()

    return counts


def _for_steps(values: Tensor, steps: int) -> Tensor:
    """Memory for values [N, ...] of all steps, [steps * N, ...], in their order."""
    memory_format = torch.channels_last if values.ndim == 4 else torch.contiguous_format
    size = (steps * len(values), *values.shape[1:])
    return torch.empty(size, dtype=values.dtype, device=values.device, memory_format=memory_format)


def _layers(precision: str, captured: bool, net: nn.Sequential, images: Tensor) -> tuple[str, Counts]:
    if images.device.type != "cuda":
        raise NotOffered("needs --device cuda")
    counts = by_layers(net, images, precision, capture if captured else None)
    graph = ", as a CUDA graph" if captured else ""
    return f"layer by layer, {CHUNK} steps at once, then a scan{graph}, {precision}, channels last", counts


# As rivals.RIVALS.
GPU_RIVALS = {"layers-fp16": ("torch", partial(_layers, "fp16", False))}
GPU_RIVALS |= {f"layers-graph-{precision}": ("torch", partial(_layers, precision, True)) for precision in DTYPES}
