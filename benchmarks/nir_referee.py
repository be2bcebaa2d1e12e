"""Which simulator solves a NIR graph as NIR defines it, and which rule the others follow.

    python benchmarks/nir_referee.py benchmarks/referee/graphs/*.nir
    python benchmarks/nir_referee.py lif_norse.nir --dt 1e-4 --T 1000 --draw
    python benchmarks/nir_referee.py cnn_sinabs.nir --reset subtract
    python benchmarks/nir_referee.py suite
    python benchmarks/nir_referee.py paper NIR/paper

Runs each graph on random events: by its equations in float64, here, and in each of snnTorch, Norse, SpikingJelly,
sinabs, Spyx and Rockpool that is installed. The table says who differs, at which node and step first, and by which rule
the equations give the same spikes: the decay, the current that a potential takes, when and to where a spike resets, how
many spikes a step may have, at which potential they fire, and others (referee/rules.py).
"""

import argparse
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common.command import command, work
from common.printed import add_out, new_parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="graphs of NIR")
    parser.add_argument("--dt", type=float, default=1.0, help="length of a step, in the graph's unit of time")
    parser.add_argument("--T", type=int, default=100, help="number of steps")
    parser.add_argument("--rate", type=float, default=0.3, help="of the input's random events, from 0 to 1")
    parser.add_argument("--reset", choices=("v_reset", "subtract"), help="what neurons do, whatever the graph says")
    parser.add_argument("--draw", action="store_true", help="draw a raster of each graph")
    add_out(parser, "the table and the pictures")
    options = parser.parse_args(arguments)
    if options.T < 1 or not 0 <= options.rate <= 1 or not options.dt > 0:
        parser.error("--T must be at least 1, --rate from 0 to 1, and --dt above 0")
    return options


def main(arguments: list[str] | None = None) -> None:
    work("referee.report", parse(arguments))


if __name__ == "__main__":
    command(main, {"suite": "referee.suite", "paper": "referee.paper"})
