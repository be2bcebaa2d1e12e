"""Train a small network on what an event camera sees that moves before the images of Fashion-MNIST.

    python benchmarks/train_events.py
    python benchmarks/train_events.py --methods proxy --images 6000 --epochs 2

surrogate: by backpropagation through time, pk.SurrogateNet. proxy: by the ReLU network that shares the weights and sees
the mean of the frames, pk.ProxyNet. Both from the same weights, on the same batches and with the same loss.

The frames (`pk.samples.saccade_frames`) are computed first, 35 kB an image. docs/events.md explains it piece by piece.
Writes results/train_events.csv, a row an epoch: accuracy on the test images, where a tie is wrong, and so is silence.
"""

from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common import names
from common.checkout import RESULTS
from common.command import command, work
from common.printed import new_parser, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--methods",
        type=some_of(names.EVENT_METHODS),
        default=list(names.EVENT_METHODS),
        help=f"of {shown(names.EVENT_METHODS)}",
    )
    parser.add_argument("--images", type=int, default=12_000, help="of the 60,000 to train on")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--T", type=int, default=15, help="frames of the three saccades together")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3, help="the highest learning rate; it rises, then goes to 0")
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for name in ("images", "test_images", "epochs", "T", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    work("training.events", options)


if __name__ == "__main__":
    command(main)
