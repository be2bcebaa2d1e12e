"""Redraw every picture of these commands from the tables; nothing is measured.

    python benchmarks/research/redraw.py
    python benchmarks/research/redraw.py --results benchmarks/results  # tracked

The pictures of speeds are draw.py's, in benchmarks/.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.checkout import RUNS
from common.command import command, work
from common.printed import new_parser


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    help = "folder of the tables, and of the pictures: the --out of the other commands"
    parser.add_argument("--results", type=Path, default=RUNS, help=help)
    work("accuracy.pictures", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
