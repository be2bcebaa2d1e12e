"""Layers that are called by themselves, as plans of one operation, and who runs a call of one (c/layer.cpp)."""

import json
import sys
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_int64, c_void_p
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import heap, unfused
from ..neuron_models import Neuron
from ..recording import Choice, note, recorded
from ..table import Kind, Outcome, Runner, Way
from . import abi, compiled
from .declared import LayerChoice, Run

MOST_KEPT = 8  # plans of a layer's weights: of other sizes of images, other models of neurons
_WHY = {Way.VALUES: "real-valued input"}
_WAYS = [Choice(way.value, _WHY.get(way, "expected to be the fastest")) for way in Way]


class LayerPlan:
    """A plan of one operation. Threads may run it at the same time, each in a session of its own."""

    def __init__(self, functions: Any, plan: c_void_p | None):
        if not plan:
            raise MemoryError("there is no memory to pack the weights of a layer; free some, or take a smaller layer")
        self._functions, self._plan = functions, plan
        self._sessions: list[int] = []  # that no thread uses

    def run(self, T: int, N: int, **given: Any) -> None:
        """All steps on an input as the engine takes it; ``given``: the other fields of a Run."""
        if not (T and N):
            return
        functions, run = self._functions, Run(T=T, N=N, threads=torch.get_num_threads(), **given)
        try:
            session = self._sessions.pop()
        except IndexError:  # threads use all that there are
            session = functions.make_session(self._plan)
        outcome = functions.run(session, run)
        if run.neurons and recorded() is not None:
            note(_WAYS[functions.way(session, 0)])
        if outcome == Outcome.NO_MEMORY:
            functions.free_session(session)
            raise MemoryError(f"there is no memory to run a layer on N = {N} samples; take fewer at a time")
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
        self.target, self._functions = abi.load_engine(target)
        self._choose = compiled.opened(abi.LIBRARY).proxykernels_choose_runner
        self._choose.restype, self._choose.argtypes = None, [c_void_p, c_char_p, c_int64, c_int64, c_void_p, c_void_p]

    def choice(
        self, conv: Any, forced: Runner | None, is_periodic: bool = False, values: int | None = None
    ) -> LayerChoice:
        """Who runs a call on contiguous spikes, an abi.Conv2d, and which of the layer's plans can.

        ``forced``: whoever runs every call that it can run; PLAN: torch never runs; None: the fastest.
        ``is_periodic``: whether all inputs fire periodically from rest. ``values``: the address of contiguous float32
        values [T, N, P, C_in], which are the input in the place of spikes.
        """
        found = LayerChoice()
        forced_number = -1 if forced is None else forced
        self._choose(byref(conv), self.target.encode(), forced_number, is_periodic, values, byref(found))
        return found

    def recurrent(self, neuron: Neuron, recurrent: Tensor) -> LayerPlan:
        """The plan of recurrent neurons on given currents; ``recurrent``: contiguous float32."""
        C, tensors = len(recurrent), {"recurrent": recurrent}
        op: dict[str, Any] = {"kind": Kind.RECUR, "shape": [C], "windows": [_window(0)], "recurrent": "recurrent"}
        return self._made([C], op, neuron, None, tensors)

    def conv2d(
        self, neuron: Neuron, size: Sequence[int], weight: Tensor, bias: Tensor | None, window: tuple, groups: int,
        has_shortcut: bool = False, is_periodic: bool = False, is_long: bool = False, real: bool = False,
    ) -> LayerPlan:  # fmt: skip
        """The plan of neurons behind a convolution of spikes, or of values (``real``).

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
        return self._made([inputs * groups, *size], op, neuron, bias, {"weight": weight}, is_periodic, is_long, real)

    def sigma_delta(self, size: Sequence[int], weight: Tensor, window: tuple, gives_values: bool) -> LayerPlan:
        """The plan of a convolution of what sigma-delta neurons send, with or without neurons behind it.

        ``gives_values``: whether it gives values, and not codes. Else as in :meth:`conv2d`.
        """
        C, inputs, *kernel = weight.shape
        stride, padding, dilation, groups = window
        shape = [C, *unfused.output_size(size, kernel, stride, padding, dilation)]
        windows = [_window(0, kernel, stride, padding, dilation, groups, "weight")]
        op: dict[str, Any] = {"kind": Kind.SEND, "shape": shape, "windows": windows, "real": gives_values}
        return self._made_of([inputs * groups, *size], op, {"weight": weight})

    def sigma_delta_maxima(
        self, C: int, size: Sequence[int], size_out: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
        padding: Sequence[int], gives_values: bool,
    ) -> LayerPlan:  # fmt: skip
        """The plan of a max pooling of ``C`` channels of what sigma-delta neurons have sent; the arguments are those of
        kernels/sigma_delta_codes.py."""
        windows = [_window(0, kernel, stride, padding)]
        op: dict[str, Any] = {
            "kind": Kind.SEND_MAXIMA,
            "shape": [C, *size_out],
            "windows": windows,
            "real": gives_values,
        }
        return self._made_of([C, *size], op, {})

    def _made(
        self, shape: list[int], op: dict[str, Any], neuron: Neuron, bias: Tensor | None, tensors: dict[str, Tensor],
        is_periodic: bool = False, is_long: bool = False, real: bool = False,
    ) -> LayerPlan:  # fmt: skip
        """The plan of an operation with neurons, in the words of proxykernels/plan/description.py."""
        C, states = neuron.channels.shape[1], neuron.states + (op["kind"] == Kind.RECUR)
        tensors["channels"] = neuron.channels.float().contiguous()
        tensors["bias"] = heap.zeros(C) if bias is None else bias
        tensors["start"] = heap.zeros(states, C)  # which the states of each run replace
        names = {name: name for name in ("channels", "bias", "start")}
        neurons: dict[str, Any] = {"model": neuron.model, "scalars": list(neuron.scalars), **names}
        neurons |= {"fires": True, "rectifies": False, "limit": None, "scale": None}
        op |= {"neurons": neurons, "real": False}
        return self._made_of(shape, op, tensors, is_periodic, is_long, real)

    def _made_of(
        self, shape: list[int], op: dict[str, Any], tensors: dict[str, Tensor], is_periodic: bool = False,
        is_long: bool = False, real: bool = False,
    ) -> LayerPlan:  # fmt: skip
        """The plan of an operation that has all but what is the same for every layer."""
        op |= {"name": "layer", "divisor": 0, "count_padding": True, "adaptive": False}
        op["shape"] = list(map(int, op["shape"]))
        about: dict[str, Any] = {"shape": list(map(int, shape)), "real": real, "precision": None, "operations": [op]}
        about["layer"] = {"periodic": is_periodic, "long": is_long}
        return LayerPlan(self._functions, abi.made_plan(json.dumps(about), tensors, self.target))


def _window(
    slot: int, kernel: Sequence[int] = (1, 1), stride: Sequence[int] = (1, 1), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), groups: int = 1, weight: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    names, pairs = ("kernel", "stride", "padding", "dilation"), (kernel, stride, padding, dilation)
    sizes = {name: list(map(int, pair)) for name, pair in zip(names, pairs, strict=True)}  # of layers some are numpy's
    return {"slot": slot, "groups": int(groups), "weight": weight, **sizes}


@lru_cache(256)
def sizes(size: tuple[int, int], weight: tuple[int, ...], window: tuple, groups: int = 1) -> tuple[int | None, ...]:
    """What an abi.Conv2d of spikes has behind their address: no other pointers, and the sizes.

    ``weight``: [C_out, C_in / groups, h, w]. ``window``: stride, padding, dilation.
    """
    (_, inputs, *kernel), (stride, padding, dilation) = weight, window
    width = unfused.output_size(size, kernel, stride, padding, dilation)[1]
    behind = groups, groups * inputs, *size, width, *kernel, *stride, *padding, *dilation
    return None, None, None, None, 0, 0, 0, 0, *behind
