"""Training in this process, or in one of those that torchrun started: what train.py does."""

import os
from argparse import Namespace

import torch

from training.run import Run, Workers
from training.step import Breakdown


def run(options: Namespace) -> None:
    """Train; what goes wrong ends in one sentence."""
    try:
        train(options)
    except (ValueError, OSError, Breakdown) as error:
        raise SystemExit(f"train.py: {error}") from error


def train(options: Namespace) -> None:
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
