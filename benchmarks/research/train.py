"""Train a spiking network, by proxy or by another method, and save its weights for the benchmarks.

The recipe for the small network is

    python benchmarks/research/train.py --net small --precision bfloat16

or, on a CPU without AVX-512 or AMX, which would emulate bfloat16, without the last option. The shipped weights began
with an earlier train.py, and were scaled by --rescale 97. docs/recipes.md says what each option is for, and how the
paper's network was made.

With --init random, --method proxy and tandem of a normalised net (paper, cifar10, vgg) have other defaults:
--linear-norm --threshold 3 --output-threshold data --lr 1e-3 --pool rates --statistics means --start 0.5.

Stages: only the ReLU twin (--init ann), clipped where an IF neuron saturates, so that its activations are firing
rates; then --method, by default proxy: the spiking network's rates make the loss, and the twin carries its gradient
back. --out holds the best weights so far, checkpoint.pt, and log.csv; a run is not written over. A run that was
stopped, by Ctrl-C or SIGTERM too, goes on with --resume, and ends with the same weights as an unbroken one (on a CPU).

    python benchmarks/research/train.py relu    a deep ReLU network
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.command import command, work
from training import options as train_options


def main(arguments: list[str] | None = None) -> None:
    """Parse ``arguments`` (default: the command line) and train; what goes wrong ends in one sentence."""
    work("training.run", train_options.parse(arguments, __doc__))


if __name__ == "__main__":
    command(main, {"relu": "training.relu"})
