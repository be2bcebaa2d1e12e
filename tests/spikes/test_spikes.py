"""Spikes: packing, counting, cutting, encoding, and where torch and numpy expect tensors."""

import copy
import pickle

import numpy as np
import pytest
import torch
from cases import spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels import encode

SHAPES = [(1, 1), (7, 3), (5, 0, 4), (33, 2, 9), (4, 2, 3, 11), (31, 2, 5, 7, 5), (64, 1, 64, 4, 4), (32, 2, 130, 2, 3)]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip(instruction_set, generator, shape, dtype):
    dense = spikes(*shape, generator=generator).to(dtype)
    dense.view(-1)[:1] = 1  # the smallest too holds a spike
    packed = pk.pack(dense)
    assert packed.shape == shape and packed.T == shape[0] and packed.device == torch.device("cpu")
    assert equal(packed.dense(dtype), dense)
    assert packed.dense().dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_and_rate(instruction_set, generator, shape):
    dense = spikes(*shape, generator=generator)
    dense.view(-1)[:1] = 1
    packed = pk.pack(dense)
    for until in (None, 0, 1, shape[0] // 2, shape[0]):
        expected = dense[:until].sum(0).int()
        assert packed.count(until).dtype == torch.int32 and equal(packed.count(until), expected)
    assert packed.rate() == pytest.approx(dense.mean().item(), nan_ok=True, abs=1e-6)


def test_counts_of_more_steps_than_a_byte_holds(instruction_set, generator):
    dense = torch.ones(700, 2, 37, 2, 1)
    dense[:, 1] = spikes(700, 37, 2, 1, generator=generator)
    for until in (255, 256, 510, 511, 700):
        assert equal(pk.pack(dense).count(until), dense[:until].sum(0).int())


def test_values_are_what_neurons_send(generator):
    x, y = ((torch.rand(5, 2, 7, generator=generator) < 0.5).float() for _ in range(2))
    assert torch.equal(pk.pack(x).values, x) and torch.equal((0.5 * pk.pack(x)).values, 0.5 * x)
    assert torch.equal(pk.pack(x) + pk.pack(y), x + y)


def test_cut_in_time(instruction_set, generator):
    dense = spikes(50, 2, 9, 3, 4, generator=generator)
    packed = pk.pack(dense)
    for cut in (slice(0, 1), slice(3, 40), slice(-10, None), slice(None), slice(31, 33)):
        assert equal(packed[cut].dense(), dense[cut])
    for wrong in (3, slice(0, 10, 2)):
        with pytest.raises(TypeError, match="slice"):
            packed[wrong]
    with pytest.raises(ValueError, match="no step"):
        packed[50:60]


def test_about_one_bit_a_spike(generator):
    dense = spikes(64, 2, 64, 8, 8, generator=generator)
    assert pk.pack(dense).nbytes == dense.numel() // 8


def test_to_the_same_device(generator):
    packed = pk.pack(spikes(5, 2, 3, 4, 4, generator=generator))
    assert equal(packed.to("cpu").dense(), packed.dense())


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, float("nan"), float("inf")])
def test_only_zeros_and_ones(value):
    dense = torch.zeros(4, 2, 3)
    dense[1, 1, 2] = value
    with pytest.raises(ValueError, match="dense must hold spikes"):
        pk.pack(dense)


def test_shape_and_until_are_checked():
    with pytest.raises(TypeError, match="dense must be a torch.Tensor"):
        pk.pack([[0, 1]])
    for shape in ((), (3,), (0, 2, 3)):
        with pytest.raises(ValueError, match=r"\[T, N, \.\.\.\]"):
            pk.pack(torch.zeros(shape))
    for until in (-1, 4):
        with pytest.raises(ValueError, match="until must be within"):
            pk.pack(torch.zeros(3, 2)).count(until)


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


SHAPE = 3, 5, 4, 6  # channels that fill no byte


@pytest.fixture
def x(generator):
    """Values with both ends among them."""
    x = torch.rand(SHAPE, generator=generator)
    x[0, 0, 0], x[1, 1, 1] = 0, 1
    return x


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("T", [1, 31, 33, 100])
def test_poisson_is_its_equation(x, T):
    spikes = encode.poisson(x, T, seeded())
    generator = seeded()
    expected = torch.stack([torch.rand(SHAPE, generator=generator) < x for _ in range(T)])
    assert spikes.shape == (T, *SHAPE)
    assert equal(spikes.dense(torch.bool), expected)
    assert spikes.count()[0, 0, 0].max() == 0 and spikes.count()[1, 1, 1].min() == T


def test_poisson_has_the_rate_of_the_value_and_no_memory(generator):
    x = torch.rand(50, 10, generator=generator)
    T = 4000
    dense = encode.poisson(x, T, generator).dense()
    deviation = (x * (1 - x) / T).sqrt()
    assert ((dense.mean(0) - x).abs() < 5 * deviation + 1e-6).all()
    both = (dense[1:] * dense[:-1]).mean(0)  # independent: fires twice in a row with probability x * x
    assert ((both - x**2).abs() < 0.05).all()


def test_poisson_goes_on_with_its_generator(x):
    whole, generator = encode.poisson(x, 70, seeded()), seeded()
    parts = [encode.poisson(x, T, generator).dense() for T in (10, 23, 37)]
    assert equal(torch.cat(parts), whole.dense()) and 0.2 < whole.rate() < 0.8
    assert not torch.equal(whole.dense(), encode.poisson(x, 70, seeded(4)).dense())


@pytest.mark.parametrize("steps", [1, 7, 64])
def test_any_number_of_steps_at_a_time_gives_the_same(x, steps, monkeypatch):
    def spikes():
        return [encode.poisson(x, 50, seeded()), encode.latency(x, 50), encode.rate(x, 50)]

    expected = spikes()
    monkeypatch.setattr(encode, "STEPS", steps)
    for ours, theirs in zip(spikes(), expected, strict=True):
        assert equal(ours.dense(), theirs.dense()) and theirs.rate() > 0


def test_poisson_without_a_generator_obeys_the_seed(x):
    torch.manual_seed(7)
    first = encode.poisson(x, 20)
    torch.manual_seed(7)
    assert equal(encode.poisson(x, 20).dense(), first.dense()) and first.rate() > 0


@pytest.mark.parametrize("T", [1, 2, 33, 64])
def test_latency_is_one_spike_at_its_time(x, T):
    dense = encode.latency(x, T).dense(torch.bool)
    assert equal(dense.sum(0), (x > 0).long())
    when = ((T - 1) * (1 - x)).round().long()
    assert equal(dense.long().argmax(0)[x > 0], when[x > 0])


@pytest.mark.parametrize("T", [1, 2, 33, 1000])
def test_rate_is_even(x, T):
    counts = encode.rate(x, T).dense(torch.float64).cumsum(0)
    exact = torch.arange(1, T + 1, dtype=torch.float64).view(-1, 1, 1, 1, 1) * x.double()
    assert equal(counts, (exact + 0.5).floor())
    assert counts[-1].max() == T and counts[-1].min() == 0


def test_rate_is_an_if_neuron_on_the_value(generator):
    x = torch.randint(0, 129, (4, 50), generator=generator) / 128  # whose sums are exact in float32
    expected = pk.simulate(pk.IF(v_reset=None, v_init=0.5), x, 96).spikes
    assert equal(encode.rate(x, 96).dense(), expected.dense()) and expected.rate() > 0.3


def test_spikingjelly_has_the_same_latencies(x):
    encoding = pytest.importorskip("spikingjelly.activation_based.encoding")
    encoder = encoding.LatencyEncoder(20)
    theirs = torch.stack([encoder(x) for _ in range(20)])
    ours = encode.latency(x, 20).dense()
    assert equal(ours[:, x > 0], theirs[:, x > 0]) and ours.sum() > 0
    assert (theirs[-1, x == 0] == 1).all() and ours[:, x == 0].sum() == 0


def test_snntorch_has_the_same_latencies_down_to_its_threshold(x):
    spikegen = pytest.importorskip("snntorch.spikegen")
    theirs = spikegen.latency(x, 20, normalize=True, linear=True, clip=True)
    ours, above = encode.latency(x, 20).dense(), x > 0.01
    assert equal(ours[:, above], theirs[:, above]) and ours.sum() > 0
    assert theirs[:, x < 0.01].sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type(x, dtype):
    values = x.to(dtype)
    for found, same in (
        (encode.poisson(values, 20, seeded()), encode.poisson(values.double(), 20, seeded())),
        (encode.latency(values, 20), encode.latency(values.float(), 20)),
        (encode.rate(values, 20), encode.rate(values.double(), 20)),
    ):
        assert equal(found.dense(), same.dense()) and found.rate() > 0


@pytest.mark.parametrize("shape", [(0, 3), (5,), (2, 3), (2, 3, 4)])
def test_shapes(shape):
    for function in (encode.poisson, encode.latency, encode.rate):
        spikes = function(torch.full(shape, 0.9), 9)
        assert spikes.shape == (9, *shape) and spikes.dense().shape == (9, *shape)
        assert 0 not in shape or spikes.count().numel() == 0


def test_it_runs_in_a_network_and_does_not_hold_every_step(x, monkeypatch):
    sizes = []
    pack = encode.pack_words
    monkeypatch.setattr(encode, "pack_words", lambda steps: sizes.append(len(steps)) or pack(steps))
    spikes = encode.poisson(x, 1000, seeded())
    assert max(sizes) == 32 and sum(sizes) == 1000
    net = torch.nn.Sequential(pk.MaxPool2d(2), pk.Flatten(), pk.IF(v_threshold=2.0))
    assert pk.simulate(net, spikes, 1000).count().sum() > 0


BAD = {
    "negative": (lambda: encode.poisson(torch.tensor([-0.5, 1.0]), 4), ValueError, "x must lie from 0 to 1, .* -0.5 "),
    "bytes": (lambda: encode.rate(torch.ones(2, 2, dtype=torch.uint8), 4), TypeError, "x must be floating point"),
    "large": (lambda: encode.latency(torch.tensor([0.0, 255.0]), 4), ValueError, "x must lie from 0 to 1, .* 0 to 255"),
    "nan": (lambda: encode.rate(torch.tensor([0.0, float("nan")]), 4), ValueError, "x must lie from 0 to 1, .*nan"),
    "no-steps": (lambda: encode.poisson(torch.ones(2), 0), ValueError, "T must be at least 1"),
    "real-steps": (lambda: encode.latency(torch.ones(2), 2.5), TypeError, "T must be an integer"),
    "a-number": (lambda: encode.rate(torch.tensor(0.5), 4), ValueError, r"x must have the shape \[N, ...\]"),
    "seed": (lambda: encode.poisson(torch.ones(2), 4, 7), TypeError, "generator must be a torch.Generator, got 7"),
    "meta": (lambda: encode.rate(torch.ones(2, device="meta"), 4), TypeError, "x is on meta"),
    "memory": (lambda: encode.rate(torch.ones(2, 10**5), 2**31 - 1), ValueError, "GiB for spikes"),
}  # fmt: skip


@pytest.mark.parametrize("call, error, message", BAD.values(), ids=BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(x):
    on_gpu = x.cuda()
    for T in (5, 70):
        assert equal(encode.latency(on_gpu, T).dense().cpu(), encode.latency(x, T).dense())
        assert equal(encode.rate(on_gpu, T).dense().cpu(), encode.rate(x, T).dense())
        first, again = (encode.poisson(on_gpu, T, torch.Generator("cuda").manual_seed(1)) for _ in range(2))
        assert equal(first.dense(), again.dense()) and 0.2 < first.rate() < 0.8
    with pytest.raises(ValueError, match="generator is on cpu and x on cuda:0; make it with torch.Generator"):
        encode.poisson(on_gpu, 5, seeded())


def test_memory_is_counted_in_the_bytes_of_packed_spikes(monkeypatch):
    """Of one channel a byte a pixel and step, as of eight."""
    x = torch.full((2, 1, 3, 3), 0.5)
    bytes_of = {T: encode.poisson(x, T)._words.nbytes + x.nbytes for T in (100, 101)}
    monkeypatch.setattr("proxykernels.checks.memory", lambda device: bytes_of[100])
    encode.poisson(x, 100)
    with pytest.raises(ValueError, match=r"T = 101 steps of \[2, 1, 3, 3\] neurons take"):
        encode.poisson(x, 101)
