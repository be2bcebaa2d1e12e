"""Trained networks of NeuroBench here and in snnTorch: what neurobench_speed.py does."""

import argparse
import importlib.util
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common.checkout import RESULTS, commit
from common.command import refusing
from common.machine import device_name, heading
from common.pages import markdown, put_table
from common.tables import check_out, read_csv, write_csv
from speed.turns import back_to_back
from torch import Tensor, nn
from training.hands import gestures

import proxykernels as pk

BATCHES = 4
STEPS = {"speech": 200, "gestures": 150}  # as in NeuroBench's benchmarks
MADE = 2  # steps of 20 ms of a made gesture in a frame
PIXELS = 16  # of DVS Gesture's camera, 128 x 128, in one of the 32 x 32 that the network sees
FILES = {  # in NeuroBench's repository: the network's module, and its weights
    "speech": ("examples/gsc/SNN.py", "examples/gsc/model_data/s2s_gsc_snntorch"),
    "gestures": ("examples/dvs_gesture/snn.py", "examples/dvs_gesture/model_data/dvs_gesture_snn"),
}
TITLES = {"speech": "Speech Commands, 20-256-256-256-35", "gestures": "DVS Gesture, three convolutions"}
ENGINE, SIMULATE, THEIRS = "engine", "simulate", "snnTorch"
COLUMNS = [
    "net", "samples", "steps", "input_rate", "rate", "operations", "output_spikes", "differing", "other_answers",
    "engine_ms", "engine_least_ms", "simulate_ms", "simulate_least_ms", "snntorch_ms", "snntorch_least_ms", "times",
    "threads", "device", "torch", "snntorch", "commit",
]  # fmt: skip
PAGE, TABLE = RESULTS.parents[1] / "docs" / "neurobench.md", "neurobench_speed"


def run(options: argparse.Namespace) -> None:
    import snntorch

    with refusing("neurobench_speed.py"):
        check_out(options.out, {"neurobench_speed.csv": COLUMNS})
        nets = {name: trained(options.root, name) for name in options.nets}
    torch.set_num_threads(options.threads)
    print(heading("NeuroBench's networks", "random speech, made gestures", options.out))
    about = {
        "threads": options.threads, "device": device_name(torch.device("cpu")), "torch": torch.__version__,
        "snntorch": snntorch.__version__, "commit": commit(),
    }  # fmt: skip
    rows: list[dict] = []
    for name, net in nets.items():
        for count in options.samples:
            rows.append({"net": TITLES[name]} | compared(name, net, count, options.rate) | about)
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key not in about))
            write_csv(options.out / "neurobench_speed.csv", COLUMNS, rows)
    if options.out.resolve() == RESULTS.resolve() and not commit().endswith("-dirty"):
        PAGE.write_text(put_table(PAGE.read_text(), TABLE, table(read_csv(RESULTS / "neurobench_speed.csv"))))


def trained(root: Path, name: str) -> nn.Module:
    """A network of NeuroBench's repository with its weights.

    Raises:
        FileNotFoundError: the repository is not there.
    """
    module, weights = (root / file for file in FILES[name])
    for file in (module, weights):
        if not file.is_file():
            raise FileNotFoundError(f"--root must be a clone of NeuroBench's repository, and {file} is not there")
    spec: Any = importlib.util.spec_from_file_location(f"neurobench_{name}", module)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    net = made.net if name == "speech" else made.Net()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def batches(name: str, count: int, rate: float) -> Iterator[Tensor]:
    """Spikes and counts of events, float32 [T, N, ...], that differ from batch to batch."""
    T = STEPS[name]
    for seed in range(BATCHES):
        if name == "gestures":
            steps = gestures(count, T * MADE, seed)[0]
            yield PIXELS * steps.view(T, MADE, *steps.shape[1:]).sum(1).float()
        else:
            g = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (T, count, 20), generator=g) * 2 - 1
            yield (signs * (torch.rand(signs.shape, generator=g) < rate)).float()


@torch.no_grad()
def compared(name: str, theirs: nn.Module, count: int, rate: float) -> dict[str, Any]:
    """A row: the spikes of all batches compared, and the times of all."""
    from snntorch import utils

    given = list(batches(name, count, rate))
    T = len(given[0])
    ours = pk.from_snntorch(theirs, given[0][0, :1])
    engine = pk.compile(ours, given[0])

    def original(x: Tensor) -> Tensor:
        utils.reset(theirs)
        return torch.stack([theirs(step)[0] for step in x])

    expected, results = [original(x) for x in given], [engine(x, T) for x in given]
    share = statistics.mean(x.ne(0).float().mean().item() for x in given)
    differing = other = 0
    for spikes, result in zip(expected, results, strict=True):
        differing += int(result.spikes.dense().ne(spikes).sum())
        other += int(result.count().argmax(1).ne(spikes.sum(0).argmax(1)).sum())
    contenders = {ENGINE: lambda x: engine(x, T), SIMULATE: lambda x: pk.simulate(ours, x, T), THEIRS: original}
    times = back_to_back(contenders, given)
    median, least = ({name: 1e3 * of(values) for name, values in times.items()} for of in (statistics.median, min))
    row = {
        "samples": count,
        "steps": T,
        "input_rate": f"{share:.3f}",
        "rate": f"{statistics.mean(mean_rate(result.rates, result.places) for result in results):.3f}",
        "operations": f"{statistics.mean(operations(result.synops, share) for result in results) / count / 1e6:.3g}",
        "output_spikes": int(sum(spikes.sum() for spikes in expected)),
        "differing": differing,
        "other_answers": other,
        "times": f"{median[THEIRS] / median[ENGINE]:.1f}",
    }
    for contender, column in ((ENGINE, "engine"), (SIMULATE, "simulate"), (THEIRS, "snntorch")):
        row |= {f"{column}_ms": f"{median[contender]:.4g}", f"{column}_least_ms": f"{least[contender]:.4g}"}
    return row


def operations(synops: Any, share: float) -> float:
    """Additions and multiplications; of the first layer those of the share of its inputs that is not 0."""
    return sum(synops.accumulates.values()) + share * sum(synops.multiply_accumulates.values())


def mean_rate(rates: dict[str, float], places: dict[str, int]) -> float:
    """Spikes a neuron and step, over all neurons."""
    return sum(rates[name] * places[name] for name in rates) / sum(places.values())


def table(rows: list[dict[str, str]]) -> str:
    """The table of docs/neurobench.md."""
    heads = {
        "net": "network", "samples": "samples", "rate": "mean rate", "operations": "operations a sample, 10^6",
        "output_spikes": "output spikes", "differing": "of them differ", "same": "same class as in snnTorch",
        "engine_ms": "engine, ms", "simulate_ms": "simulate, ms", "snntorch_ms": "snnTorch, ms", "times": "times",
    }  # fmt: skip
    lines = []
    for row in rows:
        compared = BATCHES * int(row["samples"])
        told = row | {"same": f"{compared - int(row['other_answers'])} of {compared}"}
        lines.append([told[key] for key in heads])
    return markdown([[*heads.values()], *lines])
