"""The weights files that train.py writes: the spiking network, its twin's statistics, and what they are."""

import copy
import json
from argparse import Namespace
from pathlib import Path

import torch
from common import nets, twins
from torch import Tensor, nn

import proxykernels as pk
from training import checkpoint as checkpoint


def save(path: Path, net: nn.Module, statistics: nn.Module, about: dict[str, str]) -> None:
    """Write a network's state and its twin's ``statistics`` (pk.ProxyNet.statistics), weights as float16."""
    state = net.state_dict() | {nets.TWIN + key: value for key, value in statistics.state_dict().items()}
    checkpoint.write_tensors(path, {key: stored(key, value) for key, value in state.items()}, about)


@torch.no_grad()
def rounded(model: pk.ProxyNet) -> pk.ProxyNet:
    """A copy with all weights rounded to float16, as they are stored, so that what is measured is the file."""
    model = copy.deepcopy(model).eval()
    model.load_state_dict({key: stored(key, tensor) for key, tensor in model.state_dict().items()})
    return model


def is_twin_alone(about: dict[str, str]) -> bool:
    """Whether a file's metadata say that only its ReLU twin was trained; its spiking network is the converted twin."""
    return about.get("method") == "ann" and "decay" not in about


def describe(options: Namespace, kind: dict) -> dict[str, str]:
    """The metadata of a file, except measurements: what nets.load_file needs, and how the network was trained.

    ``kind``: shape [C, H, W] of the images, and number of classes.
    """
    return {
        "net": options.net, "v_threshold": str(options.threshold), "reset": options.reset, "T": str(options.T),
        **({"decay": str(options.decay)} if options.neuron == "lif" else {}),
        **({"snn_precision": options.snn_precision} if options.snn_precision != "float32" else {}),
        "twin": options.twin, "method": options.method, "seed": str(options.seed),
        **{key: json.dumps(value) for key, value in kind.items()},
    }  # fmt: skip


def start_from(model: pk.ProxyNet, path: Path, make) -> dict[str, str]:
    """Give ``model`` the weights of a file, and the statistics of its normalisation; returns the file's metadata.

    Errors: as of ``twins.load``.
    """
    source, whole, about = twins.load(path, make)
    nets.take_over(model.net, source.net)
    if whole:
        model.statistics.load_state_dict(source.statistics.state_dict())
    return about


def stored(key: str, value: Tensor) -> Tensor:
    """A tensor of a state_dict as the files hold it: numbers and thresholds as they are, other floats as float16."""
    exact = not value.ndim or not value.is_floating_point() or key.endswith("v_threshold")
    return value if exact else value.half()
