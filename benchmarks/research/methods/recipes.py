"""Recipes of training by proxy, step by step: which of them learn, and which run away.

    python benchmarks/research/compare_methods.py recipes --steps 300

Each recipe is a set of train.py's options. It trains the small network for --steps steps, from random weights or from
those of a ReLU network that was trained for as many steps (--init ann). A run-away stops, as in train.py. Writes
recipes.csv (running means over about 20 steps of the training batches) and recipes.png.
"""

import argparse
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common import names
from common.command import work
from common.printed import add_out, new_parser, positive, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    work("methods.recipes_table", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--steps", type=positive, default=300, help="of each recipe")
    parser.add_argument("--T", type=positive, default=16, help="time steps")
    parser.add_argument("--batch", type=positive, default=50, help="images a step")
    parser.add_argument(
        "--recipes", type=some_of(names.RECIPES), default=names.RECIPES, help=f"of {shown(names.RECIPES)}; default: all"
    )
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    add_out(parser, "the table and the picture")
    return parser.parse_args(arguments)
