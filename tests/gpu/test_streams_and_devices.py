"""Several streams of a GPU, and two GPUs in one process, on GPUs that are not there (pretend_gpu.py).

The card finds races between streams, and launches on another device than the tensors', by itself.
"""

import copy
import gc
from contextlib import nullcontext

import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from pretend_gpu import CARD, SECOND, OnCard, pretend_gpu

import proxykernels as pk
from proxykernels.spikes.spike_tensor import SpikeTensor

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("kernels_can_run"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one"),
]


def two_layers() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(pk.FusedIFConv2d(2, 4, 3, padding=1), pk.FusedIFConv2d(4, 3, 3, padding=1))
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator) / 4 + 0.03125
    return net.eval()


def streams():
    """The current stream, and another one that has waited for it."""
    ours, other = torch.cuda.current_stream(CARD), torch.cuda.Stream(CARD)
    other.wait_stream(ours)
    return ours, other


@pytest.fixture
def frames(generator):
    return spikes(9, 1, 2, 5, 5, generator=generator)


@pytest.mark.parametrize("use", ["values", "layer", "view"])
def test_a_tensor_that_is_used_on_another_stream(monkeypatch, frames, use):
    """As any tensor of torch, it is there once the other stream has waited for its own; then for third ones too."""
    net = two_layers()
    with torch.no_grad():
        first, second = (y.clone() for y in (net[:1](frames), net(frames)))
    expected = {"values": first + 1, "layer": second, "view": first[2:5] + 1}[use]
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        y = there[:1](card.on_card(frames))
        assert type(y) is SpikeTensor and y.packed() is not None
        ours, other = streams()
        third = torch.cuda.Stream(CARD)
        third.wait_stream(ours)
        results = []
        for stream in (other, third, ours):
            with torch.cuda.stream(stream):
                z = there[1](y) if use == "layer" else (y if use == "values" else y[2:5]) + 1
                results.append(z.dense() if isinstance(z, SpikeTensor) else z)
        for stream in (other, third):
            ours.wait_stream(stream)
        assert all(equal(z.host, expected) for z in results) and 0.01 < first.mean() < 0.99


def test_a_view_that_another_stream_has_made(monkeypatch, frames):
    """A view of torch's starts no work, so its maker need not wait."""
    net = two_layers()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        there = card.moved(copy.deepcopy(net))
        y = there[:1](card.on_card(frames))
        _, other = streams()
        with torch.cuda.stream(other):
            view = y[2:5]
        found = there[1](view).dense()
    with torch.no_grad():
        assert equal(found.host, net[1](net[0](frames)[2:5]) + 0)


def test_memory_is_not_given_back_while_another_stream_reads(monkeypatch, frames):
    net = two_layers()
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        y = card.moved(copy.deepcopy(net))[:1](card.on_card(frames))
        _, other = streams()
        with torch.cuda.stream(other):
            z = y + 1
        del y
        gc.collect()
        assert isinstance(z, OnCard)


def test_a_look_while_a_graph_is_captured_is_part_of_it(monkeypatch, frames):
    net = two_layers()
    with torch.no_grad():
        expected = net[:1](frames) + 1
    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        y = card.moved(copy.deepcopy(net))[:1](card.on_card(frames))
        _, other = streams()
        with torch.cuda.stream(other):
            z, replay = card.capture(lambda: y + 1)
            replay()
        assert card.launches["_unpack_kernel"] == 1 and equal(z.host, expected)


def test_streams_that_run_one_network_each_for_itself(monkeypatch, generator):
    """Nothing that one run makes and keeps is used by the other before it is there."""
    net, given = two_layers(), [spikes(9, 1, 2, 5, 5, generator=generator) for _ in range(2)]
    expected = [pk.simulate(net, pk.pack(x), 9).spikes.dense() for x in given]
    with pretend_gpu(monkeypatch) as card:
        there, moved = card.moved(copy.deepcopy(net)), [card.on_card(x) for x in given]
        engine = pk.compile(there, moved[0])
        ours, found, pair = torch.cuda.current_stream(CARD), [], [torch.cuda.Stream(CARD) for _ in range(2)]
        for stream in pair:
            stream.wait_stream(ours)
        for x, stream in zip(moved, pair, strict=True):
            with torch.cuda.stream(stream), torch.no_grad():
                found.append([pk.simulate(there, x, 9).spikes, there(pk.pack(x)), engine(x, 9).spikes])
        for stream in pair:
            ours.wait_stream(stream)
        for mine, wanted in zip(found, expected, strict=True):
            assert all(equal(fired.dense().host, wanted) for fired in mine)


@pytest.mark.parametrize("fault", ["read", "written", "given back"])
def test_races_are_found(monkeypatch, fault):
    """By the card that these tests rely on."""
    with pytest.raises(AssertionError, match="another stream"), pretend_gpu(monkeypatch) as card:
        x = card.on_card(torch.ones(3)) + 1
        _, other = streams()
        if fault == "given back":
            with torch.cuda.stream(other):
                x + 1  # noqa: B018 - is a launch
            del x
            gc.collect()
        else:
            with torch.cuda.stream(other):
                y = x + 1
            y.add_(1) if fault == "written" else y + 1


def test_launches_on_another_device_are_found(monkeypatch):
    from proxykernels.kernels.gpu import packing

    with pretend_gpu(monkeypatch) as card:
        x, y = (card.on_card(torch.ones(5, 2, 3, dtype=torch.bool), device) for device in (CARD, SECOND))
        with pytest.raises(RuntimeError, match="same device"):
            x & y
        monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: nullcontext())
        with (
            torch.cuda.device(SECOND),
            pytest.raises(RuntimeError, match="launched on cuda:1, and"),
        ):
            packing.pack(x[:, :, None])


# ---- two GPUs


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Networks on a dyadic grid, and the shapes of a step of theirs."""
    generator = torch.Generator().manual_seed(0)
    nets = {
        "convolutions": (
            nn.Sequential(
                pk.FusedIFConv2d(2, 4, 3, padding=1, v_threshold=torch.tensor([1.0, 2.0, 1.5, 0.5])),
                pk.MaxPool2d(2),
                pk.Flatten(),
                pk.FusedIFLinear(16, 4, v_reset=None),
            ),
            (2, 4, 4),
        ),
        "recurrent": (
            nn.Sequential(pk.FusedRecurrentLinear(6, 9, neuron=pk.neurons.LIFNeuron()), pk.FusedIFLinear(9, 4)),
            (6,),
        ),
        "rates": (nn.Sequential(pk.FusedIFConv2d(2, 4, 3, padding=1), pk.MaxRatePool2d(2)), (2, 4, 4)),
    }
    for net, _ in nets.values():
        for parameter in net.parameters():
            parameter.data = dyadic(*parameter.shape, generator=generator) / 2 + 0.125
    for neuron in ("sigma-delta", pk.neurons.Graded(threshold=0.25)):
        relu = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        for parameter in relu.parameters():
            parameter.data = dyadic(*parameter.shape, generator=generator) / 2
        name = neuron if isinstance(neuron, str) else "graded"
        nets[name] = pk.convert(relu, dyadic(2, 2, 4, 4, generator=generator).abs(), neuron=neuron), (2, 4, 4)
    return nets


@pytest.mark.parametrize("current", [CARD, SECOND], ids=str)
@pytest.mark.parametrize("kind", ["convolutions", "recurrent", "rates", "sigma-delta", "graded"])
def test_two_gpus_give_what_a_cpu_gives(monkeypatch, generator, kind, current):
    """One after the other, each while it is the current one and while it is not, on the current stream of each."""
    net, shape = networks()[kind]
    net, x = net.eval(), dyadic(3, *shape, generator=generator).abs()
    expected, called = pk.simulate(net, x, 5), None
    if kind in ("convolutions", "recurrent", "rates"):
        frames = spikes(5, 3, *shape, generator=generator)
        with torch.no_grad():
            called = net(frames).clone()
    with pretend_gpu(monkeypatch) as card, torch.cuda.device(current), torch.no_grad():
        for device in (CARD, SECOND, CARD):
            there = card.moved(copy.deepcopy(net), device)
            result = pk.simulate(there, card.on_card(x, device), 5)
            output = result.output.dense() if isinstance(result.output, pk.Spikes) else result.output
            wanted = expected.output.dense() if isinstance(expected.output, pk.Spikes) else expected.output
            assert output.device == device and wanted.any() and equal(output.host, wanted)
            assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops
            if called is not None:
                y = there(card.on_card(frames, device))
                assert y.device == device and called.any() and equal((y + 0).host, called)
            if kind == "convolutions":
                engine = pk.compile(there, card.on_card(x, device))
                for _ in range(2):
                    assert equal(engine(card.on_card(x, device), 5).spikes.dense().host, expected.spikes.dense())
                pk.explain(there, card.on_card(x, device), 5)
