"""One training step by backpropagation through time: SurrogateNet, SpikingJelly and snnTorch on the small network.

    python benchmarks/research/train_iteration.py surrogate
    python benchmarks/research/train_iteration.py surrogate --T 1000 --rounds 1

A step is the forward pass on images that are constant for T steps, the mean squared error of the spike counts, and the
backward pass to all weights. Each contender runs in a process of its own: its peak memory is the growth of the process
over all rounds, the first one included; the times are medians without it, of the wall and of the process's CPU time,
which other programs disturb less. Appends to surrogate_step.csv.
"""

import argparse

from common import names
from common.command import work
from common.printed import add_out, new_parser, positive, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=positive, default=64, help="images")
    parser.add_argument("--T", type=positive, default=64, help="time steps")
    parser.add_argument("--rounds", type=positive, default=3, help="beside the first, which is not counted")
    parser.add_argument("--threads", type=positive, help="default: torch's")
    parser.add_argument(
        "--contenders", type=some_of(names.SURROGATE_CONTENDERS), default=list(names.SURROGATE_CONTENDERS),
        help=f"of {shown(names.SURROGATE_CONTENDERS)}; default: all",
    )  # fmt: skip
    parser.add_argument("--alone", choices=list(names.SURROGATE_CONTENDERS), help=argparse.SUPPRESS)
    add_out(parser, "the CSV file")
    work("iteration.surrogate_step_table", parser.parse_args(arguments))
