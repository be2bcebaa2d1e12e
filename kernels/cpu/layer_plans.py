"""Layers that are called by themselves, as plans of one operation, and who runs a call of one (c/layer.cpp)."""

import json
import sys
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int64, c_void_p, pointer
from typing import Any

import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import Neuron
from ..recording import Choice, note, recorded
from ..table import InputKind, Kind, Outcome, Runner, Way
from . import abi, compiled, engine
from .declared import LayerChoice, Run

MOST_KEPT = 8  # plans of a layer's weights: of other sizes of images, other models of neurons
_WAYS = [Choice(way.value, "expected to be the fastest") for way in Way]


class LayerPlan:
    """A plan of one operation. Threads may run it at the same time, each in a session of its own."""

    def __init__(self, functions: Any, plan: c_void_p | None):
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
    """Makes plans for an instruction set, and chooses who runs a call."""

    def __init__(self, target: str | None):
        self.target, self._functions = engine.load(target)
        self._choose = compiled.opened(abi.LIBRARY).proxykernels_choose_runner
        self._choose.restype, self._choose.argtypes = None, [c_void_p, c_char_p, c_int64, c_int64, c_void_p]

    def choice(self, conv: Any, forced: Runner | None, is_periodic: bool) -> LayerChoice:
        """Who runs a call on contiguous spikes, an abi.Conv2d, and which of the layer's plans can.

        ``forced``: whoever runs every call that it can run; PLAN: torch never runs; None: the fastest.
        ``is_periodic``: whether all inputs fire periodically from rest.
        """
        found = LayerChoice()
        forced_number = -1 if forced is None else forced
        self._choose(byref(conv), self.target.encode(), forced_number, is_periodic, byref(found))
        return found

    def recurrent(self, neuron: Neuron, recurrent: Tensor) -> LayerPlan:
        """The plan of recurrent neurons on given currents; ``recurrent``: contiguous float32."""
        C, tensors = len(recurrent), {"recurrent": recurrent}
        op: dict[str, Any] = {"kind": Kind.RECUR, "shape": [C], "windows": [_window(0)], "recurrent": "recurrent"}
        return self._made([C], op, neuron, None, tensors)

    def conv2d(
        self, neuron: Neuron, size: Sequence[int], weight: Tensor, bias: Tensor | None, window: tuple, groups: int,
        has_shortcut: bool, is_periodic: bool, is_long: bool,
    ) -> LayerPlan:  # fmt: skip
        """The plan of neurons behind a convolution of spikes.

        Args:
            neuron: the model; thresholds count as far as LayerChoice.thresholds tells them apart. weight, bias:
                contiguous float32. window: stride, padding, dilation. has_shortcut: whether spikes of the output's
                shape add to the currents. is_periodic, is_long: Input of src/engine/description.h.
        """
        C, inputs, *kernel = weight.shape
        height, width = unfused.output_size(size, kernel, *window)
        stride, padding, dilation = window
        windows = [_window(0, kernel, stride, padding, dilation, groups, "weight")] + [_window(2)] * has_shortcut
        op: dict[str, Any] = {"kind": Kind.FIRE, "shape": [C, height, width], "windows": windows}
        return self._made([inputs * groups, *size], op, neuron, bias, {"weight": weight}, is_periodic, is_long)

    def _made(
        self, shape: list[int], op: dict[str, Any], neuron: Neuron, bias: Tensor | None, tensors: dict[str, Tensor],
        is_periodic: bool = False, is_long: bool = False,
    ) -> LayerPlan:  # fmt: skip
        """The plan of an operation with neurons, in the words of proxykernels/plan/description.py."""
        C, states = neuron.channels.shape[1], neuron.states + (op["kind"] == Kind.RECUR)
        tensors["channels"] = neuron.channels.float().contiguous()
        tensors["bias"] = heap.zeros(C) if bias is None else bias
        tensors["start"] = heap.zeros(states, C)  # which the states of each run replace
        names = {name: name for name in ("channels", "bias", "start")}
        neurons: dict[str, Any] = {"model": neuron.model, "scalars": list(neuron.scalars), **names}
        neurons |= {"fires": True, "rectifies": False, "limit": None, "scale": None}
        op |= {"name": "layer", "neurons": neurons, "real": False}
        op |= {"divisor": 0, "count_padding": True, "adaptive": False}
        about: dict[str, Any] = {"shape": shape, "real": False, "precision": None, "operations": [op]}
        about["layer"] = {"periodic": is_periodic, "long": is_long}
        return LayerPlan(self._functions, engine.made_plan(json.dumps(about), tensors, self.target))


def _window(
    slot: int, kernel: Sequence[int] = (1, 1), stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), groups: int = 1, weight: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    names = "slot", "kernel", "stride", "padding", "dilation", "groups", "weight"
    return dict(zip(names, (slot, kernel, stride, padding, dilation, groups, weight), strict=True))


def described(neurons: Any, size, weight: tuple[int, ...], window: tuple, groups: int = 1) -> Any:
    """The sizes of a convolution of spikes as the library takes them.

    ``neurons``: an abi.Neurons. ``weight``: [C_out, C_in / groups, h, w]. ``window``: stride, padding, dilation.
    """
    (_, inputs, *kernel), (stride, padding, dilation) = weight, window
    width = unfused.output_size(size, kernel, stride, padding, dilation)[1]
    sizes = groups, groups * inputs, *size, width
    return abi.Conv2d(neurons, None, None, None, None, None, 0, 0, 0, 0, *sizes, *kernel, *stride, *padding, *dilation)
