"""What Triton's interpreter finds out again and again, found out once: with it most of a test's time is Python's own.

Types are values, and there are few; each is looked up by its name, which tells element and shape. What is kept is what
Triton's own functions have given.
"""

import dataclasses
from collections.abc import Callable
from functools import cache

import pytest


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.language import core, semantic
    from triton.runtime import interpreter

    # Each call of a device function looks through triton.language for what it has to replace.
    replace = cache(interpreter._patch_lang)

    def call(self, *arguments, **keywords):
        replace(self.fn)
        return self.rewrite()(*arguments, **keywords)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
    monkeypatch.setattr(core.block_type, "__init__", _block_type(core, core.block_type.__init__))
    monkeypatch.setattr(core.tensor, "__init__", _tensor(core.tensor.__init__))
    monkeypatch.setattr(interpreter, "_get_np_dtype", _by_name(interpreter._get_np_dtype))
    operations = semantic.TritonSemantic
    monkeypatch.setattr(operations, "broadcast_impl_value", _broadcast(operations.broadcast_impl_value))
    monkeypatch.setattr(operations, "cast", _cast(operations.cast))
    monkeypatch.setattr(operations, "computation_type_impl", _computation_type(operations.computation_type_impl))
    # Sums are computed in int64 besides, and compared with their type's bounds; what follows of it asks for debug.
    options = interpreter.interpreter_builder.options
    checks = dataclasses.replace(options, sanitize_overflow=options.debug)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", checks)


def _by_name(function: Callable) -> Callable:
    known: dict = {}

    def of(type_):
        name = type_.name
        if name not in known:
            known[name] = function(type_)
        return known[name]

    return of


def _block_type(core, init: Callable) -> Callable:
    known: dict = {}

    def __init__(self, element_ty, shape):
        sizes = [size.value if isinstance(size, core.constexpr) else size for size in shape]
        name = element_ty.name, *sizes
        if name in known:
            self.__dict__.update(known[name], element_ty=element_ty)
        else:
            init(self, element_ty, shape)
            known[name] = dict(vars(self))

    return __init__


def _tensor(init: Callable) -> Callable:
    known: dict = {}

    def __init__(self, handle, type):
        name = type.name
        if name in known:
            self.__dict__.update(known[name], handle=handle, type=type, dtype=type.scalar)
        else:
            init(self, handle, type)
            known[name] = dict(vars(self))
            del known[name]["handle"]

    return __init__


def _broadcast(function: Callable) -> Callable:
    """Two tensors of one shape, as most are, stay as they are."""

    def broadcast_impl_value(self, lhs, rhs):
        left, right = lhs.type, rhs.type
        if left.is_block() and right.is_block() and [*left.shape] == [*right.shape]:
            return lhs, rhs
        return function(self, lhs, rhs)

    return broadcast_impl_value


def _cast(function: Callable) -> Callable:
    """A tensor of the type that is wanted stays as it is."""

    def cast(self, input, dst_ty, fp_downcast_rounding=None):
        if fp_downcast_rounding is None and input.type.scalar.name == dst_ty.scalar.name:
            return input
        return function(self, input, dst_ty, fp_downcast_rounding)

    return cast


def _computation_type(function: Callable) -> Callable:
    known: dict = {}

    def computation_type_impl(self, a, a_is_scalar, b, b_is_scalar, div_or_mod):
        case = a.name, a_is_scalar, b.name, b_is_scalar, div_or_mod
        if case not in known:
            known[case] = function(self, a, a_is_scalar, b, b_is_scalar, div_or_mod)
        return known[case]

    return computation_type_impl
