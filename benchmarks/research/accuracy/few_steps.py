"""Remedies for few steps, one against the other: fine tuning before conversion, and neurons that take spikes back.

    python benchmarks/research/evaluate.py few-steps
    python benchmarks/research/evaluate.py few-steps --net resnet20 \\
        --epochs 3 --lr 3e-3

The shipped small ReLU network is trained for --epochs more with its ReLUs left alone, clipped at thresholds that learn
("TCL", Ho and Chang, DAC 2021, arXiv:2008.04509), or clipped and quantised to L levels (QCFS, Bu et al., ICLR 2022,
arXiv:2303.04347). Each is converted by pk.convert's default, whose potentials are calibrated, and with half a threshold
to start from. The network as shipped is run with signed neurons too ("Signed neuron with memory", Wang et al., IJCAI
2022), which fire -1 when their potential falls to minus the threshold and they have fired before: in a step loop, for
their accuracy, not their speed. A deep network, ResNet-20, is trained from random weights, and converted by the default
and with half a threshold to start from. Writes few_steps.csv, or few_steps_resnet20.csv: for each T the
accuracy of the test images by counts (a tie is wrong) and by logits, beside the ReLU network's.
"""

import argparse
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common.command import work
from common.printed import add_out, new_parser, positive, positive_number


def main(arguments: list[str] | None = None) -> None:
    work("accuracy.few_steps_table", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=["small", "resnet20"], default="small", help="network")
    parser.add_argument("--epochs", type=positive, default=1, help="of training")
    parser.add_argument("--lr", type=positive_number, default=2e-4, help="highest learning rate; it goes down to 0")
    parser.add_argument("--images", type=positive, default=2000, help="test images, the first ones")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST")
    add_out(parser, "the tables")
    return parser.parse_args(arguments)
