"""Deep ReLU networks by their names, with the weights that train.py relu has written."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common import datasets, lenet5, resnet20, vgg11, weights_file
from common.checkout import WEIGHTS

SEED = 0
NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {  # and what they are trained on: a name in datasets.LOADERS
    "lenet5": (lenet5.LeNet5, "fashion-mnist"),
    "resnet20": (lambda: resnet20.ResNet20(channels=1), "fashion-mnist"),
    "resnet20-cifar10": (resnet20.ResNet20, "folder"),
    "vgg11-cifar10": (vgg11.VGG11, "folder"),
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
