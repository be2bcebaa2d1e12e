"""The time of one training iteration by proxy: ours, and the authors' formulation in plain PyTorch.

    python benchmarks/research/train_iteration.py
    python benchmarks/research/train_iteration.py \\
        --weights runs/train/paper.safetensors
    python benchmarks/research/train_iteration.py surrogate

The weights are the shipped ones of --net, with the hard reset, or those of --weights, with their own. An iteration is
the ReLU twin's pass, the spiking network's T steps, the loss, the twin's backward pass and Adam. All contenders share
everything but the T steps: the authors run them as a loop over time. Theirs is given the best settings we know
(rivals.py: channels last, in place, normalisation folded, the first layer's currents computed once; with and without
torch.compile), and normalisation is frozen, as it is after the first epoch. Times are medians of interleaved rounds, of
the wall and of the process's CPU time, which other programs disturb less. Appends to train_iteration.csv.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

import training  # noqa: F401 - before torch
from common import names
from common.command import command, work
from common.printed import add_out, new_parser, positive, shown, some_of

LOOPS = ["plain", "compiled"]  # of names.RIVALS


def main(arguments: list[str] | None = None) -> None:
    work("iteration.proxy_step", parse(arguments))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--net", choices=sorted(names.NETS), default="paper", help="with the shipped weights")
    add("--weights", type=Path, help="a file of train.py, instead of --net")
    add("--batch", type=positive, default=100, help="images")
    add("--T", type=positive, default=50, help="time steps")
    add("--rounds", type=positive, default=3, help="timed iterations of each")
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of the twin")
    text = "of the weights that we simulate with; the loops' are float32"
    add("--snn-precision", choices=names.PRECISIONS, default="float32", help=text)
    add("--loops", type=some_of(LOOPS), default=LOOPS, help=f"of {shown(LOOPS)}; default: all")
    add("--root", type=Path, help="folder of Fashion-MNIST")
    add_out(parser, "the CSV file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command(main, {"surrogate": "iteration.surrogate_step"})
