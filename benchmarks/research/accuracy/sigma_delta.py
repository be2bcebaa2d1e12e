"""Sigma-delta neurons after few steps, against the ReLU network and IF neurons: accuracy, operations, energy, time.

    python benchmarks/research/evaluate.py sigma-delta --net lite0
    python benchmarks/research/evaluate.py sigma-delta \\
        --net vgg11-cifar10 --root images
    python benchmarks/research/evaluate.py sigma-delta --net resnet20 --time
    python benchmarks/research/evaluate.py sigma-delta --net resnet20 --controls

The ReLU twins of the shipped networks and ResNet-20 (weights in benchmarks/weights) on test images of Fashion-MNIST;
ResNet-20 and VGG-11 on those of CIFAR-10 (train.py relu makes the weights of VGG-11); EfficientNet-Lite0 with ImageNet
weights on crops of fourteen photographs of packages (common/photographs.py), of which six show a class of ImageNet. It
is scaled by crops of seven other photographs, the other networks by 1,000 training images.

For each T: right answers of the labelled images, the correlation of logits with the ReLU network's, images with its
class, spikes, operations and estimated energy an image (common/cost.py; 45 nm). IF neurons, on the first --few
images: logits of all steps, or of their second half if these correlate better. Writes few_steps_sigma_delta.csv
and leaves other networks' rows there. --time: processor time of one thread, and that of a step loop in plain torch
(few_steps_time.csv). --controls: the same
activations in one pass, as two signed powers and as whole numbers of 4 and 8 bits, and weights of 8 bits; and graded
neurons with thresholds for several tolerances (few_steps_controls.csv). redraw.py draws few_steps.png.
"""

import argparse
from pathlib import Path

from common import names
from common.command import work
from common.printed import add_out, new_parser, positive


def main(arguments: list[str] | None = None) -> None:
    work("accuracy.sigma_delta_table", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    text = ", ".join(names.SUBJECTS)
    parser.add_argument("--net", choices=names.SUBJECTS, default="small", metavar="NAME", help=text)
    parser.add_argument("--images", type=positive, default=10_000, help="test images, the first ones")
    parser.add_argument("--few", type=positive, default=500, help="of them, for IF neurons and operations")
    parser.add_argument("--time", action="store_true", help="time alone")
    parser.add_argument("--controls", action="store_true", help="other ways to send the activations alone")
    parser.add_argument("--repeats", type=positive, default=5, help="timed runs of each")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST, or of CIFAR-10")
    add_out(parser, "the tables")
    return parser.parse_args(arguments)
