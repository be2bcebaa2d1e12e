"""Parameters on a GPU: NaN and infinity are found; each version is waited for once, and never in a captured graph."""

import contextlib
import gc
import weakref

import pytest
import torch
from cases import OnGPU, dyadic, fine, spikes, thresholds
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels import checks
from proxykernels.kernels import reference, value_checks_cache
from proxykernels.neurons import neuron_checks
from proxykernels.running import replay

NOT_FINITE = "weight must be finite .* holds NaN or infinite values; load or train it again"


@pytest.fixture(autouse=True)
def no_reads_and_no_capture(monkeypatch):
    monkeypatch.setattr(OnGPU, "reads", 0)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)


def on_gpu(layer: nn.Module) -> nn.Module:
    """The layer with parameters and buffers that say so."""
    for module in layer.modules():
        for name, values in [*module._parameters.items(), *module._buffers.items()]:
            if values is not None:
                moved = values.detach().as_subclass(OnGPU)
                setattr(module, name, nn.Parameter(moved) if name in module._parameters else moved)
    return layer


def check(weight, bias=None):
    checks.parameters(weight, bias, weight.ndim, "", torch.device("cpu"))


def test_a_version_is_looked_at_once():
    weight, bias = torch.ones(3, 2).as_subclass(OnGPU), torch.ones(3).as_subclass(OnGPU)
    for _ in range(3):
        check(weight, bias)
    assert OnGPU.reads == 2
    weight[1, 1] = torch.nan
    for _ in range(3):
        with pytest.raises(ValueError, match=NOT_FINITE):
            check(weight, bias)
    assert OnGPU.reads == 3
    weight[1, 1] = 0
    check(weight, bias)
    bias += torch.inf
    with pytest.raises(ValueError, match="bias must be finite"):
        check(weight, bias)
    assert OnGPU.reads == 5


def test_a_capture_does_not_look(monkeypatch):
    weight = torch.full((3, 2), torch.nan).as_subclass(OnGPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    check(weight)
    value_checks_cache.look_at_all([weight], [], weight.device)
    assert OnGPU.reads == 0


def test_tensors_without_versions_are_always_looked_at():
    with torch.inference_mode():
        weight = torch.ones(3, 2).as_subclass(OnGPU)
        check(weight)
        weight[0] = torch.nan
        with pytest.raises(ValueError, match=NOT_FINITE):
            check(weight)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("change", ["weight", "bn.weight", "bn.running_var", "bn.bias", "bn.running_mean", "bias"])
@pytest.mark.parametrize("kind", [pk.FusedIFConv1d, pk.FusedIFConv2d])
def test_folded_weights_are_looked_at_when_what_they_are_made_of_changes(kind, change, inference, monkeypatch):
    layer = on_gpu(kind(2, 3, 3, batch_norm=True)).eval()
    x = pk.pack(torch.ones(2, 1, 2, *[4] * (layer.weight.ndim - 2)))

    def stop(x, weight, bias, *_, **__):
        check(weight, bias)
        raise InterruptedError  # the rest would look at values of its own

    monkeypatch.setattr(pk.calls.neuron_ops, "conv2d", stop)

    def run():
        with torch.inference_mode(inference), torch.no_grad(), contextlib.suppress(InterruptedError):
            layer(x)

    for _ in range(3):
        run()
    assert OnGPU.reads == 2
    with torch.no_grad():
        dict([*layer.named_parameters(), *layer.named_buffers()])[change][0] = torch.nan
    for _ in range(2):
        with pytest.raises(ValueError, match="must be finite"):
            run()
    assert OnGPU.reads <= 4


def test_joined_weights_are_looked_at_when_what_they_are_made_of_changes():
    layer = on_gpu(pk.FusedIFSum(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 3, 1, bias=False)))
    for _ in range(3):
        check(*layer._joined((1, 1), layer.synapses))
    assert OnGPU.reads == 2
    with torch.no_grad():
        layer.synapses[2].weight[0] = torch.inf
    for _ in range(2):
        with pytest.raises(ValueError, match=NOT_FINITE):
            check(*layer._joined((1, 1), layer.synapses))
    assert OnGPU.reads == 3
    layer.synapses[2].weight = nn.Parameter(torch.ones(3, 3, 1, 1).as_subclass(OnGPU))  # of the same version
    check(*layer._joined((1, 1), layer.synapses))


def test_a_compiled_graph_remembers_nothing(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(value_checks_cache, "_sources", None)  # what would break the graph
    source = torch.ones(3).as_subclass(OnGPU)
    assert value_checks_cache.computed_from(source + 1, source).sum() == 6
    check(source + torch.nan)
    assert OnGPU.reads == 0


def test_values_that_are_their_own_source_do_not_live_for_ever():
    values = torch.ones(3).as_subclass(OnGPU)
    assert value_checks_cache.computed_from(values, values) is values
    alive = weakref.ref(values)
    del values
    gc.collect()
    assert alive() is None


def test_all_parameters_are_waited_for_together():
    net = on_gpu(nn.Sequential(pk.FusedIFLinear(4, 3), pk.FusedIFLinear(3, 2)))
    for _ in range(2):
        assert value_checks_cache.look_at_all(net.parameters(), [], torch.device("cpu"))
        for layer in net:
            check(layer.weight, layer.bias)
    assert OnGPU.reads == 1
    with torch.no_grad():
        net[1].weight[0] = torch.nan
    assert not value_checks_cache.look_at_all(net.parameters(), [], torch.device("cpu"))
    check(net[0].weight, net[0].bias)
    with pytest.raises(ValueError, match=NOT_FINITE):
        check(net[1].weight, net[1].bias)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_parameters_that_are_not_finite_name_their_layer(generator, value, device):
    x = pk.pack(spikes(9, 2, 3, 5, 5, generator=generator)).to(device)
    weight = dyadic(4, 3, 3, 3, generator=generator).to(device)
    assert pk.if_conv2d(x, weight)[0].rate() > 0
    weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=NOT_FINITE):
        pk.if_conv2d(x, weight)
    net = nn.Sequential(pk.FusedIFConv2d(3, 4, 3, batch_norm=True), pk.FusedIFConv2d(4, 2, 3)).to(device).eval()
    pk.simulate(net, x, 9)
    with torch.no_grad():
        net[1].weight[0] = value
    with pytest.raises(ValueError, match=f"layer 1: {NOT_FINITE}"):
        pk.simulate(net, x, 9)


@pytest.fixture
def capture(monkeypatch):
    """Says whether the stream is being captured."""
    monkeypatch.setattr(OnGPU, "reads", 0)

    def set_capturing(now: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now)

    set_capturing(False)
    return set_capturing


def test_thresholds_are_read_once_a_version(capture):
    theta = torch.tensor([1.0, 2.0]).as_subclass(OnGPU)
    for _ in range(3):
        neuron_checks.neuron(theta, 0.0)
    assert OnGPU.reads == 1
    with pytest.raises(ValueError, match="below v_threshold = 1,"):  # the values that are known are still compared
        neuron_checks.neuron(theta, 1.0)
    assert OnGPU.reads == 1
    theta[1] = -1
    for _ in range(2):
        with pytest.raises(ValueError, match="v_threshold must be positive and finite in float32, got -1"):
            neuron_checks.neuron(theta, 0.0)
    assert OnGPU.reads == 2
    neuron_checks.neuron(torch.ones(2).as_subclass(OnGPU), 0.0)
    assert OnGPU.reads == 3


def test_thresholds_are_not_read_in_a_capture(capture):
    theta = torch.tensor([1.0, 2.0]).as_subclass(OnGPU)
    capture(True)
    assert neuron_checks.neuron(theta, 0.5) == 0.5
    theta += 1
    assert neuron_checks.neuron(theta, None) is None
    assert OnGPU.reads == 0
    capture(False)
    theta[0] = -1
    with pytest.raises(ValueError, match="v_threshold must be positive"):
        neuron_checks.neuron(theta, 0.0)


@pytest.mark.gpu
@pytest.mark.triton
def test_a_captured_layer_replays_with_new_spikes():
    with torch.device("cuda"):
        generator = torch.Generator("cuda").manual_seed(0)
        first, second = (spikes(33, 2, 16, 6, 6, generator=generator) for _ in range(2))
        weight, theta = fine(20, 16, 3, 3, generator=generator), thresholds(20, generator)
        x, other = pk.pack(first), pk.pack(second)
        expected, _ = reference.if_conv2d(second, weight, v_threshold=theta, padding=1)
        pk.if_conv2d(x, weight, padding=1, v_threshold=theta)  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = pk.if_conv2d(x, weight, padding=1, v_threshold=theta)
        x._words.copy_(other._words)
        graph.replay()
        assert 0 < expected.mean() < 1
        assert equal(y.dense(), expected)


@pytest.mark.gpu
@pytest.mark.triton
@pytest.mark.parametrize("kind", ["held", "spikes"])
def test_chunks_of_a_simulation_are_replayed(monkeypatch, generator, kind):
    """The first chunk runs as it is, the second is captured; it and the next four are replays; the last is shorter."""
    net, T = nn.Sequential(pk.FusedIFConv2d(3, 20, 3, padding=1), pk.MaxPool2d(2), pk.FusedIFConv2d(20, 9, 3)), 201
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = dyadic(2, 3, 8, 8, generator=generator).abs() if kind == "held" else spikes(T, 2, 3, 8, 8, generator=generator)
    x = x if kind == "held" else pk.pack(x)
    expected = pk.simulate(net, x, T)
    replays, captures = [], replay.capture_graph

    def capture(step):
        given, again = captures(step)
        return given, lambda: replays.append(again())

    monkeypatch.setattr(replay.Replay.__init__, "__defaults__", (capture,))
    result = pk.simulate(net.cuda(), x.to("cuda"), T, chunk=32)
    assert len(replays) == 5 and 0.01 < expected.spikes.rate() < 0.9
    assert equal(result.spikes.dense().cpu(), expected.spikes.dense())
    assert result.rates == pytest.approx(expected.rates) and result.synops == expected.synops
    assert all(torch.equal(v.cpu(), expected.state[name][0]) for name, (v,) in result.state.items())
