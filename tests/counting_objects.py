"""Objects and classes that count, each in another way that Python has: of python_states.py."""

import dataclasses
import enum

import torch


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
