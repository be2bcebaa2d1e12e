"""The networks that sigma-delta neurons are measured on: trained ReLU networks, what scales them, and test images."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common import conversion, datasets, imagenet_models, nets, photographs, relu_networks, twins

NAMES = ("small", "paper", *relu_networks.NETS, "lite0")
CALIBRATION = 1000  # training images, the first ones
CROPS, SEED = 210, 1  # of photographs that nothing was calibrated on
PIXELS = 224
MOST_BYTES = 2**30  # of images in memory


class Subject(NamedTuple):
    """A ReLU network with its images.

    Attributes:
        right: bool [N, classes], the classes that are right of an image; those without any count in no accuracy.
        held_out: images that nothing was trained on and that no accuracy is reported of, on which numbers of steps and
            leads are chosen, with their classes; None: there are none.
    """

    name: str
    ann: nn.Module
    calibration: Tensor
    images: Tensor
    right: Tensor
    held_out: tuple[Tensor, Tensor] | None = None

    def is_right(self, logits: Tensor) -> Tensor:
        """bool [n]: of labelled images, the first ones of ``images``, whether their first class is right."""
        return is_right(self.right[: len(logits)], logits)

    def accuracy(self, logits: Tensor) -> float:
        """The share of them that are."""
        return self.is_right(logits).float().mean().item()


def is_right(right: Tensor, logits: Tensor) -> Tensor:
    """Whether the first class of each labelled image is among those that are right."""
    return right.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)[right.any(1)]


def load(name: str, root: Path | None) -> Subject:
    """A subject by its name.

    Args:
        root: folder of Fashion-MNIST, or of CIFAR-10's images as train.py relu takes them.

    Raises:
        ValueError, FileNotFoundError: weights or images are missing or damaged.
    """
    if name == "lite0":
        return _lite0()
    if name in relu_networks.NETS:
        (ann, unseen), like = relu_networks.load(name), name
    else:
        ann, unseen, like = _twin(name), relu_networks.HELD_OUT, "resnet20"  # which is trained on the same images
    calibration = relu_networks.images(like, root, "train")[0][:CALIBRATION]
    images, labels = relu_networks.images(like, root, "test")
    held_out = _last(unseen, like, root) if unseen else None
    return Subject(name, ann, calibration, images, nn.functional.one_hot(labels).bool(), held_out)


def _last(count: int, like: str, root: Path | None) -> tuple[Tensor, Tensor]:
    """The last training images, which the network was not trained on, and their classes."""
    images, labels = relu_networks.images(like, root, "train")
    return images[-count:], nn.functional.one_hot(labels[-count:]).bool()


def of_torchvision(name: str, file: Path | None, root: Path | None) -> Subject:
    """A network of torchvision's with a state_dict from ``file``, on images in folders of their classes:
    as many as MOST_BYTES hold.

    Args:
        root: as train.py takes it, <root>/train/<class>/ and <root>/test/<class>/; all images of one size.

    Raises:
        ValueError, FileNotFoundError: weights or images are missing, damaged or of other classes.
    """
    model = imagenet_models.load(name, file)
    (train, _), (test, classes) = (datasets.load("folder", root, split) for split in ("train", "test"))
    bytes_of_one = 4 * test[0][0].numel()
    pairs = [test[k] for k in range(min(len(test), MOST_BYTES // bytes_of_one))]
    calibration, images = conversion.calibration(train), torch.stack([image for image, _ in pairs])
    with torch.no_grad():
        known = model.ann(model.normalised(images[:1])).shape[1]
    if known != classes:
        raise ValueError(f"{name} of {file} knows {known} classes, and --root {root} has {classes}")
    right = nn.functional.one_hot(torch.tensor([label for _, label in pairs]), classes).bool()
    return Subject(name, model.ann, model.normalised(calibration), model.normalised(images), right)


def _twin(name: str) -> nn.Module:
    """The ReLU twin of a shipped network."""
    model, _, _ = twins.load(nets.shipped()[name], nets.NETS[name])
    return conversion.relu_network(model.eval())


def _lite0() -> Subject:
    """EfficientNet-Lite0: scaled by crops of seven photographs, and tested on crops of fourteen others."""
    mean, deviation = photographs.NORMALISATION
    _, seven = photographs.photographs(PIXELS)
    names, others, classes = photographs.others(2 * PIXELS)
    images = photographs.crops(others, CROPS, SEED, PIXELS)
    right = torch.zeros(len(names), 1000, dtype=torch.bool)
    for k, of_photograph in enumerate(classes):
        right[k, list(of_photograph)] = True
    right = right[torch.arange(CROPS) % len(names)]
    calibration = torch.cat([seven, photographs.crops(seven, 24)])
    ann = photographs.efficientnet_lite0()
    return Subject("lite0", ann, (calibration - mean) / deviation, (images - mean) / deviation, right)
