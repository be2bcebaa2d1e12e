"""torch.set_default_dtype and torch.set_default_device change nothing: compiled code gets buffers of its own type."""

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


def layers(net, x, frames):
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
@pytest.mark.parametrize("run", [functions, layers, gradients, simulations, engines, conversions])
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
