"""The layout of the Triton kernels, spikes packed over time, and arguments of any strides."""

import pytest
import torch
import torch.nn.functional as F
from equality import equal

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import RESETS, dyadic, fine, spikes, thresholds, words_over_time

import proxykernels as pk
from proxykernels.kernels import reference, unfused
from proxykernels.kernels.cpu.words import PACKABLE
from proxykernels.kernels.gpu import counters
from proxykernels.kernels.gpu.backend import KERNELS as gpu
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.weight_layouts import is_finite
from proxykernels.spikes import storage

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = (1, 7, 31, 32, 33, 64, 100)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def random_spikes(generator, *shape):
    return (torch.rand(shape, generator=generator) < 0.3).to(DEVICE)


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 1), (0, 3, 5)], ids=str)
def test_pack_and_unpack(generator, T, shape):
    dense = random_spikes(generator, T, *shape)
    words = gpu.pack(dense)
    assert equal(words, words_over_time(dense))
    assert equal(gpu.unpack(words, T, shape[1]), dense)


TYPES = [*PACKABLE]
VALUES = {"channels first": (0, 1, 2, 3), "channels last": (0, 1, 3, 2), "steps last": (3, 2, 1, 0)}


@pytest.mark.costly
@pytest.mark.parametrize("dtype", [*TYPES, torch.complex64], ids=str)
@pytest.mark.parametrize("T, shape", [(5, (2, 3, 7)), (33, (1, 70, 45)), (4, (3, 600, 1)), (64, (1, 1, 1200))], ids=str)
def test_unpack_to_any_type(generator, dtype, T, shape):
    dense = random_spikes(generator, T, *shape)
    found = gpu.unpack(words_over_time(dense), T, shape[1], dtype)
    assert found.dtype == dtype and found.is_contiguous() and equal(found, dense.to(dtype)) and dense.any()


@pytest.mark.costly
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("order", VALUES)
@pytest.mark.parametrize("T, shape", [(5, (2, 3, 2, 7)), (33, (1, 40, 9, 5)), (2, (3, 600, 1, 1))], ids=str)
def test_pack_and_look(generator, dtype, order, T, shape):
    """0 and 1 of any type and strides, and of an image that is cut out of a larger one."""
    N, C, H, W = shape
    dense = random_spikes(generator, T, N, C, (H + 1) * (W + 2)).to(dtype)
    moved = VALUES[order]
    dense = dense.permute(moved).contiguous().permute([moved.index(k) for k in range(4)])
    dense = dense.unflatten(3, (H + 1, W + 2))[..., 1:, 1:-1]
    words, binary, finite = gpu.pack_and_look(dense)
    assert binary and finite and equal(words, words_over_time(dense.flatten(3))) and words.any()


@pytest.mark.costly
@pytest.mark.parametrize(
    "dtype, value, binary, finite",
    [(torch.float32, -0.0, True, True), (torch.float16, -0.0, True, True), (torch.float32, -1.0, False, True)]
    + [(dtype, value, False, True) for dtype in (torch.float16, torch.bfloat16, torch.float64) for value in (0.5, -1.0)]
    + [(torch.float32, 2.0**100, False, True), (torch.float64, -(2.0**100), False, True)]
    + [(torch.float32, 2.0**100 * 1.0000002, False, False), (torch.float64, 2.0**101, False, False)]
    + [(torch.bfloat16, 2.0**100, False, True), (torch.bfloat16, 2.0**101, False, False)]
    + [(torch.float16, 65504.0, False, True), (torch.float16, torch.inf, False, False)]
    + [(torch.float32, value, False, False) for value in (torch.nan, -torch.inf)]
    + [(torch.uint8, 2, False, True), (torch.int8, -1, False, True), (torch.int64, 1 << 40, False, True)]
    + [(torch.uint8, 129, False, True), (torch.int32, -(2**31), False, True)],
)
@pytest.mark.parametrize("place", [0, -1])
def test_one_other_value_is_seen(generator, dtype, value, binary, finite, place):
    dense = random_spikes(generator, 33, 2, 5, 3, 70).to(dtype)
    dense.view(-1)[place] = value
    found = gpu.pack_and_look(dense)
    assert found[1:] == (binary, finite)
    assert finite == is_finite(dense.cpu())


def test_pack_and_look_at_nothing():
    words, binary, finite = gpu.pack_and_look(torch.empty(3, 0, 2, 4, 4, device=DEVICE))
    assert words.shape == (1, 0, 16, 2) and binary and finite


@pytest.mark.parametrize("T", STEPS)
def test_count_and_total(generator, T):
    dense = random_spikes(generator, T, 2, 3, 5)
    dense[:, 0, 0, 0] = True  # a neuron that always fires fills its words
    words = words_over_time(dense)
    for until in sorted({0, 1, T // 2, 31, 32, 33, T, T + 40}):
        counts = gpu.count(words, 3, until)
        assert counts.dtype == torch.int32
        assert equal(counts, dense[:until].sum(0, dtype=torch.int32))
    assert gpu.total(words).dtype == torch.int64
    assert gpu.total(words).shape == ()
    assert gpu.total(words) == dense.sum()
    assert equal(gpu.total_of_pixels(words), dense.sum((0, 1, 2)).long())


@pytest.mark.parametrize("T", [31, 64])
def test_add_counts(generator, T):
    """Of several tensors at once, and twice: spikes, and spikes by how many neurons their pixel reaches."""
    sizes = [(2, 3, 49), (3, 130, 4), (1, 300, 1), (2, 0, 3)]  # N, C, P
    dense = [random_spikes(generator, T, *size) for size in sizes]
    dense[0][:, 0, 0, 0] = True
    reaches = [torch.randint(1, 10, (P,), generator=generator).int().to(DEVICE) for _, _, P in sizes]
    reaches[2] = None
    counts = storage.new_counts(len(sizes), torch.device(DEVICE))
    for _ in range(2):
        gpu.add_counts([words_over_time(part) for part in dense], reaches, counts)
    for part, reach, (fired, reached) in zip(dense, reaches, counts.sum(0).tolist(), strict=True):
        assert fired == 2 * part.sum() and reached == (0 if reach is None else 2 * (part.sum((0, 1, 2)) * reach).sum())
    assert counts.sum() > 0


def test_counters_are_not_compiled_anew_as_images_become_fewer(generator, monkeypatch):
    """What Triton specialises, all but do_not_specialize, is the same; simulate(..., stop=) ends images by and by."""

    class Launched:
        def __getitem__(self, grid):
            return lambda **options: seen.append({k: v for k, v in options.items() if k in ("sizes", "channels")})

    seen: list[dict] = []
    monkeypatch.setattr(counters, "_counters_kernel", Launched())
    for N in (16, 7, 1):
        words = [words_over_time(random_spikes(generator, 8, N, *size)) for size in ((10, 1), (3, 4))]
        gpu.add_counts(words, [None, None], storage.new_counts(2, words[0].device))
    assert seen[0]["sizes"] == (10, 12) and seen == seen[:1] * 3


@pytest.mark.usefixtures("triton_kernels")
def test_add_counts_operator(generator):
    words = words_over_time(random_spikes(generator, 9, 2, 3, 4))
    reach = torch.ones(4, dtype=torch.int32, device=DEVICE)
    arguments = [words, words], [reach, None], storage.new_counts(2, words.device)
    torch.library.opcheck(torch.ops.proxykernels.add_counts.default, arguments)


@pytest.mark.parametrize("T", [7, 32, 70])
def test_cut(generator, T):
    dense = random_spikes(generator, T, 1, 2, 3)
    dense[:, 0, 0, 0] = True
    words = words_over_time(dense)
    for start in range(T + 1):
        for stop in range(start, T + 1):
            assert equal(gpu.cut(words, T, start, stop), words_over_time(dense[start:stop]))
    assert equal(words, words_over_time(dense))


@pytest.mark.parametrize(
    "steps", [(32, 7), (64, 32), (100,), (32, 64, 1), (7, 32), (1, 31, 1), (31, 2, 40, 64, 3), (5, 5)], ids=str
)
def test_cat(generator, steps):
    dense = random_spikes(generator, sum(steps), 2, 3, 5)
    words = [words_over_time(part) for part in dense.split(steps)]
    assert equal(gpu.cat(words, steps), words_over_time(dense))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1)], ids=str)
def test_flatten(generator, shape):
    dense = random_spikes(generator, 40, *shape)
    words = words_over_time(dense.flatten(3))
    flat = gpu.flatten(words, shape[1])
    assert equal(flat, words_over_time(dense.flatten(2)[..., None]))
    assert flat.is_contiguous()
    assert flat.data_ptr() != words.data_ptr()  # results of an operator never alias its arguments


@pytest.mark.parametrize(
    "size, kernel_size, stride, padding",
    [
        pytest.param((6, 8), (2, 2), (2, 2), (0, 0), id="2"),
        pytest.param((7, 5), (2, 2), (2, 2), (0, 0), id="rows-left-over"),
        pytest.param((7, 5), (3, 3), (2, 2), (1, 1), id="overlapping-padded"),
        pytest.param((7, 9), (3, 2), (1, 3), (1, 0), id="asymmetric"),
        pytest.param((7, 9), (1, 1), (3, 2), (0, 0), id="subsampling"),
        pytest.param((4, 3), (4, 3), (4, 3), (0, 0), id="whole-image"),
    ],
)
def test_max_pool2d(generator, size, kernel_size, stride, padding):
    dense = random_spikes(generator, 40, 2, 3, *size)
    words = gpu.max_pool2d(words_over_time(dense.flatten(3)), 3, size, kernel_size, stride, padding)
    pooled = reference.max_pool2d(dense.float(), kernel_size, stride, padding)
    assert equal(words, words_over_time(pooled.flatten(3)))
    assert words.is_contiguous()


def test_the_last_thread_restores_the_precision():
    """Two threads convolve at once: whoever entered first leaves first."""
    convolution = torch.backends.cudnn.conv
    before = convolution.fp32_precision
    first, second = unfused._full_float32(), unfused._full_float32()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert convolution.fp32_precision == "ieee"
    second.__exit__(None, None, None)
    assert convolution.fp32_precision == before != "ieee"


@pytest.mark.parametrize("rnn", ["tf32", "ieee"])
def test_torchs_older_setting_can_be_read_meanwhile(monkeypatch, rnn):
    """allow_tf32 stands for convolutions and recurrent networks, and is an error while they differ."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn.rnn, "fp32_precision", rnn)
    with unfused._full_float32():
        assert cudnn.conv.fp32_precision == "ieee"
        assert cudnn.allow_tf32 is False if rnn == "tf32" else cudnn.rnn.fp32_precision == rnn
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", rnn)
    monkeypatch.undo()
    assert cudnn.allow_tf32 is True


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_convolution_is_in_full_float32(monkeypatch, precision):
    convolution = torch.backends.cudnn.conv
    before = convolution.fp32_precision
    seen = []
    conv2d = F.conv2d

    def spy(*arguments):
        seen.append(convolution.fp32_precision)
        return conv2d(*arguments)

    monkeypatch.setattr(F, "conv2d", spy)
    C = unfused.FEW_INPUTS + 1  # fewer are a matrix product on a CPU
    image, kernel = torch.ones(1, 1, C, 1, 1, device=DEVICE), torch.ones(1, C, 1, 1, device=DEVICE)
    try:
        convolution.fp32_precision = precision
        unfused.conv2d(image, kernel, None, (1, 1), (0, 0), (1, 1), 1)
        after = convolution.fp32_precision
    finally:
        convolution.fp32_precision = before
    assert seen == ["ieee"]
    assert after == precision


@pytest.fixture
def there():
    return torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(0)


def reordered(x, order):
    """The same values, with memory in another order of dimensions: the last of ``order`` lies closest."""
    return x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist())


def sparse(x):
    """The same values, each beside one that nobody may read."""
    return torch.stack([x, torch.full_like(x, 77)], -1)[..., 0]


def transposed(x):
    return reordered(x, (1, 0))


def one_column(x):
    return x[:, :1].expand(-1, x.shape[1])


def assert_spikes(result, expected):
    assert 0 < expected.mean() < 1
    assert equal(result, expected)


# K is a multiple of 16 in some: there nothing is padded, and no copy is made in passing.
@pytest.mark.costly
@pytest.mark.parametrize("C", [16, 32, 33])
@pytest.mark.parametrize("strides", [transposed, sparse, one_column])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_linear_weights(there, C, strides, dtype):
    x = spikes(7, 3, C, generator=there)
    weight = strides(fine(21, C, generator=there).to(dtype))
    assert not weight.is_contiguous()
    expected, _ = reference.if_linear(x, weight.float())
    assert_spikes(pk.if_linear(pk.pack(x), weight)[0].dense(), expected)


ORDERS = [(1, 0, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)]


@pytest.mark.costly
@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize(
    "C, kernel, groups", [(64, (1, 1), 1), (16, (3, 3), 1), (2, (2, 4), 1), (32, (3, 1), 2), (16, (3, 3), 16)], ids=str
)
def test_convolution_weights(there, order, C, kernel, groups):
    x = spikes(7, 2, C, 4, 3, generator=there)
    weight = reordered(fine(16, C // groups, *kernel, generator=there), order)
    expected, _ = reference.if_conv2d(x, weight, padding=1, groups=groups)
    assert_spikes(pk.if_conv2d(pk.pack(x), weight, padding=1, groups=groups)[0].dense(), expected)


def test_channels_last_layer(there):
    x = spikes(7, 2, 16, 4, 5, generator=there)
    layer = pk.FusedIFConv2d(16, 32, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.weight.copy_(fine(32, 16, 3, 3, generator=there))
        layer.bias.zero_()
        expected, _ = reference.if_conv2d(x, layer.weight)
        assert_spikes(layer(pk.pack(x)).dense(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("v_reset", RESETS)
def test_everything_else_of_a_convolution(there, v_reset):
    """Words, bias, thresholds, potentials: of the kernel itself, where the public function might copy."""
    x, weight = spikes(33, 2, 16, 2, 2, generator=there), fine(10, 16, 3, 3, generator=there)
    bias, v, theta = dyadic(10, generator=there), dyadic(2, 4, 10, generator=there), thresholds(10, there)
    words = gpu.pack(x.flatten(3).bool())
    window = (1, 1), (1, 1), (1, 1), 1
    for kernel in (gpu.if_conv2d, gpu.if_conv2d_pooled):
        expected = kernel(words, 33, (2, 2), weight, bias, v, if_neuron(theta, v_reset), *window)
        assert expected[0].any()
        parameters = sparse(weight), sparse(bias), reordered(v, (2, 0, 1)), if_neuron(sparse(theta), v_reset)
        strided = kernel(reordered(words, (3, 2, 1, 0)), 33, (2, 2), *parameters, *window)
        assert all(torch.equal(a, b) for a, b in zip(strided, expected, strict=True))
        assert all(part.is_contiguous() for part in strided)


@pytest.mark.costly
@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("order", [(0, 1, 3, 2), (1, 0, 2, 3), (3, 2, 1, 0)], ids=str)
def test_scan(there, order, v_reset):
    current, v = dyadic(33, 2, 5, 16, generator=there), dyadic(2, 5, 16, generator=there)
    theta, grad = thresholds(16, there), dyadic(33, 2, 5, 16, generator=there)
    strided = reordered(current, order), reordered(v, (2, 1, 0)), if_neuron(sparse(theta), v_reset)
    for function in (gpu.if_scan, lambda current, *rest: gpu.if_scan(current[3], *rest, 33)):
        expected = function(current, v, if_neuron(theta, v_reset))
        assert expected[0].any()
        for arguments in (strided, (sparse(current), sparse(v), if_neuron(theta, v_reset))):
            result = function(*arguments)
            assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
            assert all(part.is_contiguous() for part in result)
    surrogate = pk.Triangle().kernel
    expected = gpu.scan_backward(grad, v, current, v, if_neuron(theta, v_reset), surrogate)
    assert all(part.any() for part in expected)
    for arguments in (
        (reordered(grad, order), strided[0]),
        (grad, sparse(current)),
        (grad[:, :1].expand_as(grad), current),
    ):
        states = sparse(v), arguments[1], reordered(v, (2, 1, 0))
        result = gpu.scan_backward(arguments[0], *states, if_neuron(sparse(theta), v_reset), surrogate)
        whole = (part.contiguous() for part in (arguments[0], v, arguments[1], v))
        same = gpu.scan_backward(*whole, if_neuron(theta, v_reset), surrogate)
        assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(result, same, strict=True))


def test_thresholds_shared_by_all_channels(there):
    """A scalar that was expanded has a stride of 0."""
    x, weight = spikes(33, 2, 16, 4, 4, generator=there), fine(32, 16, 3, 3, generator=there)
    theta = torch.full((1,), 1.25, device=x.device).expand(32)
    expected, _ = reference.if_conv2d(x, weight, v_threshold=theta)
    assert 0 < expected.mean() < 1
    current = F.conv2d(x.flatten(0, 1), weight).unflatten(0, (33, 2)).flatten(3).transpose(2, 3)
    words, _ = gpu.if_scan(current, torch.zeros_like(current[0]), if_neuron(theta, 0.0))
    assert equal(gpu.unpack(words, 33, 32).float(), expected.flatten(3))
