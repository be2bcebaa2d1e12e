"""Defaults of torch, negative bits and other layouts of memory: taken as plain tensors are, or refused."""

import ast
import copy
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.kernels import heap

FACTORIES = {
    "arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "zeros",
}  # fmt: skip
# They follow other people's modules, and give tensors to torch alone.
FOLLOWING = "conversion/graph", "conversion/libraries", "conversion/nir"


@contextmanager
def default(value):
    if value == "meta":
        with torch.device("meta"):
            yield
        return
    torch.set_default_dtype(value)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def unnamed(path: Path) -> list[str]:
    """Calls of torch's factories that leave type or device to torch's defaults."""
    found = []
    for call in ast.walk(ast.parse(path.read_text())):
        module, _, name = ast.unparse(call.func).rpartition(".") if isinstance(call, ast.Call) else ("", "", "")
        if module != "torch" or name not in FACTORIES:
            continue
        named = {keyword.arg for keyword in call.keywords}
        wanted = {"device"} if name == "arange" else {"dtype", "device"}  # of integers it gives int64
        if not (wanted <= named or None in named):  # None: **options
            found.append(f"{path}:{call.lineno}: {ast.unparse(call)}")
    return found


def test_factories_name_type_and_device():
    folders = Path(pk.__file__).parent, Path(heap.__file__).parent
    paths = {path for folder in folders for path in folder.rglob("*.py")}
    paths = {path for path in paths if not any(part in path.as_posix() for part in FOLLOWING)}
    assert len(paths) > 100 and not sum(map(unnamed, sorted(paths)), [])


def test_factories_are_found(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("a = torch.zeros(3)\nb = torch.full((1,), 2, dtype=torch.int64)\nc = torch.arange(3, device=d)\n")
    assert [line.split(": ", 1)[1] for line in unnamed(path)] == [
        "torch.zeros(3)", "torch.full((1,), 2, dtype=torch.int64)"
    ]  # fmt: skip


@pytest.fixture
def net(generator):
    """Layers that differ in the buffers that they, or their kernels, make."""
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1, v_init=0.5, bias=False), pk.MaxRatePool2d(2),
        pk.FusedLIFConv2d(8, 8, 3, padding=1, groups=8, decay=0.5), pk.FusedIFConv2d(8, 40, 1, v_reset=None),
        pk.AvgPool2d(2), pk.FusedIFConv2d(40, 6, 1), pk.Flatten(), pk.FusedLILinear(24, 5, decay=0.5),
    ).eval()  # fmt: skip
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return net


def functions(net, x, frames):
    current = frames * 0.75
    packed = pk.pack(frames)
    pooled = pk.max_pool2d(packed, 2)
    return [
        *pk.if_scan(current),
        *pk.if_hold(x, 7),
        *pk.if_hold(x, 40, v_threshold=0.5),
        packed,
        pooled,
        packed.count(),
    ]


def every_layer(net, x, frames):
    return [net(frames), net(x.expand(9, *x.shape))]


def gradients(net, x, frames):
    net = nn.Sequential(net[0], pk.MaxPool2d(2), net[3], net[6])
    pk.use_surrogate(net, pk.ATan())
    x = frames.clone().requires_grad_()
    net(x).sum().backward()
    return [x.grad, *(parameter.grad for parameter in net.parameters())]


def simulations(net, x, frames):
    results = [pk.simulate(net, x, T=40), pk.simulate(net, frames, T=9), pk.simulate(net[:4], x, T=9, precision="int8")]
    return [result.output for result in results]


def engines(net, x, frames):
    engine, precise = pk.compile(net, x), pk.compile(net[:4], x, precision="int8")
    stream = pk.compile(net, frames).stream(len(x))
    result = precise(x, 20, stop=lambda counts, t: counts.flatten(1).sum(1) > 100)
    return [engine(x, 40).output, result.output, result.steps, stream(frames), stream(frames), *stream.state.values()]


def conversions(net, x, frames):
    convolutions = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 5),
    ).to_empty(device="cpu").float()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for parameter in convolutions.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator, dtype=torch.float32, device="cpu") - 0.375
    results = []
    for neuron in ("if", "sigma-delta"):
        converted = pk.convert(convolutions, x, neuron=neuron)
        results += [pk.simulate(converted, x, T=8), pk.simulate(converted, x, T=2)]
    results.append(pk.compile(pk.convert(convolutions, x), x)(x, 8))
    return [result.logits for result in results]


@pytest.mark.costly
@pytest.mark.parametrize("value", [torch.float64, torch.bfloat16, torch.float16, "meta"], ids=str)
@pytest.mark.parametrize("run", [functions, every_layer, gradients, simulations, engines, conversions])
def test_defaults_change_nothing(net, generator, run, value):
    x = dyadic(3, 2, 8, 8, generator=generator).abs()
    frames = spikes(9, 3, 2, 8, 8, generator=generator, rate=0.4)
    plain = copy.deepcopy(net)  # nothing that is kept of weights is shared
    with default(value):
        results = run(net, x, frames)
    for result, wanted in zip(results, run(plain, x, frames), strict=True):
        result, wanted = (y.dense() if isinstance(y, pk.Spikes) else y for y in (result, wanted))
        assert wanted.any() and (result.dtype, result.device) == (wanted.dtype, wanted.device)
        assert equal(result, wanted)


def test_an_engine_is_saved_and_loaded(net, tmp_path):
    x = torch.rand(3, 2, 8, 8)
    with default(torch.float64):
        pk.compile(net, x).save(tmp_path / "engine")
        loaded = pk.load(tmp_path / "engine")(x, 9).output
    assert equal(loaded, pk.compile(net, x)(x, 9).output) and loaded.any()


def imaginary(values):
    """Equal to ``values``, and every second number of its memory is one of them with the opposite sign."""
    return torch.complex(torch.zeros_like(values), -values).conj().imag


def contiguous(values):
    """The same, side by side."""
    return torch._neg_view(-values)


@pytest.fixture
def x(generator):
    return dyadic(3, 2, 6, 6, generator=generator)


@pytest.fixture
def frames(generator):
    return spikes(9, 3, 2, 6, 6, generator=generator, rate=0.4)


@pytest.fixture
def small_net(generator):
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3), pk.Flatten(), pk.FusedIFLinear(64, 5)).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return net


def check(call, *operands):
    """The call gives the same for operands with the negative bit."""
    wanted, *others = (call(*map(form, operands)) for form in (torch.clone, imaginary, contiguous))
    for other in others:
        for y, same in zip(*(r if isinstance(r, tuple) else (r,) for r in (wanted, other)), strict=True):
            y, same = (part.dense() if isinstance(part, pk.Spikes) else part for part in (y, same))
            assert y.any() and equal(y, same)


def test_functions(small_net, x, frames):
    check(pk.pack, frames)
    check(pk.if_scan, frames, x)
    check(lambda current, v: pk.if_hold(current, 9, v), x, x.flip(0))
    check(lambda theta: pk.if_scan(frames, v_threshold=theta), torch.tensor([0.5, 2.0]))
    check(
        lambda weight, bias: pk.if_conv2d(frames, weight, bias),
        small_net[0].weight.detach(),
        small_net[0].bias.detach(),
    )
    with pytest.raises(ValueError, match="0 and 1"):
        pk.pack(imaginary(-frames))


def test_layers(small_net, x, frames):
    check(small_net, frames)
    check(small_net, -frames)  # in memory 0 and 1
    check(small_net, x.expand(9, *x.shape))


def test_gradients(small_net, frames):
    layer = pk.use_surrogate(small_net[0], pk.ATan())
    given = frames.requires_grad_()
    y = layer(given)
    check(lambda grad: torch.autograd.grad(y, (given, layer.weight), grad, retain_graph=True), torch.rand(y.shape))


def test_simulations(small_net, x, frames):
    check(lambda x: pk.simulate(small_net, x, T=9).spikes, x)
    relu_net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    sigma_delta = pk.convert(relu_net.eval(), x, neuron="sigma-delta")
    check(lambda x: pk.simulate(sigma_delta, x, T=3).logits, x)


@pytest.mark.parametrize("precision", [None, "int8"])
def test_engines(small_net, x, frames, precision):
    engine = pk.compile(small_net, x, precision=precision)
    check(lambda x: engine(x, 9).spikes, x)
    check(lambda x: engine(x, 9).spikes, frames)
    check(lambda x: engine(x, 9).spikes, -frames)


def test_the_state_of_a_stream(small_net, x):
    stream = pk.compile(small_net, x).stream(3)
    stream(x)

    def go_on(v):
        stream.state = stream.state | {"0": v}
        return stream.state["0"]

    check(go_on, stream.state["0"])


CURRENT = torch.zeros(4, 2, 3, 5, 5)
SPIKES = pk.pack(CURRENT)
WEIGHT = torch.zeros(6, 3, 3, 3)
MATRIX = torch.zeros(5, 7)
NET = nn.Sequential(pk.FusedIFConv2d(3, 4, 3), pk.Flatten(), pk.FusedIFLinear(36, 5))
IMAGES = torch.zeros(2, 3, 5, 5)
LAYOUTS = {
    "nested": (
        lambda t: torch.nested.nested_tensor(list(t)),
        r"a nested one; pad it with torch.nested.to_padded_tensor\(",
    ),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.5, 0, torch.qint8),
        r"torch.qint8; convert it with .dequantize",
    ),
    "sparse": (lambda t: t.to_sparse(), r"torch.sparse_coo; convert it with .to_dense\(\)"),
}
TAKING = {
    "scan": (CURRENT, lambda x: pk.if_scan(x), "current"),
    "hold": (IMAGES, lambda x: pk.if_hold(x, 4), "current"),
    "conv": (CURRENT, lambda x: pk.if_conv2d(x, WEIGHT), "x"),
    "linear": (torch.zeros(4, 2, 7), lambda x: pk.if_linear(x, MATRIX), "x"),
    "weight": (WEIGHT, lambda w: pk.if_conv2d(SPIKES, w), "weight"),
    "state": (IMAGES, lambda v: pk.if_scan(CURRENT, v), "v"),
    "threshold": (torch.ones(3), lambda v: pk.if_scan(CURRENT, v_threshold=v), "v_threshold"),
    "decay": (torch.ones(3), lambda d: pk.LIF(decay=d), "decay"),
    "population": (CURRENT, pk.IF(), "x"),
    "sum": (CURRENT, lambda x: pk.FusedIFSum(nn.Identity(), nn.Identity())((x, x)), "x"),
    **{type(layer).__name__: (CURRENT, layer, "x") for layer in (
        NET, pk.MaxPool2d(2), pk.AvgPool2d(2), pk.RunningMaxPool2d(2), pk.Flatten(), pk.Dropout(0.5)
    )},
    "MaxRatePool2d": (CURRENT, pk.MaxRatePool2d(2), "x"),
    "Concatenate": (CURRENT, lambda x: pk.Concatenate()((x, x)), "x"),
    "pack": (CURRENT, pk.pack, "dense"),
    "time_first": (CURRENT, pk.time_first, "frames"),
    "simulate": (IMAGES, lambda x: pk.simulate(NET, x, 4), "x"),
    "sequence": (CURRENT, lambda x: pk.simulate(NET, x, 4), "x"),
    "proxy": (IMAGES, lambda x: pk.ProxyNet(NET, 4)(x), "x"),
    "compile": (IMAGES, lambda x: pk.compile(NET, x), "x"),
    "engine": (IMAGES, lambda x: pk.compile(NET, IMAGES)(x, 4), "x"),
    "stream": (IMAGES, lambda x: pk.compile(NET, IMAGES).stream(2)(x), "x"),
    "convert": (torch.ones(4, 3), lambda x: pk.convert(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), x), "calibration"),
    "encode": (IMAGES, lambda x: pk.encode.rate(x, 4), "x"),
    "events": (torch.ones(3), lambda t: pk.events(t, [0] * 3, [0] * 3, [1] * 3, size=(2, 2), T=2), "t"),
}  # fmt: skip


@pytest.mark.parametrize("call", TAKING)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*([nN]ested|quantized)")
@torch.no_grad()
def test_other_layouts_are_refused(call, layout):
    (make, remedy), (tensor, function, name) = LAYOUTS[layout], TAKING[call]
    given = make(tensor)
    wanted = f"a dense tensor, got {remedy}" if name != "dense" else "a tensor that holds its values"
    with pytest.raises(TypeError, match=f"^{name} must be {wanted}"):
        function(given)
