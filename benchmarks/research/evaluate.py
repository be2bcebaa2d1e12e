"""Accuracy of trained networks at every number of steps, from one pass over the test images.

    python benchmarks/research/evaluate.py
    python benchmarks/research/evaluate.py \\
        --weights runs/train/paper.safetensors --T 50
    python benchmarks/research/evaluate.py --converted
    python benchmarks/research/evaluate.py sigma-delta  few steps
    python benchmarks/research/evaluate.py energy       against ReLUs

For each file, by default the shipped networks, with the precision that it was trained with: accuracy by strict argmax
after t = 1 .. T steps (a tie with the true class is wrong, and so is silence), the share of ties, and the ReLU twin's
accuracy if the file holds the twin's statistics. With --converted the spiking network is what pk.convert's default
makes of that twin on 1,000 training images; a twin that was trained alone (train.py --method ann) is always converted.
Writes accuracy_<name>[_converted].csv, and draws accuracy_<name>.png from both. The exit status is 1 if a network falls
below the accuracy that its file records for the test images.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, positive


def main(arguments: list[str] | None = None) -> int:
    """Evaluate the files of the command line; returns the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("--weights", nargs="+", type=Path, help="files of train.py (default: the shipped ones)")
    parser.add_argument("--T", type=positive, help="steps (default: those that the network was trained for)")
    parser.add_argument("--converted", action="store_true", help="simulate the ReLU twin, converted")
    parser.add_argument("--data", choices=sorted(names.DATA), default="fashion-mnist", help="its name")
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    add_out(parser, "the tables and the plots")
    return work("accuracy.every_step", parser.parse_args(arguments))


if __name__ == "__main__":
    parts = ("sigma-delta", "energy")
    command(main, {name: f"accuracy.{name.replace('-', '_')}" for name in parts})
