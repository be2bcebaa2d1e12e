"""Energy of an image: the spiking network against its ReLU network, counted alike on both sides.

    python benchmarks/research/evaluate.py energy
    python benchmarks/research/evaluate.py energy --net paper

The ReLU network dense, with zeros skipped, and with zeros skipped in 8 bits; the same with activations below a tenth of
their layer's 99th percentile set to 0; of the paper's network a cascade, in which the small network answers and those
images go on of which it is least sure; graded neurons, whose messages are a product for each weight and have 32 or 8
bits, where a spike is an addition and has one; the shipped spiking network and its twin converted, at a fixed number of
steps and with early exit. Steps, margin and the share that goes on are chosen on the last 2,000 training images: the
fewest that lose at most 0.2 points against the ReLU network there. Everything reported is of the test images.

Three lines of energy: arithmetic; the neurons (an addition and a comparison a state value and step, a comparison priced
as an addition); memory, by a model. What is counted, and at which cost: accuracy/work.py.

Writes energy.csv, and prints the table of docs/paper.md.
"""

import argparse
from pathlib import Path

from common import names
from common.command import work
from common.printed import add_out, new_parser, positive


def main(arguments: list[str] | None = None) -> None:
    work("accuracy.energy_table", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=sorted(names.NETS), default="small", help="network")
    parser.add_argument("--images", type=positive, default=10_000, help="test images, the first ones")
    parser.add_argument("--longest", type=positive, default=64, help="most steps")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    add_out(parser, "the tables")
    return parser.parse_args(arguments)
