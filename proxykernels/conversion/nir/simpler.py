"""Nodes that no layer here stands for, written as others that do the same.

    CubaLI                                    LI of tau_syn and w_in, then LI of tau_mem and r
    CubaLIF that rests at several potentials  LI of tau_syn and w_in, then LIF of tau_mem and r
    neurons that differ within a channel      Flatten, the same neurons as features, Images

The filter comes first: what takes the current of a step takes it after the step, as CubaLIF does.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import checks
from .graph import Nodes
from .neuron_nodes import FIELDS, is_filtered, is_neuron, shares_potentials
from .nodes import Shape


@dataclass
class Images:
    """A node that gives features as images (C, H, W) or rows (C, L)."""

    shape: Shape


def simpler(nir, nodes: Nodes, dt: float, reset: str | None) -> Nodes:
    """The same graph, of nodes that layers stand for."""
    senders = {name: list(its_senders) for name, its_senders in nodes.senders.items()}
    given = Nodes(dict(nodes.by_name), senders, [], nodes.returning)
    for name in nodes.order:
        node = given.by_name[name]
        given.order.append(name)
        with checks.at(f"node '{name}'"):
            splits = is_filtered(nir, node) and (not _fires(nir, node) or not shares_potentials(nir, node, dt, reset))
            if splits and _fires(nir, node) and name in nodes.returning:  # which would not pass through the filter
                raise ValueError(
                    "recurrent CubaLIF neurons must all rest at one v_leak and reset to one v_reset, below v_threshold"
                )
        if splits:
            _put_before(given, name, f"{name}_filter", _filter(nir, node))
            node = given.by_name[name] = _unfiltered(nir, node)
        if is_neuron(nir, node) and (shape := _differs_within_channels(node)):
            flatten = nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
            _put_before(given, name, f"{name}_in_a_row", flatten)
            given.by_name[name] = _in_a_row(node)
            _put_behind(given, name, f"{name}_as_images", Images(shape))
    return given


def _fires(nir, node) -> bool:
    return isinstance(node, nir.CubaLIF)


def _filter(nir, node) -> Any:
    w_in, tau = (np.broadcast_to(np.asarray(v, np.float64), np.shape(node.tau_syn)) for v in (node.w_in, node.tau_syn))
    return nir.LI(tau=tau.copy(), r=w_in.copy(), v_leak=np.zeros_like(tau))


def _unfiltered(nir, node) -> Any:
    values = {"tau": node.tau_mem, "r": node.r, "v_leak": node.v_leak}
    if not _fires(nir, node):
        return nir.LI(**values)
    if getattr(node, "v_reset", None) is not None:
        values["v_reset"] = node.v_reset
    made = nir.LIF(**values, v_threshold=node.v_threshold)
    made.metadata = node.metadata
    return made


def _differs_within_channels(node) -> Shape | None:
    """The shape of neurons whose values are not the same in each channel; None: they are."""
    for name in FIELDS:
        values = np.asarray(getattr(node, name, 0.0))
        if values.ndim > 1 and values.dtype.kind in "fiub" and values.size:
            by_channel = values.reshape(len(values), -1).astype(np.float32)
            if (by_channel != by_channel[:, :1]).any():
                return tuple(values.shape)
    return None


def _in_a_row(node) -> Any:
    """The same neurons as features."""
    row, size = copy.copy(node), math.prod(_differs_within_channels(node) or ())
    for name in FIELDS:
        value = getattr(node, name, None)
        if value is not None and np.size(value) == size:
            setattr(row, name, np.asarray(value).reshape(-1))
    return row


def _put_before(nodes: Nodes, name: str, wanted: str, node: Any) -> None:
    """A node between another, the last in order so far, and all that send to it."""
    new = _free(nodes, wanted)
    nodes.by_name[new], nodes.senders[new] = node, nodes.senders[name]
    nodes.senders[name] = [new]
    nodes.order.insert(nodes.order.index(name), new)


def _put_behind(nodes: Nodes, name: str, wanted: str, node: Any) -> None:
    new = _free(nodes, wanted)
    for receiver in nodes.receivers(name):
        nodes.senders[receiver] = [new if sender == name else sender for sender in nodes.senders[receiver]]
    nodes.by_name[new], nodes.senders[new] = node, [name]
    nodes.order.append(new)


def _free(nodes: Nodes, wanted: str) -> str:
    name, number = wanted, 1
    while name in nodes.by_name:
        number += 1
        name = f"{wanted}_{number}"
    return name
