"""Images, sensors of events and a trained network that are part of the package. The guides use them.

images, labels = pk.samples.fashion_mnist()
net = pk.convert(pk.samples.relu_network(), images)
"""

import gzip
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .cochlea import cochlea_spikes
from .saccades import saccade_frames

FOLDER = Path(__file__).parent
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
SIZE = 256  # images
HEADERS = {IMAGES: 16, LABELS: 8}  # bytes of an IDX file before its values

__all__ = ["cochlea_spikes", "fashion_mnist", "relu_network", "saccade_frames"]


def fashion_mnist() -> tuple[Tensor, Tensor]:
    """The first 256 test images of Fashion-MNIST, and their labels.

    Returns:
        images float32 [256, 1, 28, 28] within 0 .. 1, and labels int64 [256] within 0 .. 9.

    Raises:
        OSError: a file of the package is missing or damaged.
    """
    images, labels = _values(IMAGES).view(SIZE, 1, 28, 28), _values(LABELS)
    return images.float() / 255, labels.long()  # as torchvision's ToTensor: the same bits


def relu_network() -> nn.Sequential:
    """A ReLU network that was trained on Fashion-MNIST's training images, in evaluation mode.

    32C3-64C3-P2-64C3-P2-256-10, biases, no normalisation; for images [N, 1, 28, 28].

    Raises:
        OSError: a file of the package is missing.
    """
    network = untrained_relu_network()
    network.load_state_dict(load_file(FOLDER / "relu_network.safetensors"))
    return network.eval()


def untrained_relu_network() -> nn.Sequential:
    """The network of :func:`relu_network` with torch's first weights."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3, padding=1),
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 64, 3, padding=1),
            relu3=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.3),
            linear1=nn.Linear(64 * 7 * 7, 256),
            relu4=nn.ReLU(),
            linear2=nn.Linear(256, 10),
        )
    )


def _values(name: str) -> Tensor:
    content = gzip.decompress((FOLDER / "fashion-mnist" / name).read_bytes())
    return torch.frombuffer(bytearray(content[HEADERS[name] :]), dtype=torch.uint8)
