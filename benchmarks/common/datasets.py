"""Data sets by their names, what of them is held out, and the batches of an epoch."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import datasets
from torchvision.datasets.folder import find_classes
from torchvision.transforms import v2

from common.data import fashion_mnist


def load(data: str, root: Path | None, split: str) -> tuple[Dataset, int]:
    """One split of a data set, "train" or "test".

    Args:
        data: "fashion-mnist", "cifar10" or "folder".
        root: folder of the files. Fashion-MNIST: optional, as in data.py. CIFAR-10: torchvision's folder, downloaded
            to if it is empty. "folder": images in ``root/<split>/<class>/``, as torchvision's ImageFolder takes them.

    Returns:
        A dataset of (image float32 [C, H, W] in 0..1, label), and the number of classes.

    Raises:
        ValueError: an unknown name, or a damaged file. FileNotFoundError: a file is missing.
    """
    if data not in LOADERS:
        raise ValueError(f"--data must be one of {', '.join(LOADERS)}, got {data!r}")
    return LOADERS[data](root, split)


def in_memory(data: str, root: Path | None, split: str) -> TensorDataset:
    """What ``load`` gives, read once: images [N, C, H, W] and labels [N]."""
    dataset, _ = load(data, root, split)
    if isinstance(dataset, TensorDataset):
        return dataset
    parts = list(DataLoader(dataset, 1000))
    return TensorDataset(*(torch.cat(column) for column in zip(*parts, strict=True)))


def held_out(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    """The dataset without its last ``count`` samples, and these."""
    if not 0 < count < len(dataset):
        raise ValueError(f"--validation must be within 1 .. {len(dataset) - 1} training images, got {count}")
    edge = len(dataset) - count
    return Subset(dataset, range(edge)), Subset(dataset, range(edge, len(dataset)))


def batches(count: int, batch: int, seed: int, epoch: int) -> Sequence[list[int]]:
    """One epoch's batches of indices: whole ones in a random order. What is left over is dropped."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)[: count // batch * batch]
    return order.view(-1, batch).tolist()


def _fashion_mnist(root: Path | None, split: str) -> tuple[Dataset, int]:
    return TensorDataset(*fashion_mnist(split, root)), 10


def _cifar10(root: Path | None, split: str) -> tuple[Dataset, int]:
    if root is None:
        raise ValueError(
            "--data cifar10 needs --root, the folder of torchvision's files or an empty one for a download"
        )
    try:
        return datasets.CIFAR10(root, split == "train", _to_tensor(), download=True), 10
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not in {root} and could not be downloaded ({error}); put cifar-10-python.tar.gz there"
        ) from error


def _folder(root: Path | None, split: str) -> tuple[Dataset, int]:
    folder = Path(root or ".") / split
    if root is None or not folder.is_dir():
        raise FileNotFoundError(
            f"--data folder needs --root PATH with PATH/train/<class>/ and PATH/test/<class>/ ({folder})"
        )
    _check_classes(root)
    dataset = _Images(folder, _to_tensor(), loader=_read_image)
    # They come class by class; the last ones, which may be held out, must be of every class.
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return Subset(dataset, order), len(dataset.classes)


def _check_classes(root: Path) -> None:
    """ValueError unless both splits, where they are there, have the same folders of classes: labels number them."""
    found = [set(find_classes(root / split)[0]) for split in ("train", "test") if (root / split).is_dir()]
    if len(found) == 2 and (alone := sorted(found[0] ^ found[1])):
        has, lacks = ("train", "test") if alone[0] in found[0] else ("test", "train")
        raise ValueError(f"{root / has / alone[0]} has no counterpart in {root / lacks}; give both the same classes")


class _Images(datasets.ImageFolder):
    """Torchvision's, where all images must have the size of the first."""

    @cached_property
    def shape(self) -> torch.Size:
        return super().__getitem__(0)[0].shape

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        if image.shape != self.shape:
            sizes = [f"{shape[2]} x {shape[1]}" for shape in (image.shape, self.shape)]
            raise ValueError(
                f"{self.samples[index][0]} has {sizes[0]} pixels, and {self.samples[0][0]} has {sizes[1]}; "
                "scale all images to one size"
            )
        return image, label


def _read_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and fetch it again") from error


def _to_tensor() -> Callable:
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


LOADERS = {"fashion-mnist": _fashion_mnist, "cifar10": _cifar10, "folder": _folder}
