"""What sim_speed.py's options ask for: images, the network's name and reset, and a picture's name."""

import argparse
from pathlib import Path

import torch
from common import weights_file
from common.data import fashion_mnist
from common.nets import net_of, reset_of
from common.tables import check_out
from gpu.rivals import set_float32_precision
from torch import Tensor

import proxykernels as pk
from speed.options import make_parser
from speed.report import COLUMNS


def prepare(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The images and labels of the batch; sets the options' device, net and reset. A bad option ends here."""
    refuse = make_parser().error
    takes_gpu = options.threads is None and torch.cuda.is_available()
    options.device = options.device or ("cuda" if takes_gpu else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        refuse("argument --device: cuda was asked for, and torch finds no CUDA device here")
    if options.device == "cuda":
        set_float32_precision("ieee")  # all compute in float32, except those that say otherwise
        torch.backends.cudnn.benchmark = True  # for all, cuDNN tries which algorithm is fastest
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        check_out(options.out, {"sim_speed.csv": COLUMNS})
        options.net = net_of(options.weights, options.net)
        random = options.random or options.neuron == "lif"
        options.reset = options.reset or reset_of(options.net, options.weights, random)
        if options.root is None and options.batch <= pk.samples.SIZE:
            images, labels = pk.samples.fashion_mnist()
        else:
            images, labels = fashion_mnist("test", options.root)
    except (OSError, ValueError) as error:
        refuse(str(error))
    if options.batch > len(images):
        refuse(f"argument --batch: at most the {len(images)} test images, got {options.batch}")
    return images[: options.batch].to(options.device), labels[: options.batch]


def not_default(options: argparse.Namespace, trained: bool) -> list[str]:
    """The part of a picture's name that tells its options, unless they are the defaults; so other pictures are kept."""
    default, named = make_parser().parse_args([]), []
    for option in ("T", "batch", "weights", "neuron", "relu", "int16", "int8", "threads", "rivals", "repeats", "root"):
        value = getattr(options, option)
        if value == getattr(default, option):
            continue
        if option == "neuron":
            named.append(f"lif-tau{options.tau:g}")
            continue
        if isinstance(value, list):
            value = "-".join(map(str, value)) or "none"
        value = weights_file.stem(value) if isinstance(value, Path) else value
        named.append(option if value is True else f"{option}{value}")
    return named + ([] if trained else ["untrained"])
