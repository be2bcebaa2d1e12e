"""Train a recurrent network on spoken digits, here, in snnTorch and in SpikingJelly.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset fsdd
    python benchmarks/research/train_digits.py --root fsdd
    python benchmarks/research/train_digits.py --root fsdd \\
        --test theo,jackson --libraries proxykernels --seeds 1

The Free Spoken Digit Dataset has 3,000 recordings of six speakers. A model of the cochlea (pk.samples.cochlea_spikes)
makes 64 spikes of them every 10 ms. The network: recurrent leaky neurons, 64 to --neurons, and a readout of ten leaky
integrators, whose mean over the steps is what cross-entropy is of. Adam, ATan. All libraries have the same sizes, first
weights, batches and number of epochs, and reset by subtraction in the step of the spike.

--test usual: the data set's own split, tested on the first five recordings of each digit and speaker, 300 in all. It
tells nothing of a voice that the network has not heard. A speaker's name: tested on the 500 recordings of that speaker,
trained on the other five.

Each recording is heard --copies times more: faster or slower, louder or softer, later, and in noise. Writes
train_digits.csv, a row for each test, seed and library: accuracy after the last epoch, processor time of one thread
for an epoch of training and for all test recordings, and of a second of sound spikes a neuron and step, additions, and
their energy (45 nm, float32, memory not counted). train_digits.safetensors has the weights of the last test and of
seed 0, train_digits-1.safetensors of seed 1; weights/digits.safetensors is that of seed 0 and --test usual.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, positive, positive_number, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    libraries = names.RECURRENT_LIBRARIES
    add("--root", type=Path, required=True, help="folder of the recordings, .wav")
    add("--test", type=lambda given: given.split(","), default=["usual"], help="usual, or speakers (default: usual)")
    add(
        "--libraries", type=some_of(libraries), default=list(libraries), help=f"of {','.join(libraries)} (default: all)"
    )
    add("--seeds", type=positive, default=3, help="how many, from 0 on (default: 3)")
    add("--epochs", type=positive, default=12, help="of each training (default: 12)")
    add("--copies", type=positive, default=3, help="of each recording, varied (default: 3)")
    add("--neurons", type=positive, default=128, help="that are recurrent (default: 128)")
    add("--batch", type=positive, default=64, help="recordings a step (default: 64)")
    add("--lr", type=positive_number, default=5e-3, help="the highest learning rate (default: 0.005)")
    add_out(parser, "the table")
    work("training.digits", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
