"""Sigma-delta neurons against one pass of the ReLU network, and against IF neurons after many steps."""

import copy
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from common import photographs
from images.settling import correlation
from torch import Tensor, nn

import proxykernels as pk

STEPS = (1, 2, 3, 4, 8)
EXPONENTS = (8, 4)
IF_STEPS = 128
BATCH = 50
TIMED, REPEATS = 4, 2  # images of a timed batch, and its runs
COLUMNS = [
    "net", "images", "neurons", "T", "right", "correlation", "same_class", "spikes_a_neuron", "million_additions",
    "million_products", "cpu_ms",
]  # fmt: skip


def rows(name: str, ann: nn.Module, calibration: Tensor, images: Tensor, labels: Tensor | None) -> Iterator[dict]:
    """The ReLU network, sigma-delta neurons of K exponents after T steps, and IF neurons after IF_STEPS.

    ``right`` counts first classes among labels; ``correlation`` and ``same_class`` compare logits with the ReLU
    network's. Spikes, operations and the processor time of all threads are means of the first TIMED images; of IF
    neurons all is.
    """
    ann = ann.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = torch.cat([ann(batch) for batch in images.split(BATCH)])
    about = {"net": name, "images": len(images)}
    few = images[:TIMED]
    nets = {K: copy.deepcopy(net) for net in [pk.convert(ann, calibration, neuron="sigma-delta")] for K in EXPONENTS}
    for K, net in nets.items():
        for _, layer, _ in net.layers():
            if hasattr(layer, "neuron"):
                layer.neuron = pk.neurons.SigmaDelta(K)
    rates = pk.convert(ann, calibration)
    timed: dict[Any, Callable[[], Any]] = {"relu": lambda: ann(few.to(memory_format=torch.channels_last))}
    timed |= {(K, T): lambda K=K, T=T: pk.simulate(nets[K], few, T) for K in EXPONENTS[:1] for T in STEPS}
    timed["if"] = lambda: pk.simulate(rates, few, IF_STEPS)
    milliseconds = _processor_ms(timed, len(few))
    yield about | {"neurons": "ReLU", **_scores(expected, expected, labels), "cpu_ms": milliseconds["relu"]}
    for K, net in nets.items():
        potentials = torch.cat([pk.simulate(net, batch, max(STEPS)).potentials for batch in images.split(BATCH)], 1)
        for T in STEPS:
            yield about | {
                "neurons": f"sigma-delta, K = {K}", "T": T, **_scores(potentials[T - 1], expected, labels),
                **_cost(pk.simulate(net, few, T), T, len(few)), "cpu_ms": milliseconds.get((K, T), ""),
            }  # fmt: skip
    result = pk.simulate(rates, few, IF_STEPS)
    scores = _scores(result.logits, expected[: len(few)], None if labels is None else labels[: len(few)])
    yield {
        "net": name, "images": len(few), "neurons": "IF", "T": IF_STEPS, **scores,
        **_cost(result, IF_STEPS, len(few)), "cpu_ms": milliseconds["if"],
    }  # fmt: skip


def lite0() -> tuple[nn.Module, Tensor, Tensor]:
    """EfficientNet-Lite0 with its weights, crops of photographs for calibration, and the photographs."""
    mean, deviation = photographs.NORMALISATION
    _, images = photographs.photographs(224)
    crops = photographs.crops(images, 24)
    return photographs.efficientnet_lite0(), (crops - mean) / deviation, (images - mean) / deviation


def _scores(logits: Tensor, expected: Tensor, labels: Tensor | None) -> dict:
    same = (logits.argmax(1) == expected.argmax(1)).float().mean().item()
    right = "" if labels is None else f"{(logits.argmax(1) == labels).float().mean().item():.4f}"
    found = f"{correlation(logits, expected).mean().item():.4f}"
    return {"right": right, "correlation": found, "same_class": f"{same:.4f}"}


def _cost(result: Any, T: int, images: int) -> dict:
    tallies = [tally for tally in result._tallies.values() if tally.places]
    spikes, places = sum(tally.rate * tally.places for tally in tallies), sum(tally.places for tally in tallies)
    additions, products = result.synops.accumulates.values(), result.synops.multiply_accumulates.values()
    return {
        "spikes_a_neuron": f"{spikes / places * T:.3f}",
        "million_additions": f"{sum(additions) / images / 1e6:.1f}",
        "million_products": f"{sum(products) / images / 1e6:.1f}",
    }


@torch.no_grad()
def _processor_ms(timed: dict[Any, Callable[[], Any]], images: int) -> dict[Any, str]:
    """Medians of interleaved runs, after one that packs weights."""
    seconds: dict[Any, list[float]] = {key: [] for key in timed}
    for repeat in range(REPEATS + 1):
        for key, run in timed.items():
            start = time.process_time()
            run()
            if repeat:
                seconds[key].append(time.process_time() - start)
    return {key: f"{1e3 * median(values) / images:.2f}" for key, values in seconds.items()}
