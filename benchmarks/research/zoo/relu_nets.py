"""ReLU networks that people have: torchvision's classification zoo, and nets of tutorials and other tasks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from common import resnet20
from torch import Tensor, nn
from torchvision import models

import proxykernels as pk

from . import other_nets

CALIBRATION, TESTED = 32, 4  # inputs
STATISTICS = 64  # inputs that normalisations see


@dataclass(frozen=True)
class ReluNet:
    """A network, and the inputs that it takes: the first CALIBRATION of ``inputs`` [N, ...] scale its activations."""

    source: str
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


def images(size: int = 32, channels: int = 3) -> Callable[[], Tensor]:
    """Test images of Fashion-MNIST, of ``size`` pixels along a side, in equal channels."""

    def make() -> Tensor:
        sample = F.interpolate(pk.samples.fashion_mnist()[0][:STATISTICS], size, mode="bilinear", antialias=True)
        return sample.expand(-1, channels, -1, -1).contiguous()

    return make


def lines(width: int = 3) -> Callable[[], Tensor]:
    """``width`` of those images side by side: [N, 1, 32, 32 * width]."""

    def make() -> Tensor:
        sample = images(32, 1)()
        return torch.cat([sample.roll(k, 0) for k in range(width)], 3)

    return make


def chirps(length: int = 8000) -> Callable[[], Tensor]:
    """One-second sounds of 8 kHz: a tone that rises or falls, its overtones, and noise; [N, 1, length]."""

    def make() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        start, end, loudness = (torch.rand(STATISTICS, 1, 1, generator=generator) for _ in range(3))
        time = torch.arange(length) / length
        phase = 2 * torch.pi * (100 + 900 * (start + (end - start) * time / 2)) * time
        tones = sum(torch.sin(k * phase) / k for k in (1, 2, 3))
        noise = torch.randn(STATISTICS, 1, length, generator=generator)
        return (0.1 + loudness) * tones + 0.05 * noise

    return make


def _torchvision(name: str, size: int = 32, **options) -> ReluNet:
    def make() -> nn.Module:
        return models.get_model(name, weights=None, num_classes=10, **options)

    return ReluNet("torchvision", name, make, images(size))


_NO_HEADS = {"aux_logits": False, "init_weights": True}  # their auxiliary outputs are for training
TORCHVISION = [
    *map(_torchvision, ["convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"]),
    _torchvision("alexnet", 64),
    _torchvision("googlenet", **_NO_HEADS),
    _torchvision("inception_v3", 96, **_NO_HEADS),
    _torchvision("maxvit_t", 224),
    *map(_torchvision, ["mnasnet0_5", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"]),
    *map(_torchvision, ["regnet_x_400mf", "regnet_x_800mf", "regnet_y_400mf", "resnet18", "resnet34", "resnet50"]),
    *map(_torchvision, ["resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"]),
    *map(_torchvision, ["squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vgg16_bn"]),
    _torchvision("vit_b_32", image_size=32),
    _torchvision("wide_resnet50_2"),
]
OTHERS = [
    ReluNet("PyTorch's tutorials", "LeNet of the MNIST example", other_nets.MnistExample, images(28, 1)),
    ReluNet("PyTorch's tutorials", "net of the CIFAR-10 tutorial", other_nets.Cifar10Tutorial, images()),
    ReluNet("PyTorch's tutorials", "M5, audio (1-d)", other_nets.M5, chirps()),
    ReluNet("PyTorch's tutorials", "DCGAN's discriminator (LeakyReLU)", other_nets.discriminator, images(64)),
    ReluNet("other tasks", "ResNet-20 of CIFAR-10, option A", lambda: resnet20.ResNet20(option="A"), images()),
    ReluNet("other tasks", "CRNN, convolutions for recurrent layers", other_nets.CRNN, lines()),
    ReluNet("other tasks", "Tiny YOLOv2", other_nets.tiny_yolo, images(64)),
    ReluNet("other tasks", "residual net of audio (1-d)", other_nets.ResidualAudio, chirps()),
    ReluNet("other tasks", "U-Net, transposed convolutions", other_nets.UNet, images()),
    ReluNet("other tasks", "U-Net, bilinear", lambda: other_nets.UNet(bilinear=True), images()),
    ReluNet("other tasks", "convolutional autoencoder", other_nets.autoencoder, images()),
]
ALL = sorted(TORCHVISION, key=lambda net: net.name) + OTHERS


@torch.no_grad()
def see(net: nn.Module, inputs: Tensor) -> nn.Module:
    """The network in evaluation mode, its normalisations' running statistics those of ``inputs``."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # those of the one batch that follows
    net.train()(inputs)
    return net.eval()
