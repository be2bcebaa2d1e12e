"""What ``torch.load`` may make with ``weights_only=True``, its default: networks of these layers, as they were saved.

Loading one sets attributes of these classes, and calls nothing that a file names.
"""

from typing import Any

import torch

from . import layers, neurons, surrogates
from .layers.sigma_delta_neurons import SigmaDeltaNeurons
from .network import Network, Part

_PUBLIC = [getattr(module, name) for module in (layers, neurons, surrogates) for name in module.__all__]
CLASSES: list[Any] = [Network, Part, SigmaDeltaNeurons, *(found for found in _PUBLIC if isinstance(found, type))]

torch.serialization.add_safe_globals(CLASSES)
