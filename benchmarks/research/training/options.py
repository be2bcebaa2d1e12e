"""train.py's options, and the presets that give groups of them other defaults."""

import argparse
import math
from pathlib import Path

from common import names
from common.printed import Help, seed

# The settings of the paper's notebook; what differs: docs/recipes.md#the-authors-settings.
AUTHORS = {
    "method": "proxy", "init": "random", "loss": "mse-count", "target": 1.0, "twin": "relu", "rate_penalty": 0.0,
    "schedule": "constant", "lr": 1e-4, "betas": (0.8, 0.99), "batch": 100, "epochs": 100, "batch_norm": "first-epoch",
    "reset": "hard", "precision": "float32", "snn_precision": "float32", "data": "fashion-mnist", "net": "paper",
    "T": 15, "threshold": 2.0, "weight_decay": 1e-6, "eps": 1e-8, "augment": "authors",
}  # fmt: skip
# From random weights to a network that is right after few steps: docs/recipes.md says what each option is for.
RECOMMENDED = {
    "T": 16, "reset": "soft", "ann_epochs": 16, "ann_lr": 2e-3, "batch": 128, "loss": "cross-entropy", "smoothing": 0.1,
    "dropout": 0.3, "average": 0.999, "weight_decay": 0.05, "schedule": "trapezoid", "augment": "shift-mirror",
}  # fmt: skip
RESCALE = 98.0  # of "recommended", where weights can be rescaled
# Defaults of "recommended" with --init random for normalised networks. Without these, proxy learning collapses, has
# ties, or falls behind its ReLU network.
FROM_RANDOM = {
    "linear_norm": True, "threshold": 3.0, "output_threshold": "data", "lr": 1e-3,
    "pool": "rates", "statistics": "means", "start": 0.5,
}  # fmt: skip
PRESETS = {"recommended": RECOMMENDED, "plain": {}, "authors-fashion": AUTHORS}


def parse(arguments: list[str] | None = None, doc: str = "") -> argparse.Namespace:
    """The options, with the defaults of --preset; an unknown name ends the program with the list of known ones.

    ``doc``: what --help shows above them.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default="recommended", help="gives the other defaults")
    preset = first.parse_known_args(arguments)[0].preset
    parser = _parser(first, doc)
    parser.set_defaults(**PRESETS[preset])
    options = parser.parse_args(arguments)
    if preset == "recommended" and _learns_by_proxy_from_random(options):
        parser.set_defaults(**FROM_RANDOM)
        options = parser.parse_args(arguments)
    if options.rescale is None:
        options.rescale = RESCALE if preset == "recommended" and _can_be_rescaled(options) else 0.0
    _check(parser, options)
    _check_used(parser, options, _given(parser, arguments, options))
    return options


def _given(parser: argparse.ArgumentParser, arguments: list[str] | None, options: argparse.Namespace) -> set[str]:
    """The names of the options that are on the command line; what is not keeps the mark that it has before."""
    mark = object()
    marked = parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(vars(options), mark)))
    return {name for name, value in vars(marked).items() if value is not mark}


def _can_be_rescaled(options: argparse.Namespace) -> bool:
    return options.neuron == "if" and options.twin == "clipped"


def _learns_by_proxy_from_random(options: argparse.Namespace) -> bool:
    from_random = options.init == "random" and options.method in ("proxy", "tandem")
    return from_random and options.neuron == "if" and options.net in names.NORMALISED


def _output_threshold(text: str) -> float | str:
    """The type of --output-threshold."""
    if text == "data":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected data or a positive number, got {text!r}")
    return value


def _parser(first: argparse.ArgumentParser, doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(parents=[first], description=doc, formatter_class=Help)
    add = parser.add_argument
    add("--data", choices=sorted(names.DATA), default="fashion-mnist", help="its name")
    add("--root", type=Path, help="folder of the data")
    add("--net", choices=sorted(names.TRAINABLE), default="small", help="network that is trained")
    add("--width", type=float, default=1.0, help="share of the net's channels and neurons in each layer but the last")
    add("--method", choices=sorted(names.METHODS), default="proxy", help="how it is trained: docs/train.md")
    add("--init", default="ann", help="random; ann: train the ReLU twin first; or a file of train.py --neuron if")
    add("--ann-epochs", type=int, default=3, help="epochs of the twin for --init ann")
    add("--epochs", type=int, default=3, help="epochs of --method")
    text = "between the twin's own training and another --method, to %% of its activations below the threshold "
    text += f"(recommended: {RESCALE:g})"
    add("--rescale", type=float, help=text)
    add("--T", type=int, default=32, help="time steps of the spiking network")
    add("--threshold", type=float, default=1.0, help="of the neurons")
    text = "of the last layer; data: from its currents before the first step (default: --threshold)"
    add("--output-threshold", type=_output_threshold, help=text)
    add("--start", type=float, help="initial potential of each layer, in thresholds (default: of --init FILE, or 0)")
    add("--pool", choices=names.POOLS, default="spikes", help="max pooling of the spikes of each step, or of rates")
    text = "what the spiking network is normalised by: the currents of all steps, or their means over the steps "
    add("--statistics", choices=names.STATISTICS, help=text + "(default: of --init FILE, or steps)")
    add("--neuron", choices=["if", "lif"], default="if", help="integrate and fire, or leak besides")
    add("--decay", type=float, default=0.5, help="share of the potential that a step leaves, for --neuron lif")
    add("--reset", choices=["hard", "soft"], default="hard", help="after a spike, to 0 or by subtraction")
    add("--loss", choices=sorted(names.LOSSES), default="mse-rate", help="of firing rates or spike counts")
    add("--target", type=float, default=0.5, help="of the true class: spikes (mse-count) or firing rate (mse-rate)")
    add("--twin", choices=["relu", "clipped"], default="clipped", help="of --neuron if; that of lif is its rate")
    add("--batch-norm", choices=["first-epoch", "always"], default="first-epoch", help="when its statistics learn")
    add(
        "--linear-norm",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="normalise behind each linear layer but the last, too",
    )
    add("--dropout", type=float, default=0.0, help="of the inputs of each linear layer but the last")
    add("--smoothing", type=float, default=0.0, help="share of the target that all classes get alike")
    add("--average", type=float, default=0.0, help="of the weights: what a step keeps of it, e.g. 0.999; 0: none")
    add("--rate-penalty", type=float, default=0.0, help="times the twin's mean activation, added to the loss")
    known = ", ".join(names.AUGMENTATIONS)
    add("--augment", choices=names.AUGMENTATIONS, metavar="NAME", default="mirror", help=f"random changes: {known}")
    add("--batch", type=int, default=100, help="images a step")
    add("--ann-lr", type=float, default=1e-3, help="highest learning rate of --init ann")
    add("--lr", type=float, default=3e-4, help="highest learning rate of --method")
    add("--schedule", choices=names.SCHEDULES, default="cosine", help="of the learning rate in a stage")
    add("--betas", type=float, nargs=2, default=(0.9, 0.999), help="of Adam")
    add("--eps", type=float, default=1e-8, help="of Adam")
    add("--weight-decay", type=float, default=0.0, help="of Adam (AdamW)")
    add("--precision", choices=["float32", "bfloat16"], default="float32", help="of the twin (autocast)")
    text = "of the weights that the spiking network is simulated with"
    add("--snn-precision", choices=names.PRECISIONS, default="float32", help=text)
    add("--validation", type=int, default=2000, help="training images held out to measure progress")
    add("--device", default="cpu", help="as torch names it")
    add("--seed", type=seed, default=0, help="of weights, batches and random changes")
    add("--out", type=Path, default=Path("runs/train"), help="folder of weights, checkpoint and logs")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    import torch  # not before --help has been looked for
    from common import machine

    def refuse(name: str, wanted: str) -> None:
        parser.error(f"--{name.replace('_', '-')} must be {wanted}, got {getattr(options, name)}")

    for name, least in (("T", 1), ("batch", 1), ("epochs", 0), ("ann_epochs", 0)):
        if getattr(options, name) < least:
            refuse(name, f"at least {least}")
    for name in ("threshold", "lr", "ann_lr", "target", "eps", "width"):
        if not 0 < getattr(options, name) < float("inf"):
            refuse(name, "positive")
    if options.init not in ("random", "ann") and not Path(options.init).is_file():
        refuse("init", "random, ann or a file of train.py")
    if options.start is not None and not 0 <= options.start < 1:
        refuse("start", "within 0 .. 1, without 1")
    if options.pool == "rates" and options.method == "surrogate":
        refuse("pool", "spikes with --method surrogate: max pooling of rates has no gradient")
    if not 0 <= options.decay <= 1:
        refuse("decay", "within 0 .. 1")
    if not 0 <= options.rescale < 100 or (options.rescale and not _can_be_rescaled(options)):
        refuse("rescale", "at least 0 and below 100 (of --neuron if and --twin clipped)")
    for name in ("dropout", "smoothing", "average"):
        if not 0 <= getattr(options, name) < 1:
            refuse(name, "within 0 .. 1, without 1")
    for name in ("weight_decay", "rate_penalty"):
        if not 0 <= getattr(options, name) < float("inf"):
            refuse(name, "at least 0")
    if not all(0 <= beta < 1 for beta in options.betas):
        refuse("betas", "two numbers within 0 .. 1, without 1")
    if not options.epochs and not (options.init == "ann" and options.ann_epochs):
        refuse("epochs", "at least 1, but for --init ann with --ann-epochs")
    machine.check_device(parser, options.device)
    machine.check_precision(parser, options.precision, torch.device(options.device))


def _check_used(parser: argparse.ArgumentParser, options: argparse.Namespace, given: set[str]) -> None:
    """End the command if an option is given that the others leave without effect."""
    twin_first = options.init == "ann"
    surrogate, leaky = options.method == "surrogate", options.neuron == "lif"
    trains_no_twin = surrogate and not twin_first
    rescales = options.init != "random" and options.method != "ann"
    unused = {
        "statistics": (
            surrogate and options.statistics == "means",
            "--method surrogate, which normalises by all steps",
        ),
        "rate_penalty": (
            trains_no_twin and options.rate_penalty > 0,
            "--method surrogate without --init ann: it has no ReLU twin",
        ),
        "rescale": (options.rescale > 0 and not rescales, "--init random and --method ann, which scale no weights"),
        "ann_epochs": (not twin_first, f"--init {options.init}; of --init ann alone"),
        "ann_lr": (not twin_first, f"--init {options.init}; of --init ann alone"),
        "decay": (not leaky, "--neuron if, which does not leak"),
        "target": (options.loss == "cross-entropy", "--loss cross-entropy"),
        "twin": (leaky, "--neuron lif, whose twin is its own rate"),
    }
    for name, (is_unused, where) in unused.items():
        if name in given and is_unused:
            option, value = f"--{name.replace('_', '-')}", getattr(options, name)
            parser.error(f"{option} {value} has no effect with {where}; leave it out")
