"""The graphs and recordings of NIR's paper against the equations of NIR.

    python benchmarks/nir_referee.py paper NIR/paper

The folder is that of github.com/neuromorphs/NIR, with which Pedersen et al., "Neuromorphic intermediate representation"
(Nature Communications 15, 2024) was written. The first table has its graphs: the spikes of all neurons by the equations
in float64, on random events, and how many differ here. The second has its recordings of one LIF neuron in nine
simulators: who fires in the steps that the equations tell, how many steps late the first spike of the others is, and
which rule gives theirs.
"""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import nir
import numpy as np
import torch
from common import checkout, tables
from common.printed import add_out, new_parser

from . import definition, simulators, verdict
from .report import show
from .rules import Rules

LIF = "01_lif/lif_norse.nir"  # the graph of the recordings
DT = 1e-4  # of all graphs but the convolutional one


class Case(NamedTuple):
    """A graph of the paper, and how it is meant: ``rate`` of the input's random events."""

    path: str
    dt: float = DT
    reset: str | None = None
    T: int = 1000
    rate: float = 0.3


GRAPHS = {
    "lif_norse": Case(LIF, rate=0.034),
    "lif_rockpool": Case("01_lif/lif_rockpool.nir", rate=0.1),
    "two_lif_neurons": Case("01_lif/debug_spike_representation/two_lif_neurons.nir"),
    "cnn_sinabs": Case("02_cnn/cnn_sinabs.nir", 1.0, "subtract", 50, 0.05),
    "braille_zero": Case("03_rnn/braille_noDelay_bias_zero.nir", T=256),
    "braille_subtract": Case("03_rnn/braille_noDelay_noBias_subtract.nir", DT, "subtract", 256),
}
GRAPH_COLUMNS = "graph", "steps", "neurons", "spikes", "differing"
RECORDING_COLUMNS = "recording", "spikes", "differing", "steps late", "why"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("folder", type=Path, help="paper/ of a checkout of github.com/neuromorphs/NIR")
    add_out(parser, "the tables")
    options = parser.parse_args()
    if not (options.folder / LIF).is_file():
        parser.error(f"there is no {options.folder / LIF}; give the folder paper/ of github.com/neuromorphs/NIR")
    tables.check_out(options.out)
    _write(options, "nir_paper_graphs", GRAPH_COLUMNS, (judge(options.folder, name) for name in GRAPHS))
    _write(options, "nir_paper_lif", RECORDING_COLUMNS, recordings(options.folder / LIF))


def judge(folder: Path, name: str) -> tuple:
    """A row of the first table."""
    case = GRAPHS[name]
    path = folder / case.path
    graph = definition.Graph(nir.read(path, type_check=False))
    rules = Rules() if case.reset is None else Rules(resets="by subtraction")
    x = verdict.input_of(graph, case.T, case.rate)
    expected = definition.run(graph, x, case.dt, rules)
    given = simulators.ours(path, x, case.dt, case.reset)
    neurons = spikes = differing = 0
    layers = (value for key, value in given.items() if key)  # named as the weights in front of the neurons
    for node, ours in zip(graph.neurons, layers, strict=True):
        wanted = expected[node].reshape(case.T, -1)
        neurons, spikes = neurons + wanted.shape[1], spikes + int(wanted.sum())
        differing += int((ours.reshape(wanted.shape) != wanted).sum())
    return name, case.T, neurons, spikes, differing


def recordings(path: Path) -> list[tuple]:
    """The second table: of files lif_*.csv beside the graph, with input, potential and spike of each step."""
    graph = definition.Graph(nir.read(path, type_check=False))
    rows, whys = [], dict[tuple, str]()
    for file in sorted(path.parent.glob("lif_*.csv")):
        x, _, output = torch.from_numpy(np.loadtxt(file, delimiter=",", ndmin=2)).t()
        x = (x > 0).double()[:, None, None]
        expected = definition.run(graph, x, DT, Rules())[graph.output].reshape(-1)
        wrong = output != expected
        late: int | str = ""
        why = ""
        if wrong.any():
            late = int(output.argmax()) - int(expected.argmax())
            key = (*output.nonzero().flatten().tolist(), -1, *x.flatten().nonzero().flatten().tolist())
            if key not in whys:
                whys[key] = verdict.explain(graph, x, DT, Rules(), output[:, None, None])
            why = whys[key]
        rows.append((file.stem.removeprefix("lif_"), int(output.sum()), int(wrong.sum()), late, why))
    return rows


def _write(options: argparse.Namespace, name: str, columns: tuple[str, ...], rows: Iterable[tuple]) -> None:
    rows = list(rows)
    show(columns, rows)
    place = checkout.place(options.out / f"{name}.csv")
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    print(f"-> {place}\n")
