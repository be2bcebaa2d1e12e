"""Accuracy of a spiking network on a folder of labelled images, in as many processes as torchrun starts."""

from pathlib import Path

import torch
from common.imagenet_models import Model
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import proxykernels as pk
from images.settling import STEPS, correlation, readings
from proxykernels.running.shards import Shards

CROP = 0.875  # of the shorter side


def open_folder(path: Path, size: int) -> ImageFolder:
    """The images in the folders of their classes, whose sorted names are the network's classes, from 0 to 1."""
    transform = v2.Compose([
        v2.ToImage(), v2.Resize(round(size / CROP), antialias=True), v2.CenterCrop(size),
        v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip
    try:
        return ImageFolder(path, transform)
    except (FileNotFoundError, OSError) as error:
        raise SystemExit(f"imagenet.py: --folder must hold a folder of images for each class: {error}") from error


def some(dataset: ImageFolder, number: int) -> Subset:
    """So many images, evenly spread over the classes."""
    number = min(number, len(dataset))
    return Subset(dataset, [k * len(dataset) // number for k in range(number)])


def accuracy(
    net: pk.Network, model: Model, images: Subset, longest: int, batch: int, shards: Shards
) -> dict[str, Tensor] | None:
    """Sums over all images, in the first process: None in the others.

    Returns:
        "images"; "relu": images whose class is the ReLU network's first, and among its first five [2]; "spiking": the
        same after each of STEPS [steps, 2]; "same": images with the ReLU network's first class [steps]; "correlation"
        of the logits [steps].
    """
    steps = [T for T in STEPS if T <= longest]
    found = {
        "images": torch.zeros(()), "relu": torch.zeros(2), "spiking": torch.zeros(len(steps), 2),
        "same": torch.zeros(len(steps)), "correlation": torch.zeros(len(steps)),
    }  # fmt: skip
    loader = DataLoader(shards.of(images), batch)
    for x, labels in tqdm(loader, "images", unit="batch", disable=None if shards.first else True):
        x = model.normalised(x)
        with torch.no_grad():
            expected = model.ann(x)
        found["images"] += len(x)
        found["relu"] += right(expected, labels)
        for k, reading in enumerate(readings(net, x, steps)):
            found["spiking"][k] += right(reading.logits, labels)
            found["same"][k] += (reading.logits.argmax(1) == expected.argmax(1)).sum()
            found["correlation"][k] += correlation(reading.logits, expected).sum()
    parts = shards.gather(found)
    return parts and {name: torch.stack([part[name] for part in parts]).sum(0) for name in found}


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images' classes are first, and among the first five: [2]."""
    hits = logits.topk(min(5, logits.shape[1]), 1).indices == labels[:, None]
    return torch.stack([hits[:, 0].sum(), hits.sum()]).float()
