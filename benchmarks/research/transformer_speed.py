"""How long spiking transformers take that were imported from SpikingJelly, and there.

    python benchmarks/research/transformer_speed.py
    python benchmarks/research/transformer_speed.py --nets Spikformer --images 1

Spikformer, QKFormer and the Spike-driven Transformer in the sizes that their papers take for CIFAR-10, for four steps
of one and of eight images. Weights are random, so there is no accuracy; normalisations have seen the images, and then
got a gain and a shift with which all layers fire. ``rate`` is the mean of all layers' firing rates, ``least_rate`` the
least. The import is compared with the original at each step, as always. An
engine and SpikingJelly's modules in multi-step mode take turns, on the same threads: medians of blocks of calls on
images that change, and the least. ``differing``: the largest difference of outputs, relative to the largest output;
where a sum lies within rounding of a threshold, a spike differs. Writes transformer_speed.csv, and with --out
benchmarks/results the table of docs/exchange.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.command import command, work
from common.printed import add_out, new_parser, positive, some_of

NETS = ["Spikformer", "QKFormer", "Spike-driven"]


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--nets", type=some_of(NETS), default=NETS, help=f"of {','.join(NETS)} (default: all)")
    add("--images", type=positive, nargs="+", default=[1, 8], help="images of a call (default: 1 8)")
    add("--threads", type=positive, default=2, help="threads of both (default: 2)")
    add_out(parser, "the table")
    work("zoo.transformers", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
