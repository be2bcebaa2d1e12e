"""What a network keeps of simulations goes with it, is bounded, and notices every change between two calls."""

import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref
from functools import partial
from types import MethodType
from unittest import mock

import pytest
import torch
from equality import equal
from network_changes import CHANGES, OF_SUMS, T, changed, graph, image, sequence
from test_simulate_plans import by_layers, network, planned
from torch import nn

import proxykernels as pk
from proxykernels.running import kept_plans as plans


def refer_by_a_method(net):
    net.own = MethodType(lambda self: None, net)


def refer_by_a_hook(net):
    net.conv.bn.register_forward_hook(MethodType(lambda self, *given: None, net))


def refer_by_a_state_dict_hook(net):
    net.conv.register_state_dict_post_hook(partial(lambda net, *given: None, net))


def refer_by_an_attribute(net):
    net.conv.__dict__["parent"] = net


def refer_by_itself(net):
    net.__dict__["parent"] = net


def refer_by_a_list(net):
    net.parts = [net]


def refer_by_a_closure(net):
    net.conv.callback = lambda: net


REFERENCES = (
    refer_by_a_method, refer_by_a_hook, refer_by_a_state_dict_hook, refer_by_an_attribute, refer_by_itself,
    refer_by_a_list, refer_by_a_closure,
)  # fmt: skip


def run(net):
    for _ in range(2):
        pk.simulate(net, image(), T)
        with torch.no_grad():
            net(torch.stack([image()] * T))


def parts_of(net) -> list[weakref.ref]:
    """The network, a layer and its engine."""
    ((_, engine), *_) = plans._kept(net).engines.values()
    return [weakref.ref(part) for part in (net, net.last, net.last.weight, engine, engine._compiled)]


@pytest.mark.parametrize("make", [sequence, graph])
def test_a_network_that_goes_is_freed_at_once(make):
    """As without a simulation: nothing waits for Python to look for cycles."""
    net = make()
    run(net)
    gc.collect()
    gc.disable()
    try:
        parts = parts_of(net)
        del net
        assert [part() for part in parts] == [None] * len(parts)
    finally:
        gc.enable()


def test_a_layer_alone_that_goes_is_freed_at_once():
    layer = pk.FusedIFLinear(5, 3).eval()
    assert pk.simulate(layer, torch.rand(2, 5), T).count().shape == (2, 3) and plans._kept(layer).engines
    part = weakref.ref(layer)
    gc.disable()
    try:
        del layer
        assert part() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [sequence, graph])
def test_a_network_that_refers_to_itself_is_freed(make):
    """Also one that comes to, after the last call, which nobody sees any more."""
    parts = {}
    for refer in REFERENCES:
        first, last = make(), make()
        refer(first)
        run(first), run(last)
        refer(last)
        parts[refer.__name__] = [*parts_of(first), *parts_of(last)]
    del first, last
    gc.collect()
    assert not [name for name, refs in parts.items() if any(part() is not None for part in refs)]


def test_engines_of_a_few_sizes_are_kept():
    torch.manual_seed(0)
    net = nn.Sequential(
        pk.FusedIFConv2d(1, 3, 3), pk.AdaptiveAvgPool2d(2), pk.Flatten(), pk.FusedIFLinear(12, 5)
    ).eval()
    engines, expected = [], []
    for size in range(5, 25):
        x = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(size))
        expected.append((x, pk.simulate(net, x, 20).count()))
        kept = plans._kept(net).engines
        assert len(kept) <= plans.MOST_ENGINES
        engines.append(weakref.ref([*kept.values()][-1][1]))
    assert sum(engine() is not None for engine in engines) == plans.MOST_ENGINES
    assert sum(counts.sum() for _, counts in expected)
    for x, counts in expected:
        assert equal(pk.simulate(net, x, 20).count(), counts)


def test_the_size_that_was_used_last_stays():
    net = nn.Sequential(pk.FusedIFConv2d(1, 3, 3), pk.AdaptiveAvgPool2d(2), pk.IF()).eval()
    sizes = [torch.rand(1, 1, size, size) for size in range(5, 6 + plans.MOST_ENGINES)]
    for x in sizes[:-1]:
        pk.simulate(net, x, 2)
    first = [*plans._kept(net).engines.values()][0][1]
    for x in (sizes[0], sizes[-1], sizes[0]):
        pk.simulate(net, x, 2)
    assert [*plans._kept(net).engines.values()][-1][1] is first


@pytest.mark.parametrize("make", [sequence, graph])
def test_copies_begin_without_plans(make):
    net = make()
    run(net)
    expected = pk.simulate(net, image(), T).spikes
    saved = io.BytesIO()
    torch.save(net, saved)
    saved.seek(0)
    copies = {
        "deep": copy.deepcopy(net), "shallow": copy.copy(net), "pickled": pickle.loads(pickle.dumps(net)),
        "saved": torch.load(saved, weights_only=True),
    }  # fmt: skip
    for other in copies.values():
        assert plans._kept(other) is None
        assert equal(pk.simulate(other, image(), T).spikes, expected) and plans._kept(other) is not plans._kept(net)
    copies["deep"].last.weight.data *= 2
    assert not equal(pk.simulate(copies["deep"], image(), T).spikes, expected)
    for other in (net, copies["shallow"], net):
        assert equal(pk.simulate(other, image(), T).spikes, expected)


def test_weights_that_change_leave_one_engine():
    net = sequence()
    run(net)
    before = weakref.ref([*plans._kept(net).engines.values()][0][1])
    net.last.weight.data *= 2
    pk.simulate(net, image(), T)
    assert before() is None and len(plans._kept(net).engines) == 1


def test_an_engine_of_weights_that_are_written_meanwhile_is_not_kept(monkeypatch):
    """They are written to while they are packed, and then are what they were."""
    net, made = sequence(), plans._made
    old = net.last.weight.detach().clone()

    def written(*given):
        net.last.weight.data.copy_(-old)
        engine = made(*given)
        monkeypatch.setattr(plans, "_made", made)
        return engine

    monkeypatch.setattr(plans, "_made", written)
    torn = pk.simulate(net, image(), T).count()
    net.last.weight.data.copy_(old)
    result = pk.simulate(net, image(), T).count()
    assert not equal(torn, result) and equal(result, pk.simulate(copy.deepcopy(net), image(), T).count())


def test_nothing_is_done_twice(monkeypatch):
    """simulate after a call of an nn.Sequential: one hash, no new engine. What no engine takes is not hashed."""
    net, looks, hashes = sequence(), [], []
    look, hashed = plans._look_at, plans.Memory.hashed
    monkeypatch.setattr(plans, "_look_at", lambda net: looks.append(net) or look(net))
    monkeypatch.setattr(plans.Memory, "hashed", lambda memory, *by: hashes.append(memory) or hashed(memory, *by))
    for _ in range(3):
        net(torch.stack([image()] * T))
        pk.simulate(net, image(), T)
    made = 2  # hashes: before an engine is made, and after
    assert len(looks) == 1 and len(hashes) == made + 2 and len(plans._kept(net).engines) == 1
    hashes.clear()
    net.pool.register_forward_hook(lambda *given: None)
    for _ in range(3):
        pk.simulate(net, image(), T)
    assert len(looks) == 2 and len(hashes) == 1  # before it was known that no engine takes it


RESIDENT = """
import gc, sys, torch
from torch import nn
import proxykernels as pk
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
torch.set_num_threads(1)
torch.manual_seed(0)
kind, count = sys.argv[1], int(sys.argv[2])
def network(features=32):
    return nn.Sequential(pk.FusedIFConv2d(1, 8, 3), pk.AdaptiveAvgPool2d(4), pk.Flatten(),
                         pk.FusedIFLinear(128, features), pk.FusedIFLinear(features, 10)).eval()
net = network(3000)  # of 1.6 MB
def turn(k):
    if kind == "sizes":
        pk.simulate(net, torch.rand(1, 1, 8 + k % 100, 8 + k // 100), 2)
        return
    other = network()
    if k % 2:
        other.own = other.forward  # a bound method: Python's collector frees it
    pk.simulate(other, torch.rand(1, 1, 12, 12), 2)
for k in range(count // 10):
    turn(k)
gc.collect()
before = resident()
for k in range(count // 10, count):
    turn(k)
gc.collect()
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("kind", "count", "most"), [("networks", 400, 12), ("sizes", 100, 40)])
def test_memory_stays(kind, count, most):
    """100 engines of 1.6 MB would take more than 160 MB, 400 networks about 20.

    A few engines are kept. With matrix tiles each has its weights three times, and freed memory lies between them.
    """
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, kind, str(count)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < most


KINDS = {"sequence": sequence, "graph": graph}
TABLE = [("sequence", name) for name in CHANGES] + [("graph", name) for name in (*CHANGES, *OF_SUMS)]
TURNS = {([*KINDS][k % 2], name) for k, name in enumerate(CHANGES)}  # the other kind is slow


def called(net: nn.Module, x) -> torch.Tensor:
    y = net(x)
    return y.dense() if isinstance(y, pk.Spikes) else y


@torch.no_grad()
def called_by_layers(net: nn.Module, x) -> torch.Tensor:
    with mock.patch.object(plans, "run", return_value=None):
        return called(net, x)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*case, marks=[] if case in TURNS or case[1] in OF_SUMS else pytest.mark.slow) for case in TABLE],
)
@torch.no_grad()
def test_a_change_is_noticed(kind, name):
    """By simulate, by a call, and by a copy that is made of the network and simulated."""
    net, x = KINDS[kind](), image()
    frames = torch.stack([x] * (T - 1) + [2 * x])
    with changed(net, name) as change:
        assert called(net, frames).any()
        for _ in range(2):
            before = pk.simulate(net, x, T)
        change()
        results = [pk.simulate(net, x, T)]  # before anything else looks at the network
        fresh = copy.deepcopy(net)
        expected, y = by_layers(fresh, x, T), called_by_layers(fresh, frames)
        states = [k for k in before.state if k in expected.state]
        assert not equal(before.spikes, expected.spikes) or not all(
            equal(before.state[k][0], expected.state[k][0]) for k in states
        ), "the change changes nothing"
        for same in (net, fresh):
            results.append(pk.simulate(same, x, T))
            assert equal(called(same, frames), y)
            results.append(pk.simulate(same, x, T))
        for result in results:
            assert equal(result.spikes, expected.spikes) and result.state.keys() == expected.state.keys()
            assert all(equal(result.state[k][0], state[0]) for k, state in expected.state.items())


def test_the_table_is_long():
    assert len(TABLE) > 120 and len(CHANGES | OF_SUMS) >= 75


def _conv(net, **attributes):
    vars(net[0]).update(attributes)


def _pool(net, **attributes):
    vars(net[1]).update(attributes)


def _channels(net):
    net[1] = pk.Channels(torch.arange(4))
    pk.simulate(net, image(), T)
    net[1].index.data[2] = 10**6


def _delays(net):
    net[1] = pk.Delay([0, 1, 2, 3])
    pk.simulate(net, image(), T)
    net[1].delay.data[2] = -(10**6)


NONSENSE = {
    "stride": lambda net: _conv(net, stride=(-1, -1)),
    "three strides": lambda net: _conv(net, stride=(1, 1, 1)),
    "dilation": lambda net: _conv(net, dilation=(-1, 1)),
    "no dilation": lambda net: _conv(net, dilation=(0, 0)),
    "groups": lambda net: _conv(net, groups=2),
    "a pool's stride": lambda net: _pool(net, stride=0),
    "a pool's window": lambda net: _pool(net, kernel_size=0),
    "a pool's padding": lambda net: _pool(net, padding=9),
    "a bias of another shape": lambda net: setattr(net[3].bias, "data", torch.ones(255)),
    "no weight": lambda net: setattr(net[3], "weight", None),
    "a weight of one axis": lambda net: setattr(net[3].weight, "data", torch.ones(64)),
    "a complex weight": lambda net: setattr(net[3], "weight", nn.Parameter(net[3].weight.detach() * 1j)),
    "channels that there are not": _channels,
    "negative delays": _delays,
}  # fmt: skip


@pytest.mark.parametrize("change", NONSENSE)
def test_what_becomes_nonsense_is_refused(change):
    """By plans as by layers: no kernel reads what there is not."""
    net = network()
    planned(net, image(), T)
    NONSENSE[change](net)
    with pytest.raises((ValueError, TypeError, IndexError)) as refused:
        by_layers(net, image(), T)
    with pytest.raises(refused.type):
        pk.simulate(net, image(), T)
    with pytest.raises((ValueError, TypeError)):
        pk.compile(net, image())


@pytest.mark.parametrize("shape", [(2, 2), (4, 4), (3, 4), (2,)])
def test_recurrent_weights_of_another_shape_are_refused(shape):
    net = nn.Sequential(pk.FusedRecurrentLinear(5, 3, neuron=pk.neurons.IFNeuron())).eval()
    pk.simulate(net, torch.rand(2, 5), T)
    net[0].recurrent_weight.data = torch.ones(shape)
    for run in (pk.simulate, by_layers):
        with pytest.raises(ValueError, match=r"layer 0: recurrent_weight must have the shape \[3, 3\]"):
            run(net, torch.rand(2, 5), T)
    with pytest.raises(TypeError, match="recurrent_weight has the shape"):
        pk.compile(net, torch.rand(2, 5))


SIZES = "output_size must be an integer or two of them, or None for the size of the input, got "
WRONG = {  # layer, its attribute, what that becomes, the error
    "a size that is none": (pk.AdaptiveAvgPool2d, "output_size", True, TypeError, SIZES + "True"),
    "three sizes": (pk.AdaptiveAvgPool2d, "output_size", (2, 2, 2), TypeError, SIZES + r"\(2, 2, 2\)"),
    "no voters": (pk.Voting, "voters", 0, ValueError, "voters must be at least 1, got 0"),
    "half a voter": (pk.Voting, "voters", 0.5, TypeError, "voters must be an integer, got 0.5"),
    "no divisor": (pk.AvgPool2d, "divisor_override", 0, ValueError, "divisor_override must not be 0, got 0; None"),
    "a divisor that is none": (pk.AvgPool2d, "divisor_override", True, TypeError, "divisor_override must be an int"),
    "a negative size": (pk.AdaptiveAvgPool2d, "output_size", -1, ValueError, "output_size must be at least 0, got -1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_pooling_of_a_wrong_number_is_refused(wrong):
    pool, name, value, error, message = WRONG[wrong]
    net, x = nn.Sequential(pool(2), pk.IF()).eval(), image()
    if pool is pk.Voting:
        x = x.flatten(1)
    planned(net, x, T)
    setattr(net[0], name, value)
    for run in (pk.simulate, by_layers):
        with pytest.raises(error, match=f"layer 0: {message}"):
            run(net, x, T)
    with pytest.raises(error, match=message):
        pk.compile(net, x)
