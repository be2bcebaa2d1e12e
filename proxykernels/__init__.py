"""Simulation and training of spiking networks in PyTorch; a layer computes all time steps in one call.

    import torch, proxykernels as pk

    net = torch.nn.Sequential(
        pk.FusedIFConv2d(1, 32, 3), pk.MaxPool2d(2), pk.Flatten(), pk.FusedIFLinear(32 * 13 * 13, 10)
    )
    result = pk.simulate(net, torch.rand(8, 1, 28, 28), T=256)
    result.count()                       # output spikes, int32 [8, 10]

Shapes: T steps, N samples. Brackets, [N, ...], mean a tensor. Parentheses, (T, N, ...), mean a tensor or packed
:class:`Spikes`. Currents, potentials and thresholds have the same unit. Time is counted in steps. Rates are spikes per
neuron and step. :mod:`proxykernels.functional` has the equations and their source.

Networks
    FusedIFConv2d, FusedIFConv1d   nn.Conv2d and nn.Conv1d followed by integrate-and-fire (IF) neurons
    FusedIFLinear                  nn.Linear followed by IF neurons
    FusedIFSum                     IF neurons on the sum of several inputs: residual blocks
    IF                             IF neurons alone
    FusedLIFConv2d, FusedLIFConv1d, FusedLIFLinear, FusedLIFSum, LIF
                                   the same with leaky neurons
    FusedConv2d, FusedLinear, FusedSum, Population
                                   the same with any neurons: current-based, adaptive, refractory, Loihi's integer ones
    FusedRecurrentLinear           nn.Linear and neurons whose own spikes come back to them one step later
    FusedLILinear, LI              a readout: leaky integrators whose output are their potentials
    neurons                        neuron models; time constants of other libraries
    MaxPool2d, MaxRatePool2d       max pooling: the OR of spikes; the input with the most spikes
    AvgPool2d, AdaptiveAvgPool2d   average pooling
    SumPool2d                      sum pooling
    RunningMaxPool2d               max pooling of real values over time
    layers                         all of these, and those along one axis: MaxPool1d, MaxRatePool1d, RunningMaxPool1d,
                                   AvgPool1d, AdaptiveAvgPool1d, FusedConv1d
    Dropout                        drops the same units at every step, and in both networks of ProxyNet
    ZeroPad2d, Upsample            zeros around and between pixels; larger images
    Concatenate                    several inputs side by side
    Channels                       some channels, in any order: a shuffle, a split
    Flatten, Unflatten             (T, N, C, H, W) to (T, N, features), and back
    Delay                          what arrives some steps later, by channel
    Voting                         the mean over the neurons of each class
    Network                        a graph of layers, as made by conversion and import

Running and training them
    simulate                       all steps of a network; early exit, records, synaptic operations
    conversion_report              compares a converted network with its ReLU network, layer by layer
    model_card                     what a simulation measured, as the README of a model hub
    explain                        the kernel of each layer, and why it was chosen
    stop                           rules for early exit: margin, settled
    Shards                         distributes a data set over processes
    ProxyNet                       training by a ReLU network that shares the weights
    SurrogateNet                   training by backpropagation through time, in bounded memory
    use_reference                  runs layers by the reference code, step by step in plain torch
    use_surrogate                  makes layers differentiable by a surrogate derivative
    ATan, FastSigmoid, Sigmoid, Triangle
                                   surrogate derivatives; also in surrogates
    learn_neurons                  makes thresholds and decays learnable
    plot                           rasters, rates, potentials, accuracy against the number of steps

Compiled networks
    compile, Engine                a network run by one C++ function; fast for few steps too
    Stream                         an engine that keeps its state between calls
    load                           loads an engine from a file
    events                         events of a camera, or of one axis, as spikes

In and out
    convert                        a trained ReLU network to a spiking one
    from_nir, to_nir               NIR graphs, which other simulators and chips read
    from_nir_data, to_nir_data     NIR's recordings of spikes and potentials
    from_spikingjelly              networks of SpikingJelly
    load_spikingjelly              the same, with the weights of a checkpoint
    from_snntorch                  networks of snnTorch
    from_lava                      files of Lava: Loihi's integer neurons

Data
    encode                         values as spikes: poisson, latency, rate
    recordings                     many recordings as one batch; files of events; back to events
    samples                        images, events and a trained network that come with the package
    time_first                     event frames [N, T, ...] of a DataLoader as [T, N, ...]

Functions under the layers, also in functional, with their equations
    pack, Spikes                   spikes at one bit each
    if_scan, if_hold               IF neurons on currents of every step; on a constant current
    if_conv2d, if_linear           convolution and matrix product with IF neurons
    max_pool2d                     max pooling of Spikes
    functional                     the functions, and if_scan_surrogate: IF neurons with a surrogate gradient
"""

from typing import TYPE_CHECKING

from . import _lookup as _lookup

# isort: split
from . import _loadable as _loadable
from . import encode, functional, layers, neurons, recordings, samples, stop, surrogates
from ._version import __version__ as __version__
from .event_spikes import events
from .functional import if_conv2d, if_hold, if_linear, if_scan, max_pool2d
from .kernels.backends import use_reference
from .layers import (
    IF,
    LI,
    LIF,
    AdaptiveAvgPool2d,
    AvgPool2d,
    Channels,
    Concatenate,
    Delay,
    Dropout,
    Flatten,
    FusedConv2d,
    FusedIFConv1d,
    FusedIFConv2d,
    FusedIFLinear,
    FusedIFSum,
    FusedLIFConv1d,
    FusedLIFConv2d,
    FusedLIFLinear,
    FusedLIFSum,
    FusedLILinear,
    FusedLinear,
    FusedRecurrentLinear,
    FusedSum,
    MaxPool2d,
    MaxRatePool2d,
    Population,
    RunningMaxPool2d,
    SumPool2d,
    Unflatten,
    Upsample,
    Voting,
    ZeroPad2d,
    learn_neurons,
)
from .network import Network
from .running.compiling import compile
from .running.engine import Engine, load
from .running.explain import explain
from .running.inputs import time_first
from .running.shards import Shards
from .running.simulate import simulate
from .running.stream import Stream
from .spikes import Spikes, pack
from .surrogates import ATan, FastSigmoid, Sigmoid, Triangle

__all__ = [
    "ATan",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "Channels",
    "Concatenate",
    "Delay",
    "Dropout",
    "Engine",
    "FastSigmoid",
    "Flatten",
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
    "IF",
    "LI",
    "LIF",
    "MaxPool2d",
    "MaxRatePool2d",
    "Network",
    "Population",
    "ProxyNet",
    "RunningMaxPool2d",
    "Shards",
    "Sigmoid",
    "Spikes",
    "Stream",
    "SumPool2d",
    "SurrogateNet",
    "Triangle",
    "Unflatten",
    "Upsample",
    "Voting",
    "ZeroPad2d",
    "compile",
    "conversion_report",
    "convert",
    "encode",
    "events",
    "explain",
    "from_lava",
    "from_nir",
    "from_nir_data",
    "from_snntorch",
    "from_spikingjelly",
    "load_spikingjelly",
    "functional",
    "if_conv2d",
    "if_hold",
    "if_linear",
    "if_scan",
    "layers",
    "learn_neurons",
    "load",
    "max_pool2d",
    "model_card",
    "neurons",
    "pack",
    "plot",
    "recordings",
    "samples",
    "simulate",
    "stop",
    "surrogates",
    "time_first",
    "to_nir",
    "to_nir_data",
    "use_reference",
    "use_surrogate",
]

if TYPE_CHECKING:  # they come when they are first used: _lookup.py
    from . import plot
    from .conversion.libraries.checkpoints import load_spikingjelly
    from .conversion.libraries.from_lava import from_lava
    from .conversion.libraries.from_libraries import from_snntorch, from_spikingjelly
    from .conversion.nir.data import from_nir_data, to_nir_data
    from .conversion.nir.from_nir import from_nir
    from .conversion.nir.to_nir import to_nir
    from .conversion.relu.convert import convert
    from .conversion.relu.report import conversion_report, model_card
    from .training.proxy import ProxyNet
    from .training.surrogate_net import SurrogateNet, use_surrogate
else:  # a type checker would take any name for one of them
    from ._lookup import __getattr__ as __getattr__


def __dir__() -> list[str]:
    """What is meant for users. The folders that the package is made of are not listed."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
