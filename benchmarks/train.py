"""Train a spiking network, by proxy or by another method, and save its weights for the benchmarks.

The shipped small network is made by

    python benchmarks/train.py --net small --precision bfloat16

or, on a CPU without AVX-512 or AMX, which would emulate bfloat16, without the last option.
docs/recipes.md says what each option is for, and how the paper's network was made. Stages: the ReLU
twin alone (--init ann), clipped where an IF neuron saturates, so that its activations are firing rates; then --method,
by default proxy: the spiking network's rates make the loss, and the twin carries its gradient back. --out holds the
best weights so far, checkpoint.json with its tensors, and log.csv; it is one run's at a time, and is not written over.
A run that was stopped, by Ctrl-C or SIGTERM too, goes on with --resume, and ends with the same weights as an unbroken
one (on a CPU). Several processes share each batch under

    torchrun --nproc-per-node 2 benchmarks/train.py --net small

where each normalises by, and only the first keeps, the statistics of its own share of a batch while statistics learn.
"""

import os
from argparse import Namespace

import common.huge_pages  # noqa: F401 - before torch
import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common.command import command
from training import options as train_options
from training.run import Run, Workers
from training.step import Breakdown


def main(arguments: list[str] | None = None) -> None:
    """Parse ``arguments`` (default: the command line) and train; what goes wrong ends in one sentence."""
    options = train_options.parse(arguments, __doc__)
    try:
        train(options)
    except (ValueError, OSError, Breakdown) as error:
        raise SystemExit(f"train.py: {error}") from error


def train(options: Namespace) -> None:
    """Train in this process, or as one of those that torchrun started."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device(options.device)
    if options.batch % world:
        raise ValueError(f"--batch must be a multiple of the {world} processes, got {options.batch}")
    if world == 1:
        Run(options, Workers(0, 1, device)).go()
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        Run(options, Workers(rank, world, device)).go()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    command(main)
