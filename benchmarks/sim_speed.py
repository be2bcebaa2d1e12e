"""The main job: simulate a spiking network on real images, and time it against its rivals.

    python benchmarks/sim_speed.py
    python benchmarks/sim_speed.py --T 64 --reset soft --rivals plain,compiled
    python benchmarks/sim_speed.py --weights runs/train/paper.safetensors
    python benchmarks/sim_speed.py --net paper --T 64 --neuron lif --tau 16
    python benchmarks/sim_speed.py --net paper --T 64 --shared --random --relu

Prints a table for each T, adds rows to sim_speed.csv and draws a plot beside it.
"""

from common.command import command, work
from speed.options import parse


def main(arguments: list[str] | None = None) -> None:
    work("speed.sim_table", parse(arguments, __doc__))


if __name__ == "__main__":
    command(main)
