"""A small network on what an event camera sees, trained by two methods: what train_events.py does."""

import argparse
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from common.accuracy import strict_accuracy, tied
from common.command import refusing
from common.data import fashion_mnist
from common.machine import heading
from common.tables import check_out, read_csv, write_csv
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import proxykernels as pk
from proxykernels.samples import saccade_frames

COLUMNS = ["method", "epoch", "images", "T", "strict", "tied", "highest_rate"]
METHODS: dict[str, Callable[[nn.Module, int], pk.SurrogateNet | pk.ProxyNet]] = {
    "surrogate": lambda net, T: pk.SurrogateNet(net, T),
    "proxy": lambda net, T: pk.ProxyNet(net, T, clip=True, statistics_of="steps"),
}
TARGET = 0.5  # firing rate of the true class
TEST_BATCH = 100


def run(options: argparse.Namespace) -> None:
    with refusing("train_events.py"):
        check_out(options.out, {"train_events.csv": COLUMNS})
    images = f"{options.images} images of Fashion-MNIST as an event camera sees them"
    print(heading("small network of random weights", images, options.out))
    with refusing("train_events.py"):
        train = events(*fashion_mnist("train", options.root), options.images, options.T)
        test = events(*fashion_mnist("test", options.root), options.test_images, options.T)
    table = options.out / "train_events.csv"
    for method in options.methods:
        rows = [row for row in read_csv(table) if row["method"] != method]
        torch.manual_seed(options.seed)
        model = METHODS[method](network(options.dropout), options.T)
        for epoch in epochs(model, train, options):
            row = {"method": method, "epoch": epoch, "images": len(train), "T": options.T}
            rows.append(row | evaluate(model, test))
            tqdm.write(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
            write_csv(table, COLUMNS, rows)


def events(images: Tensor, labels: Tensor, count: int, T: int) -> TensorDataset:
    """Frames uint8 [N, T, 2, 34, 34] and labels of the first ``count`` images."""
    return TensorDataset(saccade_frames(images[:count], T), labels[:count])


def network(dropout: float) -> nn.Sequential:
    return nn.Sequential(
        pk.FusedIFConv2d(2, 16, 3, padding=1, v_reset=None),
        pk.MaxPool2d(2),
        pk.FusedIFConv2d(16, 32, 3, padding=1, v_reset=None),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.Dropout(dropout),
        pk.FusedIFLinear(32 * 64, 10, v_reset=None),
    )


def epochs(model: nn.Module, train: TensorDataset, options: argparse.Namespace) -> Iterator[int]:
    """Train; after each epoch, its number."""
    loader = DataLoader(train, options.batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.epochs * len(loader))
    for epoch in range(1, options.epochs + 1):
        model.train()
        for frames, labels in tqdm(loader, f"epoch {epoch}", mininterval=0.5):
            rates = model(pk.time_first(frames > 0)) / options.T
            loss = F.mse_loss(rates, TARGET * F.one_hot(labels, 10))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch


@torch.no_grad()
def evaluate(model: pk.SurrogateNet | pk.ProxyNet, test: TensorDataset) -> dict[str, str]:
    """Accuracy, and the highest firing rate of a layer in the last batch."""
    model.eval()
    batches = [(model(pk.time_first(frames > 0)), labels) for frames, labels in DataLoader(test, TEST_BATCH)]
    counts, labels = map(torch.cat, zip(*batches, strict=True))
    figures = {
        "strict": strict_accuracy(counts, labels),
        "tied": tied(counts, labels).float().mean().item(),
        "highest_rate": max(model.rates.values()),
    }
    return {name: f"{figure:.4f}" for name, figure in figures.items()}
