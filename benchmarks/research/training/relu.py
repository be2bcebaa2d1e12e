"""Train a deep ReLU network for a few epochs: what conversion in few steps is measured on.

    python benchmarks/research/train.py relu --net resnet20
    python benchmarks/research/train.py relu --net lenet5 --epochs 10
    python benchmarks/research/train.py relu --net resnet20-cifar10 \\
        --root images
    python benchmarks/research/train.py relu --net vgg11-cifar10 \\
        --lr 1e-3 --root images

Adam, batches of 128 images, mirrored at random; the learning rate goes down to 0 in a line. LeNet-5 and
ResNet-20 are trained on Fashion-MNIST, with ``-cifar10`` on CIFAR-10, as is VGG-11: images in <root>/train/<class>/ and
<root>/test/<class>/. The seed is fixed. Writes <net>.safetensors: weights in float16, how they were
trained, and how many test images they have right. Other commands take them from benchmarks/weights.
"""

import argparse
from pathlib import Path

from common import names
from common.command import work
from common.printed import add_out, new_parser, positive, positive_number


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
    add_out(parser, "the file", "benchmarks/weights")
    return parser.parse_args(arguments)
