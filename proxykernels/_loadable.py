"""What ``torch.load`` may make with ``weights_only=True``, its default: networks of these layers, as they were saved.

Loading one sets attributes of these classes, and calls nothing that a file names. That is also true of those modules of
torch that layers and networks of layers are made of.
"""

from typing import Any

import torch
from torch import nn

from . import layers, neurons, surrogates
from .layers.sigma_delta_neurons import SigmaDeltaNeurons
from .network import Network, Part
from .running.stream_state import StreamState

_PUBLIC = [getattr(module, name) for module in (layers, neurons, surrogates) for name in module.__all__]
_TORCHS = nn.Conv1d, nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.Identity, nn.ModuleList, nn.Sequential
CLASSES: list[Any] = [
    *_TORCHS,
    Network,
    Part,
    SigmaDeltaNeurons,
    StreamState,
    *(found for found in _PUBLIC if isinstance(found, type)),
]

torch.serialization.add_safe_globals(CLASSES)
