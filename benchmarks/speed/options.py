"""sim_speed.py's options."""

import argparse
import math
from pathlib import Path

import torch
from common import weights_file
from common.data import fashion_mnist
from common.nets import NETS, net_of, reset_of
from common.printed import new_parser, positive
from gpu.rivals import GPU_RIVALS, set_float32_precision
from torch import Tensor

import proxykernels as pk
from speed.report import check_csv
from speed.rivals import RIVALS

RESULTS = Path(__file__).parents[1] / "results"


def prepare(arguments: list[str] | None, doc: str = "") -> tuple[argparse.Namespace, Tensor, Tensor]:
    """The options, and the images and labels of the batch; a bad option ends here, with one sentence."""
    parser = make_parser(doc)
    options = parser.parse_args(arguments)
    if options.neuron == "lif" and options.weights is not None:
        parser.error("argument --neuron: lif has random weights; a network of --weights has neurons of its own")
    if options.random and options.weights is not None:
        parser.error("argument --random: not allowed with argument --weights")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda was asked for, and torch finds no CUDA device here")
    if options.device == "cuda":
        set_float32_precision("ieee")  # all compute in float32, but for those that say otherwise
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        check_csv(options.out / "sim_speed.csv")
        options.net = net_of(options.weights, options.net)
        random = options.random or options.neuron == "lif"
        options.reset = options.reset or reset_of(options.net, options.weights, random)
        if options.root is None and options.batch <= pk.samples.SIZE:
            images, labels = pk.samples.fashion_mnist()
        else:
            images, labels = fashion_mnist("test", options.root)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.batch > len(images):
        parser.error(f"argument --batch: at most the {len(images)} test images, got {options.batch}")
    return options, images[: options.batch].to(options.device), labels[: options.batch]


def make_parser(doc: str = "") -> argparse.ArgumentParser:
    parser = new_parser(doc)
    add = parser.add_argument
    add("--net", choices=list(NETS), help="default: that of --weights, else small")
    add("--T", type=step_list, default=[16, 64, 256], help="steps, such as 16,64,256")
    add("--batch", type=positive, default=32, help="number of images")
    add("--weights", type=Path, help="a file of train.py (default: the weights shipped, else random ones)")
    add("--random", action="store_true", help="random weights, always the same, though trained ones are shipped")
    add("--neuron", choices=["if", "lif"], default="if", help="of random weights: integrate and fire, or leak besides")
    add("--tau", type=time_constant, default=2.0, help="time constant of --neuron lif, in steps")
    add("--shared", action="store_true", help="give each layer one threshold, at which neurons fire more")
    add("--relu", action="store_true", help="also time ONE pass of the ReLU network of the same weights")
    add("--int16", action="store_true", help="also time pk.simulate(precision='int16')")
    add("--int8", action="store_true", help="also time pk.simulate(precision='int8')")
    add("--reset", choices=["hard", "soft"], help="to 0, or by subtraction (default: that of the weights, else hard)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--threads", type=positive, help="CPU threads (default: torch's); of 1 processor time is measured")
    known = ",".join(RIVALS | GPU_RIVALS)
    add("--rivals", type=rival_list, help=f"all, none, or of {known} (default: all that the device can run)")
    add("--repeats", type=positive, help="timed rounds for each (default: as many as 90 s allow)")
    add("--root", type=Path, help="folder of Fashion-MNIST (default: the 256 images shipped)")
    add("--out", type=Path, default=RESULTS, help="folder of the CSV file and the plot")
    return parser


def not_default(options: argparse.Namespace, trained: bool) -> list[str]:
    """What tells a run from one with the default options: its picture's name has it, and so leaves theirs alone."""
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


def time_constant(text: str) -> float:
    try:
        tau = float(text)
    except ValueError:
        tau = math.nan
    if not 1 < tau < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of steps above 1, got {text!r}")
    return tau


def step_list(text: str) -> list[int]:
    return sorted({positive(part) for part in text.split(",")})


def rival_list(text: str) -> list[str]:
    if text in ("all", "none"):
        return list(RIVALS | GPU_RIVALS) if text == "all" else []
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in RIVALS | GPU_RIVALS]
    if unknown:
        known = ", ".join(RIVALS | GPU_RIVALS)
        raise argparse.ArgumentTypeError(f"no rival is called {unknown[0]!r}; known: {known}")
    return names
