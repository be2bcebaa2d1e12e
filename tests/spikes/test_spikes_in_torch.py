"""Spikes where torch and numpy expect tensors: they work, or a sentence says what to use."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import spikes
from equality import equal
from torch import nn

import proxykernels as pk


def test_identity_and_copies(generator):
    dense = spikes(5, 2, 3, 4, 4, generator=generator)
    x = pk.pack(dense)
    assert dense.any() and len(x) == 5 and nn.Identity()(x) is x
    assert np.array_equal(np.asarray(x), dense.numpy()) and np.asarray(x, dtype=bool).dtype == bool
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert equal(other.dense(), dense)


REFUSED = {
    "iteration": (lambda x: list(x), r"spikes\[0:16\], and not iterated over; .dense\(\) is a tensor that takes any"),
    "index": (lambda x: x[0], r"spikes\[0:16\].*got 0"),
    "truth": (lambda x: bool(x), r"neither true nor false; ask spikes.rate\(\) > 0"),
    "equality": (lambda x: x == copy.copy(x), r"not compared by == or !=; use torch.equal\(a.dense\(\), b.dense\(\)\)"),
    "inequality": (lambda x: x != x.dense(), "not compared by == or !="),
}


@pytest.mark.parametrize("use, message", REFUSED.values(), ids=REFUSED)
def test_what_python_and_torch_would_take_for_something_else_is_refused(use, message, generator):
    with pytest.raises(TypeError, match=message):
        use(pk.pack(spikes(5, 2, 3, 4, 4, generator=generator)))


def test_spikes_are_kept_in_sets_and_dictionaries(generator):
    x = pk.pack(spikes(5, 2, 3, generator=generator))
    assert {x: 1}[x] == 1 and x in [None, "x", x] and x != 3 and not x == "spikes"


class Simulations(torch.utils.data.Dataset):
    """Each item is the output of a network, computed where the item is asked for."""

    def __init__(self, net, images):
        self.net, self.images = net, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.images[k], pk.simulate(self.net, self.images[k], 12).spikes


@pytest.mark.slow
def test_networks_go_to_a_worker_and_spikes_come_back():
    """Copied, and in shared memory."""
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFConv2d(1, 4, 3, v_threshold=torch.full((4,), 0.5)), pk.Flatten())
    both = [
        Simulations(net, torch.rand(2, 3, 1, 6, 6)),
        Simulations(copy.deepcopy(net).share_memory(), torch.rand(2, 3, 1, 6, 6)),
    ]
    data = torch.utils.data.ConcatDataset(both)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for (images, x), (expected_images, expected) in zip(loader, (data[k] for k in range(4)), strict=True):
        assert equal(images, expected_images) and equal(x.dense(), expected.dense()) and x.rate() > 0


class Recordings(torch.utils.data.Dataset):
    """Packed recordings of one sample each, and their labels."""

    def __init__(self, dense):
        self.dense = dense

    def __len__(self):
        return len(self.dense)

    def __getitem__(self, k):
        return pk.pack(self.dense[k]), k


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_joins_recordings_to_batches(generator, workers):
    dense = spikes(5, 9, 1, 2, 6, 7, generator=generator)
    loader = torch.utils.data.DataLoader(Recordings(dense), 3, num_workers=workers)
    (x, labels), (rest, _) = loader
    assert x.shape == (9, 3, 2, 6, 7) and rest.shape == (9, 2, 2, 6, 7) and labels.tolist() == [0, 1, 2]
    assert equal(x.dense(), torch.cat(list(dense[:3]), 1)) and x.rate() > 0
    with pytest.raises(ValueError, match=r"the same steps and sizes, got \(9, .* and \(4, .* gives every recording T"):
        torch.utils.data.default_collate([pk.pack(dense[0]), pk.pack(dense[0, :4])])


def test_batches_carry_the_gradient_of_their_parts(generator):
    layer = pk.use_surrogate(pk.FusedIFLinear(4, 3, v_threshold=0.5), pk.ATan())
    x, weights = spikes(5, 4, 4, generator=generator), torch.rand(4, 3, generator=generator)
    joined = torch.utils.data.default_collate([layer(pk.pack(x[:, :1])), layer(pk.pack(x[:, 1:]))])
    (joined.count() * weights).sum().backward()
    found, layer.weight.grad = layer.weight.grad, None
    (layer(x).sum(0) * weights).sum().backward()
    assert found.any() and torch.allclose(found, layer.weight.grad)
