"""ImageNet networks with their weights: EfficientNet-Lite0 from packages, any of torchvision's with a file of yours."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common import names, photographs

DEFAULT = names.IMAGENET_MODEL


class Model(NamedTuple):
    """A ReLU network, and how its inputs are normalised: (image - mean) / deviation, of values from 0 to 1."""

    name: str
    ann: nn.Module
    mean: Tensor
    deviation: Tensor

    def normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation


def load(name: str, weights: Path | None) -> Model:
    """A network by its name, with a state_dict from the file ``weights``.

    Raises:
        ValueError: no such network, no weights, or weights of another one.
    """
    if name == DEFAULT:
        return Model(name, photographs.efficientnet_lite0(), *map(torch.tensor, photographs.NORMALISATION))
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no network {name!r}; see torchvision.models.list_models()")
    if weights is None:
        raise ValueError(f"--state-dict must be a file with the weights of {name}; nothing is downloaded")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        classes = list(state.values())[-1].shape[0]
        ann = models.get_model(name, weights=None, num_classes=classes)
        ann.load_state_dict(state)
    except (OSError, RuntimeError, AttributeError, IndexError) as error:
        raise ValueError(f"--state-dict {weights} holds no weights of {name}: {error}") from error
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return Model(name, ann.eval(), mean, deviation)
