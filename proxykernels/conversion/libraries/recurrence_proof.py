"""Compares what comes back to the neurons of another library with the recurrent layer that was made of them.

A recurrent module runs alone, and its spikes must follow from its input and from its spikes of the step before, through
the weights that the layer here has.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from ..graph.compare import PROBED, Difference, check_neurons, drive, shifted
from .learnt import gain
from .port_runs import reset, tensor_of
from .recurrence import Recurrence

FACTORS = 1, 4, 16, -1, -4, -16  # of inputs, of which some make neurons fire


@torch.no_grad()
def check(name: str, layer: Any, recurrence: Recurrence, shift: Tensor | None = None) -> None:
    """Run the module alone, from rest, on an input on which it fires.

    ``shift``: a constant current [C] that the layer has here besides; None: none.

    Raises:
        Difference: its spikes do not follow from the input and from its spikes of the step before.
    """
    module: Any = copy.deepcopy(recurrence.module).eval()
    if hasattr(module, "step_mode"):
        module.step_mode = "s"
    synapse, weight = recurrence.synapse, layer.weight
    inputs = len(weight) if synapse is None else synapse.in_features
    drawn = drive(layer, weight.new_zeros(PROBED, 1, inputs), 1.0, torch.Generator().manual_seed(1)).to(weight)
    for factor in FACTORS:
        reset(module)
        x = factor * drawn
        fired = torch.stack([tensor_of(module(step)) for step in x]).float()
        if fired.any():
            break
    else:
        raise Difference(name, "it gives no spike on any input, so that what comes back cannot be compared", alone=True)
    current = x if recurrence.bias is None else x + recurrence.bias
    current = layer.affine(x) if synapse is not None else gain(layer) * current
    current = current if shift is None else current + shift
    (back, before), *_ = layer.returning(shifted(fired))
    check_neurons(name, layer, current + back.plain()(before), fired)
