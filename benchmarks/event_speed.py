"""What does a step of a stream cost, by its events? An engine against a step in plain PyTorch.

    python benchmarks/event_speed.py
    python benchmarks/event_speed.py --sizes 720x1280 --threads 1

Three convolutions of 2 to 16 channels with random weights, at the sizes of cameras, with strides 4, 4, 4 or 2, 2, 2,
with and without biases, which move every neuron at every step. A step has no event; events at 0.1 and 1 % of the
pixels, along the edges of moving lines; or at 20 %, anywhere. PyTorch is given frames, the engine packed spikes, as
pk.events makes them; channels lie first or last in PyTorch, whichever is faster.

Before each row is timed, the engine, the step in PyTorch and pk.simulate layer by layer take the same steps, and all
spikes must be equal. Then the contenders take turns; times are medians, of processor time with one thread.
Writes event_speed.csv and the picture event_speed.png: cost against events.
"""

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, numbers, positive_number, shown, some_of


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    add = parser.add_argument
    sizes = names.EVENT_SIZES
    add("--sizes", type=some_of(sizes), default=list(sizes), help=f"height and width, of {shown(sizes)}")
    add("--threads", type=numbers, default=[1, 2], help="of each contender")
    add("--seconds", type=positive_number, default=1.2, help="for the turns of a row")
    add_out(parser, "the table and the picture")
    work("speed.event_table", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
