"""Deep ReLU networks by their names, with the weights that train.py relu has written."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common import datasets, resnet20, weights_file
from common.checkout import WEIGHTS

SEED = 0
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
    "resnet20": (lambda: resnet20.ResNet20(channels=1), "fashion-mnist"),
    "resnet20-cifar10": (resnet20.ResNet20, "folder"),
    "vgg11-cifar10": (vgg11, "folder"),
}


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
        command = f"python benchmarks/research/train.py relu --net {name} --out benchmarks/weights"
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
        ValueError, FileNotFoundError: as of datasets.load.
    """
    return datasets.in_memory(NETS[name][1], root, split).tensors
