"""Weights of 14 or 7 bits, in which every sum is exact: the same spikes on any machine, batch and order of sums.

The weights of an output channel become whole multiples of a power of two, and small enough that the sum of all of them,
bias included, fits the 24 bits of a float32. Then whatever adds them up, in whatever order, comes to the same current:
C++ on a CPU, or a GPU's tensor cores, for which each weight is exactly two float16 parts (and which keep 24 bits of a
sum). Real-valued inputs are rounded to 24 bits of each sample's largest value and convolved in float64, where such sums
are exact too. Potentials stay float32, and their steps are the same everywhere.

"int16": at most 14 bits, so that a CPU can add four weights in int16 (kernels/cpu/src/conv2d/weight_rows.h). "int8": at
most 7, with a sign, so that it can add two in bytes, and no sum of weights leaves 16 bits, for which a channel of many
inputs may have one bit less.

Networks of graded neurons (:func:`rounded_network`) have 8 bits: weights of 7 bits, values of 7 bits, and sums that are
exact. A neuron sends multiples of UNIT (kernels/reference.py). An input of the network is rounded to 8 bits of the
largest value that it was calibrated on. The weights of an output channel become multiples of a power of two, of which
the largest has at most 63. All that a neuron adds up is then a whole number of units below 2**24, so that a sum is
exact in float32, in whatever order and by whatever kernel. Sums of averages, and of what layers without neurons pass
on, are rounded as floats are.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from ..calls import neuron_ops
from ..kernels import value_checks_cache, weight_cache
from ..kernels.backends import backend_of, fingerprint
from ..kernels.rounding import FLOAT_BITS, PRECISIONS, Grid, Precision, in_units, power_of_two, unit_of, units_of_values
from ..kernels.table import Most
from ..kernels.weight_cache import CONSTANTS, WHOLE_BITS, PackedWeights
from ..kernels.weight_layouts import require_finite
from ..layers import (
    Concatenate,
    Delay,
    Fused,
    FusedRecurrentLinear,
    FusedSum,
    MaxRatePool1d,
    MaxRatePool2d,
    Neurons,
    Population,
    SpikingLayer,
)
from ..layers.base import each_step
from ..layers.layer_graph import LayerGraph
from ..layers.of_sums import OfSums
from ..layers.parametrized import shallow_copy, with_plain_weights
from ..layers.sigma_delta_neurons import SigmaDeltaNeurons
from ..neurons import Graded
from ..spikes import Spikes
from ..spikes.spikes import cat_steps


class Rounded(Neurons):
    """A layer whose weights are rounded; all else is the layer's."""

    def __init__(self, layer: Fused | FusedRecurrentLinear, *rounded: Tensor | None):
        """``rounded``: weight and bias, and the recurrent weight where the layer has one."""
        super().__init__()
        self.layer = layer
        self.stand_for(layer)
        self.rounded = rounded

    @property
    def neuron(self):
        return self.layer.neuron

    @property
    def states(self) -> int:
        return self.layer.states

    def _start(self, x, v_init):
        return self.layer._start(x, v_init)

    def _fire(self, x, v, batch_statistics):
        weight, bias, *recurrent = self.rounded
        if not isinstance(x, Spikes):  # real values times weights need float64
            weight, bias = (p if p is None else weight_cache.made(_double, p) for p in (weight, bias))
        return self.layer._fire_with(weight, bias, *recurrent, x, v)  # type: ignore[arg-type]

    def terms(self, x: Spikes | Tensor):
        return self.layer.terms(x)

    def returning(self, y: Spikes | Tensor):
        return self.layer.returning(y)

    def repeats(self, device: torch.device, T: int) -> bool:
        return self.layer.repeats(device, T)


class RoundedSum(Neurons):
    """A sum whose synapses' weights are rounded."""

    def __init__(self, layer: FusedSum, pairs: list[tuple[Tensor | None, Tensor | None]]):
        """``pairs``: weight and bias of each synapse."""
        super().__init__()
        self.layer = shallow_copy(layer)
        self.stand_for(layer)
        self.layer._modules = {"synapses": _with_parameters(layer.synapses, pairs)}
        self._synapses, self._pairs = layer.synapses, pairs

    @property
    def neuron(self):
        return self.layer.neuron

    def _fire(self, x, v, batch_statistics):
        if all(isinstance(part, Spikes) for part in x):
            return self.layer._fire(x, v, batch_statistics)
        self.layer._check_inputs(x)
        # Real values times weights need float64.
        doubles = [tuple(p if p is None else p.double() for p in pair) for pair in self._pairs]
        exact, parts = _with_parameters(self._synapses, doubles), []
        for chunk in self.layer._chunks(x):
            dense = [part.dense(torch.float64) if isinstance(part, Spikes) else part.double() for part in chunk]
            currents = (each_step(synapse, part) for synapse, part in zip(exact, dense, strict=True))
            spikes, v = neuron_ops.scan(reduce(torch.add, currents).float(), v, self.neuron)
            parts.append(spikes)
        return cat_steps(parts), v

    def terms(self, x):
        return self.layer.terms(x)


def _with_parameters(synapses, parameters) -> nn.ModuleList:
    """Copies of torch's modules with other weights and biases; those without any as they are."""
    copies = nn.ModuleList()
    for synapse, (weight, bias) in zip(synapses, parameters, strict=True):
        copy = synapse
        if weight is not None:
            copy = shallow_copy(synapse)
            copy._parameters = {"weight": weight, "bias": bias}
        copies.append(copy)
    return copies


def quantized(name: str, layer: SpikingLayer, precision: str) -> SpikingLayer:
    """A layer with weights of a name in PRECISIONS; batch normalisation is folded in."""
    if isinstance(layer, Delay | Population | MaxRatePool1d | MaxRatePool2d):  # no weights, and exact sums
        return layer
    if not isinstance(layer, Fused | FusedSum | FusedRecurrentLinear):
        raise TypeError(
            f"precision={precision!r} is for FusedIFConv2d, FusedIFLinear, FusedIFSum, FusedRecurrentLinear, IF and "
            f"MaxRatePool2d, and layer {name} is a {type(layer).__name__}; simulate it with precision=None"
        )
    bounds = PRECISIONS[precision]
    try:
        if isinstance(layer, FusedSum):
            return _rounded_sum(layer, bounds)
        if isinstance(layer, FusedRecurrentLinear):
            given = layer.weight, layer.bias, layer.recurrent_weight
            if given[2].is_cpu:  # a GPU would have to be waited for
                require_finite("recurrent_weight", given[2].detach())
            return Rounded(layer, *_rounded.get(bounds, partial(_recurrent_constants, bounds), *given))
        return Rounded(layer, *_rounded.get(bounds, partial(_constants, bounds), *layer.folded()))
    except ValueError as error:
        raise ValueError(f"layer {name}: {error}") from error


def _rounded_sum(layer: FusedSum, bounds: Precision) -> SpikingLayer:
    """All weights of a neuron in one unit, of which the 1 of an identity is a multiple."""
    given: list[Any] = [(getattr(s, "weight", None), getattr(s, "bias", None)) for s in layer.synapses]
    weighted = [k for k, (weight, _) in enumerate(given) if weight is not None]
    if not weighted:
        return layer
    (weight, *others), ones = [p for k in weighted for p in given[k]], len(given) - len(weighted)
    rounded = _rounded.get((bounds, ones), partial(_sum_constants, bounds, ones), weight, *others)
    pairs: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(given)
    for place, k in enumerate(weighted):
        pairs[k] = rounded[2 * place], rounded[2 * place + 1]
    return RoundedSum(layer, pairs)


_rounded = PackedWeights(fingerprint)


def _double(parameter: Tensor) -> Tensor:
    return value_checks_cache.computed_from(parameter.double(), parameter)


def _constants(precision: Precision, weight: Tensor, bias: Tensor | None) -> list[Tensor | None]:
    rounded, rounded_bias, _ = backend_of(weight.device.type).round_weights(weight, bias, precision)
    return _as_constants([rounded, rounded_bias], precision)


def _sum_constants(precision: Precision, ones: int, *parameters: Tensor | None) -> list[Tensor | None]:
    """Weight and bias of each synapse of a sum, beside ``ones`` identities."""
    weights, biases = [p for p in parameters[::2] if p is not None], parameters[1::2]
    columns = [p for p in biases if p is not None]
    joined = torch.cat([weight.flatten(1) for weight in weights], 1)
    unit = unit_of(joined.double(), torch.stack(columns, 1).double() if columns else None, precision, ones)
    rows = [in_units(w.double().flatten(1), unit).view_as(w) for w in weights]
    rounded = [None if b is None else in_units(b.double()[:, None], unit)[:, 0] for b in biases]
    return _as_constants([p for pair in zip(rows, rounded, strict=True) for p in pair], precision)


def _recurrent_constants(
    precision: Precision, weight: Tensor, bias: Tensor | None, recurrent: Tensor
) -> list[Tensor | None]:
    """Weight, bias and recurrent weight, all that a neuron receives in one unit: so their sum is exact."""
    received = recurrent if recurrent.ndim == 2 else recurrent[:, None]
    joined = torch.cat([weight, received], 1).double()
    unit = unit_of(joined, None if bias is None else bias.double()[:, None], precision)
    rounded, back = in_units(joined, unit).split([weight.shape[1], received.shape[1]], 1)
    rounded_bias = None if bias is None else in_units(bias.double()[:, None], unit)[:, 0]
    values = [rounded.contiguous(), rounded_bias, back.reshape(recurrent.shape).contiguous()]
    return _as_constants(values, precision)


def _as_constants(values: Sequence[Tensor | None], precision: Precision) -> list[Tensor | None]:
    """Rounded weights and biases in turn, as float32."""
    parameters = [p if p is None else p.float() for p in values]
    for index, parameter in enumerate(parameters):
        if parameter is not None:
            CONSTANTS.add(parameter.untyped_storage())
            if index % 2 == 0:
                WHOLE_BITS[parameter.untyped_storage()] = precision.largest.bit_length()
    return parameters


def round_input(x: Tensor | Spikes, sample: int) -> Tensor | Spikes:
    """Real-valued inputs in 24 bits of each sample's largest value; ``sample``: the dimension of the samples."""
    if isinstance(x, Spikes):
        return x
    others = [d for d in range(x.ndim) if d != sample]
    unit = power_of_two(x.double().abs().amax(others, keepdim=True)) * 2.0 ** (1 - FLOAT_BITS)
    return (torch.round(x.double() / unit) * unit).float()


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
    for name, layer, _ in plain.layers():
        if isinstance(layer, OfSums):
            raise ValueError(
                f"layer {name} computes a function or a product of values, which 8 bits do not have; "
                "give precision=None"
            )
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
        constants = _rounded.get((PRECISION, kept), partial(_graded_constants, kept), weight, *others)
        pairs: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(synapses)
        for place, k in enumerate(weighted):
            pairs[k] = constants[2 * place], constants[2 * place + 1]
        copy._modules = {**layer._modules, "synapses": _with_parameters(layer.synapses, pairs)}
    return copy


def _graded_constants(grids: tuple[Grid, ...], *parameters: Tensor | None) -> list[Tensor | None]:
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
