"""Sigma-delta neurons after few steps, against the ReLU network and IF neurons: accuracy, operations, energy, time.

    python benchmarks/evaluate.py sigma-delta --net lite0
    python benchmarks/evaluate.py sigma-delta --net vgg11-cifar10 --root images
    python benchmarks/evaluate.py sigma-delta --net resnet20 --time

The ReLU twins of the shipped networks and ResNet-20 (weights in benchmarks/weights) on test images of Fashion-MNIST;
ResNet-20 and VGG-11 on those of CIFAR-10 (train.py relu makes the weights of VGG-11); EfficientNet-Lite0 with ImageNet
weights on crops of fourteen photographs of packages (common/photographs.py), of which six show a class of ImageNet. It
is scaled by crops of seven other photographs, the other networks by 1,000 training images.

For each T: right answers of the labelled images, the correlation of logits with the ReLU network's, images with its
class, spikes, operations and estimated energy an image (accuracy/cost.py; 45 nm). IF neurons, on the first --few
images: logits of all steps, or of their second half if these correlate better. Writes results/few_steps_sigma_delta.csv
and leaves other networks' rows there. --time: processor time of one thread, and that of a step loop in plain torch
(few_steps_time.csv). draw.py draws few_steps.png.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
from common import tables
from common.checkout import RESULTS, commit
from common.command import command
from common.machine import device_name, heading
from common.printed import new_parser, positive
from images.settling import correlation, readings
from torch import Tensor

import proxykernels as pk

from . import cost, sigma_delta_time, subjects
from .work import FLOAT32, Work

STEPS = (1, 2, 3, 4, 6, 8)
EXPONENTS = (9, 12, 6)
IF_STEPS = (2, 4, 8, 16, 32, 64, 128)  # each twice the one before
BATCH = 50
TABLE, TIME_TABLE = "few_steps_sigma_delta.csv", "few_steps_time.csv"
COLUMNS = [
    "net", "neurons", "T", "images", "right", "correlation", "same_class", "spikes_a_neuron", "million_additions",
    "million_products", "arithmetic_uj", "neurons_uj", "sram_uj", "device", "commit",
]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    text = ", ".join(subjects.NAMES)
    parser.add_argument("--net", choices=subjects.NAMES, default="small", metavar="NAME", help=text)
    parser.add_argument("--images", type=positive, default=10_000, help="test images, the first ones")
    parser.add_argument("--few", type=positive, default=500, help="of them, for IF neurons and operations")
    parser.add_argument("--time", action="store_true", help="time alone")
    parser.add_argument("--repeats", type=positive, default=5, help="timed runs of each")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST, or of CIFAR-10")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        subject = subjects.load(options.net, options.root)
    except (ValueError, OSError) as error:
        raise SystemExit(f"evaluate.py sigma-delta: {error}") from error
    print(heading(f"{options.net}, converted", f"{len(subject.images)} images", options.out))
    subject = subject._replace(images=subject.images[: options.images], right=subject.right[: options.images])
    subject.ann.eval().to(memory_format=torch.channels_last)
    if options.time:
        found, table, columns = sigma_delta_time.rows(subject, options.repeats), TIME_TABLE, sigma_delta_time.COLUMNS
    else:
        found, table, columns = rows(subject, options.few), TABLE, COLUMNS
    put(options.out / table, columns, options.net, found)


def put(path: Path, columns: list[str], net: str, found: Iterator[dict]) -> None:
    """Put a network's rows in the place of those that the table has of it."""
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
    for K, net in sigma_delta_nets(subject).items():
        results = [pk.simulate(net, batch, max(STEPS)) for batch in images.split(BATCH)]
        potentials = torch.cat([result.potentials for result in results], 1)
        for T in STEPS:
            parts = list(_simulated(net, images[:few], T))
            found = scores(subject, potentials[T - 1], expected)
            yield {"neurons": f"sigma-delta, K = {K}", "T": T, "images": len(images), **found, **_mean_cost(
                net, parts, T, values=2, bits=cost.CODE_BITS
            )}  # fmt: skip
    yield from if_rows(subject, expected, few)


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


def sigma_delta_nets(subject: subjects.Subject) -> dict[int, pk.Network]:
    """Networks of sigma-delta neurons by their exponents; thresholds are the same."""
    made = pk.convert(subject.ann, subject.calibration, neuron="sigma-delta")
    nets = {K: copy.deepcopy(made) for K in EXPONENTS}
    for K, net in nets.items():
        for _, layer, _ in net.layers():
            if hasattr(layer, "neuron"):
                layer.neuron = pk.neurons.SigmaDelta(K)
    return nets


def scores(subject: subjects.Subject, logits: Tensor, expected: Tensor) -> dict[str, str]:
    """How the first images' logits agree with the labels, and with those expected."""
    expected = expected[: len(logits)]
    same = (logits.argmax(1) == expected.argmax(1)).float().mean().item()
    return {
        "right": f"{subject.accuracy(logits):.4f}", "correlation": f"{correlation(logits, expected).mean():.4f}",
        "same_class": f"{same:.4f}",
    }  # fmt: skip


def _simulated(net: pk.Network, images: Tensor, T: int) -> Iterator[tuple[pk.simulation.result.Result, int]]:
    return ((pk.simulate(net, batch, T), len(batch)) for batch in images.split(BATCH))


def _mean_cost(net: pk.Network, parts: list, T: int, values: int, bits: int) -> dict[str, str]:
    total, images = Work(), sum(count for _, count in parts)
    for result, count in parts:
        for name, value in vars(cost.of_simulation(net, result, T, count, values, bits)).items():
            setattr(total, name, getattr(total, name) + value * count / images)
    tallies = [(result, tally) for result, _ in parts for tally in result._tallies.values() if tally.places]
    places = sum(tally.places for _, tally in tallies)
    spikes = sum(tally.rate * tally.places for _, tally in tallies)
    return {"spikes_a_neuron": f"{spikes / places * T:.3f}", **_cost(total)}


def _cost(work: Work) -> dict[str, str]:
    joules = work.row(FLOAT32, FLOAT32.bytes)
    return {
        "million_additions": f"{work.additions / 1e6:.2f}", "million_products": f"{work.products / 1e6:.2f}",
        **{key: joules[key] for key in ("arithmetic_uj", "neurons_uj", "sram_uj")},
    }  # fmt: skip


if __name__ == "__main__":
    command(main)
