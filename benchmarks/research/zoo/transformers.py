"""Spiking transformers here and in SpikingJelly: what transformer_speed.py does."""

import argparse
import statistics
from collections.abc import Callable, Iterator

import torch
from common.checkout import RESULTS, commit
from common.command import refusing
from common.machine import device_name, heading
from common.pages import markdown, put_table
from common.tables import check_out, read_csv, write_csv
from speed.turns import back_to_back
from torch import Tensor, nn

import proxykernels as pk

from .relu_nets import images, see

T, BATCHES, SEEN = 4, 4, 8
GAIN, SHIFT = 1.3, 0.1  # of all normalisations, so that attention fires, too
OURS, THEIRS = "proxykernels", "SpikingJelly"
COLUMNS = [
    "net", "images", "rate", "least_rate", "differing", "ms", "least_ms", "spikingjelly_ms", "spikingjelly_least_ms",
    "times", "threads", "device", "torch", "commit",
]  # fmt: skip
PAGE, TABLE = RESULTS.parents[1] / "docs" / "exchange.md", "transformer_speed"


def made() -> dict[str, tuple[str, Callable[[], nn.Module]]]:
    """A name for the table, and the network, by the option's names."""
    from spikingjelly.activation_based.model import qkformer, spike_driven_transformer, spikformer

    driven = spike_driven_transformer.SpikeDrivenTransformer
    return {
        "Spikformer": ("Spikformer-4-384", lambda: spikformer.spikformer_cifar10(T=T, num_classes=10)),
        "QKFormer": ("QKFormer-4-384", lambda: qkformer.QKFormer(T=T, num_classes=10, depths=(1, 1, 2))),
        "Spike-driven": (
            "Spike-driven Transformer-2-512",
            lambda: driven(T=T, num_classes=10, embed_dims=512, depths=2),
        ),
    }


def run(options: argparse.Namespace) -> None:
    with refusing("transformer_speed.py"):
        check_out(options.out, {"transformer_speed.csv": COLUMNS})
        nets = made()
    torch.set_num_threads(options.threads)
    print(heading("spiking transformers of random weights", "Fashion-MNIST in three channels", options.out))
    about = {
        "threads": options.threads,
        "device": device_name(torch.device("cpu")),
        "torch": torch.__version__,
        "commit": commit(),
    }
    rows: list[dict] = []
    for name in options.nets:
        title, make = nets[name]
        for row in compared(make, options.images):
            rows.append({"net": title} | row | about)
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items() if key not in about))
            write_csv(options.out / "transformer_speed.csv", COLUMNS, rows)
    if options.out.resolve() == RESULTS.resolve() and not commit().endswith("-dirty"):
        PAGE.write_text(put_table(PAGE.read_text(), TABLE, table(read_csv(RESULTS / "transformer_speed.csv"))))


@torch.no_grad()
def compared(make: Callable[[], nn.Module], numbers: list[int]) -> Iterator[dict]:
    """Rows of one network, for each number of images."""
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    photographs = images()()
    theirs = see(make(), steps_of(photographs[:SEEN]))
    functional.reset_net(theirs)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.fill_(GAIN), module.bias.fill_(SHIFT)
    ours = pk.from_spikingjelly(theirs, photographs[:1])

    def original(x: Tensor) -> Tensor:
        functional.reset_net(theirs)
        y = theirs(x)
        return y.mean(0) if y.ndim == 3 else y

    for count in numbers:
        batches = [steps_of(photographs[k * count :][:count]) for k in range(BATCHES)]
        engine, result = pk.compile(ours, batches[0]), pk.simulate(ours, batches[0], T)
        expected = original(batches[0])
        far = (result.potentials.mean(0) - expected).abs().max() / expected.abs().max()
        times = back_to_back({OURS: lambda x, engine=engine: engine(x, T), THEIRS: original}, batches)
        median, least = ({name: 1e3 * of(values) for name, values in times.items()} for of in (statistics.median, min))
        yield {
            "images": count,
            "rate": f"{statistics.mean(result.rates.values()):.2f}",
            "least_rate": f"{min(result.rates.values()):.3f}",
            "differing": f"{far.item():.2g}",
            "ms": f"{median[OURS]:.4g}",
            "least_ms": f"{least[OURS]:.4g}",
            "spikingjelly_ms": f"{median[THEIRS]:.4g}",
            "spikingjelly_least_ms": f"{least[THEIRS]:.4g}",
            "times": f"{median[THEIRS] / median[OURS]:.2f}",
        }


def steps_of(photographs: Tensor) -> Tensor:
    return photographs.expand(T, *photographs.shape).contiguous()


def table(rows: list[dict[str, str]]) -> str:
    lines = [
        [row[key] for key in ("net", "images", "rate", "least_rate", "ms", "spikingjelly_ms", "times")] for row in rows
    ]
    return markdown(
        [["network, T = 4", "images", "mean rate", "least of a layer", f"{OURS}, ms", f"{THEIRS}, ms", "times"], *lines]
    )
