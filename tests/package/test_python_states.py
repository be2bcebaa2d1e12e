"""Networks that keep a state in Python: each is translated to what it does step by step, or refused by name.

A translation follows a forward pass once. What Python counts, remembers or draws there would be frozen at its first
step, and many spikes be wrong in silence.
"""

import array
import collections
import contextvars
import ctypes
import dataclasses
import enum
import functools
import io
import itertools
import os
import queue
import random
import sys
import tempfile
import threading
import time
import types
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exchange import snntorch_fires, spikingjelly_fires
from torch import nn

import proxykernels as pk

T = 128
COUNT, COUNTS = 0, [0]
MODULE = types.ModuleType("of_a_user")


class Gate(nn.Module):
    """Passes on what it is given, but at every fourth call nothing. ``tick`` counts the calls from 0."""

    def __init__(self, tick):
        super().__init__()
        self.tick = tick

    def forward(self, x):
        return x * 0.0 if self.tick() % 4 == 3 else x


class Kind(enum.Enum):
    ONE = 1


@dataclasses.dataclass
class Record:
    n: int = -1
    inner: object = None

    def up(self):
        self.n += 1
        return self.n


class Slots:
    __slots__ = ("n",)

    def __init__(self):
        self.n = -1


class Meta(type):
    n = -1


class WithMeta(metaclass=Meta):
    shared = -1


class Property:
    hidden = -1

    @property
    def n(self):
        self.hidden += 1
        return self.hidden


class Iterated:
    n = -1

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return self.n


class Lookup:
    def __getattr__(self, name):
        n = vars(self).get("misses", -1) + 1
        self.misses = n
        return n


class Function(torch.autograd.Function):
    n = -1

    @staticmethod
    def forward(ctx, x):
        Function.n += 1
        return x.clone()


def closure():
    n = -1

    def tick():
        nonlocal n
        n += 1
        return n

    return tick


def of_global():
    global COUNT
    COUNT += 1
    return COUNT - 1


def of_globals_by_name():
    globals()["COUNT"] += 1
    return globals()["COUNT"] - 1


def of_list():
    COUNTS[0] += 1
    return COUNTS[0] - 1


def of_module():
    MODULE.n = getattr(MODULE, "n", -1) + 1
    return MODULE.n


def of_environment():
    n = int(os.environ.get("COUNT_OF_A_USER", -1)) + 1
    os.environ["COUNT_OF_A_USER"] = str(n)
    return n


def of_interpreter():
    sys.count_of_a_user = getattr(sys, "count_of_a_user", -1) + 1
    return sys.count_of_a_user


def of_own_attribute():
    of_own_attribute.n += 1
    return of_own_attribute.n


of_own_attribute.n = -1


def up(holder, name="n"):
    """Count on in an attribute."""
    setattr(holder, name, getattr(holder, name) + 1)
    return getattr(holder, name)


def stepped(counts, add):
    """Count on in a container."""
    add(counts)
    return len(counts) - 1


def defaults(seen):
    return types.FunctionType((lambda s: len(s) - 1 if s.append(0) is None else 0).__code__, globals(), "f", (seen,))


def keyword_defaults(seen):
    function = types.FunctionType(COUNT_BY_KEYWORD.__code__, globals(), "f")
    function.__kwdefaults__ = {"seen": seen}
    return function


def COUNT_BY_KEYWORD(*, seen):
    seen["n"] += 1
    return seen["n"]


def added(values):
    """Count on in the first of some numbers, in place."""
    values[0] += 1
    return int(values[0])


def cached():
    numbers = itertools.count()

    @functools.lru_cache
    def number(k):
        return next(numbers)

    calls = Record()
    return lambda: number(calls.up())


def in_context():
    variable = contextvars.ContextVar("n", default=-1)

    def tick():
        variable.set(variable.get() + 1)
        return variable.get()

    return tick


def in_thread():
    local = threading.local()
    local.n = -1
    return lambda: up(local)


def in_file():
    file = tempfile.TemporaryFile()
    return lambda: file.write(b"x") * 0 + file.tell() - 1


def in_text():
    text = io.StringIO()
    return lambda: text.write("x") * 0 + text.tell() - 1


def in_queue():
    line = queue.Queue()
    return lambda: line.put(0) or line.qsize() - 1


def weakly():
    holder = Record()
    reference = weakref.ref(holder)
    KEEP.append(holder)
    return lambda: up(reference())


KEEP: list = []


def popped(numbers, pop):
    return lambda: pop(numbers)


def in_pairs(numbers):
    return functools.partial(next, iter(numbers))


def of_time():
    """Counts tenths of a millisecond: other ones at every call."""
    start = time.perf_counter()
    return lambda: int((time.perf_counter() - start) * 1e4)


TICKS = {
    "closure": closure,
    "closure of a list": lambda: (lambda c: lambda: added(c))([-1]),
    "lambda of an object": lambda: (lambda r: lambda: up(r))(Record()),
    "global": lambda: of_global,
    "global by its name": lambda: of_globals_by_name,
    "global list": lambda: of_list,
    "module": lambda: of_module,
    "environment": lambda: of_environment,
    "interpreter": lambda: of_interpreter,
    "attribute of a function": lambda: of_own_attribute,
    "mutable default": lambda: defaults([]),
    "keyword default": lambda: keyword_defaults({"n": -1}),
    "partial": lambda: functools.partial(added, [-1]),
    "partial with keywords": lambda: functools.partial(up, holder=Record()),
    "bound method": lambda: Record().up,
    "nested objects": lambda: (lambda r: lambda: r.inner.inner.up())(Record(0, Record(0, Record()))),
    "slots": lambda: functools.partial(up, Slots()),
    "namespace": lambda: functools.partial(up, SimpleNamespace(n=-1)),
    "metaclass": lambda: functools.partial(up, WithMeta),
    "class": lambda: lambda: up(WithMeta, "shared"),
    "enumeration": lambda: lambda: up(Kind.ONE, "n") if hasattr(Kind.ONE, "n") else setattr(Kind.ONE, "n", 0) or 0,
    "property": lambda: functools.partial(getattr, Property(), "n"),
    "iterator of a class": lambda: functools.partial(next, Iterated()),
    "lookup": lambda: functools.partial(getattr, Lookup(), "nothing"),
    "autograd function": lambda: lambda: (Function.apply(torch.zeros(1)), Function.n)[1],
    "cache": cached,
    "context": in_context,
    "thread": in_thread,
    "file": in_file,
    "text": in_text,
    "queue": in_queue,
    "weak reference": weakly,
    "generator": lambda: functools.partial(next, (k for k in range(10**6))),
    "count": lambda: functools.partial(next, itertools.count()),
    "cycle": lambda: functools.partial(next, itertools.cycle(range(8))),
    "chain": lambda: functools.partial(next, itertools.chain([0], itertools.count(1))),
    "iterator of a list": lambda: in_pairs(list(range(10**4))),
    "iterator of a dict": lambda: in_pairs(dict.fromkeys(range(10**4))),
    "enumerate": lambda: (lambda e: lambda: next(e)[0])(enumerate(itertools.repeat(1))),
    "map": lambda: functools.partial(next, map(int, itertools.count())),
    "zip": lambda: (lambda z: lambda: next(z)[0])(zip(itertools.count(), itertools.repeat(0), strict=False)),
    "list": lambda: functools.partial(stepped, [], lambda c: c.append(0)),
    "deque": lambda: functools.partial(stepped, collections.deque(), lambda c: c.append(0)),
    "rotated deque": lambda: (lambda d: lambda: d.rotate(-1) or (d[0] - 1) % 8)(collections.deque(range(8))),
    "dict": lambda: functools.partial(stepped, {}, lambda c: c.update({len(c): 0})),
    "set": lambda: functools.partial(stepped, set(), lambda c: c.add(len(c))),
    "counter": lambda: (lambda c: lambda: c.update("a") or c["a"] - 1)(collections.Counter()),
    "defaultdict": lambda: (lambda c: lambda: c.__setitem__(0, c[0] + 1) or c[0] - 1)(collections.defaultdict(int)),
    "popped list": lambda: popped(list(range(9999, -1, -1)), list.pop),
    "bytearray": lambda: functools.partial(stepped, bytearray(), lambda c: c.append(0)),
    "array": lambda: functools.partial(added, array.array("i", [-1])),
    "c type": lambda: (lambda c: lambda: up(c, "value"))(ctypes.c_int(-1)),
    "memory": lambda: functools.partial(added, memoryview(bytearray(1))),
    "numpy": lambda: functools.partial(added, np.array([-1])),
    "tensor": lambda: functools.partial(added, torch.tensor([-1])),
    "clock": of_time,
    "random": lambda: lambda: random.randrange(4),
    "random of an object": lambda: functools.partial(random.Random(0).randrange, 4),
    "numpy's random": lambda: lambda: np.random.randint(4),
    "numpy's generator": lambda: functools.partial(np.random.default_rng(0).integers, 4),
    "numpy's old generator": lambda: functools.partial(np.random.RandomState(0).randint, 4),
    "torch's random": lambda: lambda: int(torch.randint(4, ())),
    "torch's generator": lambda: (lambda g: lambda: int(torch.randint(4, (), generator=g)))(torch.Generator()),
    "system's random": lambda: lambda: os.urandom(1)[0],
}


class Own(nn.Module):
    """A module with a way of its own: ``step(self, x)``."""

    def __init__(self, step, **attributes):
        super().__init__()
        self.step = step
        for name, value in attributes.items():
            if type(value) is torch.Tensor:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x):
        return self.step(self, x)


def silent(x, n):
    return x * 0.0 if n % 4 == 3 else x


def number(m, x):
    m.n += 1
    return silent(x, m.n - 1)


def buffer(m, x):
    m.n += 1
    return silent(x, int(m.n) - 1)


def of_its_class(m, x):
    type(m).calls = getattr(type(m), "calls", -1) + 1
    return silent(x, type(m).calls)


def delayed(m, x):
    m.line.append(x)
    return m.line.popleft()


def delayed_lazily(m, x):
    if m.line is None:
        m.line = collections.deque([x] * 4)
    m.line.append(x)
    return m.line.popleft()


def before(m, x):
    m.last, last = x, m.last
    return x if last is None else last


def smoothed(m, x):
    m.mean = x if m.mean is None else 0.5 * m.mean + 0.5 * x
    return m.mean


def text(m, x):
    m.text += "x"
    return silent(x, len(m.text) - 1)


def swapped(m, x):
    y = m.a(x)
    m.a, m.b = m.b, m.a
    return y


def growing(m, x):
    m.parts.append(nn.Identity())
    return silent(x, len(m.parts) - 1)


def flagged(m, x):
    """The first call is like no other."""
    first, m.first = m.first, False
    return x if first else x * 0.0


def later(m, x):
    """Ten calls are alike."""
    m.n += 1
    return x if m.n < 10 else x * 0.0


def rolled(m, x):
    m.ring = m.ring.roll(1)
    return silent(x, int(m.ring.argmax()) + 3)


def worn(m, x):
    with torch.no_grad():
        m.fc.weight.mul_(0.98)
    return m.fc(x)


def worn_by_data(m, x):
    m.fc.weight.data.mul_(0.98)
    return m.fc(x)


def trained(m, x):
    m.n += 1
    return nn.functional.batch_norm(x, m.mean, m.var, training=m.n > 4)


def renamed(m, x):
    number = getattr(m, "count", 0)
    object.__setattr__(m, "count", number + 1)
    return silent(x, number)


def hidden(m, x):
    return m.hidden[0](x)


def of_the_weights(m, x):
    m.fc.seen = getattr(m.fc, "seen", -1) + 1
    return silent(m.fc(x), m.fc.seen)


def many(m, x):
    m.rows[len(m.rows)] = [len(m.rows)]
    return silent(x, len(m.rows) - 1)


def immutable(m, x):
    m.pair = (m.pair[1], m.pair[0])
    return x if m.pair[0] else x * 0.0


def dead(m, x):
    """It is there at every second call."""
    if hasattr(m, "mark"):
        del m.mark
        return x * 0.0
    m.mark = 1
    return x


MODULES = {
    "int": lambda: Own(number, n=0),
    "float": lambda: Own(number, n=0.0),
    "buffer": lambda: Own(buffer, n=torch.zeros(())),
    "parameter": lambda: Own(
        lambda m, x: silent(x, int(m.n.data.add_(1)) - 1), n=nn.Parameter(torch.zeros(()), requires_grad=False)
    ),
    "class of a module": lambda: type("Counted", (Own,), {"__module__": __name__})(of_its_class),
    "delay": lambda: Own(delayed, line=collections.deque([torch.zeros(1, 12)] * 4)),
    "delay of its first inputs": lambda: Own(delayed_lazily, line=None),
    "last input": lambda: Own(before, last=None),
    "mean": lambda: Own(smoothed, mean=None),
    "string": lambda: Own(text, text=""),
    "modules in turn": lambda: Own(swapped, a=nn.Identity(), b=nn.Linear(12, 12)),
    "more and more modules": lambda: Own(growing, parts=nn.ModuleList()),
    "flag": lambda: Own(flagged, first=True),
    "after ten calls": lambda: Own(later, n=0),
    "ring": lambda: Own(rolled, ring=torch.eye(4)[0]),
    "weights": lambda: Own(worn, fc=nn.Linear(12, 12)),
    "weights' data": lambda: Own(worn_by_data, fc=nn.Linear(12, 12)),
    "norm of its fourth call": lambda: Own(trained, n=0, mean=torch.zeros(12), var=torch.ones(12)),
    "past setattr": lambda: Own(renamed),
    "modules in a list": lambda: Own(hidden, hidden=[Own(number, n=0)]),
    "attribute of a library's module": lambda: Own(of_the_weights, fc=nn.Linear(12, 12)),
    "nested containers": lambda: Own(many, rows={}),
    "tuple": lambda: Own(immutable, pair=(0, 1)),
    "deleted attribute": lambda: Own(dead),
}


def gated(make):
    return lambda: Gate(make())


MODULES |= {name: gated(make) for name, make in TICKS.items()}


def linear(inputs: int, outputs: int) -> nn.Linear:
    fc = nn.Linear(inputs, outputs)
    fc.weight.data.mul_(3.0)
    return fc


def of_spikingjelly(module, mode="s", first=None):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional

    torch.manual_seed(0)
    net = nn.Sequential(linear(8, 12), module, first or neuron.IFNode(), linear(12, 6), neuron.LIFNode())
    functional.set_step_mode(net, mode)
    return net.eval()


def of_snntorch(module, first=None):
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    first = first or snn.Leaky(beta=0.9, **HIDDEN)
    return nn.Sequential(linear(8, 12), module, first, linear(12, 6), snn.Leaky(beta=0.8, **HIDDEN)).eval()


HIDDEN = {"init_hidden": True, "reset_mechanism": "zero"}


def held() -> torch.Tensor:
    return torch.rand(3, 8, generator=torch.Generator().manual_seed(3))


def check_import(take, net: nn.Module, fires, path: str) -> bool:
    """Whether it is taken, and then right for ``T`` steps in which it fires; else it is refused by name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            ours = take(net)
    except (TypeError, ValueError) as error:
        assert path in str(error) and "\n" not in str(error), error
        return False
    expected = fires(net, held(), T)
    assert 0.02 < expected.mean() < 0.98
    assert torch.equal(pk.simulate(ours, held(), T).spikes.dense(), expected)
    return True


def check_spikingjelly(module, path="module '1", mode="s", first=None) -> bool:
    net = of_spikingjelly(module, mode, first)
    return check_import(pk.from_spikingjelly, net, functools.partial(spikingjelly_fires, mode=mode), path)


def check_snntorch(module, path="module '1", first=None) -> bool:
    return check_import(pk.from_snntorch, of_snntorch(module, first), snntorch_fires, path)


def check_convert(module, path="module '1") -> bool:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), module, nn.ReLU(), nn.Linear(12, 6)).eval()
    try:
        pk.convert(net, torch.rand(16, 8))
    except (TypeError, ValueError) as error:
        assert path in str(error) and "\n" not in str(error), error
        return False
    with torch.no_grad():
        first, *others = (net(held()) for _ in range(T))
    assert first.any() and all(torch.equal(y, first) for y in others)
    return True


HOSTS = {
    "SpikingJelly": check_spikingjelly,
    "SpikingJelly, all steps in a call": functools.partial(check_spikingjelly, mode="m"),
    "snnTorch": check_snntorch,
    "convert": check_convert,
}


@pytest.fixture(autouse=True)
def outside():
    yield
    os.environ.pop("COUNT_OF_A_USER", None)
    vars(sys).pop("count_of_a_user", None)
    KEEP.clear()


@pytest.mark.costly
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", MODULES)
def test_no_state_is_frozen(name, host):
    """None of them can be taken: each changes what follows from it within ``T`` steps."""
    assert not HOSTS[host](MODULES[name]())


# Neurons that change


def spikingjelly_neuron(base="IFNode", **methods):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    start = methods.pop("start", lambda self: None)

    def init(self, *arguments, **options):
        kind.__mro__[1].__init__(self, *arguments, **options)
        start(self)

    kind = type("Own", (getattr(neuron, base),), {"__init__": init, "__module__": __name__, **methods})
    return kind()


def stepping(change):
    """A step of a neuron that counts its steps: ``change(self, spikes)`` gives what it fires."""

    def single_step_forward(self, x):
        self.steps += 1
        return change(self, super(type(self), self).single_step_forward(x))

    return single_step_forward


def tired(self, spikes):
    self.spent = self.spent + spikes
    return spikes * (self.spent <= 9)


def annealed(self, spikes):
    if self.steps == 10:
        self.v_threshold = 2.0
    return spikes


def started(self):
    self.steps, self.spent = 0, 0.0


def remembering(self):
    self.steps = 0
    self.register_memory("spent", 0.0)


def forgetful(self, spikes):
    if self.steps > 10:
        self.v_reset = None
    return spikes


def slower(self, spikes):
    self.tau = self.tau * 1.02
    return spikes


def of_two(self, spikes):
    """It is silent behind a spike."""
    last, self.spent = self.spent, spikes
    return spikes * (1 - last)


def late(self, x):
    y = super(type(self), self).multi_step_forward(x)
    return torch.cat([y[:10], 0 * y[10:]])


SPENT = {}


def tired_elsewhere(self, spikes):
    SPENT[0] = SPENT.get(0, 0.0) + spikes
    return spikes * (SPENT[0] <= 9)


NEURONS = {
    "tired": lambda: spikingjelly_neuron(single_step_forward=stepping(tired), start=started),
    "tired, in its memory": lambda: spikingjelly_neuron(single_step_forward=stepping(tired), start=remembering),
    "tired, in a global": lambda: spikingjelly_neuron(single_step_forward=stepping(tired_elsewhere), start=started),
    "annealed threshold": lambda: spikingjelly_neuron(single_step_forward=stepping(annealed), start=started),
    "annealed reset": lambda: spikingjelly_neuron(single_step_forward=stepping(forgetful), start=started),
    "time constant": lambda: spikingjelly_neuron("LIFNode", single_step_forward=stepping(slower), start=started),
    "refractory": lambda: spikingjelly_neuron(single_step_forward=stepping(of_two), start=started),
    "noise": lambda: spikingjelly_neuron(single_step_forward=stepping(lambda s, y: y * (torch.rand_like(y) < 0.9)),
                                         start=started),
}  # fmt: skip


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_that_change(name):
    SPENT.clear()
    assert not check_spikingjelly(nn.Identity(), "module '2'", first=NEURONS[name]())


@pytest.mark.parametrize("name", [name for name in NEURONS if name != "time constant"])
def test_neurons_that_would_change_in_another_mode(name):
    """A call of all steps does not run what they change."""
    assert check_spikingjelly(nn.Identity(), mode="m", first=NEURONS[name]())


def test_neurons_that_change_within_a_call():
    late_neuron = spikingjelly_neuron(multi_step_forward=late)
    assert not check_spikingjelly(nn.Identity(), "module '2'", "m", late_neuron)


def test_neurons_that_change_of_snntorch():
    snn = pytest.importorskip("snntorch")

    class Tired(snn.Leaky):
        def forward(self, x, mem=None):
            spikes = super().forward(x, mem)
            self.spent = getattr(self, "spent", 0) + spikes
            return spikes * (self.spent <= 9)

    class Fading(snn.Leaky):
        def forward(self, x, mem=None):
            self.beta.mul_(0.99)
            return super().forward(x, mem)

    for kind in (Tired, Fading):
        assert not check_snntorch(nn.Identity(), "module '2'", kind(beta=0.9, **HIDDEN))


class OfTheNetwork(nn.Module):
    """The forward pass of the network itself changes its neurons, or what is between them."""

    def __init__(self, change):
        super().__init__()
        neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
        torch.manual_seed(0)
        self.a, self.sa, self.b, self.sb = linear(8, 12), neuron.IFNode(), linear(12, 6), neuron.LIFNode()
        self.change, self.n = change, 0

    def forward(self, x):
        self.change(self)
        return self.sb(self.b(self.sa(self.a(x))))


def threshold(net):
    COUNTS[0] += 1
    if COUNTS[0] % 16 == 15:
        net.sa.v_threshold *= 0.5


def charge(net):
    net.sa.v = net.sa.v + 0.1


def back_to_rest(net):
    COUNTS[0] += 1
    if COUNTS[0] % 5 == 4:
        net.sa.reset()


def weight(net):
    with torch.no_grad():
        net.a.weight += 0.01


def other_layer(net):
    net.sa, net.sb = net.sb, net.sa


@pytest.mark.parametrize("change", [threshold, charge, back_to_rest, weight, other_layer])
def test_networks_that_change_their_modules(change):
    net = OfTheNetwork(change)
    assert not check_import(
        pk.from_spikingjelly, net.eval(), functools.partial(spikingjelly_fires, mode="s"), "OfTheNetwork"
    )


# What is no state


CONSTANT = {"gain": 1}


@functools.lru_cache
def computed(n):
    return n * 0


def kept_once(m, x):
    m.shape = m.shape or x.shape[-1]
    return x


def noted_in_a_dict(m, x):
    if "zero" not in m.cache:
        m.cache["zero"] = 0
    return x


HARMLESS = {
    "kept once": lambda: Own(kept_once, shape=None),
    "cache": lambda: Own(noted_in_a_dict, cache={}),
    "lru_cache": lambda: Own(lambda m, x: x if computed(3) == 0 else -x),
    "global": lambda: Own(lambda m, x: x if CONSTANT["gain"] == 1 else -x),
    "closure": lambda: (lambda gain: Own(lambda m, x: x if gain else -x))(1),
    "not a number": lambda: Own(lambda m, x: x, nothing=float("nan"), missing=torch.tensor([float("nan")])),
    "generator that rests": lambda: Own(lambda m, x: x, numbers=iter([1, 2]), seeded=random.Random(0)),
    "nothing": nn.Identity,
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_state_is_taken(name, host):
    assert HOSTS[host](HARMLESS[name]())


def test_potentials_that_the_network_keeps_itself():
    """They are those of its neurons."""
    snn = pytest.importorskip("snntorch")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.la = linear(8, 12), snn.Leaky(0.9, reset_mechanism="zero")
            self.b, self.lb = linear(12, 6), snn.Leaky(0.8, reset_mechanism="zero")
            self.ma, self.mb = self.la.init_leaky(), self.lb.init_leaky()

        def forward(self, x):
            spikes, self.ma = self.la(self.a(x), self.ma)
            spikes, self.mb = self.lb(self.b(spikes), self.mb)
            return spikes

    assert check_import(pk.from_snntorch, Net().eval(), snntorch_fires, "never")


def test_generators_and_the_network_are_as_before():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    counted = Gate(closure())
    line = collections.deque([1, 2])
    module = Own(lambda m, x: m.line.append(0) or x, line=line)
    for one in (counted, module, Gate(lambda: int(torch.randint(4, ())))):
        with pytest.raises(TypeError):
            pk.from_spikingjelly(of_spikingjelly(one))
        before = (torch.get_rng_state(), *before[1:]) if one not in (counted, module) else before
    assert list(line) == [1, 2]
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
