"""Networks of graded neurons in 8 bits: weights of 7 bits, values of 7 bits, and sums that are exact.

A neuron sends multiples of UNIT (kernels/reference.py). An input of the network is rounded to 8 bits of the largest
value that it was calibrated on. The weights of an output channel become multiples of a power of two, of which the
largest has at most 63, as with ``precision="int8"`` of other networks (quantize.py). All that a neuron adds up is then
a whole number of units below 2**24, so that a sum is exact in float32, in whatever order and by whatever kernel.

Sums of averages, and of what layers without neurons pass on, are rounded as floats are.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.rounding import PRECISIONS, Grid, in_units, power_of_two, units_of_values
from ..kernels.table import Most
from ..layers import Concatenate
from ..layers.layer_graph import LayerGraph
from ..layers.parametrized import shallow_copy, with_plain_weights
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons
from ..neurons import Graded
from .quantize import _as_constants, _rounded, _with_parameters

UNIT = 2.0**-5  # in scales of a layer: neurons send up to about four times what 99 % of their activations are not above
PRECISION = "int8"
INPUT_CODES = 256  # of the largest value of the input, on either side of 0


def is_graded(net: nn.Module) -> bool:
    """Whether all neurons are graded: of an image that is held, they send all in the first step."""
    return all(isinstance(layer.neuron, Graded) for layer in net.modules() if isinstance(layer, SigmaDeltaNeurons))


def check_precision(net: nn.Module, precision: str | None) -> None:
    """Refuse a precision that sigma-delta neurons do not have.

    Raises:
        ValueError: the network has some, and it is such a precision.
    """
    if precision is None:
        return
    if precision == PRECISION and is_graded(net):
        return
    raise ValueError(
        f"precision must be None for a network of sigma-delta neurons, None or {PRECISION!r} for one of graded "
        f"neurons, got {precision!r}"
    )


@torch.no_grad()
def rounded_network(net: LayerGraph) -> LayerGraph:
    """The network in 8 bits, which shares all else with ``net``.

    Raises:
        ValueError: a neuron has more inputs than exact sums are for.
    """
    plain = with_plain_weights(net)
    rounded = shallow_copy(plain)
    rounded._modules = dict(plain._modules)
    largest = max(map(abs, net.calibrated or (1.0,)))
    rounded.unit = power_of_two(torch.tensor(largest, dtype=torch.float64, device="cpu")).item() / INPUT_CODES
    grids = {LayerGraph.INPUT: Grid(rounded.unit, 2 * INPUT_CODES)}  # what it changes by
    for name, layer, sources in plain.layers():
        grids[name] = grids[sources[0]]
        if isinstance(layer, SigmaDeltaNeurons):
            try:
                rounded._modules[name] = _rounded_layer(layer, [grids[source] for source in sources])
            except ValueError as error:
                raise ValueError(f"layer {name}: {error}") from error
            grids[name] = Grid(UNIT, Most.CODE)
        elif isinstance(layer, Concatenate):
            parts = [grids[source] for source in sources]
            unit = min(part.unit for part in parts)
            grids[name] = Grid(unit, max(int(part.largest * part.unit / unit) for part in parts))
    return rounded


def round_values(x: Tensor, unit: float) -> Tensor:
    """Input values, as CHANGES rounds them in a plan."""
    return torch.round(x / unit) * unit


def _rounded_layer(layer: SigmaDeltaNeurons, grids: list[Grid]) -> SigmaDeltaNeurons:
    synapses: list[Any] = list(layer.synapses)
    given: list[Any] = [getattr(s, name, None) for s in synapses for name in ("weight", "bias")]
    weighted = [k for k in range(len(synapses)) if given[2 * k] is not None]
    copy = shallow_copy(layer)
    copy.unit = UNIT
    if weighted:
        weight, *others = [p for k in weighted for p in given[2 * k : 2 * k + 2]]
        kept = tuple(grids[k] for k in weighted)
        constants = _rounded.get((PRECISION, kept), partial(_constants, kept), weight, *others)
        pairs: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(synapses)
        for place, k in enumerate(weighted):
            pairs[k] = constants[2 * place], constants[2 * place + 1]
        copy._modules = {**layer._modules, "synapses": _with_parameters(layer.synapses, pairs)}
    return copy


def _constants(grids: tuple[Grid, ...], *parameters: Tensor | None) -> list[Tensor | None]:
    """Weight and bias of each synapse, rounded."""
    precision = PRECISIONS[PRECISION]
    rows = [weight.double().flatten(1) for weight in parameters[::2] if weight is not None]
    biases = [bias for bias in parameters[1::2] if bias is not None]
    total = torch.stack(biases).double().abs().sum(0) if biases else None
    units = units_of_values(rows, total, list(grids), precision.largest)
    finest = torch.stack([unit * grid.unit for unit, grid in zip(units, grids, strict=True)]).amin(0)
    rounded: list[Tensor | None] = []
    for weight, bias, row, unit in zip(parameters[::2], parameters[1::2], rows, units, strict=True):
        assert weight is not None
        rounded.append(in_units(row, unit).view_as(weight))
        rounded.append(None if bias is None else in_units(bias.double()[:, None], finest)[:, 0])
    return _as_constants(rounded, precision)
