"""What tests compare by: as strict as torch.equal, and it says where a difference begins."""

import pytest
import torch
from cases import spikes
from equality import equal

import proxykernels as pk

SHAPES = [(), (1,), (4,), (2, 3), (5, 2, 3), (0, 3)]
KINDS = [torch.float32, torch.bfloat16, torch.int32, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_torchs_verdict(generator, shape, dtype):
    a = torch.randint(0, 2, shape, generator=generator).to(dtype)
    assert equal(a, a.clone()) is True
    for b in (a.flatten()[:1], a.unsqueeze(0), 1 - a.int(), a.expand(2, *shape)):
        assert bool(equal(a, b)) == torch.equal(a, b)


def test_signs_of_zero_nan_and_infinity():
    nan, inf, zero = torch.tensor([float("nan")]), torch.tensor([float("inf")]), torch.tensor([0.0])
    for a, b in [(nan, nan), (inf, inf), (inf, -inf), (zero, -zero), (nan, zero)]:
        assert bool(equal(a, b)) == torch.equal(a, b)
    assert repr(equal(nan, nan.clone())) == "at [0] nan, not nan; 1 of 1 differ"


def test_the_first_place_is_named(generator):
    wanted = spikes(7, 3, 5, generator=generator)
    found = wanted.clone()
    found[4, 1, 2] = 1 - wanted[4, 1, 2]
    found[4, 2, 0] = 7
    message = f"at [4, 1, 2] {found[4, 1, 2].item()}, not {wanted[4, 1, 2].item()}; 2 of 105 differ"
    assert repr(equal(found, wanted)) == message
    with pytest.raises(AssertionError, match=r"at \[4, 1, 2\] .*; 2 of 105 differ"):
        assert equal(found, wanted)
    assert repr(equal(torch.tensor(1.5), torch.tensor(2.0))) == "at [] 1.5, not 2.0; 1 of 1 differ"
    assert repr(equal(found[:3], found)) == "a shape of [3, 3, 5], not [7, 3, 5]"


def test_spikes_and_packed_words(generator):
    """Spikes are unpacked; words, which a test of a kernel holds, are shown with their bits."""
    dense = spikes(40, 2, 9, generator=generator, rate=0.5)
    other = dense.clone()
    other[33, 1, 8] = 1 - other[33, 1, 8]
    assert equal(pk.pack(dense), pk.pack(dense.clone())) is True
    assert repr(equal(pk.pack(other), pk.pack(dense))).startswith("at [33, 1, 8] ")
    doubled = pk.Spikes(pk.pack(dense)._words, dense.shape, 2.0)
    assert repr(equal(doubled, pk.pack(dense))) == "a scale of 2.0, not 1.0"
    words = torch.tensor([[3, 255], [16, 0]], dtype=torch.uint8)
    shown = "at [1, 0] 18 = 0b00010010, not 16 = 0b00010000; 1 of 4 differ"
    assert repr(equal(words + torch.tensor([[0, 0], [2, 0]], dtype=torch.uint8), words)) == shown


def test_a_gradient_and_a_spike_tensor_are_taken(generator):
    x = torch.rand(3, 2, generator=generator, requires_grad=True)
    assert not equal(x + 1, x) and equal(x + 0, x)
    fired = pk.FusedIFLinear(2, 4, v_threshold=0.1).eval()(torch.ones(9, 3, 2))
    assert fired.any() and equal(fired, fired.clone()) and "of 108 differ" in repr(equal(fired, 1 - fired))
