"""The networks that are timed: a small one, and the one of the proxy-learning paper.

Both take Fashion-MNIST images [N, 1, 28, 28] and end in 10 integrate-and-fire neurons, one a class.
Written C for a convolution's channels, P2 for 2x2 max pooling, and a plain number for a linear layer:

    small    32C3-64C3-P2-64C3-P2-256-10
    paper    128C3-BN-128C3-BN-P2-128C3-BN-P2-2560-1152-256-10, without biases (arXiv 2109.13208)
"""

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from data import fashion_mnist_sample
from safetensors import safe_open
from torch import Tensor, nn

import proxykernels as pk

WEIGHTS = Path(__file__).parent / "weights"
MEAN_RATE = 0.05  # spikes a neuron and step that random weights are scaled to
CALIBRATION_IMAGES = 64


def small(v_threshold: float = 1.0, v_reset: float | None = 0.0) -> nn.Sequential:
    """32C3-64C3-P2-64C3-P2-256-10 with biases."""
    neuron = {"v_threshold": v_threshold, "v_reset": v_reset}
    return nn.Sequential(
        OrderedDict(
            conv1=pk.FusedIFConv2d(1, 32, 3, padding=1, **neuron),
            conv2=pk.FusedIFConv2d(32, 64, 3, padding=1, **neuron),
            pool1=pk.MaxPool2d(2),
            conv3=pk.FusedIFConv2d(64, 64, 3, padding=1, **neuron),
            pool2=pk.MaxPool2d(2),
            flatten=pk.Flatten(),
            linear1=pk.FusedIFLinear(64 * 7 * 7, 256, **neuron),
            linear2=pk.FusedIFLinear(256, 10, **neuron),
        )
    )


def paper(v_threshold: float = 2.0, v_reset: float | None = 0.0) -> nn.Sequential:
    """128C3-BN-128C3-BN-P2-128C3-BN-P2-2560-1152-256-10 without biases; the threshold is the authors'."""
    neuron = {"bias": False, "v_threshold": v_threshold, "v_reset": v_reset}
    convolution = {"padding": 1, "batch_norm": True, **neuron}
    return nn.Sequential(
        OrderedDict(
            conv1=pk.FusedIFConv2d(1, 128, 3, **convolution),
            conv2=pk.FusedIFConv2d(128, 128, 3, **convolution),
            pool1=pk.MaxPool2d(2),
            conv3=pk.FusedIFConv2d(128, 128, 3, **convolution),
            pool2=pk.MaxPool2d(2),
            flatten=pk.Flatten(),
            linear1=pk.FusedIFLinear(128 * 7 * 7, 2560, **neuron),
            linear2=pk.FusedIFLinear(2560, 1152, **neuron),
            linear3=pk.FusedIFLinear(1152, 256, **neuron),
            linear4=pk.FusedIFLinear(256, 10, **neuron),
        )
    )


def cifar10(v_threshold: float = 3.0, v_reset: float | None = 0.0) -> nn.Sequential:
    """256C3-512C3-P2-512C3-512C3-512C3-P2-256C3-1024-512-256-10 without biases.

    The size of the paper's CIFAR-10 network as a re-implementation gives it, for images [N, 3, 32, 32]; its shapes
    alone are used (roofline.py), no images of that kind are at hand.
    """
    neuron = {"bias": False, "v_threshold": v_threshold, "v_reset": v_reset}
    convolution = {"padding": 1, "batch_norm": True, **neuron}
    return nn.Sequential(
        OrderedDict(
            conv1=pk.FusedIFConv2d(3, 256, 3, **convolution),
            conv2=pk.FusedIFConv2d(256, 512, 3, **convolution),
            pool1=pk.MaxPool2d(2),
            conv3=pk.FusedIFConv2d(512, 512, 3, **convolution),
            conv4=pk.FusedIFConv2d(512, 512, 3, **convolution),
            conv5=pk.FusedIFConv2d(512, 512, 3, **convolution),
            pool2=pk.MaxPool2d(2),
            conv6=pk.FusedIFConv2d(512, 256, 3, **convolution),
            flatten=pk.Flatten(),
            linear1=pk.FusedIFLinear(256 * 8 * 8, 1024, **neuron),
            linear2=pk.FusedIFLinear(1024, 512, **neuron),
            linear3=pk.FusedIFLinear(512, 256, **neuron),
            linear4=pk.FusedIFLinear(256, 10, **neuron),
        )
    )


NETS = {"small": small, "paper": paper}  # for Fashion-MNIST
TRAINABLE = {"small": small, "paper-fashion": paper, "paper-cifar": cifar10}  # by train.py


def load(name: str, v_reset: float | None) -> tuple[nn.Sequential, bool]:
    """The network in eval mode, and whether it is trained.

    It is trained if ``weights/<name>.safetensors`` is there: a state_dict, floats as float16, with the
    threshold in the metadata. Otherwise the weights are random, scaled to realistic firing rates.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        return _random(name, v_reset), False
    with safe_open(path, "pt") as file:
        net = NETS[name](v_threshold=float(file.metadata()["v_threshold"]), v_reset=v_reset)
        net.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # casts to float32
    return net.eval(), True


def _random(name: str, v_reset: float | None) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = NETS[name](v_reset=v_reset).eval()
    _scale_to_rate(net, fashion_mnist_sample()[0][:CALIBRATION_IMAGES])
    return net


@torch.no_grad()
def _scale_to_rate(net: nn.Sequential, images: Tensor) -> None:
    """Scale each layer's weights, first to last, until its neurons fire at MEAN_RATE on average.

    Firing rates [N, ...] are propagated instead of spikes: under a mean current I, an integrate-and-fire
    neuron of threshold v_threshold fires at a rate near min(max(I, 0) / v_threshold, 1).
    """
    rates = images
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            current = F.conv2d(rates, layer.weight, None, padding=layer.padding)
        elif isinstance(layer, nn.Linear):
            current = F.linear(rates, layer.weight)
        else:
            rates = F.max_pool2d(rates, 2) if isinstance(layer, pk.MaxPool2d) else rates.flatten(1)
            continue
        scale = MEAN_RATE * layer.v_threshold / current.relu().mean()
        layer.weight *= scale
        if layer.bias is not None:
            layer.bias.zero_()
        rates = (current * scale / layer.v_threshold).clamp(0, 1)
