"""The outputs of a ReLU network, read from the spikes and potentials of the one that it was converted to.

A soft reset loses no charge: over t steps the currents of a neuron add up to v_threshold times its spikes, plus what
its potential has gained. Their mean, times what a spike a step stands for, is the logit; also where it is negative and
no neuron fires.

    logit = scale (v_threshold count + v[t] - v[0]) / t

Where the ReLU network ends in a ReLU, its outputs are the positive part of this, up to the ReLU's limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..layers import Neurons, SpikingLayer
from ..layers.layer_graph import STEPS, Range, has_fired, warn_of_silence
from ..neurons import IFNeuron
from ..spikes import Spikes
from ..spikes.spikes import checked_until

# 32-bit floating point in 45 nm CMOS, 0.9 V: an addition takes 0.9 pJ, a multiplication 3.7 pJ. Horowitz, "Computing's
# energy problem (and what we can do about it)", ISSCC 2014, doi 10.1109/ISSCC.2014.6757323. Memory is not counted.
ACCUMULATE_JOULES = 0.9e-12
MULTIPLY_ACCUMULATE_JOULES = 4.6e-12


@dataclass
class SynOps:
    """Operations of a simulation, over all its samples and steps.

    Attributes:
        accumulates: layer name -> additions of a weight to a potential: one for each spike and each neuron that it
            reaches (padding is not reached).
        multiply_accumulates: layer name -> multiplications of a real-valued input (an image, averages) by a weight,
            with the addition; a constant input is multiplied once for all steps.
    """

    accumulates: dict[str, int] = field(default_factory=dict)
    multiply_accumulates: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All operations."""
        return sum(self.accumulates.values()) + sum(self.multiply_accumulates.values())

    @property
    def joules(self) -> float:
        """The energy estimate usual in the field: 0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate (45 nm CMOS,
        Horowitz, ISSCC 2014), memory not counted."""
        additions, products = sum(self.accumulates.values()), sum(self.multiply_accumulates.values())
        return ACCUMULATE_JOULES * additions + MULTIPLY_ACCUMULATE_JOULES * products


NOT_CONVERTED = "logits are those of the network that convert was given; this network was not converted"
SEVERAL = "the network ends in neurons that fire several times in a step: take result.output, their counts"
NO_SPIKES = "the network ends in a readout, which does not fire, or in neurons that fire several times in a step"
LOSES_CHARGE = "logits need a last layer with the soft reset, v_reset=None, which loses no charge"
COLUMNS = "layer", "rate", "accumulates", "multiply-accumulates"


class Result:
    """The result of a simulation; ``print(result)`` shows its size, and the rate and operations of each layer. It marks
    layers that are silent, and those that pass on real values, whose inputs are multiplied.

    Attributes:
        spikes: Spikes (T, N, ...) of the network's output. A sample that was stopped early is silent from then on.
        output: what the network gives: its spikes or potentials, or of neurons that fire several times in a step
            (:class:`neurons.IntegerLIFNeuron`) how often, float32 [T, N, ...].
        potentials: float32 [T, N, ...], in place of spikes: those after every step of the readout (:class:`LI`,
            :class:`FusedLILinear`) that the network ends in. For sigma-delta neurons, the ReLU network's outputs as far
            as each step tells them.
        rates: layer name -> firing rate (spikes a neuron and step), over all samples and the steps each was simulated.
            Layers that do not fire, such as readouts, are not in it. Without samples rates are nan.
        places: layer name -> neurons times steps, over all samples and the steps each was simulated; 0 for a readout.
        sums: of sigma-delta neurons, layer name -> sums times steps and samples: more than ``places`` where a max
            pooling is before the neurons.
        state: layer name -> potentials after the last step of each sample; pass it to :func:`simulate` to go on. On a
            CPU the first one that is read of a network takes a second run, whose float sums may round differently. Of
            sigma-delta neurons it is empty where none was given. An engine's run keeps none:
            :meth:`Engine.stream` goes on from call to call.
        steps: steps that each sample was simulated for, int64 [N]; T without ``stop``.
        synops: :class:`SynOps`, the synaptic operations and the energy estimated from them.
        records: what ``record`` asked for, by the same names: Spikes (T, N, ...), or potentials float32 [T, N, ...].
        relu_joules: energy of one pass of the ReLU network that :func:`convert` was given over the same images,
            estimated as ``synops.joules``: 4.6 pJ a multiply-accumulate, zeros not skipped, memory not counted. None
            where the network or its images are not known, as of an input that changes.
    """

    output: Spikes | Tensor
    rates: dict[str, float]
    places: dict[str, int]
    synops: SynOps
    relu_joules: float | None
    state: dict[str, list[Tensor]]
    records: dict[str, Spikes | Tensor]

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the output, which need not be made for it."""
        return tuple(self.output.shape)

    @property
    def _gives_integers(self) -> bool:
        """Whether the last neurons fire several times in a step."""
        return False

    @property
    def _total_counts(self) -> Tensor:
        """As ``count()``, not to be written to."""
        return self.spikes.count()

    @cached_property
    def steps(self) -> Tensor:
        T, N = self._shape[:2]
        return torch.full((N,), T, dtype=torch.int64, device=self.output.device)

    @cached_property
    def sums(self) -> dict[str, int]:
        return {}

    @property
    def spikes(self) -> Spikes:
        if self._gives_integers:
            raise AttributeError(SEVERAL)
        if isinstance(self.output, Tensor):
            raise AttributeError("the network ends in a readout that does not fire: take result.potentials")
        return self.output

    @property
    def potentials(self) -> Tensor:
        if self._gives_integers:
            raise AttributeError(SEVERAL)
        if isinstance(self.output, Spikes):
            raise AttributeError("the network ends in spikes: take result.spikes, or record=['layer.v']")
        return self.output

    @property
    def logits(self) -> Tensor:
        """The outputs of the ReLU network that :func:`convert` was given, as far as the steps tell them, float32
        [N, ...]; negative ones too, unless it ends in a ReLU (:mod:`proxykernels.running.result`)."""
        raise NotImplementedError

    def count(self, until: int | None = None) -> Tensor:
        """Output spikes in the first ``until`` steps (default: all): int32 [N, ...]."""
        if self._gives_integers:
            steps = self._shape[0] if until is None else checked_until(until, self._shape[0])
            return self.output[:steps].sum(0, dtype=torch.int32)  # type: ignore[union-attr, call-overload]  # a tensor
        return self.spikes.count(until) if until is not None else self._total_counts.clone()

    def __repr__(self) -> str:
        return summary(self)


class LayerResult(Result):
    """The result of a network whose layers were called one by one."""

    def __init__(
        self, output: Spikes | Tensor, steps: Tensor | None, tallies: Mapping[str, Any], layer: SpikingLayer,
        kept: dict[str, list[Tensor]] | None, given: Sequence[Tensor], last: Sequence[Tensor], constant: bool,
        records: Mapping[str, Spikes | Tensor] | None = None,
    ):  # fmt: skip
        """
        Args:
            steps: of each sample; None: all.
            tallies: layer name -> its counts. layer: the last one of neurons.
            kept: layer name -> its state; None: nothing was kept.
            given: the last layer's state at the start, if any. last: that at the end.
            constant: whether the input was.
        """
        self.output, self.records = output, dict(records or {})
        self._tallies, self._layer, self._kept = tallies, layer, kept
        self._given, self._last, self._constant = given, last, constant
        if steps is not None:
            self.steps = steps

    @property
    def _gives_integers(self) -> bool:
        return gives_integers(self._layer)

    @cached_property
    def rates(self) -> dict[str, float]:  # type: ignore[override]  # a GPU is waited for when they are first asked for
        return {name: tally.rate for name, tally in self._tallies.items() if tally.fires}

    @cached_property
    def places(self) -> dict[str, int]:  # type: ignore[override]
        return {name: tally.places for name, tally in self._tallies.items()}

    @cached_property
    def synops(self) -> SynOps:  # type: ignore[override]
        return SynOps(
            {name: tally.accumulates for name, tally in self._tallies.items()},
            {name: tally.multiply_accumulates for name, tally in self._tallies.items()},
        )

    @cached_property
    def relu_joules(self) -> float | None:  # type: ignore[override]
        if not self._constant or getattr(self._layer, "scale", None) is None:
            return None
        return MULTIPLY_ACCUMULATE_JOULES * sum(tally.products for tally in self._tallies.values())

    @property
    def state(self) -> dict[str, list[Tensor]]:  # type: ignore[override]
        if self._kept is None:
            raise AttributeError("a run of an engine keeps no states: take proxykernels.simulate")
        return self._kept

    @property
    def logits(self) -> Tensor:
        return logits(self._layer, self.count(), self._last, self._given, self.steps)


def gives_integers(layer: SpikingLayer) -> bool:
    """Whether its neurons fire several times in a step."""
    return isinstance(layer, Neurons) and layer.neuron.counts


def logits(
    layer: SpikingLayer, counts: Tensor, state: Sequence[Tensor], given: Sequence[Tensor], steps: Tensor
) -> Tensor:  # fmt: skip
    """float32 [N, ...] of the last layer of neurons; ``counts`` [N, ...], ``given``: the state at the start, if any.

    Raises:
        AttributeError: the layer was not made by convert, or it loses charge.
    """
    scale: Any = getattr(layer, "scale", None)
    if scale is None:
        raise AttributeError(NOT_CONVERTED)
    neuron: Any = layer.neuron
    if type(neuron) is not IFNeuron or neuron.v_reset is not None or len(state) != 1:
        raise AttributeError(LOSES_CHARGE)
    start: Any = given[0] if given else layer.v_init
    if not given and isinstance(start, Tensor):  # one a channel
        start = start.view(-1, *[1] * (state[0].ndim - 2))
    gained = state[0] - start
    theta = torch.as_tensor(neuron.v_threshold, dtype=torch.float32, device=counts.device)
    theta = theta.view(-1, *[1] * (gained.ndim - 2)) if theta.ndim else theta
    charge = theta * counts.view_as(gained) + gained
    scale = torch.as_tensor(scale, dtype=torch.float32, device=charge.device)
    scale = scale.view(-1, *[1] * (gained.ndim - 2)) if scale.ndim else scale
    outputs = (scale * charge / steps.view(-1, *[1] * (gained.ndim - 1))).view_as(counts)
    return outputs.clamp(0, layer.limit) if getattr(layer, "rectifies", False) else outputs


def summary(result) -> str:
    """The size of the output, the steps, and a row for each layer, marked where it is silent; no tensor's values."""
    y = result.output
    (T, N), kind = y.shape[:2], "spikes" if isinstance(y, Spikes) else "potentials"
    kind = "counts" if result._gives_integers else kind
    lines = [f"Result of T = {T} steps, N = {N} samples: {kind} {tuple(y.shape)} on {y.device}"]
    if N and result.steps.min() < T:
        steps = result.steps
        lines.append(f"stopped after {steps.min()} to {steps.max()} steps, {steps.float().mean():.1f} on average")
    additions, products = result.synops.accumulates, result.synops.multiply_accumulates
    rates = {name: result.rates.get(name) for name in result.places}
    rows = [
        (name, "-" if rate is None else f"{rate:.4f}", f"{additions.get(name, 0):,}", f"{products.get(name, 0):,}")
        for name, rate in rates.items()
    ]
    marks = ["", *map(_mark, rates.values())]
    lines += [f"{row}  {mark}".rstrip() for row, mark in zip(table([COLUMNS, *rows]), marks, strict=True)]
    synops, relu_joules = result.synops, result.relu_joules
    lines.append(f"{synops.total:,} synaptic operations, about {synops.joules:.2g} J without memory (.synops)")
    if relu_joules is not None:
        lines.append(f"one pass of the ReLU network, zeros not skipped: about {relu_joules:.2g} J")
    if result.records:
        lines.append(f"records of {', '.join(result.records)}")
    return "\n".join(lines)


def _mark(rate: float | None) -> str:
    """What is out of the ordinary in a layer: "" for one that fires, or has no samples."""
    return "real values, no spikes" if rate is None else "" if rate else "silent"


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Names to the left, numbers to the right."""
    name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([row[0].ljust(name), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]


def listen(owner: Any, known: Range | None, result: Result) -> None:
    """Warn once where no neuron of a converted network has fired in a run. For functions that users call.

    ``owner``, ``known``: as of look_at_input, which says where silence is worth a warning.
    """
    T, rates = result._shape[0], result.rates.values()
    if any(rates):
        has_fired(owner)
    elif rates and T >= STEPS:
        warn_of_silence(owner, T, known, stacklevel=4)
