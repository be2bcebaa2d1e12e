"""Networks of tutorials and of other tasks than to classify an image, as they are written there."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MnistExample(nn.Module):
    """github.com/pytorch/examples, mnist/main.py."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, 1), nn.Conv2d(32, 64, 3, 1)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)


class Cifar10Tutorial(nn.Module):
    """pytorch.org/tutorials, "Training a classifier"."""

    def __init__(self):
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(F.relu(self.fc2(x)))


class M5(nn.Module):
    """pytorch.org/tutorials, "Speech command classification with torchaudio"; Dai et al., arXiv:1610.00087."""

    def __init__(self, n_input=1, n_output=35, stride=16, n_channel=32):
        super().__init__()
        self.conv1 = nn.Conv1d(n_input, n_channel, kernel_size=80, stride=stride)
        self.bn1, self.pool1 = nn.BatchNorm1d(n_channel), nn.MaxPool1d(4)
        self.conv2 = nn.Conv1d(n_channel, n_channel, kernel_size=3)
        self.bn2, self.pool2 = nn.BatchNorm1d(n_channel), nn.MaxPool1d(4)
        self.conv3 = nn.Conv1d(n_channel, 2 * n_channel, kernel_size=3)
        self.bn3, self.pool3 = nn.BatchNorm1d(2 * n_channel), nn.MaxPool1d(4)
        self.conv4 = nn.Conv1d(2 * n_channel, 2 * n_channel, kernel_size=3)
        self.bn4, self.pool4 = nn.BatchNorm1d(2 * n_channel), nn.MaxPool1d(4)
        self.fc1 = nn.Linear(2 * n_channel, n_output)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = self.pool2(F.relu(self.bn2(self.conv2(x))))
        x = self.pool3(F.relu(self.bn3(self.conv3(x))))
        x = self.pool4(F.relu(self.bn4(self.conv4(x))))
        x = F.avg_pool1d(x, x.shape[-1])
        x = self.fc1(x.permute(0, 2, 1))
        return F.log_softmax(x, dim=2)


def discriminator(ndf: int = 64) -> nn.Sequential:
    """pytorch.org/tutorials, "DCGAN"; Radford et al., arXiv:1511.06434. Initialised as there."""
    channels = [ndf, 2 * ndf, 4 * ndf, 8 * ndf]
    parts = [nn.Conv2d(3, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        convolution = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        parts += [convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, inplace=True)]
    net = nn.Sequential(*parts, nn.Conv2d(channels[-1], 1, 4, 1, 0, bias=False), nn.Sigmoid())
    for module in net:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    return net


class ResidualAudio(nn.Module):
    """A residual network along time, whose shortcuts are averaged where the step is 2."""

    def __init__(self, channels: int = 32):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, channels, 32, 8, 12), nn.BatchNorm1d(channels), nn.ReLU(), nn.MaxPool1d(3, 2, 1)
        )
        self.blocks = nn.Sequential(*(_AudioBlock(channels << k, channels << (k + 1)) for k in range(2)))
        self.pool, self.head = nn.AdaptiveAvgPool1d(1), nn.Linear(4 * channels, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class _AudioBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(inputs, outputs, 9, 2, 4, bias=False), nn.BatchNorm1d(outputs)
        self.conv2, self.bn2 = nn.Conv1d(outputs, outputs, 9, 1, 4, bias=False), nn.BatchNorm1d(outputs)
        self.shortcut = nn.Sequential(nn.AvgPool1d(2, ceil_mode=True), nn.Conv1d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class UNet(nn.Module):
    """Ronneberger et al., arXiv:1505.04597, with normalisation, three levels deep."""

    def __init__(self, channels: int = 16, bilinear: bool = False):
        super().__init__()
        widths = [channels << level for level in range(4)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.first, self.pool = _twice(3, channels), nn.MaxPool2d(2)
        self.down = nn.ModuleList(_twice(narrow, wide) for narrow, wide in pairs)
        self.enlarge = nn.ModuleList(_enlarge(wide, narrow, bilinear) for narrow, wide in reversed(pairs))
        self.up = nn.ModuleList(_twice(2 * narrow, narrow) for narrow, _ in reversed(pairs))
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.first(x)]
        for down in self.down:
            levels.append(down(self.pool(levels[-1])))
        x = levels.pop()
        for enlarge, up in zip(self.enlarge, self.up, strict=True):
            x = up(torch.cat([levels.pop(), enlarge(x)], dim=1))
        return self.head(x)


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip


def _enlarge(inputs: int, outputs: int, bilinear: bool) -> nn.Module:
    if not bilinear:
        return nn.ConvTranspose2d(inputs, outputs, 2, 2)
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(inputs, outputs, 1)
    )


def autoencoder(channels: int = 16) -> nn.Sequential:
    """An image through 64 numbers and back."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * channels * 64, 64), nn.ReLU(), nn.Linear(64, 2 * channels * 64), nn.ReLU(),
        nn.Unflatten(1, (2 * channels, 8, 8)), nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


class CRNN(nn.Module):
    """Lines of text: Shi et al., arXiv:1507.05717, whose recurrent layers are convolutions along the line here.

    [N, 1, 32, width] to classes along the line, [N, classes, width / 4 - 1].
    """

    def __init__(self, classes: int = 37):
        super().__init__()
        self.images = nn.Sequential(
            _seen_by(nn.Conv2d(1, 64, 3, 1, 1)), nn.MaxPool2d(2), _seen_by(nn.Conv2d(64, 128, 3, 1, 1)),
            nn.MaxPool2d(2), _seen_by(nn.Conv2d(128, 256, 3, 1, 1)), nn.MaxPool2d((2, 1)),
            _seen_by(nn.Conv2d(256, 256, 3, 1, 1)), nn.MaxPool2d((2, 1)), _seen_by(nn.Conv2d(256, 256, 2)),
        )  # fmt: skip
        self.line = nn.Sequential(
            nn.Conv1d(256, 128, 5, padding=2), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, classes, 5, padding=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.images(x).squeeze(2))


def _seen_by(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


def tiny_yolo(outputs: int = 125) -> nn.Sequential:
    """Tiny YOLOv2 (Redmon and Farhadi, arXiv:1612.08242): maxima of leaky ReLUs; 5 boxes of 20 classes a cell."""
    widths = [3, 16, 32, 64, 128, 256, 512]
    parts: list[nn.Module] = []
    for inputs, width in zip(widths, widths[1:], strict=False):
        parts += _leaky(inputs, width)
        parts += [nn.MaxPool2d(2)] if width < 512 else [nn.ReplicationPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1)]
    return nn.Sequential(*parts, *_leaky(512, 1024), *_leaky(1024, 1024), nn.Conv2d(1024, outputs, 1))


def _leaky(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1, inplace=True)]
