"""The ResNet-20 for CIFAR-10 of "Deep residual learning for image recognition" (arXiv:1512.03385, section 4.2).

Where a shortcut changes its size: 1x1 convolutions (option B), or every second pixel and channels of zeros (option A).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, C_in: int, C_out: int, stride: int, option: str = "B"):
        super().__init__()
        self.conv1 = nn.Conv2d(C_in, C_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(C_out)
        self.conv2 = nn.Conv2d(C_out, C_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(C_out)
        self.shortcut = nn.Identity()
        if C_in != C_out and option == "A":
            self.shortcut = Thinned((C_out - C_in) // 2)
        elif C_in != C_out:
            self.shortcut = nn.Sequential(nn.Conv2d(C_in, C_out, 1, stride, bias=False), nn.BatchNorm2d(C_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class Thinned(nn.Module):
    """Every second pixel, between as many channels of zeros in front and behind."""

    def __init__(self, zeros: int):
        super().__init__()
        self.zeros = zeros

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))


class ResNet20(nn.Sequential):
    """For images [N, channels, 32, 32] (or 28 x 28)."""

    def __init__(self, classes: int = 10, channels: int = 3, option: str = "B"):
        stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [(16, 16), (16, 32), (32, 64)]
        stages = [
            nn.Sequential(Block(a, b, 1 if a == b else 2, option), Block(b, b, 1), Block(b, b, 1)) for a, b in widths
        ]
        super().__init__(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
