"""The ReLU twin as a network of plain torch modules, and converted: the spiking network of what was trained alone."""

import copy

import torch
from common.stages import stages
from torch import Tensor, nn
from torch.utils.data import Dataset

import proxykernels as pk

CALIBRATION = 1000  # training images whose activations set the thresholds of a converted network


@torch.no_grad()
def relu_network(model: pk.ProxyNet) -> nn.Sequential:
    """The ReLU twin as plain torch modules, normalisation by its own statistics folded; a clipped one stays clipped."""
    net = copy.deepcopy(model.net)
    for name, own in model.statistics.items():
        bn = net.get_submodule(name).bn
        bn.running_mean.copy_(own.running_mean)
        bn.running_var.copy_(own.running_var)
    parts = stages(net.eval(), next(net.parameters()).device, channels_last=False)
    relus = [nn.Hardtanh(0.0, part.v_threshold) if model.clip else nn.ReLU() for part in parts]
    modules = [module for part, relu in zip(parts, relus, strict=True) for module in (part.synapses, relu)]
    return nn.Sequential(*modules[:-1]).requires_grad_()  # the last layer is linear


def converted(model: pk.ProxyNet, images: Tensor) -> nn.Module:
    """The spiking network that pk.convert's default makes of the ReLU twin; ``images``: CALIBRATION of them."""
    return pk.convert(relu_network(model.eval()), images)


def calibration(dataset: Dataset) -> Tensor:
    """The first images [CALIBRATION, C, H, W] of a training set, or all that it has."""
    return torch.stack([dataset[i][0] for i in range(min(CALIBRATION, len(dataset)))])
