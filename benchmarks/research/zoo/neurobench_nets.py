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
STEPS = {"speech": 200, "gestures": 64}
FILES = {  # in NeuroBench's repository: the network's module, and its weights
    "speech": ("examples/gsc/SNN.py", "examples/gsc/model_data/s2s_gsc_snntorch"),
    "gestures": ("examples/dvs_gesture/snn.py", "examples/dvs_gesture/model_data/dvs_gesture_snn"),
}
TITLES = {"speech": "Speech Commands, 20-256-256-256-35", "gestures": "DVS Gesture, three convolutions"}
ENGINE, SIMULATE, THEIRS = "engine", "simulate", "snnTorch"
COLUMNS = [
    "net", "samples", "steps", "input_rate", "rate", "output_spikes", "differing", "engine_ms", "engine_least_ms",
    "simulate_ms", "simulate_least_ms", "snntorch_ms", "snntorch_least_ms", "times", "threads", "device", "torch",
    "snntorch", "commit",
]  # fmt: skip
PAGE, TABLE = RESULTS.parents[1] / "docs" / "neurobench.md", "neurobench_speed"


def run(options: argparse.Namespace) -> None:
    import snntorch

    with refusing("neurobench_speed.py"):
        check_out(options.out, {"neurobench_speed.csv": COLUMNS})
        if not 0 < options.rate < 1:
            raise ValueError(f"--rate must lie between 0 and 1, got {options.rate}")
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
    """Spikes [T, N, ...] that differ from batch to batch."""
    for seed in range(BATCHES):
        if name == "gestures":
            yield gestures(count, STEPS[name], seed)[0].float()
        else:
            g = torch.Generator().manual_seed(seed)
            signs = torch.randint(0, 2, (STEPS[name], count, 20), generator=g) * 2 - 1
            yield signs * (torch.rand(signs.shape, generator=g) < rate)


@torch.no_grad()
def compared(name: str, theirs: nn.Module, count: int, rate: float) -> dict[str, Any]:
    """A row: the same spikes, and the times of all."""
    from snntorch import utils

    given = [x.float() for x in batches(name, count, rate)]
    T = len(given[0])
    ours = pk.from_snntorch(theirs, given[0][0, :1])
    engine = pk.compile(ours, given[0])

    def original(x: Tensor) -> Tensor:
        utils.reset(theirs)
        return torch.stack([theirs(step)[0] for step in x])

    expected, result = original(given[0]), engine(given[0], T)
    assert result.spikes is not None
    times = back_to_back(
        {ENGINE: lambda x: engine(x, T), SIMULATE: lambda x: pk.simulate(ours, x, T), THEIRS: original}, given
    )
    median, least = ({name: 1e3 * of(values) for name, values in times.items()} for of in (statistics.median, min))
    return {
        "samples": count,
        "steps": T,
        "input_rate": f"{given[0].ne(0).float().mean():.3f}",
        "rate": f"{statistics.mean(result.rates.values()):.3f}",
        "output_spikes": int(expected.sum()),
        "differing": int(result.spikes.dense().ne(expected).sum()),
        "engine_ms": f"{median[ENGINE]:.4g}",
        "engine_least_ms": f"{least[ENGINE]:.4g}",
        "simulate_ms": f"{median[SIMULATE]:.4g}",
        "simulate_least_ms": f"{least[SIMULATE]:.4g}",
        "snntorch_ms": f"{median[THEIRS]:.4g}",
        "snntorch_least_ms": f"{least[THEIRS]:.4g}",
        "times": f"{median[THEIRS] / median[ENGINE]:.1f}",
    }


def table(rows: list[dict[str, str]]) -> str:
    columns = (
        "net",
        "samples",
        "rate",
        "output_spikes",
        "differing",
        "engine_ms",
        "simulate_ms",
        "snntorch_ms",
        "times",
    )
    head = ["network", "samples", "mean rate", "output spikes", "of them differ", "engine, ms", "simulate, ms"]
    return markdown([[*head, "snnTorch, ms", "times"], *([row[key] for key in columns] for row in rows)])
