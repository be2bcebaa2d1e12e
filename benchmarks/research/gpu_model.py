"""The paper's network on GPUs that need not be here, modelled beside its strongest rival: nothing is measured.

    python benchmarks/research/gpu_model.py
    python benchmarks/research/gpu_model.py --batch 128 --T 64

Compiles the convolution as it is launched for each layer and batch, and writes its registers, programs on a
multiprocessor, instructions, and clocks of a pass by unit; then, for each batch, number of steps and kind of weights,
modelled milliseconds of pk.compile's graph, and those of a network that runs layer by layer, all steps at once, in
cuDNN and a scan, as CUDA graphs (time_model.py and rival_model.py in gpu_times have the models and their assumptions);
and the ratio of both, with its limit: if our layers did nothing but multiply. Writes gpu_model.csv and
gpu_model_kernels.csv.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/, which has common/ and speed/

import common.interrupt  # noqa: F401 - first of all that takes time
from common.command import command, work
from common.printed import add_out, new_parser, numbers


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--batch", type=numbers, default=[1, 32, 128], help="images, such as 1,32,128")
    parser.add_argument("--T", type=numbers, default=[4, 16, 64, 512], help="steps, such as 16,64")
    add_out(parser, "the CSV files")
    work("gpu_times.tables", parser.parse_args(arguments))


if __name__ == "__main__":
    command(main)
