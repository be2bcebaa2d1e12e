"""Networks compiled once against the step loop: one image, few steps.

    python benchmarks/engine_speed.py
    python benchmarks/engine_speed.py --net paper --T 1,4 --batch 32
    python benchmarks/engine_speed.py --net paper --random --reset soft
    python benchmarks/engine_speed.py --latency 2000

A call's own cost counts most there. Each row: median milliseconds a batch of
the engine, of simulate and of the step loop, plain and compiled, all in turn
in blocks of calls; and how many times as fast as the faster loop and as
simulate the engine is (below 1: slower). --latency: of so many single steps
of a stream instead, the median and the slowest of a hundred.
"""

from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common import names
from common.command import command, work
from common.printed import natural, new_parser, numbers, positive


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=names.NETS, default="small", help="network")
    parser.add_argument("--T", type=numbers, default=[1, 4, 16, 64], help="steps")
    parser.add_argument("--batch", type=positive, default=1, help="images")
    parser.add_argument(
        "--reset", choices=("hard", "soft"), default="hard", help="after a spike, to 0 or by subtraction"
    )
    parser.add_argument("--random", action="store_true", help="random weights, whose layers fire at 4 to 13 %%")
    parser.add_argument("--precision", choices=("int16", "int8"), help="of the engine's weights, and of simulate's")
    parser.add_argument("--fast", action="store_true", help="without the compiled loop, which takes a minute to make")
    parser.add_argument(
        "--latency", type=natural, default=0, metavar="STEPS", help="time so many single steps of a stream; 0: none"
    )
    parser.add_argument("--out", type=Path, help="folder of the CSV file (default: none is written)")
    work("speed.engine_table", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
