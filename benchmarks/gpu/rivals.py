"""Rivals that only a GPU can run.

- graph-...: a step of the plain loop captured as a CUDA graph and replayed. It spares the launches of a loop from
  Python, which on a small network take longer than the work itself.
- compiled-graph-...: the same under torch.compile, which fuses what stands between the convolutions.
- layers-...: layer by layer, CHUNK steps at once: dense spikes convolved by cuDNN, then a scan of the neurons over the
  steps (multi_step_scan.py). The strongest: large products, few launches; it passes all spikes and currents through
  memory. layers-graph-...: a chunk captured as a CUDA graph.

``fp32`` computes in full float32, ``tf32`` rounds weights to 10 bits in the tensor cores, and ``fp16`` and ``bf16``
keep weights, spikes and currents in 16 bits, and potentials in float32. cuDNN tries its algorithms first
(``torch.backends.cudnn.benchmark``).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from common.stages import stages
from speed.rivals import NotOffered
from speed.step_loops import Counts, PlainNeurons, whole_step
from torch import Tensor, nn

CHUNK = 64  # steps at once, layer by layer: as many as ours
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


@torch.inference_mode()
def by_layers(net: nn.Sequential, images: Tensor, precision: str, capture: Capture | None = None) -> Counts:
    """Layer by layer for batches like ``images``: a product of all steps of a chunk, and a scan of the neurons.

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

    with settings(precision):
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
        with settings(precision):
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
GPU_RIVALS |= {"layers-fp16": ("torch", partial(_layers, "fp16", False))}
GPU_RIVALS |= {f"layers-graph-{precision}": ("torch", partial(_layers, precision, True)) for precision in DTYPES}
