"""Deep ReLU networks by their names, with the weights that train.py relu has written."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from common import datasets, resnet20, weights_file
from common.checkout import WEIGHTS

HELD_OUT = 2000  # images of Fashion-MNIST on which nothing is trained, the last ones
VGG11_CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def lenet5() -> nn.Sequential:
    """LeNet-5 with ReLUs and max pooling, as it is written today (LeCun et al. 1998); for images [N, 1, 28, 28]."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip


def small(width: float = 1.0) -> nn.Sequential:
    """The small network of nets.py with plain ReLUs; ``width``: share of its channels and hidden neurons."""
    few, many, hidden = round(32 * width), round(64 * width), round(256 * width)
    return nn.Sequential(
        nn.Conv2d(1, few, 3, padding=1), nn.ReLU(),
        nn.Conv2d(few, many, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(many, many, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(49 * many, hidden), nn.ReLU(),
        nn.Linear(hidden, 10),
    )  # fmt: skip


def vgg11() -> nn.Sequential:
    """VGG-11 with batch normalisation (arXiv:1409.1556, configuration A), for images [N, 3, 32, 32].

    One linear layer behind the convolutions, as is usual at that size.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG11_CHANNELS:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {  # and what they are trained on: a name in datasets.LOADERS
    "lenet5": (lenet5, "fashion-mnist"),
    "small-relu": (small, "fashion-mnist"),
    "small-half": (partial(small, 0.5), "fashion-mnist"),
    "small-quarter": (partial(small, 0.25), "fashion-mnist"),
    "resnet20": (lambda: resnet20.ResNet20(channels=1), "fashion-mnist"),
    "resnet20-cifar10": (resnet20.ResNet20, "folder"),
    "vgg11-cifar10": (vgg11, "folder"),
}


def file_of(name: str) -> Path:
    """Where the weights are, or belong; some of them are kept in the compact form."""
    compact = WEIGHTS / f"{name}{weights_file.COMPACT}"
    return compact if compact.is_file() else WEIGHTS / f"{name}.safetensors"


def random(name: str, seed: int = 0) -> nn.Module:
    """The network with random weights, always the same for a seed."""
    torch.manual_seed(seed)
    return NETS[name][0]()


def load(name: str) -> tuple[nn.Module, int]:
    """The network with the weights of its file, in eval mode, and how many of the last training images it did not see.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged, or of another network.
    """
    path = file_of(name)
    if not path.is_file():
        command = f"python benchmarks/research/train.py relu --net {name} --out benchmarks/weights"
        raise FileNotFoundError(f"{path} is missing; {command} writes it")
    ann, (state, about) = random(name), weights_file.read(path)
    try:
        ann.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} is of another network: {str(error).splitlines()[1].strip()}") from error
    return ann.eval(), int(about.get("held_out", "0"))


def images(name: str, root: Path | None, split: str) -> tuple[Tensor, Tensor]:
    """All images and labels of a split of what the network is trained on.

    Raises:
        ValueError, FileNotFoundError: as of datasets.load.
    """
    return datasets.in_memory(NETS[name][1], root, split).tensors
