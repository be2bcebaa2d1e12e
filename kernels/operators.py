"""How the operators of ops.py are registered with torch, and when a call needs none of them."""

from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from . import backends
from .backends import backend_of
from .neuron_models import IN_PYTHON, SCHEMA, SURROGATE_SCHEMA, Neuron, Surrogate
from .value_checks_cache import is_plain, nobody_follows

VALUES = {"Neuron neuron": (Neuron, SCHEMA), "Surrogate surrogate": (Surrogate, SURROGATE_SCHEMA)}


def operator(schema: str, devices: tuple[str, ...] = ("cpu", "cuda")):
    """Register an operator: the decorated function computes the shapes of its results; each backend has the kernel."""

    arguments = [part.strip() for part in schema[1 : schema.index(") ->")].split(",")]
    values: list = [(k, VALUES[part][0]) for k, part in enumerate(arguments) if part in VALUES]
    neuron = arguments.index("Neuron neuron") if "Neuron neuron" in arguments else -1  # its place; -1: it has none
    for part, (_, fields) in VALUES.items():
        schema = schema.replace(part, fields)

    def grouped(operands: tuple) -> tuple:
        """The dispatcher's flat list of operands, with fields grouped into values such as Neuron."""
        for k, kind in values:
            stop = k + len(kind._fields)
            operands = *operands[:k], kind(*operands[k:stop]), *operands[stop:]
        return operands

    def apart(operands: tuple) -> tuple:
        """The inverse of :func:`grouped`."""
        for k, _ in reversed(values):
            operands = *operands[:k], *operands[k], *operands[k + 1 :]
        return operands

    def chosen(device: str, operands: tuple) -> backends.Backend:
        """The backend for these operands: neurons that are written in Python need the reference code, and those that
        fire several times in a step need it on a GPU."""
        its: Neuron = operands[neuron]
        if its.model in IN_PYTHON or (its.counts and device == "cuda"):
            return backends.reference_backend(device)
        return backend_of(device)

    def register(fake):
        name = fake.__name__
        torch.library.define(f"proxykernels::{name}", schema)
        of_dispatcher = getattr(torch.ops.proxykernels, name)

        def call(device, *operands):  # looks kernels up late, so that registering loads no library and needs no Triton
            operands = grouped(operands)
            backend = backend_of(device) if neuron < 0 else chosen(device, operands)
            return getattr(backend, name)(*operands)

        for device in devices:
            torch.library.impl(f"proxykernels::{name}", device, partial(call, device))
        torch.library.register_fake(f"proxykernels::{name}", lambda *operands: fake(*grouped(operands)))
        if "(a!)" not in schema:
            torch.library.register_vmap(f"proxykernels::{name}", partial(_one_after_another, of_dispatcher))

        @wraps(fake)
        def launch(*operands):
            if is_plain(operands):  # the result is the same, and the dispatcher costs as much as a small layer
                backend = backend_of("cpu") if neuron < 0 else chosen("cpu", operands)
                return getattr(backend, name)(*operands)
            return of_dispatcher(*apart(operands))

        return launch

    return register


def direct(*operands: Any, in_python: bool = False) -> backends.CpuBackend | None:
    """The CPU kernels, for a direct call on plain CPU tensors; None: the call must use the operators.

    A direct call saves torch's dispatcher, which costs as much as a small layer. It is possible if nothing follows
    operators, and no gradient is needed. ``in_python``: whether the neurons are written in Python, which operators run.
    """
    if in_python or not nobody_follows():
        return None
    for x in operands:
        if isinstance(x, Tensor) and (type(x) not in _PLAIN or not x.is_cpu or x.is_neg()):
            return None
    if backends.reference_is_asked():
        return backends.reference_backend("cpu")  # type: ignore[return-value]  # of a CPU
    return backends.cpu_backend()


_PLAIN = Tensor, nn.Parameter


def _one_after_another(operator, info, dims: tuple, *operands):
    """torch.vmap of an operator: a call for each of the samples, along ``dims`` of the operands."""
    pairs = [(x, dim if isinstance(x, Tensor) else None) for x, dim in zip(operands, dims, strict=True)]
    calls = [operator(*(x if dim is None else x.select(dim, k) for x, dim in pairs)) for k in range(info.batch_size)]
    if isinstance(calls[0], Tensor):
        return torch.stack(calls), 0
    return tuple(map(torch.stack, zip(*calls, strict=True))), (0,) * len(calls[0])
