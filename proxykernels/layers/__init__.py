"""Layers: torch modules that take spikes, or a sequence [T, N, ...], and give spikes for all T steps."""

from .base import Neurons, SpikingLayer, each_step
from .dropout import Dropout
from .fused import IF, Fused, FusedIFConv1d, FusedIFConv2d, FusedIFLinear
from .pooling import AdaptiveAvgPool2d, AvgPool2d, Flatten, MaxPool2d, MaxRatePool2d
from .sums import FusedIFSum

__all__ = [
    "IF",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "Dropout",
    "Flatten",
    "Fused",
    "FusedIFConv1d",
    "FusedIFConv2d",
    "FusedIFLinear",
    "FusedIFSum",
    "MaxPool2d",
    "MaxRatePool2d",
    "Neurons",
    "SpikingLayer",
    "each_step",
]
