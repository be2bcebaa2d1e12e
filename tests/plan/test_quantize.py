"""precision="int16" and "int8": weights of 14 and of 7 bits in which every sum is exact, in recurrent layers too."""

import copy
from functools import partial, partialmethod

import layerwise
import pytest
import torch
from equality import equal
from oracle import recurrent_loop
from torch import nn

import proxykernels as pk
from proxykernels.kernels import backends, cpu, reference, rounding
from proxykernels.kernels.cpu.words import Fallback
from proxykernels.neurons import CubaLIFNeuron, IFNeuron, LIFNeuron
from proxykernels.plan import library, quantize
from proxykernels.plan.follow import follow
from proxykernels.running.engine import Engine


def make_net(v_reset: float | None = 0.0) -> nn.Sequential:
    """Random float weights, with normalisation and biases."""
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 24, 3, padding=1, batch_norm=True, bias=False, v_reset=v_reset),
        pk.FusedIFConv2d(24, 40, 3, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(40 * 25, 10, v_threshold=0.5, v_reset=v_reset),
    )
    nn.init.uniform_(net[0].bn.running_mean)
    for layer in net[1], net[4]:
        nn.init.uniform_(layer.weight, -0.1, 0.12)
    return net.eval()


def oracle(net: nn.Sequential, image: torch.Tensor, T: int, v_reset: float | None, precision="int16") -> torch.Tensor:
    """The rounded network in float64, step by step."""
    bounds = rounding.PRECISIONS[precision]
    weight, bias, _ = rounding.round_weights(*net[0].folded(), bounds)
    current = nn.functional.conv2d(quantize.round_input(image, 0).double(), weight, bias, padding=1).float()
    s, _ = reference.if_hold(current, T, v_reset=v_reset)
    for layer, pool in ((net[1], True), (net[4], False)):
        weight, bias, _ = rounding.round_weights(layer.weight, layer.bias, bounds)
        flat = s.double().flatten(0, 1)
        current = (
            nn.functional.conv2d(flat, weight, bias) if pool else nn.functional.linear(flat.flatten(1), weight, bias)
        )
        s, _ = reference.if_scan(current.unflatten(0, s.shape[:2]), v_threshold=layer.v_threshold, v_reset=v_reset)
        s = reference.max_pool2d(s, 2) if pool else s
    return s


@pytest.mark.parametrize("precision", rounding.PRECISIONS)
def test_rounded_weights_sum_exactly(generator, precision):
    weight, bias = torch.randn(7, 300, 3, 3, generator=generator), torch.randn(7, generator=generator)
    bounds = rounding.PRECISIONS[precision]
    rounded, rounded_bias, _ = rounding.round_weights(weight, bias, bounds)
    for w, b, given in zip(rounded.flatten(1), rounded_bias, weight.flatten(1), strict=True):
        unit = next(2.0**e for e in range(20, -60, -1) if (w / 2.0**e % 1 == 0).all())
        assert w.abs().max() / unit <= bounds.largest
        assert max(w.clamp(min=0).sum(), -w.clamp(max=0).sum()) / unit <= bounds.largest_half
        assert (w.abs().sum() + b.abs()) / unit <= 2**24 and (b / unit) % 1 == 0
        assert (w - given).abs().max() <= unit
    assert (rounded - weight).abs().max() < {"int16": 1e-3, "int8": 0.15}[precision]


@pytest.mark.parametrize("precision", rounding.PRECISIONS)
@pytest.mark.parametrize("target", [name for name in ("amx", "avx512", "avx2", "portable") if cpu.load(name)])
def test_kernels_round_as_the_definition(generator, target, precision):
    kernels, bounds = cpu.load(target), rounding.PRECISIONS[precision]
    weight = torch.randn(50, 700, generator=generator) * torch.logspace(-38, 30, 50)[:, None]
    weight[7] = torch.arange(-350, 350) / 2  # halves go to even
    weight[8], weight[9, 1:] = 0, 0
    for bias in None, torch.randn(50, generator=generator):
        for actual, expected in zip(
            kernels.round_weights(weight, bias, bounds), rounding.round_weights(weight, bias, bounds), strict=True
        ):
            assert (actual is None) == (expected is None)
            assert actual is None or torch.equal(actual, expected.float())


def test_channels_of_many_inputs_have_fewer_bits():
    """So that a CPU can sum them in 16 bits; where no unit would do, they keep their bits."""
    precision = rounding.PRECISIONS["int8"]
    units = [rounding.round_weights(torch.full((1, n), 63.0), None, precision)[0] for n in (500, 1000, 4000, 70_000)]
    assert [rounded[0, 0].item() for rounded in units] == [63.0, 64.0, 64.0, 63.0]
    for rounded, row in zip(units[2:], (64, 32), strict=True):
        weight, unit = rounded.float(), torch.zeros(1)
        assert cpu.load()._table.row_channels(weight.data_ptr(), *weight.shape, unit.data_ptr()) == row


@pytest.mark.alike
@pytest.mark.long
@pytest.mark.parametrize("precision", rounding.PRECISIONS)
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_any_backend_batch_chunk_and_number_of_threads(monkeypatch, generator, v_reset, precision):
    """Float weights, and yet bit-equal: to the oracle, on every instruction set and kernel."""
    T, net, image = 70, make_net(v_reset), torch.rand(5, 1, 12, 12, generator=generator)
    expected = oracle(net, image, T, v_reset, precision)
    assert 0.01 < expected.mean() < 0.9
    ways = [
        *((None, kernel) for kernel in ("dense", None)),
        *((target, "plan") for target in ("amx", "avx512", "avx2", "portable")),
    ]
    for kernels in [cpu.load(*way) for way in ways] + [Fallback()]:
        if kernels is None:
            continue
        monkeypatch.setattr(backends, "cpu_backend", lambda kernels=kernels: kernels)
        assert equal(pk.simulate(net, image, T, precision=precision).spikes.dense(), expected)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    parts = [layerwise.simulate(net, part, T, chunk=9, precision=precision).spikes.dense() for part in image.split(2)]
    torch.set_num_threads(threads)
    assert equal(torch.cat(parts, 1), expected)


@pytest.mark.parametrize("ulps", [-1, 1])
def test_wrongly_rounded_functions_change_no_weight(monkeypatch, ulps):
    """rsqrt of a GPU, and log2, exp2 and pow of many a library, are one ulp off."""
    net, image = make_net(), torch.rand(3, 1, 12, 12)
    image[0] /= image[0].max()  # exactly 1: log2 would be on the edge

    def all_of_it():
        net[0].bn.running_var.uniform_(0.1, 10.0, generator=torch.Generator().manual_seed(1))
        parts = [rounding.round_weights(*layer) for layer in (net[0].folded(), (net[1].weight, net[1].bias))]
        return [*net[0].folded(), *parts[0], *parts[1], quantize.round_input(image, 0)]

    expected = all_of_it()

    def wrong(right, *arguments):
        y = right(*arguments)
        return torch.nextafter(y, torch.full_like(y, ulps * float("inf")))

    for name in ("rsqrt", "log2", "exp2", "pow", "ldexp"):
        monkeypatch.setattr(torch, name, partial(wrong, getattr(torch, name)))
        monkeypatch.setattr(torch.Tensor, name, partialmethod(partial(wrong, getattr(torch.Tensor, name))))
    assert torch.rsqrt(torch.tensor(4.0)) != 0.5
    for actual, right in zip(all_of_it(), expected, strict=True):
        assert equal(actual, right)


def test_units_are_exact_powers_of_two():
    tiny = 2.0**-126
    least = [0.0, 2.0**-149, tiny, 1.0, 1.0 + 2**-52, 1.0 - 2**-53, 3.0, 8191.0, 2.0**127, 2.0**1000]
    powers = [tiny, tiny, tiny, 1.0, 2.0, 1.0, 4.0, 8192.0, 2.0**127, 2.0**1000]
    assert rounding.power_of_two(torch.tensor(least, dtype=torch.float64)).tolist() == powers
    for weight, rounded in [(8191.0, 8191.0), (8192.0, 8192.0), (8191.5, 8192.0), (2.0**-149, 0.0)]:
        assert rounding.round_weights(torch.tensor([[weight]]), None)[0].item() == rounded
    weight, *_ = rounding.round_weights(torch.tensor([[8191.0, 1.0], [8192.0, 1.0]]), None)
    assert weight.tolist() == [[8191.0, 1.0], [8192.0, 0.0]]  # units of 1, then of 2: 0.5 is rounded to even


def test_the_order_of_a_sum_changes_no_weight(generator):
    """The largest sum of weights decides the unit: it is the same however the machine adds."""
    for _ in range(20):
        weight = torch.randn(1, 4000, generator=generator).exp()
        weight *= (rounding.LARGEST_SUM - 4001) / weight.double().sum()  # on the edge of a unit of 1
        rounded, *_ = rounding.round_weights(weight, None)
        order = torch.randperm(4000, generator=generator)
        assert equal(rounding.round_weights(weight[:, order], None)[0], rounded[:, order])


@pytest.mark.parametrize(
    "change",
    {
        "weight": lambda net: net[1].weight.data[3].fill_(float("nan")),
        "bias": lambda net: net[1].bias.data[3:4].fill_(float("-inf")),
        "overflow": lambda net: setattr(net[1], "weight", nn.Parameter(net[1].weight.double() * 1e41)),
        "variance": lambda net: net[0].bn.running_var[2:3].fill_(float("nan")),
        "negative variance": lambda net: net[0].bn.running_var[2:3].fill_(-1.0),
        "mean": lambda net: net[0].bn.running_mean[2:3].fill_(float("inf")),
    }.values(),
)
@pytest.mark.parametrize("precision", ["int16", "int8", None])
def test_parameters_that_are_not_finite(change, precision):
    net, image = make_net(), torch.rand(1, 1, 12, 12)
    pk.simulate(net, image, 3, precision=precision)
    change(net)
    with pytest.raises(ValueError, match="layer [01]: (weight|bias) must be finite.*statistics.* again"):
        pk.simulate(net, image, 3, precision=precision)


def test_a_bias_that_changes_is_rounded_anew(generator):
    net, image = make_net(), torch.rand(5, 1, 12, 12, generator=generator)
    for value in (0.25, 0.125, 0.25):
        net[1].bias.data.fill_(value)
        expected = oracle(net, image, 20, 0.0)
        assert equal(pk.simulate(net, image, 20, precision="int16").spikes.dense(), expected)
        assert expected.any()
    storage = net[1].weight.untyped_storage()
    assert len(quantize._rounded._known[storage]) == 1  # the last one only is kept


def test_weights_stay_as_they_are(generator):
    net = make_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pk.simulate(net, torch.rand(1, 1, 12, 12, generator=generator), 3, precision="int16")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_close_to_float(generator):
    net, image = make_net(), torch.rand(8, 1, 12, 12, generator=generator)
    exact, rounded = (pk.simulate(net, image, 64, precision=p).count() for p in (None, "int16"))
    assert (exact - rounded).abs().float().mean() < 1


def test_bad_input(generator):
    with pytest.raises(ValueError, match="precision must be None, 'int16' or 'int8', got 'int4'"):
        pk.simulate(make_net(), torch.rand(1, 1, 12, 12), 3, precision="int4")


@pytest.mark.parametrize("precision", rounding.PRECISIONS)
def test_a_converted_network_with_max_pooling(generator, precision):
    """Counts of spikes are whole numbers: MaxRatePool2d is exact as it is."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(360, 10)
    )
    images = torch.rand(6, 1, 12, 12, generator=generator)
    net = pk.convert(ann, images)
    whole = pk.simulate(net, images, 40, precision=precision).count()
    parts = [layerwise.simulate(net, part, 40, chunk=7, precision=precision).count() for part in images.split(1)]
    assert equal(torch.cat(parts), whole) and whole.any()
    exact = pk.simulate(net, images, 40).count()
    assert 0 < (exact - whole).abs().float().mean() < 2 or precision == "int16"


def make_residual_net(v_reset: float | None = None) -> pk.Network:
    """Shortcuts that are identities, 1x1 convolutions and matrix products, and one behind an average."""
    torch.manual_seed(0)
    net, conv, options = pk.Network(), nn.Conv2d, {"v_threshold": 1.0, "v_reset": v_reset}
    net.append("stem", pk.FusedIFConv2d(1, 24, 3, padding=1, **options), ("",))
    net.append("same", pk.FusedIFSum(conv(24, 24, 3, padding=1), nn.Identity(), **options), ("stem", "stem"))
    down = pk.FusedIFSum(conv(24, 40, 3, 2, 1), conv(24, 40, 1, 2), **options)
    net.append("down", down, ("same", "same"))
    net.append("mean", pk.AvgPool2d(3, 1, 1), ("down",))
    mixed = pk.FusedIFSum(conv(40, 40, 3, padding=1, bias=False), nn.Identity(), **options)
    net.append("mixed", mixed, ("down", "mean"))
    net.append("flatten", pk.Flatten(), ("mixed",))
    net.append("wide", pk.FusedIFLinear(40 * 36, 70, **options), ("flatten",))
    net.append("join", pk.FusedIFSum(nn.Linear(70, 70), nn.Linear(70, 70, bias=False), nn.Identity()), ("wide",) * 3)
    net.join.v_reset = v_reset
    for parameter in net.parameters():
        nn.init.uniform_(parameter, -0.2, 0.17)
    nn.init.uniform_(net.wide.weight, -0.04, 0.04)
    return net.eval()


def residual_oracle(net: pk.Network, image: torch.Tensor, T: int, v_reset: float | None, precision: str):
    """The rounded network in float64, layer by layer: spikes of each layer of neurons."""
    values = {"": quantize.round_input(image, 0).expand(T, *image.shape)}
    for name, layer, sources in net.layers():
        x = [values[source] for source in sources]
        if isinstance(layer, pk.FusedIFSum):
            synapses = quantize.quantized(name, layer, precision).layer.synapses
        elif isinstance(layer, pk.layers.Fused):
            weight, bias, _ = rounding.round_weights(layer.weight, layer.bias, rounding.PRECISIONS[precision])
            synapses = [layer.synapse(layer).plain()]
            synapses[0].weight, synapses[0].bias = nn.Parameter(weight), nn.Parameter(bias)
        else:
            values[name] = layer(x[0].float())
            continue
        current = 0
        for synapse, part in zip(synapses, x, strict=True):
            exact = copy.deepcopy(synapse).double()
            current = current + exact(part.double().flatten(0, 1)).unflatten(0, part.shape[:2])
        values[name], _ = reference.if_scan(current.detach().float(), v_threshold=1.0, v_reset=v_reset)
    return values["join"]


@pytest.mark.alike
@pytest.mark.parametrize("precision", rounding.PRECISIONS)
@pytest.mark.parametrize("v_reset", [0.0, None], ids=["hard", "soft"])
def test_sums_are_exact_on_any_backend(monkeypatch, generator, v_reset, precision):
    T, net, image = 40, make_residual_net(v_reset), torch.rand(3, 1, 12, 12, generator=generator)
    expected = residual_oracle(net, image, T, v_reset, precision)
    assert 0.01 < expected.mean() < 0.9
    for way in [(None, None), (None, "dense"), ("avx2", "plan"), ("portable", "plan")]:
        kernels = cpu.load(*way)
        if kernels is None:
            continue
        monkeypatch.setattr(backends, "cpu_backend", lambda kernels=kernels: kernels)
        assert equal(pk.simulate(net, image, T, precision=precision).spikes.dense(), expected)
    parts = [layerwise.simulate(net, part, T, chunk=7, precision=precision).spikes.dense() for part in image.split(1)]
    assert equal(torch.cat(parts, 1), expected)


def test_weights_of_a_sum_share_units_that_divide_one(generator):
    for precision, bounds in rounding.PRECISIONS.items():
        layer = pk.FusedIFSum(nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(4, 9, 1), nn.Identity())
        first, second, _ = quantize.quantized("join", layer, precision).layer.synapses
        for channel in range(9):
            values = [p[channel].detach().flatten().double() for s in (first, second) for p in (s.weight, s.bias)]
            unit = next(2.0**e for e in range(0, -60, -1) if all((v / 2.0**e % 1 == 0).all() for v in values))
            assert max(v.abs().max() for v in values[::2]) / unit <= bounds.largest
        layer.synapses[0].weight.data *= 1e6
        with pytest.raises(ValueError, match="layer join: beside an identity, whose spikes count 1, weights must be"):
            quantize.quantized("join", layer, precision)
    only_identities = pk.FusedIFSum(nn.Identity(), nn.Identity())
    assert quantize.quantized("join", only_identities, "int8") is only_identities


def test_sums_follow_their_weights(generator):
    """What is remembered of them is never stale, in float32 and rounded."""
    layer = pk.FusedIFSum(nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(8, 9, 1, bias=False), v_reset=None)
    x = pk.pack((torch.rand(20, 1, 8, 6, 6, generator=generator) < 0.3).float())
    net = pk.Network()
    net.append("join", layer, ("", ""))
    for parameter in layer.parameters():
        for value in (0.05, 0.1, 0.05):
            parameter.data.fill_(value)
            fresh = pk.Network()
            fresh.append("join", copy.deepcopy(layer), ("", ""))
            for precision in (None, *rounding.PRECISIONS):
                expected, found = (pk.simulate(n, x, 20, precision=precision).spikes.dense() for n in (fresh, net))
                assert equal(found, expected) and 0 < expected.mean() < 1


T, N = 45, 3
TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
PRECISIONS = list(rounding.PRECISIONS)
NEURONS = {
    "if": IFNeuron(v_threshold=1.0, v_reset=None),
    "lif": LIFNeuron(v_threshold=0.8, decay=0.9),
    "cuba": CubaLIFNeuron(v_threshold=1.0, v_reset=-0.25, decay=0.8, current_decay=0.6),
}


def recurrent_oracle(net: pk.FusedRecurrentLinear, x: torch.Tensor, precision: str) -> torch.Tensor:
    return recurrent_loop(net, x, precision)[0]


def layer(outputs: int, neuron="lif", inputs=12, bias=True, **options) -> pk.FusedRecurrentLinear:
    """With weights that are no multiples of anything."""
    torch.manual_seed(outputs)
    made = pk.FusedRecurrentLinear(inputs, outputs, bias=bias, neuron=NEURONS[neuron], **options).eval()
    with torch.no_grad():
        made.weight.mul_(3)
        made.recurrent_weight.mul_(1.5)
    return made


def given(kind: str, inputs=12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if kind == "spikes":
        return (torch.rand(T, N, inputs, generator=generator) < 0.4).float()
    if kind == "held":
        return torch.rand(N, inputs, generator=generator).expand(T, N, inputs)
    return torch.rand(T, N, inputs, generator=generator)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["spikes", "held", "values"])
@pytest.mark.parametrize("recurrence", ["full", "elementwise"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("outputs", [1, 9, 40, 200])
def test_one_layer(instruction_set, outputs, neuron, recurrence, kind, precision):
    net, x = layer(outputs, neuron, recurrence=recurrence), given(kind)
    wanted = recurrent_oracle(net, x, precision)
    assert 0.01 < wanted.mean() < 0.9
    x = x[0] if kind == "held" else pk.pack(x) if kind == "spikes" else x
    assert equal(layerwise.simulate(net, x, T, precision=precision).spikes.dense(), wanted)
    assert equal(pk.simulate(net, x, T, precision=precision).spikes.dense(), wanted)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("outputs", [5, 33, 130, 300])
def test_engines_streams_and_files(tmp_path, outputs, target, precision):
    """Two layers, of which the second reads spikes; with and without bias."""
    net = nn.Sequential(layer(outputs), layer(140, "if", inputs=outputs, bias=False)).eval()
    x = given("spikes")
    wanted = recurrent_oracle(net[1], recurrent_oracle(net[0], x, precision), precision)
    assert 0.01 < wanted.mean() < 0.9
    engine = Engine(follow(net, (12,), False, precision), target=target)
    assert equal(engine(pk.pack(x), T).spikes.dense(), wanted)
    stream = engine.stream(N)
    parts = [stream(pk.pack(x[t : t + 7])).dense() for t in range(0, T, 7)]
    assert equal(torch.cat(parts), wanted)
    engine.save(tmp_path / "net")
    assert equal(pk.load(tmp_path / "net")(pk.pack(x), T).spikes.dense(), wanted)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_come_back_are_short(target):
    """An engine keeps them in a quarter and in half of the memory."""
    net = nn.Sequential(layer(512, inputs=4)).eval()

    def size(precision: str | None) -> int:
        return library.Session(library.Compiled(follow(net, (4,), False, precision), target)).sizes.weights

    assert size("int8") < 0.3 * size(None) and size("int16") < 0.55 * size(None)


def test_a_neuron_of_all_spikes_is_exact():
    """Weights of one sign, and all neurons fire at each step: the largest sums that there can be."""
    net = pk.FusedRecurrentLinear(4, 600, bias=False, neuron=IFNeuron(v_threshold=1e-3)).eval()
    with torch.no_grad():
        net.weight.fill_(0.75), net.recurrent_weight.uniform_(0.5, 1.0, generator=torch.Generator().manual_seed(0))
    x = torch.ones(6, N, 4)
    for precision in PRECISIONS:
        wanted = recurrent_oracle(net, x, precision)
        for target in TARGETS:
            engine = Engine(follow(nn.Sequential(net), (4,), False, precision), target=target)
            assert wanted.mean() == 1 and equal(engine(pk.pack(x), 6).spikes.dense(), wanted)
        soft = pk.FusedRecurrentLinear(4, 600, bias=False, neuron=IFNeuron(v_threshold=20.0, v_reset=None)).eval()
        soft.load_state_dict(net.state_dict() | {n: v for n, v in soft.state_dict().items() if n.startswith("v_")})
        wanted = recurrent_oracle(soft, torch.ones(9, N, 4), precision)
        engine = Engine(follow(nn.Sequential(soft), (4,), False, precision))
        assert 0.05 < wanted.mean() < 1 and equal(engine(pk.pack(torch.ones(9, N, 4)), 9).spikes.dense(), wanted)


def test_operations_are_counted_as_without_rounding():
    net, x = nn.Sequential(layer(40)).eval(), pk.pack(given("spikes"))
    plan, layers = pk.simulate(net, x, T, precision="int8"), layerwise.simulate(net, x, T, precision="int8")
    fired = int(plan.spikes.count().sum())
    assert plan.synops == layers.synops and plan.rates == layers.rates and fired
    assert plan.synops.accumulates["0"] == 40 * (int(x.count().sum()) + fired)


def test_too_large_a_rounding_is_refused_by_name():
    net = nn.Sequential(layer(9))
    with torch.no_grad():
        net[0].recurrent_weight[2, 3] = torch.nan
    for precision in PRECISIONS:
        with pytest.raises(ValueError, match="recurrent_weight must be finite"):
            pk.simulate(net.eval(), given("spikes"), T, precision=precision)
