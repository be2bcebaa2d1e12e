"""A plan in JSON, beside the tensors that it names: what a file holds, and what the library is handed.

    a plan         {"shape": [...], "real": bool, "precision": null | name, "operations": [...]}; of a converted network
                   also "calibrated": [least, largest value of its calibration data]
    an operation   {"kind", "name", "shape", "real", "divisor", "count_padding", "adaptive",
                    "windows": [...], "neurons": null | ..., "pixels", "channels": names of tensors of int64 | null}
    a window       {"slot", "kernel", "stride", "padding", "dilation", "groups", "weight": name of a tensor | null}
    recurrent      neurons, and "recurrent": name of a tensor
    the neurons    {"model", "scalars", "fires", "rectifies", "limit": number | null, "channels", "bias", "start",
                    "scale"}; the last four name tensors, and scale may be null

A window whose weight has averages of spikes in it has "averages", how many a neuron reads; a delay has "delays", the
name of a tensor of int64. In networks of sigma-delta neurons alone

    an operation   {"senders": null | {"exponents", "rectifies", "limit": name of a tensor}, "scale": name | null}
    a window       {"bias": name of a tensor | null}

Weights lie in their plain layout; tensors that nothing else is said of are float32. The C library's reader,
kernels/cpu/c/read_plan.cpp, is the only one that checks any of it.
"""

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..kernels.table import Kind
from .operations import Operation
from .plan import Plan

Put = Callable[[str, Tensor | None], str | None]  # names a tensor


def described(plan: Plan) -> tuple[str, dict[str, Tensor]]:
    """The text, and the tensors by their names, contiguous. Of equal plans the text is equal."""
    tensors: dict[str, Tensor] = {}

    def put(name: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        tensors[name] = tensor.contiguous()
        return name

    operations = [_operation(plan, k, op, put) for k, op in enumerate(plan.operations)]
    about = {"shape": plan.shape, "real": plan.real, "precision": plan.precision, "operations": operations}
    if plan.calibrated is not None:
        about["calibrated"] = plan.calibrated
    return json.dumps(about, sort_keys=True), tensors


def _operation(plan: Plan, k: int, op: Operation, put: Put) -> dict[str, Any]:
    windows = [
        {
            "slot": w.slot, "kernel": w.kernel, "stride": w.stride, "padding": w.padding, "dilation": w.dilation,
            "groups": w.groups, "weight": put(f"{k}.{i}.weight", w.weight),
            **({"bias": put(f"{k}.{i}.bias", w.bias)} if plan.changes else {}),
            **({"averages": w.averages} if w.averages else {}),
        }
        for i, w in enumerate(op.windows)
    ]  # fmt: skip
    neurons = op.neurons and {
        "model": op.neurons.model, "scalars": op.neurons.scalars, "fires": op.neurons.fires,
        "rectifies": op.neurons.rectifies, "limit": op.neurons.limit,
        **{name: put(f"{k}.{name}", getattr(op.neurons, name)) for name in ("channels", "bias", "start", "scale")},
    }  # fmt: skip
    return {
        "kind": op.kind, "name": op.name, "shape": op.shape, "real": op.real, "divisor": op.divisor,
        "count_padding": op.count_padding, "adaptive": op.adaptive, "windows": windows, "neurons": neurons,
        **{name: put(f"{k}.{name}", getattr(op, name)) for name in ("pixels", "channels")},
        **({"recurrent": put(f"{k}.recurrent", op.recurrent)} if op.kind == Kind.RECUR else {}),
        **({} if op.delays is None else {"delays": put(f"{k}.delays", op.delays)}),
        **(_of_changes(k, op, put) if plan.changes else {}),
    }  # fmt: skip


def _of_changes(k: int, op: Operation, put: Put) -> dict[str, Any]:
    """What operation k has besides, in a network of sigma-delta neurons."""
    senders = op.senders and {
        "exponents": op.senders.exponents, "rectifies": op.senders.lowest == 0,
        "limit": put(f"{k}.limit", op.senders.highest),
    }  # fmt: skip
    return {"senders": senders, "scale": put(f"{k}.scale", op.scale)}
