"""Train a network on gestures before an event camera, here, in snnTorch and in SpikingJelly.

    python benchmarks/research/train_gestures.py
    python benchmarks/research/train_gestures.py \\
        --libraries proxykernels --seeds 1
    python benchmarks/research/train_gestures.py --root FOLDER   # DVS Gesture

Without --root the gestures are made: a bright spot moves before a camera of 32 x 32 pixels, side to side, up and down,
along two diagonals, in circles clockwise and counterclockwise, in a figure of eight, or it taps. Pace, size, place,
lean, brightness and noise are random; the test has 1,000 others. With --root: DVS Gesture's own split, read by tonic
from FOLDER/DVSGesture, at a quarter of its resolution along each side, all whole windows of --T steps of a recording.

A step has 20 ms. The network: two convolutions of leaky neurons, each with a max pooling, --neurons recurrent leaky
neurons, and a readout of leaky integrators, whose mean over the steps is what cross-entropy is of. Adam, ATan. All
libraries have the same first weights, batches and number of epochs, and reset by subtraction in the step of the spike.

Writes train_gestures.csv, a row for each seed and library: accuracy after the last epoch, processor time of one thread
for an epoch of training and for the test, spikes a neuron and step of each layer, and of a second additions and their
energy (45 nm, float32, memory not counted). train_gestures.safetensors has the weights of seed 0, and
train_gestures-1.safetensors of seed 1; weights/gestures.safetensors is that of seed 0 on made gestures.
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
    add("--root", type=Path, help="folder of DVS Gesture, as tonic has it (default: made gestures)")
    add(
        "--libraries", type=some_of(libraries), default=list(libraries), help=f"of {','.join(libraries)} (default: all)"
    )
    add("--gestures", type=positive, default=2000, help="that are made to train on (default: 2000)")
    add("--T", type=positive, default=50, help="steps of 20 ms (default: 50)")
    add("--seeds", type=positive, default=3, help="how many, from 0 on (default: 3)")
    add("--epochs", type=positive, default=8, help="of each training (default: 8)")
    add("--neurons", type=positive, default=64, help="that are recurrent (default: 64)")
    add("--batch", type=positive, default=64, help="recordings a step (default: 64)")
    add("--lr", type=positive_number, default=5e-3, help="the highest learning rate (default: 0.005)")
    add_out(parser, "the table")
    work("training.gestures", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
