"""When does a spiking network win against its ReLU network? Accuracy and time of both, in turn.

    python benchmarks/against_relu.py
    python benchmarks/against_relu.py --net resnet20-cifar10 --root cifar10
    python benchmarks/against_relu.py --net paper --batch 1 --T 1,2,4
    python benchmarks/against_relu.py --net paper --like avx2
    python benchmarks/against_relu.py --net resnet18 \\
        --state-dict resnet18.pth --root imagenette

The ReLU network runs in torch, by torch.compile, in OpenVINO (float32, bfloat16 where the processor has it, int8 by
nncf), and in ONNX Runtime (float32, int8) if that is installed. What another way takes is told in passes: the fastest
of a precision. Smaller ReLU networks, trained by themselves, stand beside it: half and a quarter of the small one's
width (train.py relu --net small-half), and the small one beside the paper's. A cascade of two ReLU networks is their
early exit: a smaller one answers, and the 5 to 30 % of the images of which it is least sure go on to the larger one;
a quarter of the width before the small network, the small one before the paper's.

IF networks are what pk.convert makes of the ReLU network, in float32 and int8, compiled by pk.compile, at each T of
--T; and with early exit by logits, for up to 4 and up to 8 steps, by the least lead with which 0.1 % of held-out images
end with another answer. Networks of sigma-delta neurons run for up to four steps, those of
graded neurons for one: a pass whose small activations are cut. Two signed powers are the same activations sent in one
pass (evaluate.py sigma-delta --controls); there is no kernel for them, so they have no time.

Accuracy is that of the logits on all test images, with Wilson's 95 % interval: 10,000 of Fashion-MNIST or CIFAR-10, or
the crops of photographs of EfficientNet-Lite0. Times are medians (of early exit means) and quartiles of calls, each of
other images, and all contenders take turns. The fewest steps that are at most 0.1 points below the ReLU network are
marked, with their time in passes; they are chosen on 2,000 held-out training images, and where the network was trained
on all of them on the test images. gained, lost: test images that a contender has right and the ReLU network has wrong,
and the other way round.

Writes against_relu_NET.csv and .png, and with --out benchmarks/results the tables of docs/when.md. --like limits the
engine, torch and OpenVINO to the instructions of other processors: avx2 to AVX2 only, as on many machines; avx512 to
AVX-512 without matrix instructions, as AMD's Zen 4 and 5 have it. Then it writes against_relu_NET_avx2.csv and .png, or
those of avx512.

Weights are those in benchmarks/weights. Those of VGG-11 are not there and are trained first (python
benchmarks/research/train.py relu --net vgg11-cifar10 --lr 1e-3 --root cifar10 --out benchmarks/weights). --state-dict
has those of any network of torchvision, for images in <root>/train/<class>/, which scale it, and
<root>/test/<class>/, as many as 1 GB holds.
"""

import os
from pathlib import Path

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, numbers

LIMITS = {
    name: {"PROXYKERNELS_CPU": name, "ATEN_CPU_CAPABILITY": name, "ONEDNN_MAX_CPU_ISA": of_onednn}
    for name, of_onednn in (("avx2", "AVX2"), ("avx512", "AVX512_CORE_BF16"))
}


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    text = f"{', '.join(names.SUBJECTS)}, or one of torchvision's"
    parser.add_argument("--net", default="small", metavar="NAME", help=text)
    parser.add_argument("--state-dict", type=Path, metavar="FILE", help="weights of a network of torchvision's")
    parser.add_argument("--batch", type=numbers, default=[1, 4, 32], help="images a call")
    parser.add_argument("--T", type=numbers, default=[1, 2, 4, 8, 16], help="steps of IF networks")
    parser.add_argument("--like", choices=LIMITS, help="as on a processor that has no more (default: all of this one)")
    parser.add_argument("--quick", action="store_true", help="few images and calls, to see that it works")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST, or of CIFAR-10's images")
    add_out(parser, "the table and the picture")
    options = parser.parse_args(arguments)
    if options.like:
        os.environ |= LIMITS[options.like]  # which torch and OpenVINO read when they are imported
    work("speed.against_table", options)


if __name__ == "__main__":
    command(main)
