"""Deep ReLU networks and their training: the work of relu.py."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import lenet5, resnet20, vgg11, weights_file
from common.accuracy import ann_accuracy
from common.checkout import WEIGHTS
from common.command import refusing
from common.machine import heading
from common.tables import check_out, publish
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from training import data

BATCH, SEED = 128, 0
NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {  # and what they are trained on: a name in data.LOADERS
    "lenet5": (lenet5.LeNet5, "fashion-mnist"),
    "resnet20": (lambda: resnet20.ResNet20(channels=1), "fashion-mnist"),
    "resnet20-cifar10": (resnet20.ResNet20, "folder"),
    "vgg11-cifar10": (vgg11.VGG11, "folder"),
}


def run(options: argparse.Namespace) -> None:
    with refusing("train.py relu"):
        check_out(options.out)
        train_set, test_set = (images(options.net, options.root, split) for split in ("train", "test"))
    path = options.out / file_of(options.net).name
    print(heading(f"{options.net}, random weights", f"{len(train_set[0])} training images", path))
    ann, start = random(options.net), time.process_time()
    with refusing("train.py relu"):
        train(ann, train_set, options.epochs, options.lr, options.net)
    seconds = time.process_time() - start
    state = {key: value.half() if value.is_floating_point() else value for key, value in ann.state_dict().items()}
    ann.load_state_dict(state)  # as they are written
    accuracy = ann_accuracy(ann, TensorDataset(*test_set))
    about = {"net": options.net, "seed": SEED, "epochs": options.epochs, "lr": options.lr, "batch": BATCH}
    about |= {"test_accuracy": f"{accuracy:.4f}", "cpu_seconds": f"{seconds:.0f}", "torch": torch.__version__}
    publish(path, weights_file.content(state, {key: str(value) for key, value in about.items()}))
    print(f"{options.net}: {accuracy:.2%} of the test images right, {seconds:.0f} s of processor time; wrote {path}")


def file_of(name: str) -> Path:
    return WEIGHTS / f"{name}.safetensors"


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
        command = f"python benchmarks/train.py relu --net {name} --out benchmarks/weights"
        raise FileNotFoundError(f"{path} is missing; {command} writes it")
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
    return data.in_memory(NETS[name][1], root, split).tensors


def train(ann: nn.Module, dataset: tuple[Tensor, Tensor], epochs: int, lr: float, name: str) -> None:
    """Some epochs, images mirrored at random.

    Raises:
        ValueError: the loss is not finite.
    """
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
                if not loss.isfinite():
                    raise ValueError(f"the loss became {loss.item()} in step {bar.n + 1} of {name}; lower --lr")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    ann.eval()
