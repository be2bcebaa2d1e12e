"""The ReLU twin as a network of plain torch modules, and its conversion, for twins trained by themselves."""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import proxykernels as pk
from common.stages import plain

CALIBRATION = 1000  # training images whose activations set the thresholds of a converted network


@torch.no_grad()
def relu_network(model: pk.ProxyNet) -> nn.Sequential:
    """The ReLU twin as plain torch modules, normalisation by its own statistics folded; a clipped one stays clipped."""
    net = copy.deepcopy(model.net)
    for name, own in model.statistics.items():
        bn = net.get_submodule(name).bn
        bn.running_mean.copy_(own.running_mean)
        bn.running_var.copy_(own.running_var)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in net.eval().named_children():
        if isinstance(layer, pk.Dropout):  # for training only
            continue
        modules[name] = plain(layer)
        if isinstance(layer, pk.layers.Fused):
            modules[f"{name}_relu"] = nn.Hardtanh(0.0, layer.v_threshold) if model.clip else nn.ReLU()
    modules.popitem()  # the last layer is linear
    return nn.Sequential(modules).requires_grad_()


def converted(model: pk.ProxyNet, images: Tensor) -> nn.Module:
    """The spiking network that pk.convert's default makes of the ReLU twin; ``images``: CALIBRATION of them."""
    return pk.convert(relu_network(model.eval()), images)


def calibration(dataset: Dataset) -> Tensor:
    """The first images [CALIBRATION, C, H, W] of a training set, or all that it has."""
    return torch.stack([dataset[i][0] for i in range(min(CALIBRATION, len(dataset)))])
