"""Where Triton uses no tensor cores (sm_75), torch convolves and a Triton scan follows: the same spikes."""

import warnings

import pytest
import torch
from equality import equal

pytest.importorskip("triton", reason="the GPU kernels need Triton: pip install triton")

from cases import RESETS, dyadic, fine, spikes, thresholds
from pretend_gpu import pretend_gpu
from torch import nn

import proxykernels as pk
from proxykernels.calls.currents import currents_of
from proxykernels.kernels import reference, unfused
from proxykernels.kernels.gpu import backend
from proxykernels.kernels.recording import recording

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton_kernels")]


@pytest.fixture
def sm_75(monkeypatch):
    """A GPU of that architecture, as far as the choice of convolutions is concerned."""
    backend.convolutions.cache_clear()
    monkeypatch.setattr(backend, "architecture", lambda device: "sm_75")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
    backend.convolutions.cache_clear()


@pytest.mark.parametrize("v_reset", RESETS)
@pytest.mark.parametrize("T", [1, 32, 33])
@pytest.mark.parametrize("groups, stride", [(1, 1), (3, 2)])
def test_spikes_are_the_definitions(sm_75, generator, groups, stride, T, v_reset):
    x, weight = spikes(T, 2, 6, 5, 4, generator=generator), fine(9, 6 // groups, 3, 3, generator=generator)
    theta, options = thresholds(9, generator), dict(stride=stride, padding=1, groups=groups)
    v = dyadic(2, 9, -(-5 // stride), -(-4 // stride), generator=generator)
    expected, v_expected = reference.if_conv2d(
        x, weight, None, v, v_threshold=theta, v_reset=v_reset, stride=(stride,) * 2, padding=(1, 1), groups=groups
    )
    assert 0 < expected.mean() < 1
    with recording() as choices:
        fired, v_last = pk.if_conv2d(pk.pack(x), weight, v=v, v_threshold=theta, v_reset=v_reset, **options)
    assert equal(fired.dense(), expected) and equal(v_last, v_expected)
    (choice,) = choices
    assert (choice.kernel, choice.reason) == ("dense", "Triton uses no tensor cores on sm_75")


@pytest.mark.parametrize("real", [False, True])
def test_samples_are_cut_where_32_steps_are_too_large(sm_75, generator, monkeypatch, real):
    monkeypatch.setattr(unfused, "_samples_at_once", lambda N, values, device: min(N, 2))
    x = dyadic(34, 5, 6, 5, 4, generator=generator) if real else spikes(34, 5, 6, 5, 4, generator=generator)
    weight, v = dyadic(9, 6, 3, 3, generator=generator), dyadic(5, 9, 5, 4, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight, None, v, v_reset=None, padding=(1, 1))
    assert 0 < expected.mean() < 1
    fired, v_last = pk.if_conv2d(x if real else pk.pack(x), weight, v=v, v_reset=None, padding=1)
    assert equal(fired.dense(torch.float32) if isinstance(fired, pk.Spikes) else fired, expected)
    assert equal(v_last, v_expected)


@pytest.mark.parametrize("real", [False, True])
def test_samples_are_halved_once_where_memory_is_too_small(sm_75, generator, monkeypatch, real):
    """From where it is; what is done stays. A second time is an error."""
    x = dyadic(34, 5, 6, 5, 4, generator=generator) if real else spikes(34, 5, 6, 5, 4, generator=generator)
    weight, v = dyadic(9, 6, 3, 3, generator=generator), dyadic(5, 9, 5, 4, generator=generator)
    expected, v_expected = reference.if_conv2d(x, weight, None, v, v_reset=None, padding=(1, 1))
    assert 0 < expected.mean() < 1
    convolve, most, taken = unfused.conv2d, 2, []

    def within_memory(images, *operands):
        taken.append(images.shape[1])
        if images.shape[1] > most:
            raise torch.OutOfMemoryError
        return convolve(images, *operands)

    def run():
        taken.clear()
        with pytest.warns(RuntimeWarning, match="no memory for a layer of 5 samples at a time, so it takes 3"):
            return pk.if_conv2d(x if real else pk.pack(x), weight, v=v, v_reset=None, padding=1)

    monkeypatch.setattr(unfused, "conv2d", within_memory)
    with pytest.raises(torch.OutOfMemoryError):
        run()
    assert taken == [5, 3]
    most = 3
    fired, v_last = run()
    assert taken == [5, 3, 2]
    assert equal(fired.dense(torch.float32) if isinstance(fired, pk.Spikes) else fired, expected)
    assert equal(v_last, v_expected)


@pytest.mark.parametrize("given", [False, True])
def test_sums_of_some_samples_at_a_time(triton_kernels, generator, monkeypatch, given):
    """Sums that the kernels do not join: of spikes and values."""
    x, values = spikes(34, 5, 6, 5, 4, generator=generator), dyadic(34, 5, 6, 5, 4, generator=generator)
    layer = pk.FusedIFSum(nn.Conv2d(6, 6, 3, padding=1), nn.Identity(), v_reset=None).eval()
    for parameter in layer.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    v = dyadic(5, 6, 5, 4, generator=generator) if given else None
    wanted, v_wanted = layer.spike([pk.pack(x), values], v)
    taken, fire = [], layer._fire_chunks
    monkeypatch.setattr(unfused, "_samples_at_once", lambda N, values, device: 2)
    monkeypatch.setattr(type(layer), "_fire_chunks", lambda self, x, v: (taken.append(x[0].shape[1]), fire(x, v))[1])
    fired, v_last = layer.spike([pk.pack(x), values], v)
    assert taken == [2, 2, 1] and equal(v_last, v_wanted)
    assert equal(fired.dense(), wanted.dense()) and 0.01 < wanted.rate() < 0.99


@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends a GPU where there is one")
@pytest.mark.filterwarnings("ignore:on this GPU")
@pytest.mark.parametrize("most, taken", [(3, [5, 3, 2]), (2, [5, 3])])
def test_currents_are_halved_once_where_memory_is_too_small(monkeypatch, generator, most, taken):
    """On a GPU that is not there, of sm_75; a second time is an error."""
    x, weight = spikes(34, 5, 6, 5, 4, generator=generator), dyadic(9, 6, 3, 3, generator=generator)
    expected = unfused.conv2d(x, weight, None, (1, 1), (1, 1), (1, 1), 1)
    convolve, asked = unfused.conv2d, []

    def within_memory(images, *operands):
        asked.append(images.shape[1])
        if images.shape[1] > most:
            raise torch.OutOfMemoryError
        return convolve(images, *operands)

    with pretend_gpu(monkeypatch) as card, torch.no_grad():
        monkeypatch.setattr(backend, "architecture", lambda device: "sm_75")
        monkeypatch.setattr(unfused, "conv2d", within_memory)
        operands = card.on_card(weight), None, (1, 1), (1, 1), (1, 1), 1
        with pytest.warns(RuntimeWarning, match="cuda:0 has no memory for a layer of 5 samples .* it takes 3"):
            if most < 3:
                with pytest.raises(torch.OutOfMemoryError):
                    currents_of(pk.pack(card.on_card(x)), *operands)
            else:
                found = currents_of(pk.pack(card.on_card(x)), *operands)
                assert equal(found.host.flatten(3).transpose(2, 3), expected) and expected.any()
    assert asked == taken


@pytest.mark.parametrize("some", [2, 5])
def test_currents_of_some_samples_at_a_time(sm_75, generator, monkeypatch, some):
    monkeypatch.setattr(unfused, "_samples_at_once", lambda N, values, device: some)
    words, weight = pk.pack(spikes(34, 5, 6, 5, 4, generator=generator))._words, fine(9, 6, 3, 3, generator=generator)
    layer = (1, 1), (1, 1), (1, 1), 1
    found = unfused.conv2d_currents(backend.KERNELS, words, 34, 5, (5, 4), weight, None, *layer)
    monkeypatch.undo()
    assert found.any() and equal(
        found, unfused.conv2d_currents(backend.KERNELS, words, 34, 5, (5, 4), weight, None, *layer)
    )


def test_as_many_samples_as_fit_a_gpu(monkeypatch):
    """[64, 64, 112, 112]: 32 steps of two samples, 0.2 GB, where those of all would be 6.6; fewer, if less is free."""
    values, gpu = 64 * 64 * 112 * 112, torch.device("cuda")
    assert unfused._samples_at_once(64, values, gpu) == 2
    assert unfused._samples_at_once(64, values, torch.device("cpu")) == 64
    assert unfused._samples_at_once(64, 64 * 10, gpu) == 64 and unfused._samples_at_once(1, 10**9, gpu) == 1
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300 << 20, 16 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 8 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: (8 << 30) - (200 << 20))
    assert unfused.free_bytes(gpu) == 500 << 20
    assert unfused._samples_at_once(64, values, gpu) == 1 and unfused._samples_at_once(64, values // 16, gpu) == 20


def test_matrix_product(sm_75, generator):
    x, weight = spikes(33, 3, 20, generator=generator), dyadic(7, 20, generator=generator)
    expected, v_expected = reference.if_linear(x, weight)
    assert 0 < expected.mean() < 1
    fired, v = pk.if_linear(pk.pack(x), weight)
    assert equal(fired.dense(), expected) and equal(v, v_expected)


def test_simulation_with_pooling(generator, monkeypatch, sm_75):
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 5, 3, padding=1, v_threshold=0.25),
        pk.FusedIFConv2d(5, 6, 3, padding=1, v_threshold=0.25),
        pk.MaxPool2d(2),
        pk.Flatten(),
        pk.FusedIFLinear(24, 4, v_threshold=0.5),
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(dyadic(*parameter.shape, generator=generator))
    x = spikes(33, 2, 2, 4, 4, generator=generator)
    unfused = pk.simulate(net, pk.pack(x), 33, chunk=64)
    backend.convolutions.cache_clear()
    monkeypatch.setattr(backend, "architecture", lambda device: "")
    fused = pk.simulate(net, pk.pack(x), 33, chunk=64)
    assert all(fused.rates.values()) and fused.rates == unfused.rates
    assert equal(fused.spikes.dense(), unfused.spikes.dense())


def test_explain_and_one_warning_say_so(sm_75, generator):
    net = nn.Sequential(pk.FusedIFConv2d(2, 3, 3, v_threshold=0.1), pk.FusedIFConv2d(3, 4, 2, v_threshold=0.1)).eval()
    x = pk.pack(spikes(5, 1, 2, 6, 6, generator=generator))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pk.simulate(net, x, 5)
        table = pk.explain(net, x, 5)
    (warning,) = [one for one in said if "on this GPU (sm_75) torch computes" in str(one.message)]
    assert warning.category is RuntimeWarning
    assert [row.kernel for row in table.rows] == ["unfused"] * 2
    assert all(row.why == "Triton uses no tensor cores on sm_75" for row in table.rows)


@pytest.mark.parametrize(
    "target, fused",
    [("sm_75", False), ("sm_70", False), ("sm_80", True), ("sm_121", True), ("sm_200", True), ("gfx942", True)],
)
def test_which_are_fused(target, fused):
    assert backend.has_tensor_cores(target) == fused
