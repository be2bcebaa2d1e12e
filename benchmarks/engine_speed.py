"""Networks compiled once against simulate, the step loop and the ReLU network: single images, few steps.

    python benchmarks/engine_speed.py
    python benchmarks/engine_speed.py --net paper --kind converted --T 1,2,4
    python benchmarks/engine_speed.py --precision int8
    python benchmarks/engine_speed.py --latency 2000
    python benchmarks/engine_speed.py --layers 4

For each network, the shipped one and what pk.convert makes of its ReLU twin, each with its own reset: accuracy on the
10,000 test images and firing rate after T steps, and median milliseconds a batch of all contenders, in turn. Each call
takes other images. Back to back, a contender's calls follow each other; after a pause of 20 ms, each call finds caches
and threads as another contender left them. A converted network stands beside a pass of its ReLU network: torch, and
OpenVINO in float32, bfloat16 (where the processor has it) and int8. --latency: of so many single steps of a stream
instead, the median and the slowest of a hundred. --layers: of each layer instead, its time on one thread, and its
additions a second against those that the processor reaches where it only reads weights and adds them, from the level of
cache that the layer's weights fit (a C++ compiler is needed); engine_layers.csv.
"""

from pathlib import Path

from common import names
from common.command import command, work
from common.printed import natural, new_parser, numbers


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=names.NETS, help="network (default: each)")
    parser.add_argument("--kind", choices=("trained", "converted"), help="of network (default: both)")
    parser.add_argument("--T", type=numbers, default=[1, 4, 16, 64], help="steps")
    parser.add_argument("--batch", type=numbers, default=[1, 32], help="images a call")
    parser.add_argument("--precision", choices=("int16", "int8"), help="of the engine's weights, and of simulate's")
    parser.add_argument("--fast", action="store_true", help="without the compiled loop, which takes a minute to make")
    parser.add_argument(
        "--latency", type=natural, default=0, metavar="STEPS", help="time so many single steps of a stream; 0: none"
    )
    parser.add_argument(
        "--layers", type=natural, default=0, metavar="STEPS", help="what each layer takes in so many steps; 0: none"
    )
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST (default: Debian's, or a download)")
    parser.add_argument("--out", type=Path, help="folder of the CSV file (default: none is written)")
    work("speed.engine_table", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
