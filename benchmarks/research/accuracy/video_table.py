"""Sigma-delta and graded neurons on video, a frame a step, against a ReLU pass a frame: what video.py does."""

import argparse
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from statistics import quantiles
from typing import Any, NamedTuple

import torch
from common import cost, photographs, relu_networks, tables
from common.checkout import commit
from common.command import refusing
from common.cost import FLOAT32, Work
from common.machine import device_name, heading
from common.printed import print_table
from rich.console import Console
from speed import relu_passes
from speed.rivals import NotOffered
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk

from .video_clips import Clip, clips
from .video_delta import DeltaNetwork

PIXELS = {"lite0": 224, "vgg11-cifar10": 32}  # along a frame's side
OTHERS = 96
FIRST = 8  # frames that thresholds are taken from
EXPONENTS = (pk.neurons.SigmaDelta().exponents, 6, 4)  # of sigma-delta neurons: the fewer, the larger the least spike
THRESHOLDS = (0.02, 0.05, 0.1)  # of graded neurons, in scales of a layer
SHARES = (0.0, 0.01, 0.03, 0.1)  # of a layer's largest input, from which a change is taken
NAME = "video.csv"
COLUMNS = [
    "net", "clip", "kind", "contender", "frames", "pixels", "same_class", "thousand_messages", "million_additions",
    "million_products", "arithmetic_uj", "neurons_uj", "ms", "ms_low", "ms_high", "device", "threads", "torch",
    "openvino", "commit",
]  # fmt: skip
HEADINGS = [
    "a frame", "same\nclass, %", "thousand\nmessages", "million\nadditions", "million\nproducts", "µJ", "ms",
    "quartiles",
]  # fmt: skip

Step = Callable[[Tensor], Tensor]  # a frame [1, 3, pixels, pixels] to logits [1, classes]


class Found(NamedTuple):
    """The result of a contender.

    Attributes:
        work, messages: per frame; None: nothing is sent. logits: [F, classes]; None: those of the ReLU network.
    """

    work: Work
    logits: Tensor | None = None
    messages: float | None = None


def run(options: argparse.Namespace) -> None:
    console, path = Console(width=140), options.out / NAME
    pixels = PIXELS.get(options.net, OTHERS)
    with refusing("video.py"):
        tables.check_out(options.out, {NAME: COLUMNS})
        if options.frames <= FIRST:
            raise ValueError(f"--frames must be above the {FIRST} that thresholds are taken from, got {options.frames}")
        ann = photographs.efficientnet_lite0() if options.net == "lite0" else relu_networks.load(options.net)[0]
        found = [clip for file in options.files for clip in clips(file, options.frames, pixels)]
    console.print(heading(f"{options.net}, {pixels} x {pixels} pixels", f"{len(options.files)} videos", path))
    about = {
        "net": options.net, "pixels": pixels, "frames": options.frames - FIRST,
        "device": device_name(torch.device("cpu")), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "openvino": version("openvino"), "commit": commit(),
    }  # fmt: skip
    kept = [row for row in tables.read_csv(path) if row["net"] != options.net]
    for clip in found:
        if options.net == "lite0":
            mean, deviation = photographs.NORMALISATION
            clip = clip._replace(frames=(clip.frames - mean) / deviation)
        of_clip = about | {"clip": clip.name, "kind": clip.kind}
        rows = [dict.fromkeys(COLUMNS, "") | of_clip | row for row in measured(console, ann, clip, options.rounds)]
        kept += rows
        tables.write_csv(path, COLUMNS, kept)  # so far
        print_rows(console, rows)


def measured(console: Console, ann: nn.Module, clip: Clip, rounds: int) -> Iterator[dict[str, str]]:
    """A row for each contender. The first frames set thresholds and states; figures are of the others."""
    first, frames = clip.frames[:FIRST], clip.frames.split(1)
    nets = {f"sigma-delta, K = {K}": pk.convert(ann, first, neuron=pk.neurons.SigmaDelta(K)) for K in EXPONENTS}
    for threshold in THRESHOLDS:
        nets[f"graded, threshold {threshold}"] = pk.convert(ann, first, neuron=pk.neurons.Graded(threshold))
    with torch.no_grad():
        expected = torch.cat([ann(frame) for frame in frames[FIRST:]])
    found = counted(ann, nets, clip)
    seconds = in_turn(contenders(console, ann, nets, clip), frames, rounds, f"{clip.name}, {clip.kind}")
    for name in dict.fromkeys([*found, *seconds]):
        row = {"contender": name}
        if name in found:
            row |= row_of(found[name], expected)
        if name in seconds:
            low, middle, high = (f"{1e3 * value:.3f}" for value in quantiles(seconds[name], n=4, method="inclusive"))
            row |= {"ms": middle, "ms_low": low, "ms_high": high}
        yield row


def counted(ann: nn.Module, nets: dict[str, pk.Network], clip: Clip) -> dict[str, Found]:
    """Contenders whose operations are counted: passes, networks that send changes, and layers that take changes."""
    first, frames = clip.frames[:FIRST], clip.frames.split(1)
    dense, sparse = cost.of_relu(ann, clip.frames[FIRST:])
    found = {"ReLU network": Found(dense), "ReLU network, zeros skipped": Found(sparse)}
    found |= {name: in_steps(net, frames) for name, net in nets.items()}
    for share in SHARES:
        name = f"ReLU network, changes above {share:.0%} of the largest" if share else "ReLU network, all changes"
        found[name] = changes(DeltaNetwork(ann, first, share), frames, dense, name)
    return found


def contenders(
    console: Console, ann: nn.Module, nets: dict[str, pk.Network], clip: Clip
) -> dict[str, Callable[[], Step]]:
    """Those that are timed: what starts a run of each. Of those that do not run here the reason is printed."""
    started: dict[str, Callable[[], Step]] = {
        name: lambda net=net: stepper(net, clip.frames[:1]) for name, net in nets.items()
    }
    passes = relu_passes.Passes(ann, clip.frames[:FIRST])
    for name in relu_passes.NAMES:
        try:
            one = passes.of(name, 1)
        except NotOffered as reason:
            console.print(f"{name}: {reason}")
            continue
        started[f"ReLU network, {name}"] = lambda one=one: one
    return started


def row_of(found: Found, expected: Tensor) -> dict[str, str]:
    """What was counted of a frame."""
    same = 1.0 if found.logits is None else (found.logits.argmax(1) == expected.argmax(1)).float().mean().item()
    energy = found.work.row(FLOAT32, FLOAT32.bytes)
    return {
        "same_class": f"{100 * same:.1f}",
        "thousand_messages": "" if found.messages is None else f"{found.messages / 1e3:.1f}",
        "million_additions": f"{found.work.additions / 1e6:.3f}",
        "million_products": f"{found.work.products / 1e6:.3f}",
        "arithmetic_uj": energy["arithmetic_uj"], "neurons_uj": energy["neurons_uj"],
    }  # fmt: skip


def in_steps(net: pk.Network, frames: tuple[Tensor, ...]) -> Found:
    """A network of sigma-delta or of graded neurons, a step for each frame."""
    state: dict = {}
    logits, total, messages, count = [], Work(), 0.0, len(frames) - FIRST
    for k, frame in enumerate(tqdm(frames, "steps", unit="frame", leave=False, mininterval=1.0)):
        result = pk.simulate(net, frame, 1, state=state)
        state = result.state
        if k >= FIRST:
            logits.append(result.logits)
            messages += sum(places * result.rates[name] for name, places in result.places.items() if places) / count
            for name, value in vars(cost.of_simulation(net, result, 1, 1, values=2, bits=cost.CODE_BITS)).items():
                setattr(total, name, getattr(total, name) + value / count)
    return Found(total, torch.cat(logits), messages)


def changes(net: DeltaNetwork, frames: tuple[Tensor, ...], dense: Work, name: str) -> Found:
    """The ReLU network that takes changes; its neurons cost what they do in a dense pass."""
    logits, before = [], 0.0
    for k, frame in enumerate(tqdm(frames, name, unit="frame", leave=False, mininterval=1.0)):
        before = net.products if k == FIRST else before
        logits.append(net(frame))
    count = len(frames) - FIRST
    return Found(Work(products=(net.products - before) / count, updates=dense.updates), torch.cat(logits[FIRST:]))


def stepper(net: pk.Network, frame: Tensor) -> Step:
    """A new run of a network that sends changes: a stream where the engine takes it."""
    try:
        stream = pk.compile(net, frame).stream(1)
    except TypeError:
        state: dict[str, Any] = {}

        def step(frame: Tensor) -> Tensor:
            nonlocal state
            result = pk.simulate(net, frame, 1, state=state)
            state = result.state
            return result.logits

        return step
    return lambda frame: (stream(frame), stream.logits)[1]


def in_turn(steps: dict[str, Callable[[], Step]], frames: tuple[Tensor, ...], rounds: int, name: str) -> dict:
    """Seconds of the frames behind the first ones, of whole runs in turn; the order moves on from round to round."""
    names, seconds = list(steps), {name: [] for name in steps}
    with tqdm(total=rounds * len(names), desc=name, unit="run", leave=False) as bar:
        for turn in range(rounds):
            for k in range(len(names)):
                contender = names[(turn + k) % len(names)]
                seconds[contender] += _run(steps[contender](), frames)
                bar.update()
    return seconds


def _run(step: Step, frames: tuple[Tensor, ...]) -> list[float]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for frame in frames:
        start = clock()
        step(frame)
        times.append(clock() - start)
    return times[FIRST:]


def print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        energy = f"{float(row['arithmetic_uj']) + float(row['neurons_uj']):.0f}" if row["arithmetic_uj"] else ""
        quartiles = f"{row['ms_low']} .. {row['ms_high']}" if row["ms"] else ""
        cells.append(
            [row["contender"], row["same_class"], row["thousand_messages"], row["million_additions"],
             row["million_products"], energy, row["ms"], quartiles]
        )  # fmt: skip
    first = rows[0]
    print_table(console, f"{first['net']}, {first['clip']}, {first['kind']}, {first['frames']} frames", HEADINGS, cells)
