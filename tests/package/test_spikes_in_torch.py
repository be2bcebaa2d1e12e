"""Spikes where torch and numpy expect tensors: they work, or a sentence says what to use."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import spikes
from torch import nn

import proxykernels as pk


@pytest.mark.parametrize(
    "module, remedy",
    [
        (nn.Flatten(), "Flatten"),
        (nn.MaxPool2d(2), "proxykernels.MaxPool2d"),
        (nn.AvgPool2d(2), "proxykernels.AvgPool2d"),
        (nn.Linear(4, 2), "FusedIFLinear"),
        (nn.Conv2d(3, 2, 1), "FusedIFConv2d"),
        (nn.BatchNorm2d(3), "batch_norm=True"),
        (nn.ReLU(), "convert"),
        (nn.Dropout(), "dropout"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_torch_modules_name_their_counterpart(module, remedy, generator):
    x = pk.pack(spikes(5, 2, 3, 4, 4, generator=generator))
    with pytest.raises((TypeError, AttributeError), match=f"got Spikes; use .*{remedy}"):
        module(x)


def test_identity_and_copies(generator):
    dense = spikes(5, 2, 3, 4, 4, generator=generator)
    x = pk.pack(dense)
    assert dense.any() and len(x) == 5 and nn.Identity()(x) is x
    assert np.array_equal(np.asarray(x), dense.numpy()) and np.asarray(x, dtype=bool).dtype == bool
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert torch.equal(other.dense(), dense)
