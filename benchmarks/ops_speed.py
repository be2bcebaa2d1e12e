"""How fast the kernels of a CPU are: by firing rate, by shape, and beside a step loop and SpikingJelly.

    python benchmarks/ops_speed.py
    python benchmarks/ops_speed.py --out benchmarks/results
    python benchmarks/ops_speed.py --parts rates,shapes --rounds 9 --threads 1

rates    a convolution and a linear layer, by a plan and by torch's convolution and a scan, against torch's alone
shapes   the public functions with the kernel they choose, against torch's convolution and this library's scan
drop_in  one and two layers called on dense spikes, against a step loop and SpikingJelly; packing and unpacking; a model
         of SpikingJelly with some layers swapped
networks SEW-ResNet-18 and a network of I-LIF neurons, against SpikingJelly's modules

Speeds are dense-equivalent: the multiply-adds of the dense layer divided by the time. Prints tables; with --out it also
writes ops_speed_<part>.csv and a plot of speed against firing rate, ops_speed_rates.png, over those that are there.
"""

from pathlib import Path

from common.command import command, work
from common.printed import new_parser, positive, some_of

PARTS = ["rates", "shapes", "drop_in", "networks"]
CORE_MACS = 16  # fp32 multiply-adds a cycle: two units of 8, or one of 16; some cores have two units of 16
ROUNDS, QUICK_ROUNDS = 5, 2


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--parts", type=some_of(PARTS), default=PARTS, help=f"of {','.join(PARTS)} (default: all)")
    add("--rounds", type=positive, help=f"timed rounds for each case (default: {ROUNDS}, quick {QUICK_ROUNDS})")
    add("--quick", action="store_true", help="small layers, to see that it works")
    add("--threads", type=positive, help="threads of the rates and shapes (default: torch's)")
    add("--macs-a-cycle", type=positive, default=CORE_MACS, help=f"fp32 multiply-adds of a core (default: {CORE_MACS})")
    add("--out", type=Path, help="folder of the CSV files and the plot (default: none are written)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    work("speed.ops_table", options)


if __name__ == "__main__":
    command(main)
