"""Remedies for few steps, compared: the work of few_steps.py."""

import argparse
import copy
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from common import relu_networks, tables
from common.accuracy import ann_accuracy, strict_accuracy
from common.command import refusing
from common.data import fashion_mnist
from common.machine import heading
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import proxykernels as pk

STEPS = (4, 8, 16, 32, 64)
CALIBRATION, BATCH = 1000, 128
PERCENTILE = 99.0  # of a ReLU's activations above 0: the threshold that it starts to learn from
TUNED: dict[str, int | None] = {"clipped": None, "quantised, 4 levels": 4, "8 levels": 8, "16 levels": 16}
STARTS = {"the default": {}, "half a threshold": {"v_init": 0.5}}  # pk.convert's options
COLUMNS = ["trained", "converted", "T", "counts", "logits", "relu", "images", "epochs", "cpu_seconds"]


class ClippedReLU(nn.Module):
    """A ReLU that is clipped at a threshold that learns, and rounded to ``levels`` of it, unseen by gradients."""

    def __init__(self, threshold: float, levels: int | None):
        super().__init__()
        self.threshold, self.levels = nn.Parameter(torch.tensor(threshold)), levels

    def forward(self, x: Tensor) -> Tensor:
        share = (x / self.threshold).clamp(0, 1)
        if self.levels:
            share = share + ((share * self.levels + 0.5).floor() / self.levels - share).detach()
        return share * self.threshold


def run(options: argparse.Namespace) -> None:
    with refusing("evaluate.py few-steps"):
        tables.check_out(options.out)
        train_set = fashion_mnist("train", options.root)
        test_set = tuple(part[: options.images] for part in fashion_mnist("test", options.root))
        compare(options, train_set, test_set)


def compare(options: argparse.Namespace, train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]) -> None:
    data = f"{len(train_set[0])} training and {len(test_set[0])} test images of Fashion-MNIST"
    print(heading(f"{options.net} net", data, options.out))
    rows: list[dict] = []
    for row in measure(options, train_set, test_set):
        rows.append(row)
        print(", ".join(f"{key} {row[key]}" for key in COLUMNS[:6]))
        name = "few_steps.csv" if options.net == "small" else f"few_steps_{options.net}.csv"
        tables.write_csv(options.out / name, COLUMNS, rows)  # so far


def measure(
    options: argparse.Namespace, train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]
) -> Iterator[dict]:
    """All rows, network by network."""
    calibration, shipped = train_set[0][:CALIBRATION], pk.samples.relu_network()
    for name, make in networks(options.net, shipped, calibration).items():
        ann, start = make(), time.process_time()
        epochs = 0 if ann is shipped else options.epochs
        if epochs:
            relu_networks.train(ann, train_set, epochs, options.lr, name)
        seconds = time.process_time() - start
        about = {
            "trained": name, "relu": f"{ann_accuracy(ann, TensorDataset(*test_set)):.4f}", "images": len(test_set[0]),
            "epochs": epochs, "cpu_seconds": f"{seconds:.0f}",
        }  # fmt: skip
        for start_name, start_options in STARTS.items():
            net = pk.convert(as_hardtanh(ann), calibration, **start_options)
            for T in STEPS:
                counts, logits = simulated(net, test_set[0], T)
                by_logits = (logits.argmax(1) == test_set[1]).float().mean().item()
                by_counts = strict_accuracy(counts, test_set[1])
                scores = {"counts": f"{by_counts:.4f}", "logits": f"{by_logits:.4f}"}
                yield about | {"converted": start_name, "T": T} | scores
            if ann is not shipped:
                continue
            for T in STEPS:
                counts = torch.cat([signed_counts(net, batch, T) for batch in test_set[0].split(BATCH)])
                scores = {"counts": f"{strict_accuracy(counts, test_set[1]):.4f}", "logits": ""}
                yield about | {"converted": f"{start_name}, signed neurons", "T": T} | scores


def networks(name: str, shipped: nn.Sequential, calibration: Tensor) -> dict[str, Callable[[], nn.Sequential]]:
    """How each network is made that is trained and converted."""
    if name == "resnet20":
        return {"from random weights": lambda: relu_networks.random("resnet20")}
    made = {"as shipped": lambda: shipped, "an epoch more": lambda: copy.deepcopy(shipped)}
    return made | {name: lambda n=levels: clipped(shipped, calibration, n) for name, levels in TUNED.items()}


def clipped(ann: nn.Sequential, calibration: Tensor, levels: int | None) -> nn.Sequential:
    """A copy whose ReLUs are clipped."""
    ann, x = copy.deepcopy(ann), calibration
    with torch.no_grad():
        for name, module in list(ann.named_children()):
            x = module(x)
            if isinstance(module, nn.ReLU):
                above = x[x > 0].sort().values
                threshold = above[int(len(above) * PERCENTILE / 100)].item()
                setattr(ann, name, ClippedReLU(threshold, levels))
    return ann


def as_hardtanh(ann: nn.Sequential) -> nn.Sequential:
    """A copy in which what was clipped is what pk.convert knows: spikes take the place of levels."""
    ann = copy.deepcopy(ann)
    for name, module in list(ann.named_children()):
        if isinstance(module, ClippedReLU):
            setattr(ann, name, nn.Hardtanh(0.0, module.threshold.item()))
    return ann


def simulated(net: nn.Module, images: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Counts and logits [N, classes]."""
    results = [pk.simulate(net, batch, T) for batch in images.split(BATCH)]
    return torch.cat([r.count() for r in results]), torch.cat([r.logits for r in results])


@torch.no_grad()
def signed_counts(net: nn.Module, images: Tensor, T: int) -> Tensor:
    """Spikes [N, classes] of a converted chain with signed neurons after T steps, less those that were taken back."""
    potentials: dict[str, Tensor] = {}
    fired: dict[str, Tensor] = {}
    for _ in range(T):
        x = images
        for name, layer in net.named_children():
            if isinstance(layer, pk.layers.Fused):
                current = layer.synapse(layer).plain()(x)
                if name not in fired:
                    start = torch.as_tensor(layer.v_init).view(-1, *[1] * (current.ndim - 2))
                    potentials[name], fired[name] = start.expand_as(current), torch.zeros_like(current)
                v = potentials[name] + current  # thresholds are 1
                x = (v >= 1).float() - ((v <= -1) & (fired[name] > 0)).float()
                potentials[name] = v - x
                fired[name] = fired[name] + x
            elif isinstance(layer, pk.MaxRatePool2d):  # of counts, which may go down
                before = fired.get(name, torch.zeros_like(x))
                fired[name] = before + x
                window = layer.kernel_size, layer.stride, layer.padding
                x = F.max_pool2d(fired[name], *window) - F.max_pool2d(before, *window)
            else:
                x = x.flatten(1)
    return fired[name]
