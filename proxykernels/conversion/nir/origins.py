"""Graphs that other libraries write, whose neurons do something else there than the graph says: what to pass for them.

No graph names the library that it comes from. It shows in what the nodes have in common.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .neuron_nodes import RESET, is_neuron

SINABS = (
    "a graph of sinabs needs from_nir(graph, reset='subtract'), and spikes that are single there (SingleSpike, not "
    "MultiSpike), of potentials without a lower bound (min_v_mem=None)"
)
EXACT = (
    "a graph of sinabs, which integrates exactly, needs tau = 1 / (1 - np.exp(-1 / tau)) in its nodes, and r = tau "
    "where norm_input is False, as an ExpLeak's is by default"
)
SNNTORCH = (
    "a graph of snnTorch with reset_mechanism='subtract' needs reset='subtract', which resets a step earlier here: "
    "from_snntorch(net) takes the network exactly"
)
NORSE = "a graph of Norse has no w_in, since Norse adds whole currents: set it to tau_syn / dt"


def warn_of_others(nir, nodes: Mapping[str, Any], dt: float, reset: str | None) -> None:
    """Warn where the nodes are those of a library whose neurons do something else; ``reset``: what the caller says."""
    advice: dict[str, list[str]] = {}
    for name, node in nodes.items():
        if is_neuron(nir, node) and (node.metadata or {}).get(RESET) is None:
            for what in [*_of_dynamics(nir, node, dt), *([] if reset else _of_reset(nir, node, dt))]:
                advice.setdefault(what, []).append(f"'{name}'")
    if advice:
        told = (f"{what} (node {', '.join(names)})" for what, names in advice.items())
        warnings.warn(
            f"neurons may do something else where the graph was written: {'; '.join(told)}. If they do what the graph "
            "says, pass reset='v_reset'",
            UserWarning,
            stacklevel=4,
        )


def _of_dynamics(nir, node, dt: float) -> list[str]:
    if isinstance(node, nir.LIF | nir.LI) and dt == 1 and _is(node.r, 1) and not _is(node.tau, 1):
        return [EXACT]
    if isinstance(node, nir.CubaLIF) and _is(node.w_in, 1) and not _is(node.tau_syn, dt):
        return [NORSE]
    return []


def _of_reset(nir, node, dt: float) -> list[str]:
    if isinstance(node, nir.Threshold):
        return []
    if isinstance(node, nir.IF | nir.LIF) and dt == 1 and _is(node.r, 1):
        return [SINABS]
    tau = getattr(node, "tau_mem", getattr(node, "tau", None))
    single = np.asarray(node.r).dtype == np.float32  # SpikingJelly's are float64
    if isinstance(node, nir.LIF | nir.CubaLIF) and single and not _is(node.r, 1) and _is(np.asarray(node.r) * dt, tau):
        return [SNNTORCH]
    return []


def _is(value: Any, wanted: Any) -> bool:
    return bool(np.allclose(np.asarray(value, np.float64), np.asarray(wanted, np.float64), 1e-5, 0))
