"""Layers that are called by themselves, as plans of one operation (c/layer.cpp), kept with their packed weights."""

import sys
from ctypes import byref, c_double, c_int64, c_void_p, pointer
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .. import unfused
from ..recording import Choice, note, recorded
from ..table import InputKind, Outcome, Way
from . import abi, compiled, engine
from .declared import Run

MOST_KEPT = 8  # plans of a layer's weights: of other sizes of images, other models of neurons
_WAYS = [Choice(way.value, "expected to be the fastest") for way in Way]


class LayerPlan:
    """A plan of one operation. Threads may run it at the same time, each in a session of its own."""

    def __init__(self, functions: Any, plan: int | None):
        if not plan:
            raise MemoryError("there is no memory to pack the weights of a layer; free some, or take a smaller layer")
        self._functions, self._plan = functions, plan
        self._sessions: list[int] = []  # that no thread uses

    def run(self, x: Tensor, kind: InputKind, neurons: Any, shortcut: Tensor | None = None) -> None:
        """All steps of ``neurons``, an abi.Neurons, on an input as the engine takes it."""
        if not neurons.T or not neurons.N:
            return
        functions = self._functions
        try:
            session = self._sessions.pop()
        except IndexError:  # threads use all that there are
            session = functions.make_session(self._plan)
        run = Run(
            x=x.data_ptr(), kind=kind, T=neurons.T, N=neurons.N, threads=torch.get_num_threads(),
            neurons=pointer(neurons), shortcut=None if shortcut is None else shortcut.data_ptr(),
        )  # fmt: skip
        outcome = functions.run(session, run)
        if recorded() is not None:
            note(_WAYS[functions.way(session, 0)])
        if outcome == Outcome.NO_MEMORY:
            functions.free_session(session)
            raise MemoryError(f"there is no memory to run a layer on N = {neurons.N} samples; take fewer at a time")
        self._sessions.append(session)

    def __del__(self, is_finalizing=sys.is_finalizing):  # at exit Python may have set the name `sys` to None
        if is_finalizing():
            return
        for session in getattr(self, "_sessions", ()):
            self._functions.free_session(session)
        if getattr(self, "_plan", None):
            self._functions.free_plan(self._plan)


class LayerPlans:
    """Makes plans for an instruction set.

    Attributes:
        thresholds: of an abi.Neuron and its number of channels, a number that neurons share only if one plan serves
            them.
    """

    def __init__(self, target: str | None):
        self.target, self._functions = engine.load(target)
        self.thresholds = compiled.opened(abi.LIBRARY).proxykernels_thresholds
        self.thresholds.restype, self.thresholds.argtypes = c_int64, [c_void_p, c_int64]

    def recurrent(self, neurons: Any, recurrent: Tensor) -> LayerPlan:
        """The plan of recurrent neurons, an abi.Neurons, on given currents; ``recurrent``: contiguous float32."""
        make = _made_by("recurrent", c_void_p, c_void_p, c_void_p, c_int64)
        given = byref(neurons), recurrent.data_ptr(), recurrent.ndim == 2
        return LayerPlan(self._functions, make(byref(self._functions), *given))

    def conv2d(
        self, neurons: Any, size, weight: Tensor, bias: Tensor | None, window: tuple, groups: int, has_shortcut: bool,
        is_periodic: bool, is_long: bool,
    ) -> LayerPlan:  # fmt: skip
        """The plan of neurons behind a convolution of spikes; ``window``: stride, padding, dilation."""
        conv = described(neurons, size, weight.shape, window, groups)
        conv.weight, conv.bias = weight.data_ptr(), None if bias is None else bias.data_ptr()
        flags = has_shortcut, is_periodic, is_long, self.target == "amx"
        make = _made_by("conv", c_void_p, c_void_p, *4 * (c_int64,))
        return LayerPlan(self._functions, make(byref(self._functions), byref(conv), *flags))


def described(neurons: Any, size, weight: tuple[int, ...], window: tuple, groups: int = 1) -> Any:
    """The sizes of a convolution, by weights [C_out, C_in / groups, h, w], as the library takes them.

    ``neurons``: an abi.Neurons. ``window``: stride, padding, dilation.
    """
    (_, inputs, *kernel), (stride, padding, dilation) = weight, window
    width = unfused.output_size(size, kernel, stride, padding, dilation)[1]
    sizes = groups, groups * inputs, *size, width
    return abi.Conv2d(neurons, None, None, None, None, None, 0, 0, 0, 0, *sizes, *kernel, *stride, *padding, *dilation)


def dense_rate(T: int, neurons: tuple[int, int, int], size, weight, window: tuple, target: str) -> float:
    """The share of inputs that fire at a step from which on torch's convolution is faster, by the cost model.

    ``neurons``: N, P and C_out. ``weight``: [C_out, C_in, h, w].
    """
    N, P, C = neurons
    find = compiled.opened(abi.LIBRARY).proxykernels_dense_rate
    find.restype, find.argtypes = c_double, [c_void_p, c_int64, c_int64]
    conv = described(abi.Neurons(T=T, N=N, P=P, C=C), size, weight, window)
    return find(byref(conv), target == "amx", target in ("amx", "avx512"))


@cache
def _made_by(kind: str, *arguments: Any) -> Any:
    make = compiled.opened(abi.LIBRARY)[f"proxykernels_plan_of_{kind}"]
    make.restype, make.argtypes = c_void_p, arguments
    return make
