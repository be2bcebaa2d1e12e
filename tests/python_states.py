"""Modules that keep a state in Python, in every way that we know: ``MODULES``, by name, functions that make them.

Each gives something else for the same input within a few calls.
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
import weakref
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

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
