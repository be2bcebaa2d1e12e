"""Ways to a spiking network, from the same data, against steps, epochs and CPU time.

    python benchmarks/research/compare_methods.py --seeds 0,1,2,3,4
    python benchmarks/research/compare_methods.py --methods proxy,tandem \\
        --stop-at 300
    python benchmarks/research/compare_methods.py --net cifar10 \\
        --data folder --root PATH

    conversion             only the ReLU network, clipped; then pk.convert
    qcfs                   the same with activations of a few levels
                           (Bu et al., 2022), from half a threshold
    the authors' recipe    proxy learning, settings of the paper's notebook
      with statistics      as the notebook normalises: its loop over the
      of each step         steps calls the layers for each
    proxy                  proxy learning, repaired: normalised linear layers,
                           the last layer's threshold from its currents, max
                           pooling of rates, statistics of mean currents,
                           potentials that start at half a threshold, outputs
                           of the ReLU network lowered to zero at most
      outputs unbounded    without the last of these
      statistics of steps  without the last, nor statistics of mean currents
      spikes pooled        without the last four
    tandem                 as proxy, every layer of the ReLU network fed with
                           the spiking network's rates
    ReLU network,          half of the steps each
      then proxy
    bptt                   backpropagation through 4 steps, normalisation over
                           samples and steps (tdBN)
    tet                    the same, the loss at each step (Deng et al., 2022,
                           without its regularising term)

For each way, --tune-steps steps with each learning rate, then each threshold, then each initial potential, choose what
is most accurate on held-out training images. Then all trainings go on in turns, from one measured step to the next, so
that curves grow together. A call goes on where the last one stopped, by Ctrl-C or by --stop-at; checkpoints are in
--runs.

Writes compare_methods_NET_WIDTH_N_epochs.csv (accuracy at each measured step, of held-out images, and of the
test images after the last: strict, where a tie with the true class is wrong; lenient, where it is right; and by the
potentials of a last layer that never fires) and .png, and compare_methods_NET_WIDTH_settings.csv (what was tried).
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, natural, new_parser, positive, positive_number, seeds, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    work("methods.compare", parse_options(arguments))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=sorted(names.TRAINABLE), default="paper", help="network that is trained")
    parser.add_argument("--width", type=positive_number, default=0.25, help="share of the net's channels and neurons")
    text = f"of {shown(sorted(names.WAYS))}; default: all"
    parser.add_argument("--methods", type=some_of(names.WAYS), default=list(names.WAYS), help=text)
    parser.add_argument("--seeds", type=seeds, default=[0], help="of the trainings of each way, such as 0,1,2")
    parser.add_argument("--epochs", type=positive, default=20, help="of each training")
    text = (
        "this call ends at the last measured step up to there: 50, 100, 200, 300, 400, the end of each epoch; another "
        "call goes on (default: the end of all epochs)"
    )
    parser.add_argument("--stop-at", type=positive, help=text)
    parser.add_argument("--T", type=positive, default=16, help="steps in training, of ways without their own")
    parser.add_argument("--batch", type=positive, default=100, help="images a step")
    text = "training steps of each setting that is tried; 0: none is, every way takes its first (methods/ways.py)"
    parser.add_argument("--tune-steps", type=natural, default=200, help=text)
    parser.add_argument("--held-out", type=positive, default=1000, help="images that are measured on the way")
    parser.add_argument("--test", type=positive, default=10_000, help="test images, the first ones")
    parser.add_argument(
        "--data", choices=names.DATA, default="fashion-mnist", help="its name; of images of the net's shape"
    )
    parser.add_argument("--root", type=Path, help="folder of the data")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of the checkpoints")
    add_out(parser, "the tables and the picture")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command(main)
