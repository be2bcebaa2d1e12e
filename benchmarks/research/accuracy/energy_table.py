"""Energy of an image, of a spiking network and its ReLU network: the work of energy.py."""

import argparse
import copy
from collections.abc import Iterable

import torch
from common import conversion, datasets, nets, subjects, twins
from common.accuracy import BATCH, ann_accuracy, strict_accuracy, strict_correct
from common.checkout import commit
from common.command import refusing
from common.cost import FLOAT32, INT8, Arithmetic, Work
from common.machine import heading
from common.tables import check_out, read_csv, write_csv
from speed import cut_activations
from speed.cascades import SMALL_OF
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import proxykernels as pk
from accuracy import energy_rivals
from accuracy.work import CHUNK, STATE_BYTES, graded_work, relu_work, spiking_work

HELD_OUT = 2000  # of the training images, the last ones: train.py trained on none of them
MARGINS = (1, 2, 3, 4, 6, 8)
MOST_LOST = 0.002  # accuracy that fewer steps may cost, on the held-out images
RELU, PROXY, CONVERTED = "ReLU network", "trained by proxy", "converted"
GRADED = "graded, one pass"
CASCADE, CUT = "cascade of ReLU networks, zeros skipped", f"{RELU}, small activations cut"
HEADINGS = [
    "", "weights", "chosen", "accuracy", "mean steps", "arithmetic", "neurons", "memory on chip",
    "memory, weights in DRAM",
]  # fmt: skip
COLUMNS = [
    "net", "network", "precision", "chosen", "held_out", "accuracy", "steps", "products", "additions", "updates",
    "weight_bytes", "state_bytes", "arithmetic_uj", "neurons_uj", "sram_uj", "dram_uj", "images", "torch", "commit",
]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    with refusing("evaluate.py energy"):
        check_out(options.out, {"energy.csv": COLUMNS})
        train_set, _ = datasets.load("fashion-mnist", options.root, "train")
        test_set, _ = datasets.load("fashion-mnist", options.root, "test")
    _, held_out = datasets.held_out(train_set, min(HELD_OUT, len(train_set) - 1))
    test_set = Subset(test_set, range(min(options.images, len(test_set))))
    table = options.out / "energy.csv"
    print(heading(f"{options.net} net", f"{len(test_set)} test images of Fashion-MNIST", table))
    rows = measure(options, conversion.calibration(train_set), held_out, test_set)
    write_csv(table, COLUMNS, [row for row in read_csv(table) if row["net"] != options.net] + rows)
    print(markdown(rows))


def measure(options: argparse.Namespace, calibration: Tensor, held_out: Dataset, test_set: Dataset) -> list[dict]:
    """The rows of a net."""
    model, _, _ = twins.load(*_files(options.net))
    ann = conversion.relu_network(model)
    dense, sparse, first = relu_work(ann, test_set)
    wanted = ann_accuracy(ann, held_out)
    rounded = rounded_to_bytes(ann, calibration)
    about = {"net": options.net, "images": len(test_set), "torch": torch.__version__, "commit": commit()}
    rows: list[dict] = []

    def add(network: str, arithmetic: Arithmetic, chosen: str, accuracies: tuple[float, float], work: Work, **more):
        value_bytes = arithmetic.bytes if network.startswith((RELU, CASCADE)) else STATE_BYTES
        of_held_out, accuracy = (f"{share:.4f}" for share in accuracies)
        told = {"network": network, "precision": arithmetic.name, "chosen": chosen, "steps": ""}
        rows.append(
            about | told | {"held_out": of_held_out, "accuracy": accuracy} | work.row(arithmetic, value_bytes) | more
        )

    of_test = ann_accuracy(ann, test_set)
    add(f"{RELU}, dense", FLOAT32, "", (wanted, of_test), dense)
    add(f"{RELU}, zeros skipped", FLOAT32, "", (wanted, of_test), sparse)
    of_both = ann_accuracy(rounded, held_out), ann_accuracy(rounded, test_set)
    add(f"{RELU}, zeros skipped", INT8, "", of_both, sparse)
    cut = cut_activations.cut(ann, calibration)
    add(CUT, FLOAT32, "", (ann_accuracy(cut, held_out), ann_accuracy(cut, test_set)), relu_work(cut, test_set)[1])
    if options.net in SMALL_OF:
        small = subjects.load(SMALL_OF[options.net], options.root).ann
        pairs = (FLOAT32, small, ann), (INT8, rounded_to_bytes(small, calibration), rounded)
        for arithmetic, first_net, large in pairs:
            found = energy_rivals.cascade(first_net, large, held_out, test_set, wanted - MOST_LOST)
            add(CASCADE, arithmetic, f"{found.share} % go on", (found.held_out, found.accuracy), found.work)
    graded = pk.convert(ann, calibration, neuron="graded")
    for arithmetic in (FLOAT32, INT8):
        precision, bits = None if arithmetic is FLOAT32 else "int8", 8 * arithmetic.bytes
        of_held_out, _ = graded_work(graded, held_out, precision, bits)
        accuracy, work = graded_work(graded, test_set, precision, bits)
        add(GRADED, arithmetic, f"{bits} bits a message", (of_held_out, accuracy), work)
    for name, net in ((PROXY, model.net), (CONVERTED, conversion.converted(model, calibration))):
        for arithmetic in (FLOAT32, INT8):
            precision = None if arithmetic is FLOAT32 else "int8"
            counts, labels = traced(net, held_out, options.longest, precision)
            for chosen, choice, of_held_out in (
                choose_steps(counts, labels, wanted),
                choose_margin(counts, labels, wanted),
            ):
                stop = None if chosen.startswith("T") else pk.stop.margin(choice)
                T = choice if stop is None else options.longest
                accuracy, steps, work = spiking_work(net, test_set, T, stop, precision, first)
                exits = "" if stop is None else ", early exit"
                add(name + exits, arithmetic, chosen, (of_held_out, accuracy), work, steps=f"{steps:.2f}")
    return rows


def _files(net: str) -> tuple:
    """What twins.load takes."""
    return nets.shipped()[net], nets.NETS[net]


@torch.no_grad()
def rounded_to_bytes(ann: nn.Sequential, calibration: Tensor) -> nn.Sequential:
    """A copy that computes with 8 bits: weights with a scale an output, inputs of a layer with one scale.

    The inputs, which are not negative, have 256 values up to the largest on the calibration images.
    """
    modules: list[nn.Module] = []
    x = calibration
    for module in copy.deepcopy(ann):
        if isinstance(module, nn.Conv2d | nn.Linear):
            modules.append(_Rounded(x.max().item() / 255))
            scale = (
                module.weight.flatten(1).abs().amax(1).clamp(min=1e-12).view(-1, *[1] * (module.weight.ndim - 1)) / 127
            )
            x = module(x)
            module.weight.copy_((module.weight / scale).round() * scale)
        else:
            x = module(x)
        modules.append(module)
    return nn.Sequential(*modules)


class _Rounded(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.scale).round().clamp(0, 255) * self.scale


@torch.no_grad()
def traced(net: nn.Module, dataset: Dataset, T: int, precision: str | None) -> tuple[Tensor, Tensor]:
    """Output counts after t = 1 .. T steps, int32 [T, N, classes], and labels [N]."""
    counts, labels = [], []
    for images, truth in tqdm(DataLoader(dataset, BATCH), "held-out images", unit="batch", mininterval=1.0):
        result = pk.simulate(net, images, T, precision=precision)
        counts.append(torch.stack([result.count(until=t) for t in range(1, T + 1)]))
        labels.append(truth)
    return torch.cat(counts, 1), torch.cat(labels)


def choose_steps(counts: Tensor, labels: Tensor, wanted: float) -> tuple[str, int, float]:
    """The fewest steps that lose at most MOST_LOST against ``wanted``; else the most accurate number of steps.

    Returns:
        What is chosen, in words and as a number, and its accuracy.
    """
    found = [(T, strict_accuracy(of_T, labels)) for T, of_T in enumerate(counts, 1)]
    T, accuracy = _first_good(found, wanted)
    return f"T = {T}", T, accuracy


def choose_margin(counts: Tensor, labels: Tensor, wanted: float) -> tuple[str, int, float]:
    """As :func:`choose_steps`, the margin of early exit, by what pk.simulate(chunk=CHUNK) would do with it."""
    found = [(margin, _exit_accuracy(counts, labels, margin)) for margin in MARGINS]
    margin, accuracy = _first_good(found, wanted)
    return f"margin {margin}", margin, accuracy


def _first_good(found: Iterable[tuple[int, float]], wanted: float) -> tuple[int, float]:
    found = list(found)
    good = [choice for choice in found if choice[1] >= wanted - MOST_LOST]
    return good[0] if good else max(found, key=lambda choice: choice[1])


def _exit_accuracy(counts: Tensor, labels: Tensor, margin: int) -> float:
    right, decided = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), dtype=torch.bool)
    for T, of_T in enumerate(counts, 1):
        if T % CHUNK == 0 or T == len(counts):
            right = torch.where(decided, right, strict_correct(of_T, labels))
            first, second = of_T.topk(2, dim=1).values.unbind(1)
            decided |= first - second >= margin
    return right.float().mean().item()


def markdown(rows: list[dict]) -> str:
    """The table of a net in docs/paper.md."""
    lines = ["".join(f"| {heading} " for heading in HEADINGS).replace("  ", " ") + "|", "|---" * len(HEADINGS) + "|"]
    for row in rows:
        joules = [_figures(row[key]) for key in ("arithmetic_uj", "neurons_uj", "sram_uj", "dram_uj")]
        steps = f"{float(row['steps']):.1f}" if row["steps"] else ""
        cells = [
            row["network"],
            row["precision"],
            row["chosen"],
            f"{100 * float(row['accuracy']):.2f} %",
            steps,
            *joules,
        ]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def summary(rows: list[dict], rival: str = f"{RELU}, zeros skipped") -> str:
    """The converted network with early exit beside a rival, for docs/paper.md."""
    lines = ["| | weights | arithmetic and neurons | with memory on chip | with weights in DRAM |", "|---" * 5 + "|"]
    found = {(row["net"], row["network"], row["precision"]): row for row in rows}
    for net in sorted({row["net"] for row in rows if row["network"] == rival}, reverse=True):
        for precision in (FLOAT32.name, INT8.name):
            ours, theirs = found[net, f"{CONVERTED}, early exit", precision], found[net, rival, precision]
            cells = []
            for memory in ((), ("sram_uj",), ("dram_uj",)):
                spikes, relu = (_joules(row, "arithmetic_uj", "neurons_uj", *memory) for row in (ours, theirs))
                cells.append(f"{_figures(spikes)} and {_figures(relu)}: {spikes / relu:.2g} times")
            lines.append(f"| {net} | {precision} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _joules(row: dict, *columns: str) -> float:
    return sum(float(row[column]) for column in columns)


def _figures(microjoules: float | str) -> str:
    """Three figures."""
    value = float(microjoules)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
