"""Spikes where torch and numpy expect tensors: they work, or a sentence says what to use."""

import copy
import pickle

import numpy as np
import torch
from cases import spikes
from torch import nn

import proxykernels as pk


def test_identity_and_copies(generator):
    dense = spikes(5, 2, 3, 4, 4, generator=generator)
    x = pk.pack(dense)
    assert dense.any() and len(x) == 5 and nn.Identity()(x) is x
    assert np.array_equal(np.asarray(x), dense.numpy()) and np.asarray(x, dtype=bool).dtype == bool
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert torch.equal(other.dense(), dense)
