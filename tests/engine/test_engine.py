"""Networks compiled once: the spikes of the definition, whatever the input and the cut in time; and what is refused."""

import ast
import copy
import ctypes
import os
import subprocess
import sys
import threading
import time
from ctypes import c_int64
from pathlib import Path

import layerwise
import pytest
import torch
from equality import equal
from oracle import make_dyadic, trace
from torch import nn

import proxykernels as pk
from proxykernels.kernels import cpu
from proxykernels.plan import library
from proxykernels.plan.follow import follow
from proxykernels.plan.library import Asked
from proxykernels.running.engine import Engine

TARGETS = [target for target in cpu.TARGETS if cpu.load(target)]
NEURONS = {
    "if": pk.neurons.IFNeuron(v_threshold=0.5),
    "if soft": pk.neurons.IFNeuron(v_threshold=torch.linspace(0.25, 1, 40), v_reset=None),
    "lif": pk.neurons.LIFNeuron(v_threshold=0.5, v_reset=0.0, decay=0.75),
    "cuba": pk.neurons.CubaLIFNeuron(v_threshold=0.5, v_reset=None, decay=0.75, current_decay=0.5),
    "adaptive": pk.neurons.ALIFNeuron(v_threshold=0.5, v_reset=None, decay=0.5, adaptation_decay=0.5, adaptation=0.25),
    "refractory": pk.neurons.RefractoryLIFNeuron(v_threshold=0.5, v_reset=0.0, decay=0.5, refractory=2),
    "loihi": pk.neurons.LoihiNeuron(v_threshold=2.0, decay=0.75, current_decay=0.5),
}


def network(neuron=NEURONS["if"], C=40) -> pk.Network:
    """A convolution, pooling, a residual sum, averages, and a matrix product."""
    torch.manual_seed(0)
    net = pk.Network()
    net.append("conv", pk.FusedConv2d(2, C, 3, padding=1, neuron=neuron), ("",))
    net.append("pool", pk.MaxPool2d(2, ceil_mode=True), ("conv",))
    sum_ = pk.FusedSum(nn.Conv2d(C, C, 3, padding=1), nn.Identity(), neuron=pk.neurons.IFNeuron(v_threshold=1.0))
    net.append("sum", sum_, ("pool", "pool"))
    net.append("average", pk.AvgPool2d(2, padding=1), ("sum",))
    net.append("flatten", pk.Flatten(), ("average",))
    net.append("out", pk.FusedIFLinear(C * 9, 10, v_threshold=0.25), ("flatten",))
    make_dyadic(net, 1 / 64)
    return net.eval()


def image(N=2, *sizes):
    torch.manual_seed(1)
    return (torch.rand(*sizes, N, 2, 9, 7) * 4).round() / 4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_engine_is_the_definition(neuron, target):
    net, x = network(NEURONS[neuron]), image()
    values, _ = trace(net, x.expand(37, *x.shape))
    engine = Engine(follow(net, x.shape[1:], True), target=target)
    result = engine(x, 37)
    assert values["out"].any() and values["sum"].any()
    assert equal(result.spikes.dense(), values["out"])
    assert result.rates == pytest.approx({name: values[name].mean().item() for name in ("conv", "sum", "out")})


@pytest.mark.parametrize("target", TARGETS)
def test_a_channel_that_is_not_there_never_fires(target):
    """Behind the few currents of a layer lie large ones that another layer has left there."""
    net = nn.Sequential(pk.FusedIFLinear(2, 128, bias=False), pk.FusedIFLinear(128, 4, bias=False, v_threshold=100.0))
    nn.init.constant_(net[0].weight, 2.0**100)
    nn.init.constant_(net[1].weight, 0.5)
    x, T = torch.ones(1, 2), 8
    result = Engine(follow(net.eval(), (2,), True), target=target)(x, T)
    assert result.rates == {"0": 1.0, "1": 0.5}  # 64 a step, and 100 to fire
    assert result.spikes._words.flatten().tolist() == [0, 15] * 4


@pytest.mark.parametrize("given", ["held", "real", "spikes", "counts", "bool"])
def test_inputs(given):
    net, T = network(), 33
    x = image(3, T) if given != "held" else image(3).expand(T, 3, 2, 9, 7)
    if given in ("spikes", "bool"):
        x = (x > 0.5).float()
    if given == "counts":
        x = (4 * x).round()
    as_given = {"held": lambda: x[0], "spikes": lambda: pk.pack(x), "counts": lambda: x.int(), "bool": lambda: x.bool()}
    values, _ = trace(net, x)
    engine = pk.compile(net, as_given.get(given, lambda: x)())
    assert equal(engine(as_given.get(given, lambda: x)(), T).spikes.dense(), values["out"])
    assert values["out"].any()


def test_an_integer_sample_may_be_of_spikes():
    """What an engine takes is told by the type of the sample, whatever its values."""
    net = nn.Sequential(pk.AvgPool2d(2), pk.FusedIFConv2d(2, 4, 1, v_threshold=0.01))
    counts = (image(3, 9) * 4).int()
    sample = counts.clamp(max=1)
    engine = pk.compile(net, sample)
    for x in (sample, sample.bool(), sample.float(), counts):
        expected = layerwise.simulate(net, x, 9).count()
        assert equal(engine(x, 9).count(), expected) and expected.any()
    with pytest.raises(TypeError, match="x must be spikes, .* compiled with a sample of floats or integers"):
        pk.compile(net, sample.bool())(counts, 9)


@pytest.mark.parametrize("N", [0, 1, 63, 64, 65, 130])
def test_any_batch(N):
    net, x = network(), image(N)
    result, expected = pk.compile(net, image(1))(x, 5), layerwise.simulate(net, x, 5) if N else None
    assert result.count().shape == (N, 10)
    if N:
        assert equal(result.spikes.dense(), expected.spikes.dense()) and result.count().any()
        assert result.synops == expected.synops
        assert result.rates == pytest.approx(expected.rates)


def test_stop():
    net, x = network(), image(70)
    rule = pk.stop.margin(3)
    stopped, expected = pk.compile(net, x)(x, 40, stop=rule), layerwise.simulate(net, x, 40, stop=rule)
    assert equal(stopped.spikes.dense(), expected.spikes.dense())
    assert equal(stopped.steps, expected.steps) and 8 <= stopped.steps.min() < stopped.steps.max()
    assert stopped.rates == pytest.approx(expected.rates)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_of_the_rule_ends_the_run(monkeypatch):
    """Python raises it as it enters the rule, where the library calls it, and ignores it."""
    engine, asked = pk.compile(network(), image()), []

    def interrupted(self, *arguments):
        asked.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Asked, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine(image(70), 40, stop=pk.stop.margin(3))
    assert len(asked) == 1
    monkeypatch.undo()
    test_stop()


def test_an_error_of_the_rule_ends_the_run():
    asked = []

    def wrong(counts, t):
        asked.append(t)
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        pk.compile(network(), image())(image(70), 40, stop=wrong)
    assert asked == [8]


def test_logits_and_counts():
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 5))
    x = torch.rand(6, 1, 8, 8)
    net = pk.convert(relu, x)
    engine = pk.compile(net, x)
    result, expected = engine(x, 64), relu(x)
    assert (result.logits - expected).abs().max() < 0.1 * expected.abs().max()  # after so many steps
    assert equal(result.count(until=9), result.spikes[:9].count()) and result.count().any()
    stream = engine.stream(6)
    for _ in range(64):
        stream(x)
    assert equal(stream.logits, result.logits) and equal(stream.count(), result.count())
    with pytest.raises(AttributeError, match="not converted"):
        _ = pk.compile(network(), image())(image(), 2).logits


def test_readout():
    torch.manual_seed(0)
    net = nn.Sequential(pk.FusedIFLinear(6, 20, v_threshold=0.25), pk.FusedLILinear(20, 3, decay=0.5))
    make_dyadic(net, 1 / 16)
    x = (torch.rand(4, 6) * 8).round() / 8
    engine, expected = pk.compile(net, x), layerwise.simulate(net, x, 9).potentials
    assert equal(engine(x, 9).potentials, expected) and expected.any()
    stream = engine.stream(4)
    assert equal(torch.cat([stream(x) for _ in range(9)]), expected)
    with pytest.raises(ValueError, match="does not fire"):
        engine(x, 9, stop=pk.stop.margin(1))


@pytest.mark.parametrize("neuron", ["if", "cuba"])
def test_stream_goes_on(neuron):
    net, x = network(NEURONS[neuron]), image(2, 40)
    engine = pk.compile(net, x)
    expected, stream = engine(x, 40), engine.stream(2)
    parts = [stream(x[0])] + [stream(x[a:b]) for a, b in ((1, 4), (4, 37), (37, 40))]
    assert equal(torch.cat([part.dense() for part in parts]), expected.spikes.dense())
    assert equal(stream.count(), expected.count()) and expected.count().any()
    state = layerwise.simulate(net, x, 40).state
    assert all(torch.equal(v, state[name][0]) for name, v in stream.state.items())
    other = engine.stream(2)
    other.state = stream.state
    assert equal(other(x[:5]).dense(), stream(x[:5]).dense())
    stream.reset()
    assert equal(stream(x).dense(), expected.spikes.dense())


COUNTER = """
#include <atomic>
#include <cstddef>
extern "C" {
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_memalign(size_t, size_t);
std::atomic<long> allocations{0};
void* malloc(size_t n) { allocations++; return __libc_malloc(n); }
void* calloc(size_t n, size_t m) { allocations++; return __libc_calloc(n, m); }
void* aligned_alloc(size_t a, size_t n) { allocations++; return __libc_memalign(a, n); }
}
"""
COUNTED_RUN = """
import ctypes, torch, proxykernels as pk
from test_engine import image, network
from sigma_delta_nets import Pooled, prepared
torch.set_num_threads(2)
count = ctypes.c_long.in_dll(ctypes.CDLL(None), "allocations")

def counted(net, x):
    engine = pk.compile(net, x)
    session, given = engine.new_session(), engine.inputs.given(x)
    run, made = session._run, []
    def observed(*arguments):
        before = count.value
        result = run(*arguments)
        made.append(count.value - before)
        return result
    session._run = observed
    for T in (70, 70, 3, 3, 33, 70):  # once the memory for most steps is there
        engine.advance(session, given, T, engine.tally(), fresh=True)
    return made

x = torch.randn(2, 2, 18, 18)
changes = pk.convert(prepared(Pooled()), x, neuron="sigma-delta")
print({"if": counted(network(), image()), "sigma-delta": counted(changes, x)})
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts glibc's allocations")
def test_a_run_allocates_nothing(tmp_path):
    (tmp_path / "count.cpp").write_text(COUNTER)
    command = ["g++", "-shared", "-fPIC", "-O1", "-o", tmp_path / "count.so", tmp_path / "count.cpp"]
    subprocess.run(command, check=True)
    path = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"LD_PRELOAD": str(tmp_path / "count.so"), "PYTHONPATH": path}
    ran = subprocess.run([sys.executable, "-c", COUNTED_RUN], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    made = ast.literal_eval(ran.stdout)
    for neurons in ("if", "sigma-delta"):
        first, *others = made[neurons]
        assert first > 3 and set(others) == {0}, neurons


def test_threads_and_sessions():
    net, x = network(), image(5)
    engine, before = pk.compile(net, x), torch.get_num_threads()
    expected, wrong = engine(x, 20).spikes.dense(), []

    def call():
        for _ in range(20):
            if not torch.equal(engine(x, 20).spikes.dense(), expected):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
    try:
        for threads in (1, 2, 5, 3):
            torch.set_num_threads(threads)
            assert equal(engine(x, 20).spikes.dense(), expected)
    finally:
        torch.set_num_threads(before)


def test_what_each_operation_took():
    """Added to by each run, of all its segments: no more than the run, and of no operation nothing."""
    net, x = network(), image(3)
    engine, T = pk.compile(net, x), 130
    session, runs = engine.new_session(), []
    session.took = (c_int64 * len(engine.plan.operations))()
    for _ in range(2):
        start = time.perf_counter_ns()
        written = engine.advance(session, engine.inputs.given(x), T, engine.tally(), fresh=True)
        runs.append((time.perf_counter_ns() - start, list(session.took)))
        assert equal(written.tensor().dense(), engine(x, T).spikes.dense())
    (first, once), (second, twice) = runs
    assert min(once) > 0 and sum(once) < first and all(a > b for a, b in zip(twice, once, strict=True))
    assert sum(twice) < first + second


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs():
    net, x = network(), image(3)
    engine = pk.compile(net, x)
    words = engine(x, 8).spikes._words.numpy().tobytes()
    child = os.fork()
    if not child:
        os._exit(0 if engine(x, 8).spikes._words.numpy().tobytes() == words else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_weights_are_copied(tmp_path):
    net, x = network(), image()
    engine = pk.compile(net, x)
    expected = engine(x, 9).count()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert equal(engine(x, 9).count(), expected) and expected.any()
    engine.save(tmp_path / "net")
    assert equal(pk.load(tmp_path / "net")(x, 9).count(), expected)


def test_print():
    text = repr(pk.compile(network(), image()))
    assert "sum" in text and "max pool" in text and "MB of packed weights" in text


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(pk.IF(), (3, 0, 4)), (pk.LI(), (3, 0, 4)), (pk.IF(), (0, 2, 2)), (pk.AdaptiveAvgPool2d((0, 2)), (2, 4, 4))],
    ids=str,
)
def test_samples_without_values_are_refused(layer, shape):
    with pytest.raises(TypeError, match="the engine does not take (samples of the shape|module 0: it gives)"):
        pk.compile(nn.Sequential(layer, pk.IF()), torch.rand(2, *shape))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_without_values_are_refused():
    with pytest.raises(ValueError, match=r"layer 0: weight must have no size of 0, got \[0, 2\]"):
        pk.compile(nn.Sequential(pk.FusedIFLinear(2, 0)), torch.rand(3, 2))


class Own(nn.Module):
    def forward(self, x):
        return x * x


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (Own(), r"module 1.0 \(Own\): its forward pass multiplies values by one another"),
        (pk.Upsample(scale_factor=2, mode="bilinear"), r"module 1.0 \(Upsample\): mode 'bilinear', which interpolates"),
        (pk.Voting(3), r"module 1.0 \(Voting\): its input has the shape \(T, N, 16, 2, 2\)"),
    ],
)
def test_refused_with_its_path(module, path):
    net = nn.Sequential(pk.FusedIFConv2d(1, 16, 1), nn.Sequential(module), pk.Flatten(), pk.FusedIFLinear(64, 2))
    with pytest.raises(TypeError, match=path):
        pk.compile(net, torch.rand(1, 1, 2, 2))


def test_hooks_are_refused():
    net = nn.Sequential(pk.FusedIFLinear(3, 2))
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match=r"module 0 .*hooks"):
        pk.compile(net, torch.rand(1, 3))


def test_bad_input():
    net, x = network(), image()
    engine = pk.compile(net, x)
    for given, error, text in (
        (x[:, :1], ValueError, r"shape \[N, 2, 9, 7\]"),
        (x.expand(3, *x.shape), ValueError, "3 steps, and T is 4"),
        (x.int(), TypeError, "floating point"),
        (x * torch.nan, ValueError, "finite"),
        ("x", TypeError, "torch.Tensor"),
    ):
        with pytest.raises(error, match=text):
            engine(given, 4)
    with pytest.raises(TypeError, match="x must be a torch.Tensor, got tuple"):
        pk.compile(net, (2, 9, 7))
    with pytest.raises(ValueError, match="x must have at least one step"):
        pk.compile(net, x.expand(0, *x.shape))
    with pytest.raises(ValueError, match="precision must be None, 'int16' or 'int8', got 'int4'"):
        pk.compile(net, x, precision="int4")
    with pytest.raises(ValueError, match="T must"):
        engine(x, 0)
    with pytest.raises(ValueError, match="batch"):
        engine.stream(0)
    with pytest.raises(ValueError, match="2 samples"):
        engine.stream(2)(x[:1])
    for name, value in (("weight", torch.inf), ("weight", 2.0**127), ("bias", 2.0**110)):
        broken = copy.deepcopy(net)
        getattr(broken.out, name).data.view(-1)[0] = value
        with pytest.raises(ValueError, match=f"layer out: {name} must be finite"):
            pk.compile(broken, x)


MADE = """
import builtins, sys, threading
import torch, proxykernels as pk

net = torch.nn.Sequential(pk.FusedIFLinear(8, 4, v_threshold=0.5))
torch.nn.init.ones_(net[0].weight)
x = torch.ones(2, 8)
engine = pk.compile(net, x)
stream = engine.stream(2)
print(int(stream(x).count().sum()), int(pk.simulate(net, x, T=4).count().sum()))
"""

KEPT = {
    "globals": "",
    "thread": """
there = threading.Event()

def keep(engine):
    stream = engine.stream(2)
    stream(x)
    there.set()
    threading.Event().wait()

threading.Thread(target=keep, args=(engine,), daemon=True).start()
there.wait()
""",
    "other modules": """
class Holder: pass
holder = Holder(); holder.me = holder; holder.engine = engine; holder.stream = stream
sys.modules["kept"] = holder
torch.kept = builtins.kept = engine, stream
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("kept", KEPT)
def test_a_process_ends_without_a_word(kept):
    ended = subprocess.run([sys.executable, "-c", MADE + KEPT[kept]], capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "8 32\n", "")


def address(functions) -> int:
    return ctypes.addressof(functions)


@pytest.mark.parametrize("most", TARGETS)
def test_the_environment_names_the_fastest_that_an_engine_takes(monkeypatch, most):
    """In what it computes with, what it says and what it prints; and others are compiled, which give the same."""
    own = {target: library.load_engine(target)[1] for target in TARGETS}
    assert len(set(map(address, own.values()))) == len(TARGETS)
    monkeypatch.setenv("PROXYKERNELS_CPU", most)
    net, x = network(), image()
    engine = pk.compile(net, x)
    assert engine.target == most and f"float32, {most}\n" in repr(engine)
    assert address(engine._compiled.functions) == address(own[most])
    expected = layerwise.simulate(net, x, 9).spikes.dense()
    assert expected.any() and equal(engine(x, 9).spikes.dense(), expected)
    for target in TARGETS[: TARGETS.index(most)]:
        with pytest.raises(RuntimeError, match=f"the engine cannot run {target} here: .* or PROXYKERNELS_CPU"):
            Engine(engine.plan, target=target)


def test_of_those_that_it_may_take_it_takes_the_fastest_that_it_has(monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", "amx")
    assert pk.compile(network(), image()).target == next(filter(cpu.load, cpu.TARGETS))  # as the layers' kernels


def test_another_name_is_refused(monkeypatch):
    monkeypatch.setenv("PROXYKERNELS_CPU", "sse")
    with pytest.raises(ValueError, match="PROXYKERNELS_CPU must be one of amx, avx512, avx2, portable, got 'sse'"):
        pk.compile(network(), image())
