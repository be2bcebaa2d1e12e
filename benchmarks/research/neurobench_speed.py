"""How long the trained networks of NeuroBench's repository take here, and in
snnTorch.

    git clone https://github.com/NeuroBench/neurobench
    python benchmarks/research/neurobench_speed.py --root neurobench
    python benchmarks/research/neurobench_speed.py --root neurobench \
        --nets gestures --samples 1 --threads 1

The network for Google Speech Commands (three hidden layers of 256 neurons, 200
steps) and that for DVS Gesture (three convolutions on 32 x 32 pixels, 64
steps), with their trained weights. Their data is not read: speech is random
spikes of both signs, as many as --rate says; gestures are made
(training/hands.py). So there is no accuracy: the import gives snnTorch's
spikes, which the output layer's count and mean rate show. ``differing`` is the
number of output spikes that are not the same.

An engine (pk.compile), pk.simulate and snnTorch's time loop take turns, on the
same threads: medians of blocks of calls on samples that change, and the least.
Writes neurobench_speed.csv, and with --out benchmarks/results the table of
docs/neurobench.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.command import command, work
from common.printed import add_out, new_parser, positive, some_of

NETS = ["speech", "gestures"]


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="a clone of NeuroBench's repository")
    add("--nets", type=some_of(NETS), default=NETS, help=f"of {','.join(NETS)} (default: all)")
    add("--samples", type=positive, nargs="+", default=[1, 64], help="samples of a call (default: 1 64)")
    add("--rate", type=float, default=0.1, help="rate of speech's spikes (default: 0.1)")
    add("--threads", type=positive, default=2, help="threads of all (default: 2)")
    add_out(parser, "the table")
    work("zoo.neurobench_nets", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
