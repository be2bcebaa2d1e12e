"""A small network on what an event camera sees, trained by some methods, and read while the events come: what
train_events.py does."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import cost, figures, weights_file
from common.accuracy import strict_accuracy, strict_correct, tied
from common.command import refusing
from common.data import fashion_mnist
from common.machine import heading
from common.tables import check_out, read_csv, replace, save_figure, write_csv
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import proxykernels as pk
from proxykernels.samples import saccade_frames
from training.model import stored

COLUMNS = ["method", "seed", "epoch", "images", "T", "strict", "tied", "highest_rate", "million_products"]
TIME_COLUMNS = ["method", "seed", "images", "T", "ms", "strict", "tied"]
MOVEMENTS_MS = 300.0  # of all three together, as before N-MNIST's camera
TARGET = 0.5  # firing rate of the true class
TEST_BATCH = 100
MOVEMENTS = 3
Model = pk.SurrogateNet | pk.ProxyNet | nn.Sequential


class Method(NamedTuple):
    """How a network is trained: the model, of the share of inputs that are dropped and of the steps; a batch's loss and
    its answers, of the model and of frames [T, N, ...]."""

    model: Callable[[float, int], Model]
    loss: Callable[[Model, Tensor, Tensor], Tensor]
    answers: Callable[[Model, Tensor], Tensor]


def firing(features: int, classes: int) -> nn.Module:
    return pk.FusedIFLinear(features, classes, v_reset=None)


def loss_of_rates(model: Model, frames: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(model(frames) / len(frames), TARGET * F.one_hot(labels, 10))


def adding_up(features: int, classes: int) -> nn.Module:
    return pk.FusedLILinear(features, classes, decay=1.0)


def potentials(model: Model, frames: Tensor) -> list[Tensor]:
    """After each movement of the camera; gradients end where one begins."""
    found, state = [], {}
    for movement in frames.chunk(MOVEMENTS):
        now, state = model(movement, state)
        found.append(now)
    return found


def loss_of_movements(model: Model, frames: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(now, labels) for now in potentials(model, frames)]).mean()


def counts(frames: Tensor, movements: int) -> Tensor:
    """In how many frames of each of the camera's first movements a pixel had events: [N, 2 movements, H, W]."""
    return torch.cat([part.sum(0) for part in frames.chunk(MOVEMENTS)[:movements]], 1).float()


def relu_network(dropout: float, movements: int) -> nn.Sequential:
    """The ReLU network of the same layers."""
    return nn.Sequential(
        nn.Conv2d(2 * movements, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(32 * 64, 10),
    )  # fmt: skip


def relu(movements: int) -> Method:
    """A ReLU network on the counts of each of the first movements."""
    return Method(
        lambda dropout, T: relu_network(dropout, movements),
        lambda model, frames, labels: F.cross_entropy(model(counts(frames, movements)), labels),
        lambda model, frames: model(counts(frames, movements)),
    )


METHODS = {
    "surrogate": Method(
        lambda dropout, T: pk.SurrogateNet(network(firing, dropout), T), loss_of_rates,
        lambda model, frames: model(frames),
    ),
    "surrogate, each movement": Method(
        lambda dropout, T: pk.SurrogateNet(network(adding_up, dropout), T // MOVEMENTS, readout="potential"),
        loss_of_movements, lambda model, frames: potentials(model, frames)[-1],
    ),
    "proxy": Method(
        lambda dropout, T: pk.ProxyNet(network(firing, dropout), T, clip=True, statistics_of="steps"), loss_of_rates,
        lambda model, frames: model(frames),
    ),
    "relu": relu(MOVEMENTS),
    "relu, first movement": relu(1),
}  # fmt: skip


def run(options: argparse.Namespace) -> None:
    with refusing("train_events.py"):
        check_out(options.out, {"train_events.csv": COLUMNS, "train_events_time.csv": TIME_COLUMNS})
        if options.T % MOVEMENTS:
            raise ValueError(f"--T must be a multiple of the {MOVEMENTS} movements, got {options.T}")
    images = f"{options.images} images of Fashion-MNIST as an event camera sees them"
    print(heading("small network of random weights", images, options.out))
    with refusing("train_events.py"):
        train = events(*fashion_mnist("train", options.root), options.images, options.T)
        test = events(*fashion_mnist("test", options.root), options.test_images, options.T)
    table, table_of_time = options.out / "train_events.csv", options.out / "train_events_time.csv"
    for name in options.methods:
        method, seed = METHODS[name], str(options.seed)
        rows = [row for row in read_csv(table) if (row["method"], row["seed"]) != (name, seed)]
        torch.manual_seed(options.seed)
        model = method.model(options.dropout, options.T)
        for epoch in epochs(method, model, train, options):
            row = {"method": name, "seed": seed, "epoch": epoch, "images": len(train), "T": options.T}
            rows.append(row | evaluate(method, model, test))
            say(rows[-1])
            write_csv(table, COLUMNS, rows)
        if isinstance(model, nn.Sequential):  # a pass has one answer, and no steps
            continue
        about = {key: str(rows[-1][key]) for key in ("method", "images", "T", "strict")}
        file = f"train_events_{name.replace(',', '').replace(' ', '_')}{f'-{seed}' * (seed != '0')}.safetensors"
        replace(options.out / file, content(model.net, about))
        told = {"method": name, "seed": seed, "images": len(train), "T": options.T}
        found = [told | row for row in over_time(model.net, test)]
        for row in found:
            say(row)
        others = [row for row in read_csv(table_of_time) if (row["method"], row["seed"]) != (name, seed)]
        write_csv(table_of_time, TIME_COLUMNS, others + found)
    draw(options.out)


def say(row: dict) -> None:
    tqdm.write(", ".join(f"{key} {value}" for key, value in row.items()))


def content(net: nn.Module, about: dict[str, str]) -> bytes:
    """A file of the weights, as train.py stores them."""
    return weights_file.content({key: stored(key, value) for key, value in net.state_dict().items()}, about)


def events(images: Tensor, labels: Tensor, count: int, T: int) -> TensorDataset:
    """Frames uint8 [N, T, 2, 34, 34] and labels of the first ``count`` images."""
    return TensorDataset(saccade_frames(images[:count], T), labels[:count])


def network(last: Callable[[int, int], nn.Module], dropout: float) -> nn.Sequential:
    return nn.Sequential(
        pk.FusedIFConv2d(2, 16, 3, padding=1, v_reset=None),
        pk.MaxPool2d(2),
        pk.FusedIFConv2d(16, 32, 3, padding=1, v_reset=None),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.Dropout(dropout),
        last(32 * 64, 10),
    )


def epochs(method: Method, model: Model, train: TensorDataset, options: argparse.Namespace) -> Iterator[int]:
    """Train; after each epoch, its number."""
    loader = DataLoader(train, options.batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.epochs * len(loader))
    for epoch in range(1, options.epochs + 1):
        model.train()
        for frames, labels in tqdm(loader, f"epoch {epoch}", mininterval=0.5):
            loss = method.loss(model, pk.time_first(frames > 0), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield epoch


@torch.no_grad()
def evaluate(method: Method, model: Model, test: TensorDataset) -> dict[str, str]:
    """Accuracy; the highest firing rate of a layer in the last batch, or of a ReLU network the products with what is
    not 0."""
    model.eval()
    loader = DataLoader(test, TEST_BATCH)
    batches = [(method.answers(model, pk.time_first(frames > 0)), labels) for frames, labels in loader]
    answers, labels = map(torch.cat, zip(*batches, strict=True))
    found = {"strict": strict_accuracy(answers, labels), "tied": tied(answers, labels).float().mean().item()}
    if not isinstance(model, nn.Sequential):
        found["highest_rate"] = max(rate for rate in model.rates.values() if rate == rate)  # a readout has none
    told = {name: f"{figure:.4f}" for name, figure in found.items()}
    if isinstance(model, nn.Sequential):
        frames = pk.time_first(next(iter(loader))[0] > 0)
        _, sparse = cost.of_relu(model, counts(frames, model[0].in_channels // 2))
        told["million_products"] = f"{sparse.products / 1e6:.3f}"
    return told


@torch.no_grad()
def over_time(net: nn.Module, test: TensorDataset) -> list[dict[str, str]]:
    """Accuracy of the counts so far, or of the potentials, from each image's first event on: an engine's stream."""
    engine, rows = None, []
    for frames, labels in DataLoader(test, TEST_BATCH):
        spikes = pk.pack(pk.time_first(frames > 0))
        engine = engine or pk.compile(net.eval(), spikes)
        stream, answers = engine.stream(len(labels)), []
        for t in range(spikes.T):
            output = stream(spikes[t : t + 1])
            answers.append(output[-1] if isinstance(output, Tensor) else stream.count())
        first = (frames > 0).flatten(2).any(2).int().argmax(1)
        images, steps = torch.arange(len(labels)), torch.arange(spikes.T)[:, None]
        since = torch.stack(answers)[(first + steps).clamp(max=spikes.T - 1), images]
        rows.append([(strict_correct(now, labels).sum(), tied(now, labels).sum()) for now in since])
    shares = torch.tensor(rows).sum(0).double() / len(test)
    return [
        {"ms": f"{(t + 1) * MOVEMENTS_MS / len(shares):g}", "strict": f"{strict:.4f}", "tied": f"{ties:.4f}"}
        for t, (strict, ties) in enumerate(shares.tolist())
    ]


def draw(folder: Path) -> None:
    """train_events_time.png, of the table of that name: means of all seeds."""
    rows = read_csv(folder / "train_events_time.csv", TIME_COLUMNS)
    figure, (axes,) = figures.new_figure(4.0)
    for method in dict.fromkeys(row["method"] for row in rows):
        line: dict[float, list[float]] = {}
        for row in (row for row in rows if row["method"] == method):
            line.setdefault(float(row["ms"]), []).append(100 * float(row["strict"]))
        axes.plot(list(line), [fmean(right) for right in line.values()], marker=".", **figures.line(method))
    axes.set(xlabel="ms after the first event", ylabel="accuracy, %", xlim=(0, MOVEMENTS_MS), ylim=(0, 100))
    for end in (MOVEMENTS_MS / 3, 2 * MOVEMENTS_MS / 3):
        axes.axvline(end, color=figures.GRAY, linewidth=0.8, linestyle=":")
    figures.legend(figure, axes)
    where = f"{rows[0]['images']} training images, {rows[0]['T']} steps; dotted: the camera turns"
    figures.title(figure, "Right so many milliseconds after the first event", where)
    save_figure(folder / "train_events_time.png", figure)
