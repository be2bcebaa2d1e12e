"""How soon is an answer there? A recording of an event camera, played by the clock, as a live camera would give it.

    python benchmarks/event_lag.py recording.raw
    python benchmarks/event_lag.py recording.raw --net stride-2 --minutes 10
    python benchmarks/event_lag.py recording.raw --speed 2 --contenders plain

Files are what faery reads: .raw (EVT 2.0, 2.1, 3.0), .aedat4, .es, .dat, .csv (pip install "proxykernels[events]").
The recording is cut into packets of --ms. Each is handed over when its time is over, and played again from the start
as long as --minutes last. A contender turns its events into a step's input and runs a step of a network of three
convolutions and a linear layer; its answer are the counts of spikes so far. All give the same ones, which is checked.

proxykernels: pk.events and a stream of an engine. plain: frames and a step in plain PyTorch. spikingjelly-s:
SpikingJelly's frames and neurons, if it is installed. Contenders other than the first play for ten seconds at most.

Printed: the lag, from a packet's last event to the answer; the time that a packet takes; the share of packets that
kept up, whose answer was there before the next packet; resident memory after a second, and at the most.
Writes event_lag.csv, a row a contender, and leaves there what other recordings and networks have; of the first second
of this run event_lag_packets.csv, of the first contender's memory event_lag_memory.csv, and the picture event_lag.png.
"""

from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
from common import names
from common.command import command, work
from common.printed import add_out, new_parser, positive_number, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="recording")
    parser.add_argument("--net", choices=names.EVENT_NETS, default=names.EVENT_NETS[0], help="network")
    parser.add_argument("--ms", type=positive_number, default=1.0, help="length of a packet, which is a step")
    parser.add_argument("--minutes", type=positive_number, default=0.2, help="that the recording is played for")
    parser.add_argument("--speed", type=positive_number, default=1.0, help="times as fast as it was recorded")
    parser.add_argument(
        "--contenders", type=some_of(names.EVENT_CONTENDERS), default=list(names.EVENT_CONTENDERS),
        help=f"of {shown(names.EVENT_CONTENDERS)}",
    )  # fmt: skip
    add_out(parser, "the tables and the picture")
    work("speed.event_lag_table", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
