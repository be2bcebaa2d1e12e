"""What a step of a stream costs, by its events, against a step in torch: what event_speed.py does."""

import argparse
from collections.abc import Callable, Iterator
from statistics import median

import torch
from common.checkout import commit
from common.command import refusing
from common.machine import device_name, heading
from common.printed import print_table
from common.tables import check_out, write_csv
from rich.console import Console
from torch import Tensor, nn

import proxykernels as pk
from speed import event_nets, event_picture, moving_edges, turns
from speed.event_nets import Steps, are_faster_last
from speed.step_loops import PlainNeurons

SIZES = {"128x128": (128, 128), "260x346": (260, 346), "720x1280": (720, 1280)}
STRIDES = {"128x128": (2,), "260x346": (4, 2), "720x1280": (4, 2)}  # of all three convolutions; the first is drawn
WIDTHS = 8, 16, 16
EDGES = (0.0, 0.001, 0.003, 0.01, 0.03)  # of the pixels
DRAWN = (0.003, 0.03)  # only for the picture: with the first strides and number of threads
EVENTS = [("edges", share) for share in EDGES] + [("anywhere", 0.2)]
SAMPLE_SHARE = 0.01  # of the events that thresholds are found on
STEPS = 8  # that differ
COLUMNS = [
    "size", "strides", "bias", "events", "percent", "threads", "spikes", "engine_ms", "torch_ms", "device", "torch",
    "commit",
]  # fmt: skip
HEADINGS = ["", "strides", "bias", "events", "threads", "spikes\na step", "engine,\nms", "torch,\nms", "times\nas fast"]


def run(options: argparse.Namespace) -> None:
    console = Console(width=120)
    path = options.out / "event_speed.csv"
    with refusing("event_speed.py"):
        check_out(options.out)
    console.print(heading("three convolutions, random weights", "events", path))
    about = {"device": device_name(torch.device("cpu")), "torch": torch.__version__, "commit": commit()}
    rows, before = [], torch.get_num_threads()
    try:
        for size in options.sizes:
            for stride in STRIDES[size]:
                for bias in (False, True):
                    rows += [about | row for row in measured(size, stride, bias, options.threads, options.seconds)]
                    write_csv(path, COLUMNS, rows)  # so far
    finally:
        torch.set_num_threads(before)
    print_rows(console, rows)
    event_picture.draw(options.out)


def measured(size: str, stride: int, bias: bool, threads: list[int], seconds: float) -> Iterator[dict[str, str]]:
    """The rows of a network."""
    sample = moving_edges.along_edges(SIZES[size], SAMPLE_SHARE, event_nets.SAMPLE, seed=1)
    net = event_nets.network(sample, (stride,) * 3, WIDTHS, bias)
    engine, drawn = pk.compile(net, sample), stride == STRIDES[size][0]
    for count in threads:
        torch.set_num_threads(count)
        channels_last = are_faster_last(net, PlainNeurons, SIZES[size])
        for kind, share in EVENTS:
            if share in DRAWN and not (drawn and count == threads[0]):
                continue
            x = (moving_edges.along_edges if kind == "edges" else moving_edges.anywhere)(SIZES[size], share, STEPS)
            stream, steps = engine.stream(), Steps(net, PlainNeurons, channels_last)
            frames = [frame.contiguous(memory_format=steps.memory_format) for frame in x.dense()]
            spikes = checked(net, stream, steps, x, frames)
            times = turns.back_to_back(contenders(stream, steps, x, frames), list(range(STEPS)), seconds)
            yield {
                "size": size, "strides": ", ".join(3 * [str(stride)]), "bias": "with" if bias else "without",
                "events": kind if share else "none", "percent": f"{100 * share:g}", "threads": str(count),
                "spikes": f"{spikes / STEPS:.1f}",
                **{f"{name}_ms": f"{1e3 * median(found):.4f}" for name, found in times.items()},
            }  # fmt: skip


def contenders(
    stream: pk.Stream, steps: Steps, x: pk.Spikes, frames: list[Tensor]
) -> dict[str, Callable[[int], object]]:
    """Each takes the number of a step."""
    parts = [x[t : t + 1] for t in range(STEPS)]
    return {"engine": lambda t: stream(parts[t]), "torch": lambda t: steps(frames[t])}


def checked(net: nn.Sequential, stream: pk.Stream, steps: Steps, x: pk.Spikes, frames: list[Tensor]) -> int:
    """The spikes of all layers in all steps, of simulate; both contenders take the steps.

    Raises:
        RuntimeError: their output spikes or potentials are not those of simulate layer by layer, bit by bit; or there
            are events, and nothing fires.
    """
    result = pk.simulate(net, x, STEPS, chunk=STEPS, record=["0"])  # layers that are recorded run one by one
    run = contenders(stream, steps, x, frames)
    for t in range(STEPS):
        expected = result.spikes[t : t + 1].dense()
        same("spikes of the engine", run["engine"](t).dense(), expected)
        same("spikes of torch", run["torch"](t).unsqueeze(0), expected)
    for (name, v), neurons in zip(result.state.items(), steps.neurons, strict=True):
        same(f"potentials of the engine, {name}", stream.state[name], v[0])
        same(f"potentials of torch, {name}", neurons.v, v[0])
    spikes = round(sum(result.rates.get(name, 0.0) * places for name, places in result.places.items()))
    if x.rate() and not spikes:
        raise RuntimeError("no neuron fires")
    return spikes


def same(name: str, found: Tensor, expected: Tensor) -> None:
    if not torch.equal(found.float(), expected.float()):
        raise RuntimeError(f"{name} are not those of simulate: {(found != expected).sum()} differ")


def print_rows(console: Console, rows: list[dict[str, str]]) -> None:
    cells = []
    for row in rows:
        events = row["events"] if row["events"] == "none" else f"{row['percent']} % {row['events']}"
        times = [float(row[name]) for name in ("engine_ms", "torch_ms")]
        words = [row["size"], row["strides"], row["bias"], events, row["threads"], row["spikes"]]
        cells.append([*words, *(f"{time:.3f}" for time in times), f"{times[1] / times[0]:.1f}"])
    print_table(console, "a step of a stream", HEADINGS, cells, left=4)
