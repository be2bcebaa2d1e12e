"""Redraw every picture of the speeds from the tables, tracked ones also into docs/when.md; nothing is measured.

    python benchmarks/draw.py
    python benchmarks/draw.py --results benchmarks/results  # tracked

Of sim_speed.csv: a picture for each network, reset, batch and neuron. At each T it shows one run, of those that timed
the most contenders the last, so that points at one T come from one run and a small run puts no large one out.
"""

from pathlib import Path

from common.checkout import RUNS
from common.command import command, work
from common.printed import new_parser


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    help = "folder of the tables, and of the pictures: the --out of the other commands"
    parser.add_argument("--results", type=Path, default=RUNS, help=help)
    work("speed.pictures", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
