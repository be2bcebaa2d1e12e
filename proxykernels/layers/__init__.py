"""Layers: torch modules that take spikes, or a sequence [T, N, ...], and give spikes for all T steps."""

from .all_steps import AllSteps, StepAttention, StepMixture
from .attention import Attention, Multiply
from .base import Neurons, SpikingLayer, each_step
from .delay import Delay
from .dropout import Dropout
from .formula import Formula
from .fused import Fused, FusedConv1d, FusedConv2d, FusedLinear, Population
from .integrate_and_fire import IF, FusedIFConv1d, FusedIFConv2d, FusedIFLinear, FusedIFSum
from .leaky import LI, LIF, FusedLIFConv1d, FusedLIFConv2d, FusedLIFLinear, FusedLIFSum, FusedLILinear
from .learnable import learn_neurons
from .pooling import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Flatten,
    MaxPool2d,
    MaxRatePool2d,
    RunningMaxPool1d,
    RunningMaxPool2d,
    SumPool2d,
)
from .pooling1d import AdaptiveAvgPool1d, AvgPool1d, MaxPool1d, MaxRatePool1d, Voting
from .rearranging import Channels, Concatenate, Pixels, Unflatten, Upsample, ZeroPad2d
from .recurrent import FusedRecurrentLinear
from .recurrent_graph import RecurrentGraph
from .step_affine import StepAffine
from .sums import FusedSum
from .synapse_filter import SynapseFilter
from .valued_neurons import ValuedNeurons

__all__ = [
    "IF",
    "LI",
    "LIF",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AllSteps",
    "Attention",
    "AvgPool1d",
    "AvgPool2d",
    "Channels",
    "Concatenate",
    "Delay",
    "Dropout",
    "Flatten",
    "Formula",
    "Fused",
    "FusedConv1d",
    "FusedConv2d",
    "FusedIFConv1d",
    "FusedIFConv2d",
    "FusedIFLinear",
    "FusedIFSum",
    "FusedLIFConv1d",
    "FusedLIFConv2d",
    "FusedLIFLinear",
    "FusedLIFSum",
    "FusedLILinear",
    "FusedLinear",
    "FusedRecurrentLinear",
    "FusedSum",
    "MaxPool1d",
    "MaxPool2d",
    "MaxRatePool1d",
    "MaxRatePool2d",
    "Multiply",
    "Neurons",
    "Pixels",
    "Population",
    "RecurrentGraph",
    "RunningMaxPool1d",
    "RunningMaxPool2d",
    "SpikingLayer",
    "StepAffine",
    "StepAttention",
    "StepMixture",
    "Unflatten",
    "SumPool2d",
    "SynapseFilter",
    "Upsample",
    "ValuedNeurons",
    "Voting",
    "ZeroPad2d",
    "each_step",
    "learn_neurons",
]
