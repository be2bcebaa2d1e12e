"""What is kept with weights: plans of one operation, packed rows, and the hash that finds any change."""

import gc
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from cases import dyadic, spikes
from equality import equal

import proxykernels as pk
from proxykernels.calls import neuron_ops
from proxykernels.kernels import cpu, ops, reference
from proxykernels.kernels.cpu import layer_plans
from proxykernels.kernels.cpu.words import Fallback
from proxykernels.kernels.neuron_models import if_neuron
from proxykernels.kernels.weight_cache import PackedWeights
from proxykernels.plan.library import PIECE, Memory

needs_library = pytest.mark.skipif(not cpu.load(), reason="the C++ kernels are not built here")


@pytest.fixture
def made(monkeypatch):
    """The plans of convolutions that are made, by the shapes of their weights."""
    shapes, make = [], layer_plans.LayerPlans.conv2d

    def noted(self, neurons, size, weight, *others):
        shapes.append(tuple(weight.shape))
        return make(self, neurons, size, weight, *others)

    monkeypatch.setattr(layer_plans.LayerPlans, "conv2d", noted)
    return shapes


def fires(layer, x) -> torch.Tensor:
    found = layer(pk.pack(x)).dense()
    assert found.any() and not found.all()
    return found


@needs_library
def test_a_plan_is_kept_until_weights_or_bias_change(made, generator):
    layer, x = pk.FusedIFConv2d(8, 12, 3).eval(), spikes(6, 2, 8, 7, 7, generator=generator, rate=0.5)
    layer.weight.data, layer.bias.data = dyadic(12, 8, 3, 3, generator=generator), dyadic(12, generator=generator)
    first = fires(layer, x)
    assert equal(fires(layer, x), first) and equal(fires(layer, x[:3, :1]), first[:3, :1])  # other T and N
    assert len(made) == 1
    layer.weight.data[0] += 1.0
    changed = fires(layer, x)
    layer.bias.data -= 0.5
    assert len(made) == 2 and not torch.equal(changed, first) and not torch.equal(fires(layer, x), changed)
    assert len(made) == 3


@needs_library
@pytest.mark.parametrize("reset", [0.0, None], ids=["hard", "soft"])
def test_thresholds_that_change_leave_the_weights_packed(made, generator, reset):
    weight, x = dyadic(12, 30, generator=generator), spikes(9, 4, 30, generator=generator, rate=0.5)
    counts = []
    for theta in torch.linspace(1.0, 1.9, 9):
        expected, v_expected = reference.if_linear(x, weight, v_threshold=theta.item(), v_reset=reset)
        found, v = pk.if_linear(pk.pack(x), weight, v_threshold=theta.item(), v_reset=reset)
        assert equal(found.dense(), expected) and equal(v, v_expected)
        counts.append(int(expected.sum()))
    assert counts[0] > counts[-1] > 0 and len(made) == 1


@needs_library
def test_plans_of_many_sizes_are_bounded(made, generator):
    weight = dyadic(4, 3, 3, 3, generator=generator)
    kernels = pk.kernels.backends.cpu_backend()
    for size in [*range(3, 3 + 2 * layer_plans.MOST_KEPT), 3]:
        x = spikes(5, 1, 3, size, size, generator=generator, rate=0.5)
        assert equal(pk.if_conv2d(pk.pack(x), weight)[0].dense(), reference.if_conv2d(x, weight)[0])
    assert len(made) == 2 * layer_plans.MOST_KEPT + 1  # the first was made again
    (known,) = kernels._packed._known[weight.untyped_storage()].values()
    assert len(known[1]) == layer_plans.MOST_KEPT
    plan = weakref.ref(next(iter(known[1].values())))
    del known, weight
    gc.collect()
    assert plan() is None


@needs_library
@pytest.mark.parametrize("T", [1, 16, 64, 65, 200])
@pytest.mark.parametrize("start", ["rest", "a channel", "a pixel"])
@pytest.mark.parametrize("C_out, groups", [(40, 1), (40, 8), (40, 40), (5, 1)])
def test_any_number_of_steps_from_any_state(generator, C_out, groups, start, T):
    """More steps than a segment has; the states lie where the caller wants them."""
    C_in = C_out if groups > 1 else 9
    x = spikes(T, 3, C_in, 6, 5, generator=generator, rate=0.3)
    weight, bias = dyadic(C_out, C_in // groups, 3, 3, generator=generator), dyadic(C_out, generator=generator, span=4)
    v0 = {
        "rest": None,
        "a channel": dyadic(C_out, 1, 1, generator=generator).expand(3, C_out, 6, 5),
        "a pixel": dyadic(3, C_out, 6, 5, generator=generator),
    }[start]
    options = {"padding": 1, "groups": groups, "v_reset": None}
    expected, v_expected = reference.if_conv2d(x, weight, bias, v0, **options)
    found, v = pk.if_conv2d(pk.pack(x), weight, bias, v0, **options)
    assert expected.any() and equal(found.dense(), expected) and equal(v, v_expected)


@needs_library
@pytest.mark.parametrize("T", [3, 64, 130])
def test_a_shortcut_of_several_segments(generator, T):
    x = spikes(T, 2, 24, 6, 5, generator=generator, rate=0.2)
    weight = dyadic(24, 24, 3, 3, generator=generator)
    neuron = pk.neurons.IFNeuron(v_reset=None)
    both = torch.cat([weight, torch.eye(24).view(24, 24, 1, 1) * torch.ones(3, 3)], 1)
    both[:, 24:] *= torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    other = spikes(T, 2, 24, 6, 5, generator=generator, rate=0.2)
    expected, v_expected = reference.if_conv2d(torch.cat([x, other], 2), both, None, None, padding=1, v_reset=None)
    found, v = neuron_ops.conv2d(pk.pack(x), weight, None, None, neuron, padding=1, shortcut=pk.pack(other))
    assert expected.any() and equal(found.dense(), expected) and equal(v, v_expected)


@needs_library
@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("T", [2, 20, 70])
def test_currents(generator, T, groups):
    """Of a readout: in the order of the layer, on the ways of patterns, rows and depthwise kernels."""
    x = spikes(T, 3, 16, 7, 6, generator=generator, rate=0.3)
    weight, bias = dyadic(16, 16 // groups, 3, 3, generator=generator), dyadic(16, generator=generator)
    found, _ = neuron_ops.conv2d(
        pk.pack(x), weight, bias, None, pk.neurons.LINeuron(decay=0.0), padding=1, groups=groups
    )
    expected = torch.nn.functional.conv2d(x.flatten(0, 1), weight, bias, padding=1, groups=groups)
    assert equal(found, expected.unflatten(0, (T, 3)))


@needs_library
def test_threads_call_a_layer_at_the_same_time(generator):
    layer = pk.FusedIFConv2d(16, 32, 3).eval()
    layer.weight.data, layer.bias.data = dyadic(32, 16, 3, 3, generator=generator), torch.zeros(32)
    inputs = [spikes(20, 2, 16, 9, 9, generator=generator, rate=0.2) for _ in range(4)]
    expected = [reference.if_conv2d(x, layer.weight.data)[0] for x in inputs]
    wrong = []

    def run(x, right):
        with torch.no_grad():
            wrong.extend(k for k in range(20) if not torch.equal(layer(pk.pack(x)).dense(), right))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected[0].any() and not wrong


@needs_library
def test_several_threads_share_a_call(generator):
    x, weight = spikes(30, 4, 32, 12, 12, generator=generator, rate=0.2), dyadic(48, 32, 3, 3, generator=generator)
    expected, before = reference.if_conv2d(x, weight)[0], torch.get_num_threads()
    try:
        for threads in (1, 3, 2):
            torch.set_num_threads(threads)
            assert expected.any() and equal(pk.if_conv2d(pk.pack(x), weight)[0].dense(), expected)
    finally:
        torch.set_num_threads(before)


@needs_library
def test_a_run_of_several_segments_leaves_the_spikes_of_the_call_before_alone(generator):
    """64 steps are one segment, written where the spikes go; 256 are four of as many steps."""
    layer = pk.FusedIFLinear(40, 70).eval()
    calls = [torch.rand(T, 32, 40, generator=generator) < 0.3 for T in (64, 256)]
    with torch.no_grad():
        first = layer(pk.pack(calls[0]))
        before = first.dense()
        second = layer(pk.pack(calls[1]))
        assert before.any() and not equal(second.dense()[192:], before)
        assert equal(first.dense(), before)


@pytest.mark.slow
@needs_library
def test_layers_share_their_working_memory():
    """Ten layers, called in turn, hold about what one of them does; a session of its own would take 7 MB for each."""
    script = """
import os, torch, proxykernels as pk
def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
torch.set_num_threads(1)
layers = [pk.FusedIFConv2d(64, 64, 3, padding=1, bias=False).eval() for _ in range(11)]
x = pk.pack(torch.rand(32, 8, 64, 56, 56) < 0.1)
with torch.no_grad():
    for layer in layers[:1] * 2:
        layer(x)
    before = resident()
    for layer in layers[1:]:
        assert layer(x).dense().any()
    print((resident() - before) / 1e6)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 25  # packed weights and statistics of ten layers


@needs_library
def test_layers_of_other_sizes_follow_each_other(generator):
    """Each takes the memory that the other has written to, in calls of the same sizes and of others."""
    layers = [pk.FusedIFConv2d(8, 24, 3, padding=1, bias=False).eval(), pk.FusedIFConv2d(24, 8, 5, bias=False).eval()]
    for layer in layers:
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    for T, N in ((3, 2), (3, 2), (40, 2), (3, 2), (3, 5), (40, 2)):
        for layer in layers:
            x = spikes(T, N, layer.weight.shape[1], 9, 9, generator=generator, rate=0.2)
            expected = reference.if_conv2d(x, layer.weight.data, padding=layer.padding)[0]
            assert equal(fires(layer, x), expected)


CHANGES = {
    "optimizer": lambda layer: torch.optim.SGD([layer.weight], lr=1.0).step(),
    "load_state_dict": lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": layer.weight + 1}),
    "no_grad": lambda layer: torch.no_grad()(layer.weight.add_)(1.0),
    "data in place": lambda layer: layer.weight.data.add_(1.0),
    "one value": lambda layer: layer.weight.data[0].view(-1)[0].add_(1.0),
    "new data": lambda layer: setattr(layer.weight, "data", layer.weight.data + 1),
    "numpy": lambda layer: layer.weight.detach().numpy().__iadd__(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_packed_weights_are_never_stale(backend, generator, kind, change):
    options = {"v_threshold": 1e6}  # nobody fires: the potential is the sum of all currents
    layer = pk.FusedIFConv2d(3, 5, 3, **options) if kind == "conv" else pk.FusedIFLinear(6, 5, **options)
    layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
    layer.bias.data = dyadic(5, generator=generator)
    layer.weight.grad = torch.ones_like(layer.weight)
    x = spikes(9, 2, *((3, 4, 4) if kind == "conv" else (6,)), generator=generator, rate=1.0)
    before = layer.spike(pk.pack(x))[1]
    change(layer)
    oracle = reference.if_conv2d if kind == "conv" else reference.if_linear
    expected = oracle(x, layer.weight.data, layer.bias.data, **options)[1]
    assert equal(layer.spike(pk.pack(x))[1], expected)
    assert not torch.equal(before, expected)


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_weights_that_another_thread_writes_while_they_are_packed(known):
    """Written right after their fingerprint was taken, and back: what was packed in between is not kept for them."""
    old, new = torch.ones(4, 8), torch.full((4, 8), 2.0)
    weight, interfere = old.clone(), False

    def fingerprint(address, size):
        nonlocal interfere
        result = Fallback().fingerprint(address, size)
        if interfere:
            interfere = False
            weight.copy_(new)
        return result

    packed = PackedWeights(fingerprint)
    if known:
        packed.get("other", torch.clone, weight)
    interfere = True
    torn = packed.get("sum", torch.sum, weight)
    assert torn == new.sum()
    weight.copy_(old)
    assert packed.get("sum", torch.sum, weight) == old.sum()
    weight.copy_(new)
    assert packed.get("sum", torch.sum, weight) == new.sum()


def test_what_is_packed_is_not_written_to_any_more():
    """Another thread's writes reach the weights, not the copy that is being packed."""
    weight = torch.ones(4, 8)

    def pack(values):
        weight.fill_(2.0)
        return values.sum()

    packed = PackedWeights(Fallback().fingerprint)
    assert packed.get("sum", pack, weight) == 32
    assert packed.get("sum", torch.sum, weight) == 64


def test_threads_share_what_was_packed_first():
    """What a thread's kernel reads must not be freed because another thread packs the same."""
    weight = torch.ones(4, 8)
    packed = PackedWeights(Fallback().fingerprint)
    inner = []

    def pack(values):
        if not inner:
            inner.append(None)
            inner[0] = packed.get("copy", torch.clone, weight)
        return values.clone()

    assert packed.get("copy", pack, weight) is inner[0]


def test_packed_weights_live_as_long_as_the_weights():
    kernels = cpu.load()
    words, v, theta = ops.pack(torch.ones(2, 1, 8, 1).bool()), torch.zeros(1, 1, 4), torch.ones(4)
    weight = torch.rand(4, 8)
    kernels.if_conv2d(
        words, 2, (1, 1), weight[..., None, None], None, v, if_neuron(theta, 0.0), (1, 1), (0, 0), (1, 1), 1
    )
    assert len(kernels._packed._known) == 1
    del weight
    gc.collect()
    assert len(kernels._packed._known) == 0


LENGTHS = [*range(1, 70), 127, 128, 129, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77]


def hashed(*parts: torch.Tensor) -> int:
    return Memory([(part.data_ptr(), part.nbytes) for part in parts]).hashed()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_bit_changes_it(length, generator):
    values = torch.randint(0, 256, (length,), dtype=torch.uint8, generator=generator)
    seen, places = {hashed(values)}, {0, 1, length // 3, length // 2, length - 2, length - 1} & {*range(length)}
    for place in places:
        for bit in range(8):
            values[place] ^= 1 << bit
            seen.add(hashed(values))
            values[place] ^= 1 << bit
    assert len(seen) == 1 + 8 * len(places) and hashed(values) in seen


def test_values_that_change_places_change_it(generator):
    """Sums of words stay as they are: values, lines of 64 bytes, pieces that threads take, and tensors."""
    values = torch.randn(3 * PIECE // 4, generator=generator)
    seen = {hashed(values)}
    for size in (1, 2, 4, 8, 16, 64, 1024, PIECE // 4):
        for first, second in ((0, size), (0, 16 * size), (size, len(values) - 2 * size)):
            if second + size > len(values):
                continue
            other = values.clone()
            other[first : first + size] = values[second : second + size]
            other[second : second + size] = values[first : first + size]
            seen.add(hashed(other))
    halves = values.chunk(2)
    assert hashed(halves[0], halves[1]) != hashed(halves[1], halves[0]) and len(seen) > 20


def test_small_changes_of_equal_weights_change_it():
    """Constant memory in which one value grows a little and another shrinks by as much."""
    seen = {hashed(torch.full((4096,), 0.5))}
    for first in range(0, 64, 3):
        for second in range(64, 4096, 611):
            values = torch.full((4096,), 0.5)
            values[first] += 2**-20
            values[second] -= 2**-20
            seen.add(hashed(values))
    assert len(seen) == 1 + 22 * 7


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_give_the_same(threads, generator):
    values = [torch.randn(size, generator=generator) for size in (5, 2_000_003, 0, 700_001)]
    memory = Memory([(part.data_ptr(), part.nbytes) for part in values])
    session = pk.compile(torch.nn.Sequential(pk.FusedIFLinear(3, 2)), torch.rand(1, 3)).new_session()
    expected = memory.hashed()
    assert all(memory.hashed(session, threads) == expected for _ in range(20))
    values[1][-1] += 1
    assert memory.hashed(session, threads) != expected


@pytest.mark.parametrize("target", [target for target in cpu.TARGETS if cpu.load(target)])
def test_the_hash_in_files_stays(target):
    """Every instruction set has it; files that were written before are read."""
    kernels = cpu.load(target)
    for count, expected in ((100_003, 0x4361E907C17A23F0), (7, 0x1F592993548CCF06)):
        values = torch.arange(count, dtype=torch.float32)
        assert kernels.fingerprint(values.data_ptr(), values.nbytes) == expected


def test_a_wrong_layer_is_refused_by_the_reader_of_plans():
    """The engine looks at nothing: neurons of fewer channels than the weights have would be read beyond their end."""
    make, window = cpu.load()._plans.conv2d, ((1, 1), (0, 0), (1, 1))
    operands = (4, 4), torch.ones(6, 2, 3, 3), None, window, 1, False, False, False
    assert make(if_neuron(torch.ones(6), 0.0), *operands)
    with pytest.raises(RuntimeError, match="^the plan cannot be made: neurons have other parameters$"):
        make(if_neuron(torch.ones(5), 0.0), *operands)


@pytest.mark.parametrize("T", [320, 321, 600])
def test_many_steps_of_periodic_inputs(T, generator):
    """Only the first segment of steps is periodic, and may be longer than the others."""
    first, second = (pk.FusedIFConv2d(*channels, 3, padding=1).eval() for channels in ((1, 8), (8, 16)))
    for layer in (first, second):
        layer.weight.data = dyadic(*layer.weight.shape, generator=generator)
        layer.bias.data = dyadic(*layer.bias.shape, generator=generator)
    x = (torch.rand(1, 1, 12, 12, generator=generator) * 64).round() / 64
    with torch.no_grad():
        spikes = second(first(x.expand(T, *x.shape)))
        with pk.use_reference():
            expected = second(first(x.expand(T, *x.shape)))
    assert 0.01 < expected.mean() < 0.9 and equal(spikes + 0, expected + 0)
