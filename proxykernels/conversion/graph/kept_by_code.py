"""All that a network's own code can keep from one call to the next, and where it is kept.

The code of torch and of the libraries in LIBRARIES is known and not looked into; other code is called foreign.
"""

import contextvars
import functools
import io
import itertools
import logging
import random
import sys
import threading
import types
import warnings
import weakref
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

LIBRARIES = frozenset("einops norse numpy proxykernels sinabs snntorch spikingjelly torch torchvision".split())
PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice, frozenset)
HOOKS = "_hooks"  # of modules: refused elsewhere, or set by a comparison
CALLED = ("__call__", "__getattr__", "__getattribute__", "__setattr__")  # methods of Python's that may keep something
MOST = 4096  # values of one container
GENERATORS: dict[Any, Any] = {
    torch.Generator: lambda generator: generator.get_state(),
    random.Random: lambda generator: generator.getstate(),
    np.random.Generator: lambda generator: generator.bit_generator.state,
    np.random.RandomState: lambda generator: generator.get_state(),
}
CONTENTS: dict[Any, Any] = {
    **GENERATORS,
    array: bytes,
    bytearray: bytes,
    io.StringIO: lambda file: (file.tell(), file.getvalue()),
    io.BytesIO: lambda file: (file.tell(), file.getvalue()),
    contextvars.ContextVar: lambda variable: variable.get(None),
    weakref.ref: lambda reference: reference(),
    functools.partial: lambda call: (call.func, call.args, call.keywords),
    types.MethodType: lambda method: (method.__self__, method.__func__),
    types.CellType: lambda cell: _content(cell),
    types.GeneratorType: lambda generator: _suspended(generator),
    property: lambda found: (found.fget, found.fset),
    staticmethod: lambda found: found.__func__,
    classmethod: lambda found: found.__func__,
    functools.cached_property: lambda found: found.func,
    functools._lru_cache_wrapper: lambda cached: (cached.cache_info().misses or None, cached.__wrapped__),
    threading.local: vars,
}


class Kept(NamedTuple):
    """A value, the path of the module that has it, and under which name it does."""

    path: str
    name: str
    value: Any


def is_foreign(thing: Any) -> bool:
    """Whether a class, function or module of Python is neither its own nor of a known library."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    top = str(name or "builtins").partition(".")[0]
    return top not in LIBRARIES and top not in sys.stdlib_module_names


@functools.cache
def _is_installed(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return any(folder in file for folder in ("site-packages", "dist-packages"))


def _is_looked_into(thing: Any) -> bool:
    """Code of foreign packages that are installed is not: it leads to all that they have."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return is_foreign(thing) and not _is_installed(name)


def has_foreign_code(net: nn.Module) -> bool:
    walk = _Walk(True)
    for _ in walk.values(net, "", ""):
        pass
    return walk.found_code


def has_own_code(module: nn.Module) -> bool:
    return is_foreign(type(module)) or "forward" in vars(module)


def kept(net: nn.Module, libraries: bool) -> Iterator[Kept]:
    """Each value that can be reached from a network, once; ``libraries``: also what modules of libraries have."""
    return _Walk(libraries).values(net, "", "")


class _Walk:
    """Attributes: found_code: whether there was a class or function that is foreign."""

    def __init__(self, libraries: bool) -> None:
        self.libraries, self.found_code = libraries, False
        self.seen: dict[int, Any] = {}  # what was visited, which keeps its place in memory as long

    def values(self, value: Any, path: str, name: str) -> Iterator[Kept]:
        if isinstance(value, (*PLAIN, Tensor, np.ndarray, fx.Proxy)):
            yield Kept(path, name, value)
            return
        if id(value) in self.seen:
            return
        self.seen[id(value)] = value
        if isinstance(value, nn.Module):
            yield from self._module(value, path, name)
            return
        self.found_code |= isinstance(value, type | types.FunctionType) and is_foreign(value)
        parts = _parts(value)
        if parts is None:
            yield Kept(path, name, value)
            return
        for label, part in parts:
            yield from self.values(part, path, name + label if name else label.lstrip("."))

    def _module(self, module: nn.Module, path: str, name: str) -> Iterator[Kept]:
        """``name``: of a module that is no submodule."""
        prefix = f"{path}." if path else ""
        looked_into = self.libraries or has_own_code(module)
        for key, value in vars(module).items():
            if key != "_modules" and not looked_into:
                continue
            if key in ("_parameters", "_buffers"):
                for own, tensor in value.items():
                    yield from self.values(tensor, path, _joined(name, own))
            elif key == "_modules":
                yield Kept(path, _joined(name, "the list of its modules"), ", ".join(value))
                for child, submodule in value.items():
                    place = (path, f"{name}.{child}") if name else (prefix + child, "")
                    yield from self.values(submodule, *place)
            elif HOOKS not in key:
                yield from self.values(value, path, _joined(name, key))
        if is_foreign(type(module)):
            yield from self.values(type(module), path, name)


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """What is in a value, with labels; None: it is one."""
    if isinstance(value, type):
        return _of_class(value) if _is_looked_into(value) else None
    if isinstance(value, types.FunctionType):
        return _of_function(value) if _is_looked_into(value) else None
    if isinstance(value, types.ModuleType | logging.Logger):
        return None
    if isinstance(value, dict | list | tuple | deque):
        items = list(value.items()) if isinstance(value, dict) else enumerate(tuple(value))
        inside = [(f"[{key!r}]", part) for key, part in itertools.islice(items, MOST)]
        length = [(".len()", len(value))] if len(value) > MOST else []  # otherwise the items show it
        return [*length, *inside, *_attributes(value)]
    if isinstance(value, set):
        return [("", frozenset(value)), *_attributes(value)]
    for kind, content in CONTENTS.items():
        if isinstance(value, kind):
            return [("", content(value)), *_attributes(value)]
    if isinstance(value, Iterator):
        return _of_iterator(value)
    return _attributes(value) or None


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """The attributes of an object and of its class."""
    kind = type(value)
    declared = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    slots = [name for names in declared for name in ((names,) if isinstance(names, str) else names)]
    found = [(f".{name}", getattr(value, name)) for name in slots if name[:2] != "__" and hasattr(value, name)]
    found += [(f".{name}", part) for name, part in getattr(value, "__dict__", {}).items()]
    return [*found, *([("", kind)] if is_foreign(kind) else [])]


def _of_class(kind: type) -> list[tuple[str, Any]]:
    """Attributes and methods, also of the classes that it is based on."""
    found = [(f"{kind.__name__}.{name}", v) for name, v in vars(kind).items() if name[:2] != "__" or name in CALLED]
    bases = [(base.__name__, base) for base in (*kind.__bases__, type(kind)) if is_foreign(base)]
    return [(f".{label}", value) for label, value in [*found, *bases]]


def _of_function(function: Any) -> list[tuple[str, Any]]:
    """Closures, defaults, attributes, and the globals that are named in it."""
    inside = [*zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)]
    inside += [(f"default {k}", value) for k, value in enumerate(function.__defaults__ or ())]
    inside += [*(function.__kwdefaults__ or {}).items(), *vars(function).items()]
    names = list(dict.fromkeys(_named_in(function.__code__)))
    for name in names:
        if name in function.__globals__:
            value = function.__globals__[name]
            inside.append((f"global {name}", value))
            if isinstance(value, types.ModuleType) and _is_looked_into(value):
                inside += [(f"{name}.{own}", vars(value)[own]) for own in names if own in vars(value)]
    return [(f": {name}", value) for name, value in inside]


def _named_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _named_in(constant)
        elif isinstance(constant, str):  # globals()["name"]
            yield constant


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return None


def _suspended(generator: Any) -> Any:
    frame = generator.gi_frame
    return None if frame is None else (frame.f_lasti, dict(frame.f_locals))


def _of_iterator(iterator: Any) -> list[tuple[str, Any]] | None:
    """What is left of one of Python's own, where it tells."""
    if is_foreign(type(iterator)):
        return _attributes(iterator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of itertools, whose state later versions do not tell
        try:
            return [("", part) for part in iterator.__reduce__()[1:]]
        except TypeError:
            return None
