"""Sigma-delta neurons after few steps: the work of sigma_delta.py."""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from common import cost, subjects, tables
from common.checkout import commit
from common.command import refusing
from common.cost import FLOAT32, Work
from common.machine import device_name, heading
from images.settling import correlation, readings
from torch import Tensor

import proxykernels as pk
from proxykernels.layers.sigma_delta_neurons import SigmaDeltaNeurons

from . import sigma_delta_controls, sigma_delta_time

STEPS = (1, 2, 3, 4, 6, 8)
EXPONENTS = (9, 12, 6)
IF_STEPS = (2, 4, 8, 16, 32, 64, 128)  # each twice the one before
BATCH = 50
TABLE, TIME_TABLE, CONTROL_TABLE = "few_steps_sigma_delta.csv", "few_steps_time.csv", "few_steps_controls.csv"
COLUMNS = [
    "net", "neurons", "T", "images", "right", "correlation", "same_class", "spikes_a_neuron", "million_additions",
    "million_products", "arithmetic_uj", "neurons_uj", "sram_uj", "device", "commit",
]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    with refusing("evaluate.py sigma-delta"):
        controls, times = sigma_delta_controls.COLUMNS, sigma_delta_time.COLUMNS
        tables.check_out(options.out, {TABLE: COLUMNS, TIME_TABLE: times, CONTROL_TABLE: controls})
        subject = subjects.load(options.net, options.root)
    print(heading(f"{options.net}, converted", f"{len(subject.images)} images", options.out))
    subject = subject._replace(images=subject.images[: options.images], right=subject.right[: options.images])
    subject.ann.eval().to(memory_format=torch.channels_last)
    if options.time:
        found, table, columns = sigma_delta_time.rows(subject, options.repeats), TIME_TABLE, times
    elif options.controls:
        found, table, columns = sigma_delta_controls.rows(subject, options.few), CONTROL_TABLE, controls
    else:
        found, table, columns = rows(subject, options.few), TABLE, COLUMNS
    put(options.out / table, columns, options.net, found)


def put(path: Path, columns: list[str], net: str, found: Iterator[dict]) -> None:
    """Replace a network's rows in the table."""
    kept = [row for row in tables.read_csv(path) if row["net"] != net]
    about = {"net": net, "device": device_name(torch.device("cpu")), "commit": commit()}
    for row in found:
        print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""))
        kept.append(dict.fromkeys(columns, "") | about | row)
        tables.write_csv(path, columns, kept)  # so far


def rows(subject: subjects.Subject, few: int) -> Iterator[dict]:
    """The ReLU network, sigma-delta neurons of K exponents, and IF neurons, after T steps."""
    images = subject.images
    with torch.no_grad():
        expected = torch.cat([subject.ann(batch) for batch in images.split(BATCH)])
    for name, work in zip(("ReLU", "ReLU, zeros skipped"), cost.of_relu(subject.ann, images[:few]), strict=True):
        yield {"neurons": name, "images": len(images), **scores(subject, expected, expected), **_cost(work)}
    for name, net in sigma_delta_nets(subject).items():
        results = [pk.simulate(net, batch, max(STEPS)) for batch in images.split(BATCH)]
        potentials = torch.cat([result.potentials for result in results], 1)
        for T in STEPS:
            found = {"T": T, "images": len(images), **scores(subject, potentials[T - 1], expected)}
            parts = list(_simulated(net, images[:few], T))
            yield {"neurons": name, **found, **_mean_cost(net, parts, T, values=2, bits=cost.CODE_BITS)}
        yield {"neurons": f"{name}, settled", **_settled(subject, net, expected, few)}
    yield from if_rows(subject, expected, few)


def _settled(subject: subjects.Subject, net: pk.Network, expected: Tensor, few: int) -> dict[str, str | int]:
    """With early exit; T is the mean."""
    stop, images = pk.stop.settled(), subject.images
    results = [pk.simulate(net, batch, max(STEPS), stop=stop) for batch in images.split(BATCH)]
    logits, steps = (torch.cat([getattr(result, name) for result in results]) for name in ("logits", "steps"))
    parts = list(_simulated(net, images[:few], max(STEPS), stop=stop))
    mean = sum(result.steps.sum().item() for result, _ in parts) / len(images[:few])
    return {
        "T": f"{steps.float().mean():.2f}", "images": len(images), **scores(subject, logits, expected),
        **_mean_cost(net, parts, mean, values=2, bits=cost.CODE_BITS),
    }  # fmt: skip


def if_rows(subject: subjects.Subject, expected: Tensor, few: int) -> Iterator[dict]:
    """IF neurons as pk.convert makes them."""
    net, images = pk.convert(subject.ann, subject.calibration), subject.images[:few]
    read = [list(readings(net, batch, IF_STEPS)) for batch in images.split(BATCH)]
    for k, T in enumerate(IF_STEPS):
        choices = [torch.cat([getattr(part[k], name) for part in read]) for name in ("logits", "from_all")]
        logits = max(choices, key=lambda logits: correlation(logits, expected[:few]).mean().item())
        parts = list(_simulated(net, images, T))
        yield {"neurons": "IF", "T": T, "images": len(images), **scores(subject, logits, expected), **_mean_cost(
            net, parts, T, values=1, bits=1
        )}  # fmt: skip


def sigma_delta_nets(subject: subjects.Subject) -> dict[str, pk.Network]:
    """Networks of sigma-delta neurons, by names with their exponents; and signed ones, if other layers become them."""
    made = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    signed = pk.convert(subject.ann, subject.calibration, neuron=pk.neurons.SigmaDelta(signed=True))
    nets = {f"sigma-delta, K = {K}": copy.deepcopy(made) for K in EXPONENTS}
    for K, net in zip(EXPONENTS, nets.values(), strict=True):
        for _, layer, _ in net.layers():
            if hasattr(layer, "neuron"):
                layer.neuron = pk.neurons.SigmaDelta(K)
    if any(isinstance(layer, SigmaDeltaNeurons) and layer.fires and not layer.rectifies for layer in signed.modules()):
        nets[f"sigma-delta, K = {pk.neurons.SigmaDelta().exponents}, signed"] = signed
    return nets


def scores(subject: subjects.Subject, logits: Tensor, expected: Tensor) -> dict[str, str]:
    """How the first images' logits agree with the labels, and with those expected."""
    expected = expected[: len(logits)]
    same = (logits.argmax(1) == expected.argmax(1)).float().mean().item()
    return {
        "right": f"{subject.accuracy(logits):.4f}", "correlation": f"{correlation(logits, expected).mean():.4f}",
        "same_class": f"{same:.4f}",
    }  # fmt: skip


def _simulated(net: pk.Network, images: Tensor, T: int, stop=None) -> Iterator[tuple[pk.running.result.Result, int]]:
    return ((pk.simulate(net, batch, T, stop=stop), len(batch)) for batch in images.split(BATCH))


def _mean_cost(net: pk.Network, parts: list, T: float, values: int, bits: int) -> dict[str, str]:
    total, images = Work(), sum(count for _, count in parts)
    for result, count in parts:
        for name, value in vars(cost.of_simulation(net, result, T, count, values, bits)).items():
            setattr(total, name, getattr(total, name) + value * count / images)
    layers = [(count, result.rates[name]) for result, _ in parts for name, count in result.places.items() if count]
    places = sum(count for count, _ in layers)
    spikes = sum(count * rate for count, rate in layers)
    return {"spikes_a_neuron": f"{spikes / places * T:.3f}", **_cost(total)}


def _cost(work: Work) -> dict[str, str]:
    joules = work.row(FLOAT32, FLOAT32.bytes)
    return {
        "million_additions": f"{work.additions / 1e6:.2f}", "million_products": f"{work.products / 1e6:.2f}",
        **{key: joules[key] for key in ("arithmetic_uj", "neurons_uj", "sram_uj")},
    }  # fmt: skip
