"""Train a deep ReLU network for a few epochs: what conversion in few steps is measured on.

    python benchmarks/train.py relu --net resnet20
    python benchmarks/train.py relu --net resnet20-cifar10 --root images
    python benchmarks/train.py relu --net vgg11-cifar10 --lr 1e-3 --root images

Adam, batches of 128 images, mirrored at random; the learning rate goes down to 0 in a line. ResNet-20 is trained on
Fashion-MNIST, with ``-cifar10`` on CIFAR-10, as is VGG-11: images in <root>/train/<class>/ and <root>/test/<class>/.
The seed is fixed. Writes --out, by default benchmarks/weights/<net>.safetensors: weights in float16, how they were
trained, and how many test images they have right.
"""

import time
from collections.abc import Callable
from pathlib import Path

import common.interrupt  # noqa: F401 - first of all that takes time
import torch
import torch.nn.functional as F
from common import nets, resnet20, vgg11, weights_file
from common.accuracy import ann_accuracy
from common.command import command
from common.printed import new_parser, positive
from common.tables import publish
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from tqdm import tqdm

from training import data

BATCH, SEED = 128, 0
NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {  # and what they are trained on: a name in data.LOADERS
    "resnet20": (lambda: resnet20.ResNet20(channels=1), "fashion-mnist"),
    "resnet20-cifar10": (resnet20.ResNet20, "folder"),
    "vgg11-cifar10": (vgg11.VGG11, "folder"),
}


def main(arguments: list[str] | None = None) -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--net", choices=list(NETS), default="resnet20", metavar="NAME", help=", ".join(NETS))
    parser.add_argument("--epochs", type=positive, default=3)
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--root", type=Path, help="folder of the images")
    parser.add_argument("--out", type=Path, help="the file")
    options = parser.parse_args(arguments)
    try:
        train_set, test_set = (images(options.net, options.root, split) for split in ("train", "test"))
    except (ValueError, OSError) as error:
        raise SystemExit(f"train.py relu: {error}") from error
    ann, start = random(options.net), time.process_time()
    train(ann, train_set, options.epochs, options.lr, options.net)
    seconds = time.process_time() - start
    state = {key: value.half() if value.is_floating_point() else value for key, value in ann.state_dict().items()}
    ann.load_state_dict(state)  # as they are written
    accuracy = ann_accuracy(ann, TensorDataset(*test_set))
    about = {"net": options.net, "seed": SEED, "epochs": options.epochs, "lr": options.lr, "batch": BATCH}
    about |= {"test_accuracy": f"{accuracy:.4f}", "cpu_seconds": f"{seconds:.0f}", "torch": torch.__version__}
    path = options.out or file_of(options.net)
    publish(path, weights_file.content(state, {key: str(value) for key, value in about.items()}))
    print(f"{options.net}: {accuracy:.2%} of the test images right, {seconds:.0f} s of processor time; wrote {path}")


def file_of(name: str) -> Path:
    return nets.WEIGHTS / f"{name}.safetensors"


def random(name: str) -> nn.Module:
    """The network with random weights, always the same."""
    torch.manual_seed(SEED)
    return NETS[name][0]()


def load(name: str) -> nn.Module:
    """The network with the weights of its file, in eval mode.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or of another network.
    """
    path = file_of(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; python benchmarks/train.py relu --net {name} writes it")
    ann = random(name)
    try:
        ann.load_state_dict(weights_file.read(path)[0])
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network: {str(error).splitlines()[1].strip()}") from error
    return ann.eval()


def images(name: str, root: Path | None, split: str) -> tuple[Tensor, Tensor]:
    """All images and labels of a split of what the network is trained on.

    Raises:
        ValueError, FileNotFoundError: as of data.load.
    """
    dataset: Dataset = data.load(NETS[name][1], root, split)[0]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors
    parts = list(DataLoader(dataset, 1000))
    return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])


def train(ann: nn.Module, dataset: tuple[Tensor, Tensor], epochs: int, lr: float, name: str) -> None:
    """Some epochs, images mirrored at random."""
    torch.manual_seed(SEED + 1)
    images, labels = dataset
    ann.train()
    optimizer = torch.optim.Adam(ann.parameters(), lr)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    with tqdm(total=steps, desc=name, unit="batch", mininterval=0.5) as bar:
        for _ in range(epochs):
            for indices in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
                x = images[indices]
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
                loss = F.cross_entropy(ann(x), labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    ann.eval()


if __name__ == "__main__":
    command(main)
