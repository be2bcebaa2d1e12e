"""torchvision's resnet18, resnet50 and vgg16_bn as spiking networks: exactness, rates and speed.

    python benchmarks/research/imagenet.py torchvision
    python benchmarks/research/imagenet.py torchvision --nets resnet18 \\
        --parts speed
    python benchmarks/research/imagenet.py torchvision \\
        --nets resnet50,vgg16_bn \\
        --parts equality,speed --size 224 --batch 1

The weights are random, the normalisations have seen real images (Fashion-MNIST, resized and in three equal channels),
and other real images are the calibration. For each network:

- equality: weights and images rounded to a grid on which every float32 sum is exact; the spike counts must be those of
  the step loop, each and every one;
- rates: how far the firing rates of the output are from the ReLU network's outputs at T = 8 .. 1024, from one pass, by
  each method. Writes torchvision_rates.csv and .png;
- speed and memory against the step loop at T = 64. Adds rows to torchvision_speed.csv.
"""

import common.interrupt  # noqa: F401 - first of all that takes time
from common.command import work
from common.printed import add_out, new_parser, shown, some_of

NETS = ("resnet18", "resnet50", "vgg16_bn")
PARTS = ("equality", "rates", "speed")
LONGEST = 1024


def main(arguments: list[str] | None = None) -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--nets", type=some_of(NETS), default=NETS, help=f"of {shown(NETS)}; default: all")
    parser.add_argument("--parts", type=some_of(PARTS), default=PARTS, help=f"of {shown(PARTS)}; default: all")
    parser.add_argument("--size", type=int, default=32, help="pixels along an image's side (at least 32)")
    parser.add_argument("--batch", type=int, default=4, help="images that are simulated")
    parser.add_argument("--T", type=int, default=64, help="steps for equality and speed")
    parser.add_argument("--longest", type=int, default=LONGEST, help="steps for the rates")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each")
    add_out(parser, "the tables")
    options = parser.parse_args(arguments)
    if options.size < 32:
        parser.error(f"--size must be at least 32, which the networks halve five times; got {options.size}")
    if min(options.batch, options.T, options.longest, options.repeats) < 1:
        parser.error("--batch, --T, --longest and --repeats must be at least 1")
    return work("images.torchvision_nets_table", options)
