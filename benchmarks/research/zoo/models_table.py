"""Models that people have, as spiking networks: what supported_models.py does."""

import argparse
import re
import warnings
from datetime import date
from pathlib import Path

import torch
from common import names
from common.command import refusing
from common.machine import heading
from common.printed import print_table
from common.tables import check_out, read_csv, replace, write_csv
from rich.console import Console
from torch import Tensor, nn
from tqdm import tqdm

import proxykernels as pk
from zoo import relu_nets, spiking_nets

SHORT, LONG = names.ZOO_STEPS
COLUMNS = (
    "source", "net", "converts", "error_64", "error_1024", "sigma_delta_4", "differing_spikes", "rate", "T", "input",
    "reason", "date",
)  # fmt: skip
REFUSALS = (TypeError, ValueError)
FEW = 4  # steps of sigma-delta neurons
NEAR = 0.1  # the largest error of a network that converts
BEGIN, END = "<!-- supported_models.py writes from here -->", "<!-- to here -->"


def run(options: argparse.Namespace) -> None:
    with refusing("supported_models.py"):
        check_out(options.out, {"supported_models.csv": COLUMNS})
    nets = [*relu_nets.ALL, *spiking_nets.spiking_nets()]
    chosen = [net for net in nets if not options.nets or net.name in options.nets]
    known = {row["net"]: row for row in read_csv(options.out / "supported_models.csv")}
    kept = len(known.keys() - {net.name for net in chosen})
    resumes = f"{kept} rows of other networks stay"
    print(heading(f"{len(chosen)} models of random weights", "small real inputs", options.out, "cpu", resumes))
    warnings.filterwarnings("ignore", message=".*initialization of .* will be changed", category=FutureWarning)
    bar = tqdm(chosen, unit="net", leave=False, disable=None)
    for net in bar:
        bar.set_description(net.name)
        known[net.name] = row_of(net, options.longest) | {"date": date.today().isoformat()}
        rows = [known[net.name] for net in nets if net.name in known]
        write_csv(options.out / "supported_models.csv", list(COLUMNS), rows)
    if options.page:
        write_page(options.page, rows)
    console = Console()
    print_table(
        console,
        f"{len(rows)} models, of which {sum(verdict(row) == 'yes' for row in rows)} convert",
        ["net", "converts", "error, T = 64", "T = 1024", "sigma-delta, T = 4", "differing spikes"],
        [[row["net"], *cells(row)[1:-1]] for row in rows],
        left=2,
    )


def row_of(net: relu_nets.ReluNet | spiking_nets.SpikingNet, longest: int) -> dict:
    """The row of the table: figures, or the reason why there are none."""
    row = dict.fromkeys(COLUMNS, "") | {"source": net.source, "net": net.name}
    measure = relu_row if isinstance(net, relu_nets.ReluNet) else port_row
    try:
        return row | measure(net, longest) | {"converts": "yes"}
    except REFUSALS as error:
        return row | {"converts": "no", "reason": str(error)}


def relu_row(net: relu_nets.ReluNet, longest: int) -> dict:
    """How far the logits are off after some steps, of one run; and by sigma-delta neurons."""
    ann, calibration, x = prepared(net)
    converted = pk.convert(ann, calibration)
    with torch.no_grad():
        expected = logits_of(ann)(x)
    state, charge, done, errors = None, 0.0, 0, {}
    for T in (T for T in (SHORT, LONG) if T <= longest):
        result = pk.simulate(converted, x, T - done, state=state)
        charge, state, done = charge + (T - done) * result.logits, result.state, T
        errors[T] = relative(charge / T, expected)
    rates = list(result.rates.values())
    return {
        "error_64": f"{errors[SHORT]:.4f}", "error_1024": f"{errors[LONG]:.4f}" if LONG in errors else "",
        "sigma_delta_4": sigma_delta(ann, calibration, x, expected),
        "rate": f"{sum(rates) / len(rates):.4f}", "T": longest, "input": size(x[0]),
    }  # fmt: skip


def prepared(net: relu_nets.ReluNet) -> tuple[nn.Module, Tensor, Tensor]:
    """The network in evaluation mode, the inputs that it is calibrated on, and those that it is tested on."""
    torch.manual_seed(0)
    ann, inputs = net.make(), net.inputs()
    ann = relu_nets.see(ann, inputs) if takes(ann, inputs[:2]) else ann
    return ann, inputs[: relu_nets.CALIBRATION], inputs[relu_nets.CALIBRATION :][: relu_nets.TESTED]


def sigma_delta(ann: nn.Module, calibration: Tensor, x: Tensor, expected: Tensor) -> str:
    """How far the logits of sigma-delta neurons are off; empty where the network has a module that they do not take."""
    try:
        converted = pk.convert(ann, calibration, neuron="sigma-delta")
    except REFUSALS:
        return ""
    return f"{relative(pk.simulate(converted, x, FEW).logits, expected):.4f}"


def takes(ann: nn.Module, inputs: Tensor) -> bool:
    """Whether the model is of known parts, found out before it has run for long."""
    try:
        pk.convert(ann, inputs)
    except TypeError:
        return False
    except ValueError:  # a layer is silent, whose normalisation has seen nothing yet
        return True
    return True


def logits_of(ann: nn.Module) -> nn.Module:
    """The network without a softmax or sigmoid at its end, which a spiking network leaves out."""
    traced = torch.fx.symbolic_trace(ann)
    (result,) = next(node for node in traced.graph.nodes if node.op == "output").args
    target = traced.get_submodule(result.target) if result.op == "call_module" else result.target
    if isinstance(target, nn.Softmax | nn.Sigmoid) or getattr(target, "__name__", "") == "log_softmax":
        result.replace_all_uses_with(result.args[0])
        traced.recompile()
    return traced


def relative(logits: Tensor, expected: Tensor) -> float:
    return ((logits - expected.view_as(logits)).norm() / expected.norm()).item()


def port_row(net: spiking_nets.SpikingNet, longest: int) -> dict:
    """How many spikes differ from those of the library's own run, in all layers of neurons."""
    theirs, x = spiking_nets.prepared(net)
    sequence = x.ndim == 5
    ours = net.port(theirs, x[0] if sequence else x)
    expected, _ = spiking_nets.fired(theirs, x, sequence)
    layers = [name for name, layer, _ in ours.layers() if is_population(layer)]
    result = pk.simulate(ours, x, spiking_nets.T, record=layers)
    differing = spikes = neurons = 0
    for name, fired in zip(layers, expected, strict=True):
        differing += int((result.records[name].dense().view_as(fired) != fired).sum())  # heads may have an axis there
        spikes, neurons = spikes + int(fired.sum()), neurons + fired.numel()
    return {
        "differing_spikes": f"{differing / neurons:.2e}", "rate": f"{spikes / neurons:.4f}", "T": spiking_nets.T,
        "input": size(x[0, 0] if sequence else x[0]),
    }  # fmt: skip


def is_population(layer: nn.Module) -> bool:
    """Whether a layer has neurons of the library; products of spikes are such here that forget all at each step."""
    return isinstance(layer, pk.layers.Neurons) and layer.neuron.fires and getattr(layer, "decay", 1.0) != 0.0


def size(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))


def cells(row: dict) -> list[str]:
    """A row as the page has it: the net, the verdict, the errors, the share of differing spikes, and the reason."""
    figures = [percent(float(row[key])) if row[key] else "" for key in ("error_64", "error_1024", "sigma_delta_4")]
    share = float(row["differing_spikes"]) if row["differing_spikes"] else None
    differing = "" if share is None else "none" if share == 0 else f"{1e6 * share:.2g} in a million"
    return [row["net"], verdict(row), *figures, differing, row["reason"]]


def verdict(row: dict) -> str:
    """What "converts" says on the page: "far off" where a model is translated and its last error exceeds NEAR."""
    error = row["error_1024"] or row["error_64"]
    return "far off" if error and float(error) > NEAR else row["converts"]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def write_page(page: Path, rows: list[dict]) -> None:
    """Put the table in place of the one that the page holds."""
    text = page.read_text()
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    replace(page, between.sub(lambda _: f"{BEGIN}\n{table(rows)}{END}", text).encode())


def table(rows: list[dict]) -> str:
    """The rows in Markdown, one table per source; of each reason the part before the remedy."""
    lines = []
    for source in dict.fromkeys(row["source"] for row in rows):
        named = "error, T = 64 | T = 1024 | sigma-delta, T = 4"
        if "snnTorch" in source or "SpikingJelly" in source:
            named = "differing spikes"
        lines += ["", f"| {source} | converts | {named} | why not |", f"|---|---|{'---|' * (named.count('|') + 2)}"]
        for row in (row for row in rows if row["source"] == source):
            net, converts, *figures, reason = cells(row)
            figures = figures[3:] if named.startswith("differing") else figures[:3]
            lines.append(
                "| " + " | ".join([net, converts, *figures, _escaped(re.split(r";|\. Supported:", reason)[0])]) + " |"
            )
    return "\n".join([*lines, "", ""])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
