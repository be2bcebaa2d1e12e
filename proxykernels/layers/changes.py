"""What flows between layers of sigma-delta neurons, and what is counted of it.

A spike changes what its neuron has sent by a signed power of two. Real values, such as images and what a layer without
a ReLU passes on, are changes of themselves. A constant input changes once.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels import backends
from ..kernels.sigma_delta_codes import Counts, Pair

NO_WINDOW: tuple[Pair, Pair, Pair] = (1, 1), (0, 0), (1, 1)  # stride, padding and dilation


@dataclass(frozen=True)
class Changes:
    """What a layer gives at each of its first steps; nothing after them.

    Attributes:
        values: [N, steps, P, C]: codes of spikes (kernels/sigma_delta_codes.py), or real values in float32.
        size: (H, W), (L,) or () of the P pixels.
    """

    values: Tensor
    size: tuple[int, ...]

    @staticmethod
    def of(dense: Tensor) -> "Changes":
        """Real values [N, steps, C, ...]."""
        dense = dense.resolve_neg()  # compiled code reads the memory
        return Changes(
            dense.flatten(3).transpose(2, 3) if dense.ndim > 3 else dense.unsqueeze(2), tuple(dense.shape[3:])
        )

    @property
    def are_spikes(self) -> bool:
        return self.values.dtype == torch.int8

    @property
    def steps(self) -> int:
        return self.values.shape[1]

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return image_of(self.size)

    def real(self) -> Tensor:
        """The values [N, steps, P, C] in float32."""
        if not self.are_spikes:
            return self.values
        identity = self.values, self.image, None, None
        window = *NO_WINDOW, self.values.shape[3]
        return backends.backend_of(self.values.device.type).sigma_delta(*identity, None, self.steps, None, window)[0]

    def dense(self) -> Tensor:
        """The same as [N, steps, C, ...]."""
        values = self.real()
        return values.transpose(2, 3).unflatten(3, self.size) if self.size else values.squeeze(2)

    def flatten(self) -> "Changes":
        """The features of each sample, in torch's order."""
        return Changes(self.values.transpose(2, 3).flatten(2).unsqueeze(2), ())


@dataclass
class ChangesTally:
    """What is counted of a layer.

    Attributes:
        spikes: those that it sent. fires: whether it has neurons. places: neurons times steps and samples.
        sums: values of z times steps and samples; more than places where a max pooling is before the neurons.
        accumulates, multiply_accumulates: weights that were added because of spikes, and because of real values.
        products: multiplications by a weight of the ReLU network in one pass, zeros not skipped.
    """

    spikes: int = 0
    fires: bool = False
    places: int = 0
    sums: int = 0
    accumulates: int = 0
    multiply_accumulates: int = 0
    products: int = 0
    on_device: list[tuple[str, Tensor]] = field(default_factory=list)  # counts of a GPU that were not waited for yet

    def add(self, counts: Counts, x: Changes) -> None:
        """Count a call for the changes x."""
        kind = "accumulates" if x.are_spikes else "multiply_accumulates"
        for name, count in (("spikes", counts.spikes), (kind, counts.additions)):
            if isinstance(count, Tensor):
                self.on_device.append((name, count))
            else:
                setattr(self, name, getattr(self, name) + count)

    @property
    def rate(self) -> float:
        """Spikes a neuron and step; nan without samples."""
        return self.spikes / self.places if self.places else math.nan


def read(tallies: Iterable[ChangesTally]) -> None:
    """Add the counts that are on a GPU to tallies, which waits for it once."""
    waiting = [(tally, *entry) for tally in tallies for entry in tally.on_device]
    counts = torch.stack([count for *_, count in waiting]).tolist() if waiting else []
    for (tally, name, _), count in zip(waiting, counts, strict=True):
        setattr(tally, name, getattr(tally, name) + count)
        tally.on_device = []


def image_of(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of pixels of a size (H, W), (L,) or ()."""
    return (1, 1, *size)[-2:]  # type: ignore[return-value]
