"""Train a small network on what an event camera sees that moves before the images of Fashion-MNIST.

    python benchmarks/research/train_events.py
    python benchmarks/research/train_events.py --methods proxy \\
        --images 6000 --epochs 2

surrogate: by backpropagation through time, pk.SurrogateNet. proxy: by the ReLU network that shares the weights and sees
the mean of the frames, pk.ProxyNet. Both from the same weights, on the same batches and with the same loss of counts.
surrogate, each movement: outputs do not fire, and their potentials are to be right after each of the three movements.
relu: the rival without steps, a ReLU network of the same layers in one pass over counts, in how many frames of each
movement a pixel had events; relu, first movement: over those of the first 100 ms alone.

The frames (`pk.samples.saccade_frames`) are computed first, 35 kB an image. docs/events.md explains it piece by piece.
Writes train_events.csv, a row an epoch: accuracy on the test images, where a tie is wrong, and so is silence;
train_events_time.csv, the same of the last epoch's network after each step of a stream, by the milliseconds
since an image's first event (the three movements take 100 ms each, as N-MNIST's), and its picture; and
train_events_METHOD.safetensors, the last epoch's weights; both of spiking networks only. weights/events.safetensors is
that of proxy.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, positive, positive_number, seed, share, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--methods",
        type=some_of(names.EVENT_METHODS),
        default=list(names.EVENT_METHODS),
        help=f"of {shown(names.EVENT_METHODS)}",
    )
    add = parser.add_argument
    add("--images", type=positive, default=12_000, help="of the 60,000 to train on")
    add("--test-images", type=positive, default=10_000, help="of the 10,000")
    add("--epochs", type=positive, default=4, help="of each method")
    add("--T", type=positive, default=15, help="frames of the three saccades together")
    add("--batch", type=positive, default=64, help="images a step")
    add("--lr", type=positive_number, default=2e-3, help="the highest learning rate; it rises, then goes to 0")
    add("--dropout", type=share, default=0.25, help="of the inputs of the linear layer")
    add("--seed", type=seed, default=0, help="of weights and batches")
    add("--root", type=Path, help="folder of Fashion-MNIST")
    add_out(parser, "the table")
    work("training.events", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
