"""Processor time of one thread: sigma-delta neurons, one pass of the ReLU network, a step loop, IF neurons."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from common import subjects
from torch import Tensor

import proxykernels as pk

from . import sigma_delta_loop

STEPS, LOOP_STEPS, IF_STEPS = (1, 2, 3, 4, 6, 8), (1, 2, 4), 128
IMAGES = {"lite0": 4}  # at a time
OTHERS = 32
COLUMNS = ["net", "contender", "T", "images", "ms", "least_ms", "passes", "repeats", "device", "commit"]


def rows(subject: subjects.Subject, repeats: int) -> Iterator[dict]:
    """Milliseconds an image, the median and the least of runs in turns; and passes of the ReLU network."""
    x = subject.images[: IMAGES.get(subject.name, OTHERS)]
    relu, other = subject.ann, pk.convert(subject.ann, subject.calibration)
    net = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    last = x.contiguous(memory_format=torch.channels_last)
    timed: dict[tuple[str, Any], Callable[[], Any]] = {("ReLU network", ""): lambda: relu(last)}
    timed |= {("sigma-delta", T): lambda T=T: pk.simulate(net, x, T) for T in STEPS}
    timed["sigma-delta, settled", 8] = lambda: pk.simulate(net, x, 8, stop=pk.stop.settled())
    timed |= {("step loop", T): lambda T=T: list(sigma_delta_loop.outputs(net, x, T)) for T in LOOP_STEPS}
    timed["IF", IF_STEPS] = lambda: pk.simulate(other, x, IF_STEPS)
    _same(net, x)
    seconds = processor_seconds(timed, repeats)
    one = median(seconds["ReLU network", ""])
    for (name, T), found in seconds.items():
        yield {
            "contender": name, "T": T, "images": len(x), "ms": f"{1e3 * median(found) / len(x):.3f}",
            "least_ms": f"{1e3 * min(found) / len(x):.3f}", "passes": f"{median(found) / one:.2f}", "repeats": repeats,
        }  # fmt: skip


def _same(net: pk.Network, x: Tensor) -> None:
    """RuntimeError if the loop and pk.simulate do not give the same outputs, up to rounding."""
    ours, loop = pk.simulate(net, x, 8).logits, list(sigma_delta_loop.outputs(net, x, 8))[-1]
    error = ((ours - loop).abs().max() / ours.abs().max()).item()
    if error > 0.05:  # where a sum is rounded otherwise, a spike comes a step later
        raise RuntimeError(f"the step loop's outputs differ from pk.simulate's by {error:.1%} of the largest")


@torch.inference_mode()
def processor_seconds(timed: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Processor times on one thread, measured in turns, after a warm-up run of each that packs weights."""
    seconds: dict[Any, list[float]] = {key: [] for key in timed}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for repeat in range(repeats + 1):
            for key, run in timed.items():
                start = time.process_time()
                run()
                if repeat:
                    seconds[key].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return seconds
