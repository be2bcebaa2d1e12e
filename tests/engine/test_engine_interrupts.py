"""What runs and streams give beside spikes, and that an interrupt leaves a stream as before it or as after."""

import copy
import io
import pickle
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial

import layerwise
import pytest
import torch
from cases import dyadic, spikes
from equality import equal
from torch import nn

import proxykernels as pk
from proxykernels.plan.library import Session

STEPS = 1 << 14  # of `held` take some tenths of a second


class Tick(BaseException):
    """What the handler raises."""


@contextmanager
def handled_by(handler):
    before = signal.signal(signal.SIGALRM, handler)
    yield
    signal.signal(signal.SIGALRM, before)


def is_interrupted(call, after, again=0.0):
    """Whether the handler's error comes out of a call. ``after``: seconds until a signal, ``again``: between more."""
    try:
        signal.setitimer(signal.ITIMER_REAL, after, again)
        try:
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Tick:
        return True
    return False


@pytest.fixture(autouse=True)
def ticks():
    def handler(*_):
        raise Tick

    with handled_by(handler):
        yield


@pytest.fixture
def engine(generator):
    net = nn.Sequential(
        pk.FusedIFConv2d(2, 16, 3, padding=1), pk.MaxRatePool2d(2), pk.FusedLIFConv2d(16, 8, 3, decay=0.5),
        pk.Flatten(), pk.FusedIFLinear(8, 5, v_reset=None),
    ).eval()  # fmt: skip
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    return pk.compile(net, torch.zeros(1, 1, 2, 6, 6, dtype=torch.bool))


@pytest.fixture
def sequence(generator):
    return pk.pack(spikes(600, 3, 2, 6, 6, generator=generator, rate=0.2))


def held(generator):
    """A network of real inputs, and an input."""
    net = nn.Sequential(
        pk.FusedLIFLinear(64, 1024, decay=0.875), pk.FusedIFLinear(1024, 1024), pk.FusedIFLinear(1024, 4)
    ).eval()
    for parameter in net.parameters():
        parameter.data = dyadic(*parameter.shape, generator=generator)
    x = torch.rand(8, 64, generator=generator)
    return pk.compile(net, x), x


@pytest.mark.filterwarnings("error")  # nothing is ignored on the way
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "stop", [None, lambda counts, t: torch.zeros(len(counts), dtype=torch.bool)], ids=["all", "rule"]
)
def test_a_long_run_ends_soon(generator, threads, stop):
    engine, x = held(generator)
    expected, before = engine(x, 100).spikes.dense(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        start = time.monotonic()
        assert is_interrupted(lambda: engine(x, 64 * STEPS, stop=stop), 0.1)
        assert time.monotonic() - start < 5
        assert equal(engine(x, 100).spikes.dense(), expected) and expected.any()
    finally:
        torch.set_num_threads(before)


class Late(torch.Tensor):
    """An answer after which a signal comes, once it stands where it is to stand."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs)
        if function is torch.Tensor.copy_:
            signal.raise_signal(signal.SIGALRM)
        return result


def test_a_signal_right_after_a_rule_has_answered(generator):
    engine, x = held(generator)
    asked = []

    def stop(counts, t):
        asked.append(t)
        return torch.zeros(len(counts), dtype=torch.bool).as_subclass(Late)

    with pytest.raises(Tick):
        engine(x, 64, stop=stop)
    assert len(asked) == 1


@pytest.mark.long
@pytest.mark.parametrize("steps", [0, 7])
def test_a_long_run_of_a_stream_ends_soon(engine, sequence, steps):
    """And leaves no trace."""
    long = pk.pack(sequence.dense(torch.bool).repeat(600, 1, 1, 1, 1))
    stream, twin = engine.stream(3), engine.stream(3)
    for one in (stream, twin):
        if steps:
            one(sequence[:steps])
    assert is_interrupted(lambda: stream(long), 0.1)
    assert stream.steps == steps and equal(stream.count(), twin.count())
    assert list(stream._past.tally) == list(twin._past.tally)
    if not steps:
        with pytest.raises(AttributeError, match="a state after its first step"):
            _ = stream.state
    assert equal(stream(sequence).dense(), twin(sequence).dense()) and twin.count().any()
    assert len(twin.state) == 4 and all(torch.equal(v, twin.state[name]) for name, v in stream.state.items())


@pytest.mark.parametrize("portion", [1, 4, 40])
def test_a_stream_that_is_interrupted_again_and_again(engine, sequence, portion):
    """Anywhere, in Python too: its steps, counts and states agree after each signal; in the end all is as without."""
    T, N = sequence.shape[:2]
    fired = engine(sequence, T).spikes.dense()
    so_far = torch.cat([torch.zeros_like(fired[:1]), fired.cumsum(0)]).int()
    assert so_far[-1].any()
    stream, interrupts, attempts = engine.stream(N), 0, 0
    while stream.steps < T:
        attempts += 1
        part = sequence[stream.steps : stream.steps + portion]
        after = (1 + attempts % 13) * (1 + attempts / 100) * 2e-5  # a busy machine takes longer
        interrupts += is_interrupted(lambda part=part: stream(part), after)
        assert equal(stream.count(), so_far[stream.steps])
    whole = engine.stream(N)
    whole(sequence)
    assert interrupts and stream.steps == T and list(stream._past.tally) == list(whole._past.tally)
    assert all(torch.equal(v, whole.state[name]) for name, v in stream.state.items())


@pytest.mark.long
def test_a_handler_that_raises_nothing_ends_nothing(generator):
    """And may run the engine itself."""
    engine, x = held(generator)
    T, inside, short = STEPS // 2, [], []
    expected, expected_short = engine(x, T).count(), engine(x, 10).count()

    def handler(*_):
        if not inside:  # another signal may come here
            inside.append(True)
            short.append(engine(x, 10).count())
            inside.clear()

    with handled_by(handler):
        found = []
        assert not is_interrupted(lambda: found.append(engine(x, T).count()), 0.02, 0.02)
    assert equal(found[0], expected) and expected.any()
    assert len(short) > 1 and all(torch.equal(count, expected_short) for count in short)


@pytest.mark.long
def test_another_thread_is_not_interrupted(generator):
    engine, x = held(generator)
    counts, ended = [], threading.Event()
    expected = engine(x, STEPS // 4).count()

    def work():
        counts.extend(engine(x, STEPS // 4).count() for _ in range(2))
        ended.set()

    threading.Thread(target=work).start()
    assert is_interrupted(ended.wait, 0.02)
    assert ended.wait(60) and len(counts) == 2
    assert all(torch.equal(count, expected) for count in counts) and expected.any()


@pytest.mark.long
def test_a_handler_cannot_use_the_stream_that_runs(generator):
    engine, x = held(generator)
    stream = engine.stream(len(x))
    stream(x)
    sequence, before = x.expand(STEPS, *x.shape).contiguous(), stream.count()
    for use in (lambda: stream(x), stream.count, lambda: stream.logits, lambda: stream.state):
        with handled_by(lambda *_, use=use: stream._session.runs and use()):
            with pytest.raises(RuntimeError, match="in the middle of a call, and a signal handler uses it"):
                is_interrupted(lambda: stream(sequence), 0.02, 0.02)
        assert stream.steps == 1 and equal(stream.count(), before)


def test_setting_a_state_is_interrupted(engine, sequence, monkeypatch):
    """All of it is set, or nothing."""
    write, written = Session.write, []

    def interrupted(session, *arguments):
        written.append(arguments)
        if len(written) == 2:
            raise Tick
        write(session, *arguments)

    stream, other = engine.stream(3), engine.stream(3)
    stream(sequence[:9]), other(sequence[20:40])
    state = other.state
    monkeypatch.setattr(Session, "write", interrupted)
    with pytest.raises(Tick):
        stream.state = state
    assert len(written) == 2 and all(torch.equal(v, state[name]) for name, v in stream.state.items())
    assert equal(stream(sequence[40:60]).dense(), other(sequence[40:60]).dense()) and other.count().any()


def test_samples_that_are_reset_are_interrupted(engine, sequence, monkeypatch):
    """All of a call is done, or nothing, wherever the session is asked for something."""
    stream, calls, ends = engine.stream(3), [], []
    stream(sequence[:9])
    kept, before = stream.state, stream.count()
    attempts = range(60)

    def interrupted(name, whole):
        def call(*arguments, **options):
            calls.append(name)
            if len(calls) == attempt + 1:
                raise Tick
            return whole(*arguments, **options)

        return call

    for attempt in attempts:
        stream.state = kept
        calls.clear()
        with monkeypatch.context() as patch:
            for name in ("read", "write", "run"):
                patch.setattr(Session, name, interrupted(name, getattr(Session, name)))
            try:
                stream.reset(samples=[1])
                stream(sequence[9:12])
            except Tick:
                pass
        told = stream.sample_steps.tolist()
        ends.append(told)
        assert told in ([9, 9, 9], [9, 0, 9], [12, 3, 12])
        if told[1] == 9:
            assert equal(stream.count(), before)
            stream.reset(samples=[1])
        if told[0] == 9:
            stream(sequence[9:12])
        if attempt == attempts[0]:
            wanted = stream.count()
        assert equal(stream.count(), wanted) and wanted.any() and stream.sample_steps.tolist() == [12, 3, 12]
    assert len({*map(tuple, ends)}) == 3 and {"read", "write", "run"} == {*calls}


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
