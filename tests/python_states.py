"""Modules that keep a state in Python, in every way that we know: ``MODULES``, by name, functions that make them.

Each gives something else for the same input within a few calls.
"""

import array
import collections
import contextvars
import ctypes
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

import module_states
import numpy as np
import torch
from counting_objects import Function, Iterated, Kind, Lookup, Property, Record, Slots, WithMeta
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


def gated(make):
    return lambda: Gate(make())


MODULES = module_states.MODULES | {name: gated(make) for name, make in TICKS.items()}
