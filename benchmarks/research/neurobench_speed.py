"""How long the trained networks of NeuroBench's repository take here, and in snnTorch.

    git clone https://github.com/NeuroBench/neurobench
    python benchmarks/research/neurobench_speed.py --root neurobench
    python benchmarks/research/neurobench_speed.py --root neurobench --threads 1

The network for Google Speech Commands (three hidden layers of 256 neurons, 200 steps) and that for DVS Gesture (three
convolutions on 32 x 32 pixels, 150 steps), with their trained weights. Their data is not read. Speech is random spikes
of both signs at the rate --rate. Gestures are made (training/hands.py): frames of 40 ms, in which an event of a pixel
counts as one of each of the 16 pixels of a camera of 128 x 128. With both a sample takes about as many operations as
NeuroBench's examples report for the data sets: 3.3 and 39.8 million, zeros skipped. So there is no accuracy, but
``differing`` is the number of output spikes that are not snnTorch's, and ``other_answers`` that of samples which
another class wins.

An engine (pk.compile), pk.simulate and snnTorch's time loop take turns, on the same threads: medians of blocks of calls
on samples that change, and the least. Writes neurobench_speed.csv, and with --out benchmarks/results the table of
docs/neurobench.md.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common.command import command, work
from common.printed import add_out, new_parser, positive, share, some_of

NETS = ["speech", "gestures"]


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of a clone of NeuroBench's repository")
    add("--nets", type=some_of(NETS), default=NETS, help=f"of {','.join(NETS)} (default: all)")
    add("--samples", type=positive, nargs="+", default=[1, 64], help="samples of a call")
    add("--rate", type=share, default=0.3, help="rate of speech's spikes")
    add("--threads", type=positive, default=2, help="threads of all")
    add_out(parser, "the table")
    work("zoo.neurobench_nets", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
