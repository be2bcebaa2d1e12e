"""Modules that keep a state in their own attributes, parameters and modules: ``MODULES``; others: python_states.py."""

import collections

import torch
from torch import nn


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


MODULES = {  # name -> a function that makes one
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
