"""What simulations, calls and training ask of a GPU, counted on one that is not there: launches and waits."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import dyadic
from common import nets
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import OnCard, pretend_gpu

import proxykernels as pk
from proxykernels.running import replay
from proxykernels.spikes.spike_tensor import SpikeTensor

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("kernels_can_run"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]

WAITS, LAUNCHES = 2, 12  # of a run, and of a chunk of the paper's network


def small_net(v_reset: float | None = 0.0) -> nn.Sequential:
    """The paper's layers in small, on a dyadic grid."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 4, 3, padding=1, v_reset=v_reset, v_threshold=torch.tensor([1.0, 2.0, 1.5, 0.5])),
        pk.FusedIFConv2d(4, 5, 3, padding=1, v_reset=v_reset),
        pk.MaxPool2d(2),
        pk.FusedIFConv2d(5, 3, 3, padding=1, stride=2, v_reset=v_reset),
        pk.Flatten(),
        pk.FusedIFLinear(3, 4, v_reset=v_reset),
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) + 0.125
    return net.eval()


def two_layers() -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(pk.FusedIFLinear(6, 8), pk.FusedIFLinear(8, 5, v_reset=None))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return net.eval()


def inputs(kind: str, T: int, generator) -> torch.Tensor | pk.Spikes:
    if kind == "held":
        return dyadic(3, 6, generator=generator).abs()
    if kind == "currents":
        return dyadic(T, 3, 6, generator=generator)
    return torch.rand(T, 3, 6, generator=generator) < 0.4


@pytest.fixture
def image(generator):
    return dyadic(2, 1, 4, 4, generator=generator).abs()


def paper_run(monkeypatch, T: int, images: int = 2, precision: str | None = None):
    """Launches and waits of a simulation of the paper's network, whose kernels are launched and not executed."""
    net, x = nets.paper().eval(), torch.rand(images, 1, 28, 28)
    with pretend_gpu(monkeypatch, executes=False) as card:
        card.moved(net)
        result = pk.simulate(net, card.on_card(x), T, chunk=64, precision=precision)
        result.count(), result.rates, result.synops  # noqa: B018 - all that is counted
        return card.launches, card.waits


@pytest.mark.usefixtures("fused")
def test_launches_and_waits_of_the_papers_network(monkeypatch):
    """In four chunks of 64 steps: convolutions, linear layers, one flattening, one count; all else once a run."""
    launches, waits = paper_run(monkeypatch, 256)
    fewer, fewer_waits = paper_run(monkeypatch, 128)
    assert waits.total() == fewer_waits.total() <= WAITS
    of_chunk = (launches.total() - fewer.total()) / 2
    assert of_chunk <= LAUNCHES and fewer.total() - 2 * of_chunk <= 101
    assert launches["_if_conv2d_kernel"] == 4 * 6 and launches["_counters_kernel"] == 4
    assert launches["conv2d"] == 1 and launches["_int8_digits_kernel"] == 6


@pytest.mark.slow
@pytest.mark.usefixtures("fused")
def test_whole_weights_are_made_once_a_run(monkeypatch):
    launches, waits = paper_run(monkeypatch, 192, precision="int16")
    fewer, _ = paper_run(monkeypatch, 128, precision="int16")
    assert waits.total() <= WAITS and launches.total() - fewer.total() <= LAUNCHES


@pytest.mark.costly
@pytest.mark.parametrize("v_reset, T", [(0.0, 33), (None, 9)], ids=["hard", "soft"])
def test_results_are_those_of_a_cpu(monkeypatch, image, v_reset, T):
    net = small_net(v_reset)
    expected = pk.simulate(net, image, T)
    with pretend_gpu(monkeypatch) as card:
        there = card.moved(small_net(v_reset))
        result = pk.simulate(there, card.on_card(image), T, chunk=32)
        assert card.waits.total() == 1  # the look at all that was given
        rates, synops = result.rates, result.synops
        assert card.waits.total() == 2
        counts, dense = result.count().host, result.spikes.dense().host
    assert 0.01 < dense.mean() < 0.9
    assert equal(dense, expected.spikes.dense()) and equal(counts, expected.count())
    assert rates == pytest.approx(expected.rates) and synops == expected.synops
    for name, (state,) in result.state.items():
        assert equal(state.host, expected.state[name][0])


def test_values_that_are_not_finite_are_named(monkeypatch, image):
    with pretend_gpu(monkeypatch, executes=False) as card:
        net, x = card.moved(small_net()), card.on_card(image)
        for value, where in ((net[1].weight, "layer 1: weight"), (net[5].bias, "layer 5: bias"), (x, "x")):
            before = value.host.clone()
            with torch.no_grad():
                value *= torch.nan
            with pytest.raises(ValueError, match=f"{where} must be finite"):
                pk.simulate(net, x, 5)
            with torch.no_grad():
                value.zero_().add_(card.on_card(before))
        state = {"5": [card.on_card(torch.full((2, 4), torch.inf))]}
        with pytest.raises(ValueError, match="layer 5: v must be finite"):
            pk.simulate(net, x, 5, state=state)
        net[0].v_threshold.sub_(1)  # in place, past the check of an assignment
        with pytest.raises(ValueError, match="layer 0: v_threshold must be positive"):
            pk.simulate(net, x, 5)


def test_a_change_of_weights_between_two_simulations_is_never_missed(monkeypatch, generator):
    """Also one that no version counts."""
    with pretend_gpu(monkeypatch) as card:
        net, x = card.moved(two_layers()), card.on_card(inputs("held", 7, generator))
        first = pk.simulate(net, x, 7).spikes.dense().host
        net[1].weight.host.mul_(-1)
        second = pk.simulate(net, x, 7).spikes.dense().host
        net[1].weight.host.mul_(-1)
        assert equal(pk.simulate(net, x, 7).spikes.dense().host, first)
    assert first.any() and not torch.equal(first, second)


@pytest.mark.costly
@pytest.mark.parametrize("dtype, most", [(torch.bool, 2), (torch.uint8, 4)], ids=str)
def test_event_frames_are_looked_at_once(monkeypatch, generator, dtype, most):
    frames = (torch.rand(33, 3, 6, generator=generator) < 0.4).to(dtype)
    net = two_layers()
    expected = pk.simulate(net, frames, 33)
    with pretend_gpu(monkeypatch) as card:
        result = pk.simulate(card.moved(net), card.on_card(frames), 33, chunk=32)
        result.rates  # noqa: B018 - is read
        assert card.waits.total() <= most
        assert equal(result.spikes.dense().host, expected.spikes.dense())
    assert 0.01 < expected.spikes.rate() < 0.9


# ---- chunks that are replayed as a graph


@pytest.mark.costly
@pytest.mark.parametrize("kind", ["held", "currents", "events"])
def test_chunks_are_replayed(monkeypatch, generator, kind):
    """The first of seven runs as it is, the second is captured, five are replays; the last, shorter one runs, too."""
    T = 6 * 32 + 9
    net, x = two_layers(), inputs(kind, T, generator)
    expected = pk.simulate(net, x, T)
    with pretend_gpu(monkeypatch) as card:
        result = pk.simulate(card.moved(net), card.on_card(x), T, chunk=32)
        assert card.launches["graph"] == 5
        assert equal(result.spikes.dense().host, expected.spikes.dense())
        assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops
        for name, (state,) in result.state.items():
            assert equal(state.host, expected.state[name][0])
    assert 0.01 < expected.spikes.rate() < 0.9


def test_graphs_can_be_turned_off(monkeypatch, generator):
    monkeypatch.setenv("PROXYKERNELS_CUDA_GRAPHS", "0")
    with pretend_gpu(monkeypatch, executes=False) as card:
        pk.simulate(card.moved(two_layers()), card.on_card(inputs("held", 192, generator)), 192, chunk=32)
        assert card.launches["_counters_kernel"] == 6 and not card.launches["graph"]


class Foreign(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize("kind", ["foreign module", "hook", "record", "few chunks"])
def test_what_may_differ_by_chunk_is_not_replayed(monkeypatch, generator, kind):
    net, T = two_layers(), 96 if kind == "few chunks" else 192
    if kind == "foreign module":
        net.insert(1, Foreign())
    if kind == "hook":
        net.register_forward_hook(lambda *_: None)
    x = inputs("held", T, generator)
    record = ["0"] if kind == "record" else []
    with pretend_gpu(monkeypatch, executes=False) as card:
        pk.simulate(card.moved(net), card.on_card(x), T, chunk=32, record=record)
        assert card.launches["_counters_kernel"] == T // 32 and not card.launches["graph"]


def test_a_capture_that_fails_is_no_failure(monkeypatch, generator):
    net, x, T = two_layers(), inputs("held", 192, generator), 192
    expected = pk.simulate(net, x, T)
    with pretend_gpu(monkeypatch) as card:
        waits = lambda step: card.capture(lambda: (step(), card.on_card(torch.ones(1)).item()))  # noqa: E731
        monkeypatch.setattr(replay.Replay.__init__, "__defaults__", (waits,))
        with pytest.warns(RuntimeWarning, match="not replayed as a CUDA graph: operation not permitted"):
            result = pk.simulate(card.moved(net), card.on_card(x), T, chunk=32)
        assert not card.launches["graph"] and equal(result.spikes.dense().host, expected.spikes.dense())
        assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("most", [32, 16])
def test_a_chunk_is_halved_once_where_memory_is_too_small(monkeypatch, generator, most):
    """Within a chunk, after its first layer; what was counted of it, and its states, are forgotten."""
    from proxykernels.kernels.gpu import backend

    net, x = two_layers(), inputs("currents", 75, generator)
    expected, convolve = pk.simulate(net, x, 75), backend.Fused.if_conv2d

    def within_memory(words, T, *layer, **options):
        if T > most:
            raise torch.OutOfMemoryError
        return convolve(words, T, *layer, **options)

    with pretend_gpu(monkeypatch) as card:
        there, there_x = card.moved(net), card.on_card(x)
        monkeypatch.setattr(backend.Fused, "if_conv2d", staticmethod(within_memory))
        with pytest.warns(RuntimeWarning, match="no memory for a chunk of 75 steps, so chunks have 32: pass chunk=32"):
            if most < 32:
                with pytest.raises(torch.OutOfMemoryError):
                    pk.simulate(there, there_x, 75)
                return
            result = pk.simulate(there, there_x, 75)
        assert equal(result.spikes.dense().host, expected.spikes.dense()) and 0.01 < expected.spikes.rate() < 0.9
        assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops
        for name, (state,) in result.state.items():
            assert equal(state.host, expected.state[name][0])


T = 16


def three_layers() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 8, 3, padding=1), pk.FusedIFConv2d(8, 8, 3, padding=1), pk.FusedIFConv2d(8, 4, 3)
    )
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 4 + 0.03125
    return net.eval()


def given(kind: str, generator) -> torch.Tensor | pk.Spikes:
    if kind == "values":
        return dyadic(T, 1, 2, 5, 5, generator=generator)
    frames = torch.rand(T, 1, 2, 5, 5, generator=generator) < 0.3
    return pk.pack(frames) if kind == "Spikes" else frames if kind == "bool" else frames.float()


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    "kind, most, waits", [("Spikes", 20, 0), ("bool", 22, 0), ("float 0 and 1", 23, 1), ("values", 25, 1)]
)
def test_a_network_that_is_called(monkeypatch, generator, kind, most, waits):
    """A layer's tensor stays packed until somebody looks, so that the next one is fused. Values of a GPU's own are
    looked at once, where they come in."""
    net, x = three_layers(), given(kind, generator)
    with torch.no_grad():
        expected = net(x)
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        there_x = pk.pack(card.on_card(x.dense(torch.bool))) if isinstance(x, pk.Spikes) else card.on_card(x)
        there(there_x)  # checks the weights, once
        card.clear()
        y = there(there_x)
        assert card.launches.total() <= most and card.waits.total() == waits, (card.launches, card.waits)
        assert card.launches["_if_conv2d_kernel"] == (2 if kind == "values" else 3)
        if kind == "Spikes":
            assert equal(y.dense().host, expected.dense())
            return
        assert type(y) is SpikeTensor and y.packed() is not None and y.dtype == x.dtype and y.is_cuda
        card.clear()
        dense = y + 0 if kind != "bool" else y | False
        assert card.launches["_unpack_kernel"] == 1 and y.packed() is None
        assert isinstance(dense, OnCard) and equal(dense.host, expected + 0 if kind != "bool" else expected | False)
    assert 0.01 < dense.host.float().mean() < 0.9


@pytest.mark.usefixtures("fused")
def test_what_somebody_writes_is_seen(monkeypatch, generator):
    net, x = three_layers(), given("bool", generator)
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        first, *others = card.moved(copy.deepcopy(net))
        y = first(card.on_card(x.float()))
        assert type(y) is SpikeTensor
        y.logical_not_()
        found = nn.Sequential(*others)(y)
        written = y.dense().host
        assert equal(found.dense().host, nn.Sequential(*list(net)[1:])(written))
    with torch.no_grad():
        assert equal(written, 1 - net[0](x.float())) and 0.01 < written.mean() < 0.99


@pytest.mark.usefixtures("fused")
def test_functions_that_keep_the_bits(monkeypatch, generator):
    """On a CPU they are copied."""
    net, x = three_layers(), given("bool", generator).float()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        y = card.moved(net[:1])(card.on_card(x))
        assert type(torch.cat([y, y], 2)) is SpikeTensor and type(y.flatten(2)) is SpikeTensor
        assert type(torch.cat([y, y])) is SpikeTensor
        assert equal(torch.cat([y, y]).dense().host, y.dense().host.repeat(2, 1, 1, 1, 1))
        assert y.cpu().device.type == "cpu" and equal(y.cpu(), y.dense().host)


@pytest.mark.usefixtures("fused")
def test_a_captured_graph_has_dense_tensors(monkeypatch, generator):
    """Which a replay writes anew: one that was made after the capture would stay as it is."""
    net, x = three_layers(), given("bool", generator).float()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there, there_x = card.moved(net[:1]), card.on_card(x)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert isinstance(there(there_x), OnCard)


def residual() -> tuple[nn.Module, torch.Tensor]:
    class Block(nn.Module):
        def __init__(self, C: int):
            super().__init__()
            self.first, self.second = nn.Conv2d(C, C, 3, padding=1), nn.Conv2d(C, C, 3, padding=1)

        def forward(self, x):
            return torch.relu(self.second(torch.relu(self.first(x))) + x)

    torch.manual_seed(0)
    relu_net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), Block(4), nn.AvgPool2d(2), Block(4), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    images = torch.rand(2, 1, 8, 8)
    net = pk.convert(relu_net.eval(), images)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 4 + 0.03125
    return net, dyadic(1, 1, 8, 8, generator=generator).abs()


@pytest.mark.usefixtures("fused")
def test_a_converted_residual_network(monkeypatch):
    """Average pools take dense spikes, which one launch makes."""
    net, x = residual()
    with torch.no_grad():
        expected = net(x.expand(T, *x.shape))
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there, there_x = card.moved(copy.deepcopy(net)), card.on_card(x)
        there(there_x.expand(T, *x.shape))
        card.clear()
        y = there(there_x.expand(T, *x.shape))
        assert card.launches.total() <= 40 and card.waits.total() == 1, (card.launches, card.waits)
        assert equal(y.dense().host, expected + 0)
    assert 0.01 < y.dense().host.mean() < 0.99


FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def guard(tmp_path_factory) -> Path:
    """pretend_cuda_guard.cpp, compiled against this torch."""
    made, torch_folder = tmp_path_factory.mktemp("guard") / "guard.so", Path(torch.__file__).parent
    options = ["-shared", "-fPIC", "-w", "-std=c++20", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
    options += [f"-Wl,-rpath,{torch_folder / 'lib'}", "-o", made]
    subprocess.run(["g++", FOLDER / "pretend_cuda_guard.cpp", *options, "-lc10", "-ltorch_cpu"], check=True)
    return made


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
def test_gradients_are_those_of_a_cpu(guard):
    environment = os.environ | {"LD_PRELOAD": str(guard), "TRITON_INTERPRET": "1"}
    command = [sys.executable, FOLDER / "train_on_pretend_gpu.py"]
    # A backward pass inside a backward pass waits for ever, if another thread starts it: the card has one worker.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert not done.returncode, done.stderr[-4000:]
    proxy, surrogate, *recurrent, python, numbers, counted, of_proxy, full, elementwise = (
        line.split() for line in done.stdout.splitlines()
    )
    assert proxy[0] == "proxy" and {"_if_conv2d_kernel", "convolution_backward"} <= set(proxy)
    assert surrogate[0] == "surrogate" and {"_if_conv2d_kernel", "_scan_backward_kernel"} <= set(surrogate)
    for line, most in ((counted, 75), (of_proxy, 45)):
        assert line[0] == "counted" and int(line[2]) <= most and int(line[3]) == 1, line
    assert [line[0] for line in recurrent] == ["full", "elementwise"]
    for line in recurrent:
        assert {"_recurrent_scan_kernel", "_recurrent_backward_kernel", "_scan_backward_kernel"} <= set(line)
    assert python[0] == "python" and "_scan_backward_kernel" in python and "_recurrent_scan_kernel" not in python
    assert numbers[0] == "numbers" and {"_if_scan_kernel", "_scan_backward_kernel", "flip"} <= set(numbers)
    for line in (full, elementwise):  # of a backward pass of 16 steps
        assert int(line[1]) <= 20 and int(line[2]) == 0, line
