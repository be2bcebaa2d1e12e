"""Spiking networks on real images against their rivals, in turn: what sim_speed.py does."""

import argparse
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import torch
from common.accuracy import strict_accuracy
from common.checkout import commit
from common.firing_rates import share_thresholds
from common.machine import device_name, heading
from common.nets import load
from gpu.rivals import GPU_RIVALS
from rich.console import Console
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk
from speed.prepare import not_default, prepare
from speed.report import DROP_IN, OURS, RELU, ROUNDED, append_csv, picture_name, plot, print_line_up, print_table
from speed.rivals import RIVALS, NotOffered, build, relu_pass
from speed.timing import Contender, Measurement, measure

TELL_S = 10.0
BUDGET_S = 80.0  # from the start to the last run, unless --repeats or very slow rivals demand more


class Ours:
    """The network simulated by proxykernels; keeps the firing rates of its last run."""

    def __init__(self, net: nn.Module, images: Tensor, precision: str | None = None):
        self.net, self.images, self.precision = net, images, precision
        self.rates: dict[str, float] = {}

    def __call__(self, T: int) -> Tensor:
        result = pk.simulate(self.net, self.images, T, precision=self.precision)
        self.rates = result.rates
        return result.count()


def run(options: argparse.Namespace, tell: Callable[[str], None] = lambda doing: None) -> None:
    """``tell``: is called with what is done next, at most every TELL_S."""
    tell = rarely(tell)
    start = start_of_runs = time.perf_counter()
    console = Console()
    images, labels = prepare(options)
    csv_path = options.out / "sim_speed.csv"
    device = images.device
    v_reset = 0.0 if options.reset == "hard" else None
    decay = 1 - 1 / options.tau if options.neuron == "lif" else None
    net, trained = load(options.net, v_reset, options.weights, decay, options.random)
    if options.shared:
        share_thresholds(net)
    net = net.to(device)
    ours = Ours(net, images)
    rivals = options.rivals
    if rivals is None:
        rivals = list(RIVALS | GPU_RIVALS if device.type == "cuda" else RIVALS)
    neuron = neuron_name(net)
    weights = "trained" if trained else "UNTRAINED (random weights: accuracy means nothing)"
    network, data = (
        f"{shown_name(options)} net, {neuron} neurons, {weights}",
        f"{options.batch} Fashion-MNIST test images",
    )
    console.print(heading(network, data, options.out, device))
    contenders, missing = line_up(ours, rivals, console, tell)
    for name in reversed(ROUNDED):
        precision = name.removeprefix(f"{OURS} ")
        if getattr(options, precision):
            settings = f"pk.simulate(precision={precision!r})"
            contenders.insert(1, Contender(name, settings, pk.__version__, Ours(net, images, precision), False))
    if options.relu:
        settings, counts = relu_pass(net, images)
        contenders.append(Contender(RELU, settings, torch.__version__, partial(counts, images), False))
    print_line_up(console, {one.name: one.settings for one in contenders}, missing)
    common = common_columns(options, neuron, trained, device)
    if device.type == "cuda":  # whose rivals compile for longer than all runs take
        start_of_runs = time.perf_counter()
    all_rows = []
    for position, T in enumerate(options.T):
        share = T / sum(options.T[position:])
        measurements = measure_with_bar(contenders, T, device, start_of_runs + BUDGET_S, share, options.repeats, tell)
        rows = [{**common, "T": T, **row} for row in to_rows(measurements, labels)]
        print_table(console, rows, missing, ours.rates)
        all_rows += rows
        append_csv(csv_path, rows)
    png_path = options.out / picture_name(
        shown_name(options), options.reset, device.type, not_default(options, trained)
    )
    plot(png_path, all_rows)
    console.print(
        "\nThe machine's speed changes from minute to minute: compare figures of one run only. "
        "Contenders took turns, each warmed up first; the slow had fewer runs, down to 1 where time was short."
    )
    console.print(f"{csv_path}\n{png_path}\nended after {time.perf_counter() - start:.0f} s")


def rarely(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Leaves out what comes within TELL_S of what was told before."""
    told = -math.inf

    def tells(doing: str) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            tell(doing)
            told = time.monotonic()

    return tells


def line_up(
    ours: Ours, names: list[str], console: Console, tell: Callable[[str], None] = lambda doing: None
) -> tuple[list[Contender], dict[str, str]]:
    """proxykernels and the rivals that run here, and for the others the reason why not."""
    contenders = [
        Contender(OURS, "pk.simulate", pk.__version__, ours, steady=False),
        Contender(
            DROP_IN, "as a drop-in, called on images.expand(T, ...)", pk.__version__, drop_in(ours), steady=False
        ),
    ]
    missing = {}
    for name in names:
        tell(f"prepares {name}")
        with console.status(f"preparing {name}"):
            try:
                rival = build(name, ours.net, ours.images, RIVALS | GPU_RIVALS)
            except NotOffered as reason:
                missing[name] = str(reason)
                continue
        run = partial(rival.counts, ours.images)
        settings = f"{rival.settings} (ready after {rival.preparation_s:.1f} s, not timed)"
        contenders.append(Contender(name, settings, rival.version, run))
    return contenders, missing


def drop_in(ours: Ours) -> Callable[[int], Tensor]:
    """The network called on dense tensors, as users' own code does."""

    def counts(T: int) -> Tensor:
        with torch.no_grad():
            return ours.net(ours.images.expand(T, *ours.images.shape)).sum(0)

    return counts


def measure_with_bar(
    contenders: list[Contender],
    T: int,
    device: torch.device,
    deadline: float,
    share: float,
    repeats: int | None,
    tell: Callable[[str], None] = lambda doing: None,
) -> list[Measurement]:
    with tqdm(desc=f"T = {T}", unit="run", leave=False, disable=None) as bar:

        def progress(doing: str, to_come: int) -> None:
            bar.total = bar.n + to_come
            bar.set_postfix_str(doing)
            tell(f"T = {T}: {doing}")
            bar.update(min(1, to_come))

        return measure(contenders, T, device, deadline=deadline, share=share, repeats=repeats, progress=progress)


def to_rows(measurements: list[Measurement], labels: Tensor) -> list[dict]:
    """The columns that differ between contenders; ``labels`` [N] on the CPU."""
    plain = next((m.counts for m in measurements if m.contender.name == "plain"), None)
    return [
        {
            "contender": m.contender.name,
            "median_ms_per_image": _ms_per_image(m.median_s, labels),
            "min_ms_per_image": _ms_per_image(min(m.seconds), labels),
            "max_ms_per_image": _ms_per_image(max(m.seconds), labels),
            "rounds": len(m.seconds),
            "counts_different": "" if plain is None or m.contender.name == RELU else int((m.counts != plain).sum()),
            "counts_total": m.counts.numel(),
            "accuracy": strict_accuracy(m.counts, labels),
            "peak_mb": "" if m.peak_bytes is None else round(m.peak_bytes / 1e6, 1),
            "version": m.contender.version,
        }
        for m in measurements
    ]


def shown_name(options: argparse.Namespace) -> str:
    """What the table calls the network."""
    return f"{options.net}-shared" if options.shared else options.net


def neuron_name(net: nn.Module) -> str:
    """What the table calls the neurons of a network: "if", or "lif-tau2"."""
    neuron = next(layer.neuron for layer in net if isinstance(layer, pk.layers.Neurons))
    if not isinstance(neuron, pk.neurons.LIFNeuron):
        return "if"
    return f"lif-tau{1 / (1 - float(neuron.decay)):g}"


def common_columns(options: argparse.Namespace, neuron: str, trained: bool, device: torch.device) -> dict:
    """The columns that all rows of this run share."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "net": shown_name(options),
        "trained": trained,
        "reset": options.reset,
        "neuron": neuron,
        "batch": options.batch,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _ms_per_image(seconds: float, labels: Tensor) -> float:
    return round(1000 * seconds / len(labels), 5)
