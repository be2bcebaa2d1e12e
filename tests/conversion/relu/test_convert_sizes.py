"""What a model computes from sizes, also by einops: right for every size, for the calibrated one alone, or refused."""

import pytest
import torch
import torch.nn.functional as F
from cases import many
from torch import Tensor, nn

import proxykernels as pk

ANY, ONE, NONE = "any size", "one size", "none"
SIZE = 16, 16
OTHERS = (20, 20), (17, 19), (8, 8), (24, 32)


class Model(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4, 5)
        self.steps = forward

    def forward(self, x):
        return self.steps(self, x)


def images(size: tuple[int, int] = SIZE, samples: int = 8) -> Tensor:
    return torch.rand(samples, 2, *size, generator=torch.Generator().manual_seed(0))


def hidden(m, x):
    """A quarter as many pixels along each axis."""
    return F.max_pool2d(m.b(F.max_pool2d(m.a(x).relu(), 2)).relu(), 2)


def ended(m, y):
    return m.d(F.adaptive_avg_pool2d(y, 1).flatten(1))


def pooled_by_size(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, y.size()[2:]).flatten(1))


def pooled_by_shape(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, y.shape[-2:]).flatten(1))


def pooled_by_axes(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, (y.shape[2], y.size(3))).flatten(1))


def pooled_by_name(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, kernel_size=y.size()[2:]).view(x.size(0), -1))


def pooled_by_width(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, y.size(3)).flatten(2).mean(2))


def pooled_by_number(m, x):
    return m.d(F.avg_pool2d(hidden(m, x), 4).flatten(1))


def pooled_by_int(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, int(y.shape[-1])).flatten(1))


def pooled_by_quarter(m, x):
    y = hidden(m, x)
    return m.d(F.avg_pool2d(y, (x.shape[2] // 4, x.shape[3] // 4)).flatten(1))


def adaptive(m, x):
    return ended(m, hidden(m, x))


def mean(m, x):
    return m.d(hidden(m, x).mean((2, 3)))


def mean_of_a_view(m, x):
    y = hidden(m, x)
    return m.d(y.view(y.size(0), y.size(1), -1).mean(2))


def padded(m, x):
    return ended(m, hidden(m, F.pad(x, (1, 2, 0, 1))))


def center_crop(m, x):
    h, w = x.shape[2:]
    return ended(m, hidden(m, x[:, :, h // 2 - 4 : h // 2 + 4, w // 2 - 4 : w // 2 + 4]))


def border_crop(m, x):
    return ended(m, hidden(m, x[:, :, 2:-2, 2:-2]))


def half(m, x):
    return ended(m, hidden(m, x)[:, :, : x.shape[2] // 8])


def to_input_size(m, x):
    return ended(m, m.b(F.interpolate(hidden(m, x), size=x.shape[2:])).relu())


def doubled(m, x):
    return ended(m, m.b(F.interpolate(hidden(m, x), scale_factor=2)).relu())


def skip(m, x):
    y = m.a(x).relu()
    z = F.interpolate(m.b(F.max_pool2d(y, 2)).relu(), size=y.shape[2:], mode="bilinear")
    return ended(m, m.c(torch.cat([y, z], 1)).relu())


def unet(m, x):
    y = m.a(x).relu()
    z = F.interpolate(m.b(F.max_pool2d(y, 2)).relu(), scale_factor=2)
    if z.shape[2:] != y.shape[2:]:
        z = F.pad(z, (0, y.shape[3] - z.shape[3], 0, y.shape[2] - z.shape[2]))
    return ended(m, m.c(torch.cat([y, z], 1)).relu())


def by_pixels(m, x):
    return ended(m, hidden(m, x) * (64.0 / (x.shape[2] * x.shape[3])))


def by_pixels_of_a_layer(m, x):
    y = hidden(m, x)
    return ended(m, y / (y.shape[2] * y.shape[3]))


def by_numel(m, x):
    return ended(m, hidden(m, x) * (512.0 / x[0].numel()))


def wide(m, x):
    y = hidden(m, x)
    return ended(m, y * 2 if x.shape[3] > 200 else y)


def wide_within(m, x):
    y = hidden(m, x)
    return ended(m, y * 2 if y.shape[3] > 50 else y)


def hundreds(m, x):
    return ended(m, hidden(m, x) * (1 + x.shape[2] // 100))


def at_least(m, x):
    return ended(m, hidden(m, x) / max(x.shape[2], 12))


def looped(m, x):
    y = m.a(x).relu()
    while y.shape[-1] > 5:
        y = F.max_pool2d(y, 2)
    return ended(m, y)


def rows(m, x):
    y = hidden(m, x)
    return m.d(sum(y[:, :, k].mean(2) for k in range(y.shape[2])))


def square(m, x):
    y = hidden(m, x)
    return ended(m, y if x.shape[2] == x.shape[3] else 2 * y)


def asserted(m, x):
    assert x.shape[1] == 2 and x.shape[2] % 4 == 0 and x.shape[3] >= 8
    return ended(m, hidden(m, x))


def asserted_to_be_one(m, x):
    assert tuple(x.shape[2:]) == SIZE
    return ended(m, hidden(m, x))


def of_channels(m, x):
    y = hidden(m, x)
    return ended(m, torch.stack([y[:, k] for k in reversed(range(y.size(1)))], 1) / y.size(1))


def along_an_axis(m, x):
    return ended(m, hidden(m, x + torch.arange(x.shape[3]) / x.shape[3]))


def filled(m, x):
    y = hidden(m, x)
    return ended(m, y / torch.full_like(y, y.shape[2]))


def padded_to_fours(m, x):
    return ended(m, hidden(m, F.pad(x, (0, (4 - x.shape[3] % 4) % 4, 0, (4 - x.shape[2] % 4) % 4))))


def flattened(m, x):
    y = hidden(m, x)
    return m.d(y.reshape(y.shape[0], y.shape[1], y.shape[2] * y.shape[3])[:, :, :16].mean(2))


def viewed(m, x):
    return ended(m, hidden(m, x.view(int(x.size(0)), 2, x.size(2), x.size(3))))


def reshaped(m, x):
    return ended(m, hidden(m, x.reshape(-1, 2, x.shape[2], x.shape[3])))


def squeezed(m, x):
    return m.d(F.adaptive_avg_pool2d(hidden(m, x), 1).squeeze())


def many_samples(m, x):
    y = hidden(m, x)
    return ended(m, y * 2 if x.shape[0] > 2 else y)


def very_many_samples(m, x):
    y = hidden(m, x)
    return ended(m, y * 2 if len(x.shape) == 4 and x.shape[0] >= 1000 else y)


def one_sample(m, x):
    y = hidden(m, x)
    return ended(m, y * 2 if x.size(0) == 1 else y)


def by_samples(m, x):
    return ended(m, hidden(m, x)) / x.shape[0]


def by_tens_of_samples(m, x):
    return ended(m, hidden(m, x)) * (1 + x.shape[0] // 10)


def less_the_mean(m, x):
    return ended(m, hidden(m, x - x.mean(0, keepdim=True)))


def samples_looped(m, x):
    y = ended(m, hidden(m, x))
    for _ in range(x.size(0) // 8):
        y = y * 1.5
    return y


def at_most_samples(m, x):
    return ended(m, hidden(m, x)) / min(x.shape[0], 8)


CASES = {
    pooled_by_size: ANY, pooled_by_shape: ANY, pooled_by_axes: ANY, pooled_by_name: ANY, pooled_by_width: ONE,
    pooled_by_number: ANY, pooled_by_int: ONE, pooled_by_quarter: ANY, adaptive: ANY, mean: ANY, mean_of_a_view:
    ONE, padded: ANY, center_crop: ONE, border_crop: ONE, half: ONE, to_input_size: ONE, doubled: ANY, skip:
    ONE, unet: ANY, by_pixels: ONE, by_pixels_of_a_layer: ONE, by_numel: ONE, wide: ONE, wide_within: ONE,
    hundreds: ONE, at_least: ONE, looped: ONE, rows: ONE, square: ONE, asserted: ANY, asserted_to_be_one: ONE,
    of_channels: ONE, along_an_axis: ONE, filled: ONE, padded_to_fours: ONE, flattened: ONE, viewed: NONE,
    squeezed: ANY, reshaped: ANY, many_samples: NONE, very_many_samples: NONE, one_sample: NONE, by_samples:
    NONE, by_tens_of_samples: NONE, less_the_mean: NONE, samples_looped: NONE, at_most_samples: NONE,
}  # fmt: skip
ONLY = r"x has samples of the shape \[2, .*\], and the network was converted for \[2, 16, 16\]: .*convert it again"


def taken(model: nn.Module, x: Tensor) -> Tensor | None:
    try:
        with torch.no_grad():
            return model(x)
    except (RuntimeError, AssertionError):
        return None


def check_close(net: nn.Module, x: Tensor, expected: Tensor) -> None:
    logits = pk.simulate(net, x, 512).logits
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("forward", many(CASES), ids=lambda forward: forward.__name__)
def test_sizes(forward):
    ann, x = Model(forward).eval(), images()
    if CASES[forward] == NONE:
        with pytest.raises(TypeError, match="Model: .*samples.*"):
            pk.convert(ann, x)
        return
    net = pk.convert(ann, x, method="max")
    check_close(net, x, ann(x).detach())
    answers = 0
    for size in OTHERS:
        x = images(size, samples=2)
        expected = taken(ann, x)
        if CASES[forward] == ANY and expected is not None:
            try:
                check_close(net, x, expected)
            except (TypeError, ValueError):
                continue  # it refuses this one, as a U-Net's odd sizes
            answers += 1
        elif CASES[forward] == ONE:
            check_only_one(net, x, all_ways=size == OTHERS[0])
    assert answers or CASES[forward] == ONE


def check_only_one(net: nn.Module, x: Tensor, all_ways: bool) -> None:
    ways = {
        "simulate": lambda: pk.simulate(net, x, 4),
        "with records": lambda: pk.simulate(net, x, 4, record=[net.layers()[0][0]]),
        "spikes": lambda: pk.simulate(net, pk.encode.rate(x, 4), 4),
        "call": lambda: net(x.expand(4, *x.shape)),
        "compile": lambda: pk.compile(net, x),
        "within another module": lambda: pk.simulate(nn.Sequential(net), x, 4),
        "training": lambda: pk.ProxyNet(net, 4)(x),
    }
    for way, call in ways.items() if all_ways else [*ways.items()][:1]:
        with pytest.raises((ValueError, TypeError), match=ONLY):
            call()
            raise AssertionError(way)


def test_engines_streams_and_files_have_one_size(tmp_path):
    net = pk.convert(Model(half).eval(), images(), method="max")
    with pytest.raises(ValueError, match=ONLY):
        pk.to_nir(net, (2, 20, 20))
    engine = pk.compile(net, images())
    engine.save(tmp_path / "one.pk")
    torch.save(net, tmp_path / "net.pt")
    for one in (engine, pk.load(tmp_path / "one.pk")):
        for call in (lambda one=one: one(images((20, 20)), 4), lambda one=one: one.stream(8)(images((20, 20)))):
            with pytest.raises(ValueError, match=r"x must have the shape \[N, 2, 16, 16\]"):
                call()
    with pytest.raises(ValueError, match=ONLY):
        pk.simulate(torch.load(tmp_path / "net.pt", weights_only=False), images((20, 20)), 4)


@pytest.mark.parametrize("neuron", ["if", "sigma-delta"])
@pytest.mark.parametrize("share", [False, True])
def test_sizes_of_sigma_delta_neurons_and_shared_weights(neuron, share):
    if neuron != "if" and share:
        pytest.skip("share is not for them")
    options = {"neuron": neuron} | ({"share": True} if share else {})
    net = pk.convert(Model(center_crop).eval(), images(), **options)
    with pytest.raises(ValueError, match=ONLY):
        pk.simulate(net, images((20, 20)), 4)
    net = pk.convert(Model(pooled_by_size).eval(), images(), **options)
    assert pk.simulate(net, images((20, 20)), 4).logits.shape == (8, 5)


def test_calibration_data_of_a_size_that_the_network_refuses():
    with pytest.raises(
        ValueError, match=r"calibration has samples of .* \[2, 16, 16\] and \[2, 20, 20\], and Model computes"
    ):
        pk.convert(Model(half).eval(), [images(), images((20, 20))])


class Rows(nn.Module):
    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.d, self.steps = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 5), forward

    def forward(self, x):
        return self.steps(self, x)


def test_sizes_along_one_axis():
    x = torch.rand(8, 2, 24, generator=torch.Generator().manual_seed(0))
    free = pk.convert(Rows(lambda m, x: m.d(m.a(x).relu().mean(2))).eval(), x)
    assert free.input_shape is None and pk.simulate(free, torch.rand(2, 2, 31), 4).logits.shape == (2, 5)
    net = pk.convert(Rows(lambda m, x: m.d(m.a(x).relu()[:, :, : x.shape[2] // 2].mean(2))).eval(), x)
    assert net.input_shape == (2, 24)
    with pytest.raises(ValueError, match=r"samples of the shape \[2, 31\]"):
        pk.simulate(net, torch.rand(2, 2, 31), 4)


def test_features_are_refused_by_their_layer():
    net = pk.convert(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.rand(8, 4))
    assert net.input_shape is None


@pytest.fixture
def layers():
    return pytest.importorskip("einops.layers.torch")


def einops_images() -> torch.Tensor:
    return torch.rand(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def networks(layers) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "flattened": nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), layers.Rearrange("n c h w -> n (h w c)"), nn.Linear(144, 5)
        ),
        "patches": nn.Sequential(
            layers.Rearrange("n c (h a) (w b) -> n (c a b) h w", a=2, b=2), nn.Conv2d(8, 4, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 5),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["flattened", "patches"])
def test_rearranged_values(layers, name):
    net, x = networks(layers)[name].eval(), einops_images()
    logits = pk.simulate(pk.convert(net, x, neuron="sigma-delta"), x, 24).logits
    with torch.no_grad():
        expected = net(x)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=5e-3)


def test_what_is_refused(layers):
    einops = pytest.importorskip("einops")

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 4, 3), nn.Linear(144, 5)

        def forward(self, x):
            return self.b(einops.rearrange(torch.relu(self.a(x)), "n c h w -> n (c h w)"))

    reduced = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), layers.Reduce("n c h w -> n c", "mean"), nn.Linear(4, 5))
    with pytest.raises(TypeError, match=r"module '2' is a Reduce, .*; write it with mean\(\) or a pooling of torch$"):
        pk.convert(reduced, einops_images())
    with pytest.raises(TypeError, match="of Function, .*; make a layer of it, einops.layers.torch.Rearrange$"):
        pk.convert(Function(), einops_images())
