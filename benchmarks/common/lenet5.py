"""LeNet-5 with ReLUs and max pooling, as it is written today: 6C5-P2-16C5-P2-120-84-10 (LeCun et al. 1998)."""

from torch import nn


class LeNet5(nn.Sequential):
    """For images [N, 1, 28, 28]."""

    def __init__(self, classes: int = 10):
        super().__init__(
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(),
            nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, classes),
        )  # fmt: skip
