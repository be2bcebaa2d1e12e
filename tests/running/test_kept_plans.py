"""What a network keeps of simulations goes with it, and is bounded."""

import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref
from functools import partial
from types import MethodType

import pytest
import torch
from equality import equal
from network_changes import T, graph, image, sequence
from torch import nn

import proxykernels as pk
from proxykernels.running import planned as plans


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
@pytest.mark.parametrize("refer", REFERENCES)
def test_a_network_that_refers_to_itself_is_freed(refer, make):
    net = make()
    refer(net)
    run(net)
    parts = parts_of(net)
    del net
    gc.collect()
    assert [part() for part in parts] == [None] * len(parts)


def test_one_that_comes_to_refer_to_itself_is_freed():
    """After the last call, which nobody sees any more."""
    for refer in REFERENCES:
        net = sequence()
        run(net)
        refer(net)
        part = weakref.ref(net)
        del net
        gc.collect()
        assert part() is None


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
    look, hashed = plans._look_at, plans.Engine.hashed
    monkeypatch.setattr(plans, "_look_at", lambda net: looks.append(net) or look(net))
    monkeypatch.setattr(plans.Engine, "hashed", lambda engine, memory: hashes.append(engine) or hashed(engine, memory))
    for _ in range(3):
        net(torch.stack([image()] * T))
        pk.simulate(net, image(), T)
    assert len(looks) == 1 and len(hashes) == 2 and len(plans._kept(net).engines) == 1
    hashes.clear()
    net.pool.register_forward_hook(lambda *given: None)
    for _ in range(3):
        pk.simulate(net, image(), T)
    assert len(looks) == 2 and not hashes


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
@pytest.mark.parametrize(("kind", "count"), [("networks", 400), ("sizes", 100)])
def test_memory_stays(kind, count):
    """100 engines of 1.6 MB would take more than 160 MB, 400 networks about 20."""
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, kind, str(count)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 12
