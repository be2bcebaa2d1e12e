"""What an engine's runs and streams give, beside the spikes: logits, copies, and what a rule of the user's may do."""

import copy
import io
import pickle
import threading
import time
from functools import partial

import layerwise
import pytest
import torch
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.plan.library import Session

T = 32


def converted(last: nn.Module | None = None, between: nn.Module | None = None, features: int = 36):
    """A converted network, the ReLU network, and images."""
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(4 * features, 5), *([last] if last else [])]
    relu = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *([between] if between else []), *head).eval()
    relu[-1 - bool(last)].weight.data *= 3
    x = torch.rand(6, 1, 8, 8)
    return pk.convert(relu, x), relu, x


LAST = {"none": None, "relu": nn.ReLU(), "clipped": nn.Hardtanh(0.0, 0.25)}


@pytest.mark.parametrize("precision", [None, "int16", "int8"])
@pytest.mark.parametrize("last", LAST)
def test_logits_end_in_the_activation(last, precision, tmp_path):
    net, relu, x = converted(LAST[last])
    engine = pk.compile(net, x, precision=precision)
    engine.save(tmp_path / "net")
    stream = engine.stream(len(x))
    for _ in range(T):
        stream(x)
    simulated = layerwise.simulate(net, x, T, precision=precision).logits
    for logits in (engine(x, T).logits, pk.load(tmp_path / "net")(x, T).logits, stream.logits):
        torch.testing.assert_close(logits, simulated, rtol=1e-4, atol=1e-5)
    assert (simulated.min() < -0.1) == (last == "none") and (simulated.max() > 0.26) == (last != "clipped")
    assert (simulated - relu(x)).abs().max() < 0.15 * relu(x).abs().max()


def test_logits_behind_averages_too():
    """Which simulate makes part of the last layer's weights."""
    net, relu, x = converted(nn.ReLU(), nn.AdaptiveAvgPool2d(7), 49)
    simulated = layerwise.simulate(net, x, T).logits
    assert simulated.min() == 0 and simulated.any()
    torch.testing.assert_close(pk.compile(net, x)(x, T).logits, simulated, rtol=1e-4, atol=1e-5)


def test_logits_count_from_the_state_that_is_set():
    """As simulate's do; and the state may be set between two steps, too."""
    net, _, x = converted()
    stream = pk.compile(net, x).stream(len(x))
    first = layerwise.simulate(net, x, 16)
    for _ in range(16):
        stream(x)
    kept, before = stream.state, stream.logits
    torch.testing.assert_close(before, first.logits, rtol=1e-4, atol=1e-5)
    for other in (torch.zeros_like, torch.ones_like):
        changed = stream.state
        changed.update({name: other(v) for name, v in kept.items()})
        stream.state = changed
        assert stream.count().any() and stream.steps == 16
        torch.testing.assert_close(stream.logits, before, rtol=1e-4, atol=1e-5)  # no input came
    stream.state = dict(kept)  # potentials alone
    assert stream.steps == 0 and not stream.count().any()
    for _ in range(16):
        stream(x)
    expected = layerwise.simulate(net, x, 16, state=first.state).logits
    torch.testing.assert_close(stream.logits, expected, rtol=1e-4, atol=1e-5)
    stream.reset()
    for _ in range(16):
        stream(x)
    torch.testing.assert_close(stream.logits, before, rtol=0, atol=0)


def test_a_stream_of_several_threads(monkeypatch):
    """Calls come one after another, and what it counts is read between them."""
    inside, most, run = [], [], Session.run

    def observed(session, *arguments):
        inside.append(session)
        most.append(len(inside))
        time.sleep(1e-3)  # another thread goes on
        try:
            return run(session, *arguments)
        finally:
            inside.remove(session)

    net, _, x = converted()
    engine, threads, steps = pk.compile(net, x), 4, 8
    expected, stream = engine(x, threads * steps), engine.stream(len(x))
    monkeypatch.setattr(Session, "run", observed)
    work = [threading.Thread(target=lambda: [stream(x) for _ in range(steps)]) for _ in range(threads)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert max(most) == 1 and stream.steps == len(most) == threads * steps
    assert equal(stream.count(), expected.count()) and expected.count().any()


def test_what_is_kept_of_a_result_keeps_no_more():
    """Logits, counts and steps have memory of their own, whatever else the run has written; so have copies."""
    net, _, x = converted()
    engine = pk.compile(net, x)
    for run in (engine, partial(pk.simulate, net)):
        for stop in (None, pk.stop.margin(2), pk.stop.margin(0.01, of="logits")):
            result = run(x, T, stop=stop)
            for kept in (result.logits, result.count(), result.steps):
                assert kept.untyped_storage().nbytes() == kept.nbytes and len(kept) == len(x)
            before = result.logits.clone()
            assert equal(copies(result)[0].logits, before) and before.any()
            run(x * 0, T)
            assert equal(result.logits, before)


def copies(value):
    """The value by pickle, copy.deepcopy and torch.save."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return pickle.loads(pickle.dumps(value)), copy.deepcopy(value), torch.load(file, weights_only=False)


def test_copies_of_engines():
    net, _, x = converted()
    engine = pk.compile(net, x)
    expected = engine(x, T)
    for again in copies(engine):
        assert equal(again(x, T).count(), expected.count()) and expected.count().any()
        assert again.plan is not engine.plan and str(again).splitlines()[:-1] == str(engine).splitlines()[:-1]


def test_copies_of_results():
    net, _, x = converted()
    engine = pk.compile(net, x)
    for stop in (None, pk.stop.margin(2)):
        plain = engine(x, T, stop=stop)
        for again in copies(engine(x, T, stop=stop)):
            assert equal(again.spikes.dense(), plain.spikes.dense()) and equal(again.logits, plain.logits)
            assert equal(again.steps, plain.steps) and str(again) == str(plain)
            assert again.rates == plain.rates and again.synops == plain.synops
    assert len(pickle.dumps(engine(x, 1))) < len(pickle.dumps(engine))  # the weights do not come along


def test_a_stream_is_not_copied():
    stream = pk.compile(nn.Sequential(pk.FusedIFLinear(4, 3)), torch.ones(1, 4)).stream()
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a stream cannot be copied or pickled: keep stream.state"):
            attempt(stream)


def test_a_rule_may_write_to_the_counts():
    """They are its own."""

    def enough(counts, t):
        return counts.sum(1) >= 30

    def rule(counts, t):
        decided = enough(counts, t)
        counts.zero_()
        return decided

    net, _, x = converted()
    expected = layerwise.simulate(net, x, 40, chunk=8, stop=enough).steps
    assert 8 < expected.min() < expected.max()
    assert equal(layerwise.simulate(net, x, 40, chunk=8, stop=rule).steps, expected)
    assert equal(pk.compile(net, x)(x, 40, stop=rule).steps, expected)


@pytest.mark.parametrize("way", ["simulate", "engine"])
def test_a_rule_is_a_function(way):
    net, _, x = converted()
    run = pk.compile(net, x) if way == "engine" else lambda x, T, stop: layerwise.simulate(net, x, T, stop=stop)
    with pytest.raises(TypeError, match=r"stop must be a rule such as proxykernels.stop.margin\(8\), .* got 8"):
        run(x, 40, stop=8)
