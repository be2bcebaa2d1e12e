"""The VGG-11 with batch normalisation (arXiv:1409.1556, configuration A), for images of 32 x 32 pixels.

One linear layer behind the convolutions, as is usual at that size.
"""

from torch import nn

CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class VGG11(nn.Sequential):
    """For images [N, channels, 32, 32]."""

    def __init__(self, classes: int = 10, channels: int = 3):
        layers: list[nn.Module] = []
        for width in CHANNELS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels, classes))
