"""Train a recurrent network on JapaneseVowels, here and in snnTorch: nine speakers, told by how they say two vowels.

    pip install --no-deps aeon          # its wheel has the data
    python benchmarks/research/train_vowels.py
    python benchmarks/research/train_vowels.py --seeds 1 --epochs 10

There are 270 utterances to train on and 370 to test on, of 7 to 29 frames of 12 coefficients (Kudo, Toyama and Shimbo,
"Multidimensional curve classification using passing-through regions", 1999). The network: recurrent leaky neurons, 12
to --neurons, and a readout of nine leaky integrators, whose mean over the frames is what cross-entropy is of. Adam,
ATan, whole batches of --batch. All have the same sizes, first weights, batches and number of epochs. The neurons reset
by subtraction: snnTorch's a step later, which is its default, and those of snntorch-at-once (reset_delay=False) in the
same step, as here.
Writes train_vowels.csv, a row for each seed and library: test accuracy after the last epoch, processor time of
one thread for an epoch of training, and for all test utterances.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.command import command, work
from common.printed import add_out, new_parser, positive, positive_number, some_of

LIBRARIES = ["proxykernels", "snntorch", "snntorch-at-once"]


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--libraries", type=some_of(LIBRARIES), default=LIBRARIES, help=f"of {','.join(LIBRARIES)} (default: all)")
    add("--seeds", type=positive, default=5, help="how many, from 0 on (default: 5)")
    add("--epochs", type=positive, default=60, help="of each training (default: 60)")
    add("--neurons", type=positive, default=128, help="that are recurrent (default: 128)")
    add("--batch", type=positive, default=30, help="utterances a step (default: 30)")
    add("--lr", type=positive_number, default=3e-3, help="learning rate (default: 0.003)")
    add("--root", type=Path, help="folder of JapaneseVowels_TRAIN.ts and _TEST.ts (default: aeon's)")
    add_out(parser, "the table")
    work("training.vowels", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
