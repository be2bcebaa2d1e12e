"""sim_speed.py's options."""

import argparse
import math
from pathlib import Path

from common import names
from common.printed import add_out, new_parser, positive

TAU = 2.0
RIVALS = (*names.RIVALS, *names.GPU_RIVALS)


def parse(arguments: list[str] | None, doc: str = "") -> argparse.Namespace:
    """The options; a bad one ends here, with one sentence, unless its check needs torch (prepare.py)."""
    parser = make_parser(doc)
    options = parser.parse_args(arguments)
    if options.neuron == "lif" and options.weights is not None:
        parser.error("argument --neuron: lif has random weights; a network of --weights has neurons of its own")
    if options.random and options.weights is not None:
        parser.error("argument --random: not allowed with argument --weights")
    if options.tau is not None and options.neuron != "lif":
        parser.error(f"argument --tau: is of --neuron lif alone, got {options.tau:g}; leave it out")
    options.tau = TAU if options.tau is None else options.tau
    return options


def make_parser(doc: str = "") -> argparse.ArgumentParser:
    parser = new_parser(doc)
    add = parser.add_argument
    add("--net", choices=names.NETS, help="default: that of --weights, else small")
    add("--T", type=step_list, default=[16, 64, 256], help="steps, such as 16,64,256")
    add("--batch", type=positive, default=32, help="number of images")
    add("--weights", type=Path, help="a file of train.py (default: the weights shipped, else random ones)")
    add("--random", action="store_true", help="random weights, always the same, though trained ones are shipped")
    add("--neuron", choices=["if", "lif"], default="if", help="of random weights: integrate and fire, or leak besides")
    add("--tau", type=time_constant, help=f"time constant of --neuron lif, in steps (default: {TAU:g})")
    add("--shared", action="store_true", help="give each layer one threshold, at which neurons fire more")
    add("--relu", action="store_true", help="also time ONE pass of the ReLU network of the same weights")
    add("--int16", action="store_true", help="also time pk.simulate(precision='int16')")
    add("--int8", action="store_true", help="also time pk.simulate(precision='int8')")
    add("--reset", choices=["hard", "soft"], help="to 0, or by subtraction (default: that of the weights, else hard)")
    add(
        "--device",
        choices=["cpu", "cuda"],
        help="default: cuda where torch finds a GPU, without --threads",
    )
    add("--threads", type=positive, help="CPU threads (default: torch's); of 1 processor time is measured")
    known = ",".join(RIVALS)
    add("--rivals", type=rival_list, help=f"all, none, or of {known} (default: all that the device can run)")
    add("--repeats", type=positive, help="timed rounds for each (default: as many as 90 s allow)")
    add("--root", type=Path, help="folder of Fashion-MNIST (default: the 256 images shipped)")
    add_out(parser, "the CSV file and the plot")
    return parser


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
        return list(RIVALS) if text == "all" else []
    given = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in given if name not in RIVALS]
    if unknown:
        known = ", ".join(RIVALS)
        raise argparse.ArgumentTypeError(f"no rival is called {unknown[0]!r}; known: {known}")
    return given
