"""What accuracy costs, in steps and in energy: every number of steps of a run, and early exit at several margins.

    python benchmarks/research/evaluate.py anytime
    python benchmarks/research/evaluate.py anytime --images 2000 \\
        --networks trained-by-proxy,converted-calibrated

The shipped small network, which was trained by proxy, against its ReLU twin, converted by each method. Fixed steps: one
run of --longest steps, read at up to 18 of them. Early exit: an image stops when its first class leads by a margin of
spikes, looked at every --chunk steps, at most --exit-steps. Operations are SynOps an image, energy is the estimate made
of them (pk.running.synops: 45 nm, memory not counted), and the ReLU network's is that of its multiplications, those
with 0 left out. What the margin costs and saves is in evaluate.py energy, where held-out images choose it.

Writes anytime_small.csv and .png. Accuracy is strict: a tie is wrong, and so is silence.
"""

import argparse
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common import names
from common.command import work
from common.printed import add_out, new_parser, positive, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    work("accuracy.anytime_table", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--networks", type=some_of(names.ANYTIME), help=f"of {shown(names.ANYTIME)}; default: all")
    parser.add_argument("--images", type=positive, default=10_000, help="test images, the first ones")
    parser.add_argument("--longest", type=positive, default=256, help="most steps without early exit")
    parser.add_argument("--exit-steps", type=positive, default=64, help="most steps with early exit")
    parser.add_argument("--chunk", type=positive, default=2, help="steps between two looks at which images are decided")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    add_out(parser, "the tables")
    return parser.parse_args(arguments)
