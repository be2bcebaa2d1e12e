"""Spiking networks against their ReLU networks, in turn: what against_relu.py does."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import mean, quantiles

import torch
from common import cost, one_pass, subjects
from common.checkout import RESULTS, commit
from common.command import refusing
from common.machine import device_name, heading
from common.printed import print_table
from common.tables import check_out, write_csv
from rich.console import Console
from torch import Tensor, nn

import proxykernels as pk
from proxykernels.running.result import Result
from speed import against_picture, answers, cascades, levels, logit_exit, relu_passes, turns, when_page
from speed.answers import Answers
from speed.levels import (
    CASCADE,
    EARLY,
    GRADED,
    GRADED_CASCADE,
    HALF,
    IF,
    POWERS,
    QUARTER,
    RELU,
    SIGMA_DELTA,
    SMALL,
    UNTIMED,
)
from speed.relu_passes import Logits
from speed.rivals import NotOffered

SIGMA_DELTA_STEPS = (1, 2, 3, 4)
GRADED_PRECISIONS = (None, "int8")  # weights of graded networks
SMALLER_THAN = {"small": {"small-half": HALF, "small-quarter": QUARTER}, "paper": {"small": SMALL}}
COUNTED = 500  # images whose messages are counted, the first ones
QUICK = 64  # images of --quick
SECONDS_EACH = 0.5  # of a contender at a batch: about ten rounds of all
MOST_BATCHES = 256
COLUMNS = [
    "net", "contender", "precision", "T", "mean_T", "by", "images", "right", "held_out", "gained", "lost", "rate",
    "million_additions", "million_products", "batch", "ms", "ms_low", "ms_high", "device", "threads", "torch",
    "openvino", "nncf", "onnxruntime", "proxykernels", "commit",
]  # fmt: skip
HEADINGS = [
    "", "by", "T", "right, %", "gained,\nlost", "rate, %", "million\nadditions", "million\nproducts",
    "ms an\nimage", "quartiles", *(f"{precision}\npasses" for precision in levels.PASSES), "",
]  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A way to an answer.

    Attributes:
        T: steps; None: it is a pass. by: what runs it.
        answers: to all images. timed: what runs batches of a size; None: there is nothing to time.
    """

    name: str
    precision: str
    T: int | None
    by: str
    answers: Callable[[Tensor], Answers]
    timed: Callable[[int], Logits] | None = None


def run(options: argparse.Namespace) -> None:
    console = Console(width=150)
    table = f"{options.net}_{options.like}" if options.like else options.net
    path = options.out / f"against_relu_{table}.csv"
    with refusing("against_relu.py"):
        check_out(options.out)
        if options.net in subjects.NAMES:
            subject = subjects.load(options.net, options.root)
        else:
            subject = subjects.of_torchvision(options.net, options.state_dict, options.root)
        if options.quick:
            held_out = subject.held_out and tuple(part[:QUICK] for part in subject.held_out)
            subject = subject._replace(images=subject.images[:QUICK], right=subject.right[:QUICK], held_out=held_out)
        if max(options.batch) > len(subject.images):
            raise ValueError(f"--batch must be at most the {len(subject.images)} test images, got {max(options.batch)}")
    console.print(heading(f"{options.net}, ReLU network and converted", f"{len(subject.images)} test images", path))
    try:
        contenders = list(line_up(console, subject, options.T, options.root))
    except TypeError as error:
        raise SystemExit(f"against_relu.py: {options.net} cannot be converted: {error}") from error
    about = {
        "net": options.net, "device": device_name(torch.device("cpu")), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "proxykernels": pk.__version__, "commit": commit(),
        **{package: installed(package) for package in ("openvino", "nncf", "onnxruntime")},
    }  # fmt: skip
    found = [about | row for row in rows_of(subject, contenders)]
    rows = [dict.fromkeys(COLUMNS, "") | row for row, one in zip(found, contenders, strict=True) if not one.timed]
    for batch in options.batch:
        seconds = timed(contenders, subject.images, batch, 0.0 if options.quick else SECONDS_EACH)
        rows += [
            row | time_of(seconds[k], batch, row["contender"] == EARLY) for k, row in enumerate(found) if k in seconds
        ]
        write_csv(path, COLUMNS, rows)  # so far
        print_rows(console, rows, batch)
    for sentence in levels.sentences(rows):
        console.print(sentence)
    against_picture.draw(options.out, table)
    if options.out.resolve() == RESULTS.resolve() and not commit().endswith("-dirty"):
        when_page.update()


def line_up(console: Console, subject: subjects.Subject, steps: list[int], root: Path | None) -> Iterator[Contender]:
    """All contenders; of those that do not run here the reason is printed."""
    passes = relu_passes.Passes(subject.ann, subject.calibration)
    yield from relu_contenders(console, subject, passes)
    smaller = smaller_subjects(console, subject, root)
    for small in smaller.values():
        yield from smaller_contenders(small, SMALLER_THAN[subject.name][small.name])
    first = smaller.get(cascades.SMALL_OF.get(subject.name, ""))
    if first is not None:
        yield from cascade_contenders(subject, first, passes, chosen_on(subject))
    net = pk.convert(subject.ann, subject.calibration)
    for precision in (None, "int8"):
        yield from spiking_contenders(console, IF, net, subject.images, precision, steps)
        yield from early_contenders(console, subject, net, precision, steps)
    net = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    few = [T for T in SIGMA_DELTA_STEPS if T <= max(steps)]
    yield from spiking_contenders(console, SIGMA_DELTA, net, subject.images, None, few)
    yield Contender(POWERS, "float32", None, "torch", partial(in_one_pass, net))
    net = pk.convert(subject.ann, subject.calibration, neuron="graded")
    for precision in GRADED_PRECISIONS:
        yield from spiking_contenders(console, GRADED, net, subject.images, precision, [1])
    if first is not None:
        yield from graded_cascades(pk.convert(first.ann, first.calibration, neuron="graded"), net, subject)


def chosen_on(subject: subjects.Subject) -> Tensor:
    """Images on which leads are chosen; where none are held out, those of calibration."""
    return subject.calibration if subject.held_out is None else subject.held_out[0]


def relu_contenders(console: Console, subject: subjects.Subject, passes: relu_passes.Passes) -> Iterator[Contender]:
    products = cost.of_relu(subject.ann, subject.images[:1])[0].products  # of any image

    def answers_of(name: str, images: Tensor) -> Answers:
        return Answers(answers.relu(passes.of(name), images, name), 0.0, 0.0, products)

    for name in relu_passes.NAMES:
        try:
            passes.of(name)
        except NotOffered as reason:
            console.print(f"{name}: {reason}")
            continue
        by, precision = relu_passes.parts_of(name)
        yield Contender(RELU, precision, None, by, partial(answers_of, name), partial(passes.of, name))


def smaller_subjects(console: Console, subject: subjects.Subject, root: Path | None) -> dict[str, subjects.Subject]:
    """The smaller ReLU networks that are compared with this one; of those without weights the reason is printed."""
    found = {}
    for name in SMALLER_THAN.get(subject.name, {}):
        try:
            found[name] = subjects.load(name, root)._replace(name=name)
        except FileNotFoundError as reason:
            console.print(f"{name}: {reason}")
    return found


def smaller_contenders(small: subjects.Subject, called: str) -> Iterator[Contender]:
    """Passes of a smaller ReLU network by OpenVINO."""
    passes = relu_passes.Passes(small.ann, small.calibration)
    products = cost.of_relu(small.ann, small.images[:1])[0].products

    def answers_of(name: str, images: Tensor) -> Answers:
        return Answers(answers.relu(passes.of(name), images, called), 0.0, 0.0, products)

    for precision in ("float32", "int8"):
        name = f"{relu_passes.OPENVINO} {precision}"
        yield Contender(
            called, precision, None, relu_passes.OPENVINO, partial(answers_of, name), partial(passes.of, name)
        )


def cascade_contenders(
    subject: subjects.Subject, small: subjects.Subject, large: relu_passes.Passes, held_out: Tensor
) -> Iterator[Contender]:
    """A small ReLU network before the large one, both by OpenVINO."""
    first = relu_passes.Passes(small.ann, small.calibration)
    products = [cost.of_relu(one.ann, one.images[:1])[0].products for one in (small, subject)]

    def answers_of(cascade: cascades.Cascade, images: Tensor) -> Answers:
        outputs, goes_on = cascade.answers(images)
        return Answers(outputs, 0.0, 0.0, products[0] + goes_on * products[1])

    for precision in ("float32", "int8"):
        for share, cascade in cascades.cascades(first, large, f"OpenVINO {precision}", held_out).items():
            yield Contender(CASCADE, precision, share, "OpenVINO", partial(answers_of, cascade), cascade.run)


class Compiled:
    """A graded network as cascades take it: compiled, a pass for each precision of its weights."""

    any_batch = True

    def __init__(self, net: nn.Module, images: Tensor):
        self.neurons = answers.neurons_of(net, images)
        self.engines = {of or "float32": pk.compile(net, images[:1], precision=of) for of in GRADED_PRECISIONS}

    def of(self, name: str, batch: int | None = None) -> Logits:
        return lambda images: self.engines[name](images, T=1).logits

    def answers(self, name: str, images: Tensor) -> Answers:
        run, told = partial(self.engines[name], T=1), f"{GRADED}, {name}"
        return answers.spiking(run, images, self.neurons, lambda result: result.logits, told)


def graded_cascades(small: nn.Module, large: nn.Module, subject: subjects.Subject) -> Iterator[Contender]:
    """A small graded network before the large one, both compiled."""
    first, last = (Compiled(net, subject.images) for net in (small, large))

    def answers_of(cascade: cascades.Cascade, images: Tensor) -> Answers:
        found = first.answers(cascade.name, images)
        unsure = cascades.leads(found.outputs) < cascade.lead
        more, share = last.answers(cascade.name, images[unsure]), unsure.float().mean().item()
        outputs = found.outputs.masked_scatter(unsure[:, None], more.outputs)
        return Answers(outputs, 0.0, 0.0, found.products + share * more.products)

    for precision in first.engines:
        for share, cascade in cascades.cascades(first, last, precision, chosen_on(subject)).items():
            yield Contender(GRADED_CASCADE, precision, share, "engine", partial(answers_of, cascade), cascade.run)


def spiking_contenders(
    console: Console, name: str, net: nn.Module, images: Tensor, precision: str | None, steps: list[int]
) -> Iterator[Contender]:
    """A network at each number of steps, compiled where the engine takes it."""
    neurons = answers.neurons_of(net, images)
    by, simulated = runner(net, images, precision)
    console.print(f"{name}, {precision or 'float32'}: {by}")
    for T in steps:
        answers_of = partial(
            answers.spiking, partial(simulated, T=T), neurons=neurons, read=lambda result: result.logits,
            name=f"{name}, {precision or 'float32'}, T = {T}",
        )  # fmt: skip
        yield Contender(
            name, precision or "float32", T, by.partition(" ")[0], answers_of,
            lambda batch, T=T: lambda x: simulated(x, T=T).logits,
        )  # fmt: skip


def early_contenders(
    console: Console, subject: subjects.Subject, net: nn.Module, precision: str | None, steps: list[int]
) -> Iterator[Contender]:
    """The same with early exit by logits, by a lead that is chosen on held-out images."""
    neurons = answers.neurons_of(net, subject.images)
    by, simulated = runner(net, subject.images, precision)
    for T in (T for T in steps if T in logit_exit.AT):
        stop, told = logit_exit.rule(simulated, chosen_on(subject), T)
        console.print(f"{EARLY}, {precision or 'float32'}, {told}")
        run = partial(simulated, T=T, stop=stop)
        answers_of = partial(
            answers.spiking, run, neurons=neurons, read=lambda result: result.logits, name=f"{EARLY}, T = {T}"
        )
        yield Contender(
            EARLY, precision or "float32", T, by.partition(" ")[0], answers_of,
            lambda batch, run=run: lambda x: run(x).logits,
        )  # fmt: skip


def runner(net: nn.Module, images: Tensor, precision: str | None) -> tuple[str, Callable[..., Result]]:
    """What runs a network, in words, and the call."""
    try:
        return "engine", pk.compile(net, images[:1], precision=precision)
    except TypeError as reason:
        return f"simulate ({reason})", partial(pk.simulate, net, precision=precision)


def in_one_pass(net: pk.Network, images: Tensor) -> Answers:
    way = one_pass.ways()["two signed powers"]
    found = one_pass.in_one_pass(net, images, COUNTED, way)
    return Answers(found.logits, found.messages_a_neuron, found.work.additions, found.work.products)


def rows_of(subject: subjects.Subject, contenders: list[Contender]) -> Iterator[dict]:
    """What does not depend on the batch, of each contender. gained, lost: images that it has right and the ReLU
    network, which is the first contender, has wrong, and the other way round."""
    of_relu: Tensor | None = None
    for contender in contenders:
        found = contender.answers(subject.images)
        right = subject.is_right(found.outputs)
        of_relu = right if of_relu is None else of_relu
        changes = {"gained": str(int((right & ~of_relu).sum())), "lost": str(int((of_relu & ~right).sum()))}
        yield row_of(subject, contender, found) | changes | {"held_out": held_out_accuracy(subject, contender)}


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def held_out_accuracy(subject: subjects.Subject, contender: Contender) -> str:
    """The accuracy in % on held-out images: of the ReLU network in torch, and of what is chosen by it; else ""."""
    chosen = (contender.name, contender.precision) in levels.LINES
    if subject.held_out is None or not (chosen or (contender.name, contender.by) == (RELU, relu_passes.TORCH)):
        return ""
    images, right = subject.held_out
    return f"{100 * subjects.is_right(right, contender.answers(images).outputs).float().mean().item():.2f}"


def row_of(subject: subjects.Subject, contender: Contender, found: Answers) -> dict:
    steps = "" if contender.T is None else str(contender.T)
    return {
        "contender": contender.name, "precision": contender.precision, "T": steps, "by": contender.by,
        "mean_T": f"{found.steps:.2f}" if contender.name == EARLY else "",
        "images": len(subject.images), "right": f"{100 * subject.accuracy(found.outputs):.2f}",
        "rate": f"{100 * found.rate:.2f}" if found.rate else "",
        "million_additions": f"{found.additions / 1e6:.3f}", "million_products": f"{found.products / 1e6:.3f}",
    }  # fmt: skip


def timed(contenders: list[Contender], images: Tensor, batch: int, seconds_each: float) -> dict[int, list[float]]:
    """Seconds of calls, by the place of the contender."""
    runs = {k: one.timed(batch) for k, one in enumerate(contenders) if one.timed}
    batches = [part for part in images.split(batch)[:MOST_BATCHES] if len(part) == batch]
    return turns.back_to_back(runs, batches, seconds_each * len(runs))


def time_of(seconds: list[float], batch: int, is_mean: bool) -> dict:
    """``is_mean``: the middle is the mean, as where calls end early and a median would leave the long ones out."""
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    if is_mean:
        middle = mean(seconds)
    told = (f"{1e3 * value / batch:.4f}" for value in (middle, low, high))
    return {"batch": str(batch)} | dict(zip(("ms", "ms_low", "ms_high"), told, strict=True))


def print_rows(console: Console, rows: list[dict], batch: int) -> None:
    """The table of a batch; passes are the fastest of each precision."""
    rows = levels.of_batch(rows, str(batch))
    marked = [levels.first_level(rows, *line) for line in levels.lines(rows)]
    cells = []
    for row in sorted(rows, key=lambda row: row["contender"] in UNTIMED):
        times = [""] * (2 + len(levels.PASSES))
        if row["ms"]:
            shares = levels.passes(rows, row)
            quartiles = f"{float(row['ms_low']):.3f} .. {float(row['ms_high']):.3f}"
            told = (f"{shares[name]:.2f}" if name in shares else "" for name in levels.PASSES)
            times = [f"{float(row['ms']):.3f}", quartiles, *told]
        name = row["contender"] if row["contender"] in UNTIMED else f"{row['contender']}, {row['precision']}"
        cells.append(
            [name, row["by"], levels.steps(row), levels.accuracy(row), levels.changed(row), row["rate"],
             row["million_additions"], row["million_products"], *times, "first level" if row in marked else ""]
        )  # fmt: skip
    print_table(console, f"{rows[0]['net']}, {levels.images(batch)} a call", HEADINGS, cells, left=2)
