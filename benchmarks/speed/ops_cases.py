"""The layers that ops_speed.py times, and their data."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from proxykernels.kernels.unfused import output_size


@dataclass(frozen=True)
class Shape:
    """A convolution of spikes [T, N, C_in, size, size]; a linear layer has images of one pixel."""

    T: int
    N: int
    C_in: int
    size: int
    C_out: int
    kernel: int
    rate: float
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        if self.linear:
            return f"linear {self.C_in}->{self.C_out}"
        extras = "".join(
            f" {letter}{value}"
            for letter, value, plain in [("s", self.stride, 1), ("d", self.dilation, 1), ("g", self.groups, 1)]
            if value != plain
        )
        return f"{self.C_in}->{self.C_out} {self.kernel}x{self.kernel}{extras} {self.size}x{self.size}"

    @property
    def linear(self) -> bool:
        return self.size == 1

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        pairs = ((value, value) for value in (self.size, self.kernel, self.stride, self.padding, self.dilation))
        return output_size(*pairs)

    @property
    def gmac(self) -> float:
        """Multiply-adds of the dense convolution in 10^9, those with the padding's zeros included."""
        height, width = self.out
        inputs = self.C_in // self.groups * self.kernel**2
        return self.T * self.N * height * width * self.C_out * inputs / 1e9

    def at(self, rate: float) -> "Shape":
        """The same layer at another firing rate."""
        return replace(self, rate=rate)

    def small(self) -> "Shape":
        """The same layer for few steps and images, for a quick run."""
        return replace(self, T=min(self.T, 3), N=min(self.N, 2))


@dataclass(frozen=True)
class Data:
    """Spikes of a layer, and weights.

    Attributes:
        dense: bool [T, N, C_in, size, size].
        weight: random float32 [C_out, C_in / groups, kernel, kernel], to time with.
        dyadic: multiples of 2^-4, whose sums are exact in any order: two kernels that disagree on them have a fault.
    """

    dense: Tensor
    weight: Tensor
    dyadic: Tensor

    @classmethod
    def of(cls, shape: Shape) -> "Data":
        random = torch.Generator().manual_seed(0)
        dense = torch.rand(shape.T, shape.N, shape.C_in, shape.size, shape.size, generator=random) < shape.rate
        size = shape.C_out, shape.C_in // shape.groups, shape.kernel, shape.kernel
        inputs = size[1] * shape.kernel**2
        weight = torch.randn(size, generator=random) / inputs**0.5
        return cls(dense, weight, torch.randint(-16, 17, size, generator=random) / 16)


def row_adds(shape: Shape, dense: Tensor, row: int) -> int:
    """How many rows the spikes add: for each spike and window it lies in, once for ``row`` output channels."""
    spikes = dense.flatten(0, 1).sum(1, keepdim=True, dtype=torch.float64)
    window = torch.ones(1, 1, shape.kernel, shape.kernel, dtype=torch.float64)
    in_windows = F.conv2d(spikes, window, None, shape.stride, shape.padding, shape.dilation).sum()
    return int(in_windows) * -(-shape.C_out // row)


LAYERS = [Shape(32, 4, 128, 28, 128, 3, 0.05, padding=1), Shape(32, 32, 6272, 1, 2560, 1, 0.05)]
QUICK_LAYERS = [Shape(3, 2, 32, 10, 32, 3, 0.05, padding=1), Shape(3, 4, 256, 1, 64, 1, 0.05)]
RATES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6]

SHAPES = [
    Shape(32, 4, 128, 28, 128, 3, 0.05, padding=1),
    Shape(16, 4, 128, 28, 128, 3, 0.5, padding=1),
    Shape(16, 4, 128, 14, 128, 3, 0.2, padding=1),
    # few input channels: first layers
    Shape(16, 1, 1, 112, 1, 3, 0.1, padding=1),
    Shape(32, 8, 1, 28, 128, 3, 0.1, padding=1),
    Shape(32, 4, 3, 32, 64, 3, 0.2, padding=1),
    Shape(4, 2, 3, 112, 64, 7, 0.1, stride=2, padding=3),
    Shape(8, 2, 3, 112, 32, 11, 0.2, stride=4, padding=2),
    Shape(256, 8, 6, 14, 16, 5, 0.1),
    # narrow
    Shape(32, 4, 8, 28, 8, 5, 0.2, padding=2),
    Shape(64, 2, 16, 32, 16, 3, 0.1, padding=1),
    Shape(64, 4, 32, 14, 64, 3, 0.2, padding=1),
    Shape(256, 1, 32, 8, 64, 3, 0.05, padding=1),
    Shape(32, 4, 33, 13, 65, 3, 0.1, padding=1),
    # wide
    Shape(8, 1, 64, 56, 64, 3, 0.1, padding=1),
    Shape(1, 32, 64, 28, 64, 3, 0.1, padding=1),
    Shape(1, 1, 128, 56, 128, 3, 0.05, padding=1),
    Shape(32, 2, 256, 14, 256, 3, 0.02, padding=1),
    Shape(16, 4, 512, 7, 512, 3, 0.1, padding=1),
    Shape(32, 8, 512, 4, 512, 3, 0.05, padding=1),
    # one pixel a window
    Shape(16, 2, 512, 14, 512, 1, 0.2),
    Shape(4, 2, 256, 56, 64, 1, 0.1),
    Shape(16, 2, 64, 28, 256, 1, 0.5),
    Shape(16, 16, 512, 7, 128, 1, 0.02),
    # large windows
    Shape(16, 4, 32, 28, 32, 5, 0.05, padding=2),
    Shape(16, 2, 64, 14, 64, 7, 0.02, padding=3),
    Shape(8, 2, 16, 28, 32, 11, 0.1, padding=5),
    # stride and dilation
    Shape(16, 1, 64, 56, 128, 3, 0.05, stride=2, padding=1),
    Shape(16, 4, 256, 14, 512, 3, 0.2, stride=2, padding=1),
    Shape(32, 2, 128, 28, 64, 2, 0.05, stride=2),
    Shape(8, 2, 128, 28, 128, 3, 0.05, padding=2, dilation=2),
    Shape(16, 2, 64, 28, 64, 3, 0.2, padding=4, dilation=4),
    # groups and depthwise
    Shape(32, 2, 128, 14, 128, 3, 0.1, padding=1, groups=4),
    Shape(16, 2, 256, 14, 256, 3, 0.5, padding=1, groups=32),
    Shape(16, 4, 128, 28, 128, 3, 0.1, padding=1, groups=128),
    Shape(32, 8, 256, 14, 256, 3, 0.05, stride=2, padding=1, groups=256),
    Shape(8, 2, 32, 56, 32, 5, 0.2, padding=2, groups=32),
    # linear
    Shape(32, 32, 6272, 1, 2560, 1, 0.05),
    Shape(64, 1, 6272, 1, 2560, 1, 0.02),
    Shape(64, 32, 2560, 1, 1152, 1, 0.1),
    Shape(128, 8, 1152, 1, 256, 1, 0.2),
    Shape(256, 32, 512, 1, 10, 1, 0.2),
    Shape(16, 1, 4096, 1, 4096, 1, 0.1),
    Shape(32, 32, 784, 1, 512, 1, 0.5),
]
QUICK_SHAPES = [shape.small() for shape in SHAPES if shape.gmac < 0.3 and shape.C_in * shape.C_out < 1 << 18]
