"""Random changes of images, on whole batches. What an image gets depends only on the seed, the epoch and the image.

So the same epoch is the same however it is cut: into batches, over processes, or by an interruption.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

ERASED_AREA = 0.02, 1 / 3  # of the image, and the sides' ratio: those of the source, arXiv:1708.04896
ERASED_RATIO = 0.3, 1 / 0.3


@dataclass(frozen=True)
class Changes:
    """What may happen to an image.

    Attributes:
        shift: most pixels that it moves by, along each side; what comes in is 0.
        mirror: whether left and right change places, in one image of two.
        erased: share of the images in which a random rectangle is 0 ("Random Erasing Data Augmentation", Zhong et al.,
            2020, arXiv:1708.04896).
        border: pixels along each edge that are always 0.
    """

    shift: int = 0
    mirror: bool = False
    erased: float = 0.0
    border: int = 0


AUGMENTATIONS: dict[str, Callable[[int], Changes]] = {  # of images of a given size
    "none": lambda size: Changes(),
    "mirror": lambda size: Changes(mirror=True),
    "shift-mirror": lambda size: Changes(max(1, size // 14), mirror=True),
    "shift-mirror-erase": lambda size: Changes(max(1, size // 14), mirror=True, erased=0.4),
    "crop-mirror-erase": lambda size: Changes(max(1, size // 8), mirror=True, erased=0.4),  # CIFAR's usual crop
    "authors": lambda size: Changes(shift=1, border=1),  # of the paper's notebook
}


class Augmented(Dataset):
    """``dataset`` of (image float32 [C, H, W], label), its images changed at random; ``epoch``: which one it is."""

    def __init__(self, dataset: Dataset, changes: Changes, seed: int):
        self.dataset, self.changes, self.seed = dataset, changes, seed
        self.size = dataset[0][0].shape[1:]
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch = epoch
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)) & 0x7FFF_FFFF_FFFF_FFFF)
        self._draws = draw(self.changes, len(self), self.size, generator)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch: images [N, C, H, W], and labels [N]."""
        images, labels = zip(*(self.dataset[index] for index in indices), strict=True)
        rows = torch.as_tensor(indices)
        draws = {name: values[rows] for name, values in self._draws.items()}
        return change(torch.stack(images), self.changes, draws), torch.as_tensor(labels)

    __getitems__ = batch  # the name by which torch's DataLoader asks for a whole batch


def augment(dataset: Dataset, name: str, seed: int) -> Augmented:
    """The dataset with the augmentation ``name`` of AUGMENTATIONS.

    Raises:
        ValueError: an unknown name.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"--augment must be one of {', '.join(AUGMENTATIONS)}, got {name!r}")
    return Augmented(dataset, AUGMENTATIONS[name](dataset[0][0].shape[-1]), seed)


def draw(changes: Changes, count: int, size: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """What happens to each of ``count`` images of ``size`` (H, W): tensors of ``count`` rows, for ``change``."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    most = torch.tensor(size)
    area = uniform(*ERASED_AREA) * most.prod()
    ratio = uniform(*(torch.tensor(ERASED_RATIO).log().tolist())).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).round().long().minimum(most)
    sides[uniform(0, 1) >= changes.erased] = 0
    start = (torch.rand(count, 2, generator=generator) * (most - sides + 1)).long()
    return {
        "offset": torch.randint(0, 2 * changes.shift + 1, (count, 2), generator=generator),
        "mirror": (uniform(0, 1) < 0.5) & changes.mirror,
        "erased": torch.stack([start, start + sides], 2),  # of rows and columns, the first and one past the last
    }


def change(images: Tensor, changes: Changes, draws: dict[str, Tensor]) -> Tensor:
    """The images [N, C, H, W], moved, mirrored and partly erased as drawn, in channels-last order."""
    rows, columns = (torch.arange(side) + draws["offset"][:, axis, None] for axis, side in enumerate(images.shape[2:]))
    columns = torch.where(draws["mirror"][:, None], columns.flip(1), columns)
    padded = F.pad(images, [changes.shift] * 4)
    moved = padded[torch.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    gone = [_within(side, draws["erased"][:, axis]) for axis, side in enumerate(images.shape[2:])]
    moved.masked_fill_((gone[0][:, :, None] & gone[1][:, None, :]).unsqueeze(3), 0)
    moved = moved.permute(0, 3, 1, 2)
    if border := changes.border:
        moved = F.pad(moved[..., border:-border, border:-border], [border] * 4)
    return moved


def _within(side: int, edges: Tensor) -> Tensor:
    """Which of ``side`` places lie between the edges [N, 2]: bool [N, side]."""
    places = torch.arange(side)
    return (places >= edges[:, :1]) & (places < edges[:, 1:])
