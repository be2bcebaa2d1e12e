"""What does a step of a stream take on a board or a phone, and is it right there?

    python benchmarks/board_speed.py
    python benchmarks/board_speed.py --run
    python benchmarks/board_speed.py --run --cxx aarch64-linux-gnu-g++

Writes proxykernels-board.tar.gz: the sources of the C library, three networks in int8, a recording for each, and what
pk.Engine answers. On the board, tar xf proxykernels-board.tar.gz && sh proxykernels-board/board.sh compiles it, with no
more than a C++ compiler, compares the answers, times a step, and packs what it found into an archive to be sent back.

The networks: keywords has the layers of NeuroBench's network for Google Speech Commands, and gestures those of its
network for DVS Gesture, both with random weights and noise as recordings; saccades is weights/events.safetensors, and
its recording an image of Fashion-MNIST before a moving camera. --run does here what a board would do.
"""

from common.command import command, work
from common.printed import add_out, new_parser


def main(arguments: list[str] | None = None) -> int | None:
    parser = new_parser(__doc__)
    parser.add_argument("--run", action="store_true", help="also compile and run it here")
    parser.add_argument("--cxx", default="c++", help="C++ compiler of --run, of this processor or another")
    parser.add_argument("--emulator", default="", help="such as 'qemu-aarch64 -L FOLDER' (default: none)")
    add_out(parser, "the archive")
    return work("speed.board", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
