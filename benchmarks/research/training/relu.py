"""Train a deep ReLU network for a few epochs: what conversion in few steps is measured on.

    python benchmarks/research/train.py relu --net resnet20
    python benchmarks/research/train.py relu --net lenet5 --epochs 10
    python benchmarks/research/train.py relu --net small-half --seed 1
    python benchmarks/research/train.py relu --net resnet20-cifar10 \\
        --root images
    python benchmarks/research/train.py relu --net vgg11-cifar10 \\
        --lr 1e-3 --root images

Adam, batches of 128 images, mirrored at random; the learning rate goes down to 0 in a line. With ``-cifar10`` networks
are trained on CIFAR-10: images in <root>/train/<class>/ and <root>/test/<class>/; all others on Fashion-MNIST, except
its last 2,000 training images, which are held out. small-relu is the small network with plain ReLUs, small-half and
small-quarter have a share of its width. Writes <net>.safetensors, or <net>-<seed>.safetensors if the seed is not 0:
weights in float16, how they were trained, and how many test images they have right; and a row of train_relu.csv. Other
commands take the weights from benchmarks/weights.
"""

import argparse
from pathlib import Path

from common import names
from common.command import work
from common.printed import add_out, new_parser, positive, positive_number, seed


def main(arguments: list[str] | None = None) -> None:
    work("training.train_relu", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--net", choices=names.RELU_NETS, default="resnet20", metavar="NAME", help=", ".join(names.RELU_NETS)
    )
    parser.add_argument("--epochs", type=positive, default=3, help="passes over the training images")
    parser.add_argument("--lr", type=positive_number, default=3e-3, help="highest learning rate")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="bfloat16 by autocast")
    parser.add_argument("--root", type=Path, help="folder of the images")
    parser.add_argument("--seed", type=seed, default=0, help="of weights, batches and mirrored images")
    add_out(parser, "the files", "benchmarks/weights")
    return parser.parse_args(arguments)
