"""Networks of sigma-delta neurons: layer by layer, all steps of each in one call, whose state never leaves it."""

import math
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..kernels import backends, reference, rehearsal
from ..kernels.heap import keep_freed
from ..layers import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    Concatenate,
    Flatten,
    RunningMaxPool2d,
    ZeroPad2d,
)
from ..layers.layer_graph import LayerGraph
from ..layers.of_sums import OfSums
from ..layers.parametrized import has_forward_hooks
from ..layers.sigma_delta_neurons import Changes, ChangesTally, SigmaDeltaNeurons, kept_state, pooling_of, read
from ..plan.quantize import check_precision, round_values, rounded_network
from ..spikes import Spikes
from ..stop import Lengths, Stop, decided_by
from . import kept_plans as plans
from .inputs import is_sequence
from .result import LayerResult, Result, SynOps
from .stateful_layer import States, Watch, check_layers, unwatched

CHUNK, STOP_CHUNK = 32, 2  # steps at a time, and between two looks at which samples are decided
FIRST = 4  # samples that are run first, which tell how many more go at a time
FIRST_ON_GPU = 128  # the same times their steps: launches cost more there than memory
AVERAGES = AvgPool1d, AvgPool2d, AdaptiveAvgPool1d, AdaptiveAvgPool2d
BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}  # of what the layers give that is needed at a time


class InputsInSteps(NamedTuple):
    """What a watch is told of a call of a layer: its inputs, and for how many steps it runs."""

    inputs: list[Changes]
    steps: int


class SigmaDeltaResult(LayerResult):
    """The result of a network of sigma-delta neurons."""

    @cached_property
    def rates(self) -> dict[str, float]:  # type: ignore[override]
        read(self._tallies.values())  # a GPU is waited for when they are first asked for
        return super().rates

    @cached_property
    def synops(self) -> SynOps:  # type: ignore[override]
        read(self._tallies.values())
        return super().synops

    @cached_property
    def sums(self) -> dict[str, int]:
        return {name: tally.sums for name, tally in self._tallies.items()}

    @property
    def logits(self) -> Tensor:
        return self.potentials[-1]


@torch.no_grad()
def simulate(
    net: nn.Module, x: Tensor | Spikes, T: int, *, chunk: int | None, state: dict | None, stop: Stop | None,
    precision: str | None = None, watch: Watch = unwatched, **unknown: Any,
) -> Result:  # fmt: skip
    """``T`` steps of a network from ``convert(..., neuron="sigma-delta")``.

    Args:
        x: constant [N, ...], or frames [T, N, ...], of which each step takes what has changed.
        chunk, state, stop, precision: as :func:`proxykernels.simulate` has them.
        watch: as of simulate.run; the layers are then run one by one.
        unknown: its options that these networks do not take.

    Raises:
        TypeError, ValueError: as :func:`proxykernels.simulate`.
    """
    if not isinstance(net, LayerGraph):
        raise TypeError(f"net has sigma-delta neurons: it must be what convert returned, got {type(net).__name__}")
    for name, value in unknown.items():
        if value:
            got = "" if value is True else f", got {value!r}; leave it out"
            raise ValueError(f"{name} is not supported for networks of sigma-delta neurons{got}")
    check_precision(net, precision)
    if stop is not None and not callable(stop):
        raise TypeError(f"stop must be a rule such as proxykernels.stop.settled(), got {stop!r}")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError("x must be floating point for a network of sigma-delta neurons, images or frames of values")
    if x.device.type not in BYTES:
        raise ValueError(f"networks of sigma-delta neurons run on a CPU or a CUDA GPU, got x on {x.device}")
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        checks.same_device(name, tensor, x.device)
    if x.device.type == "cpu":
        keep_freed()
    sequence = is_sequence(net, x, T)
    checks.finite("x", x)
    x = x.detach().float()
    frames = x.transpose(0, 1) if sequence else x.unsqueeze(1)
    names = _check_state(net, state or {}, frames[:, 0])
    ends = stop.of_batch(len(frames), x.device) if isinstance(stop, Lengths) else None
    if x.device.type == "cpu" and watch is unwatched:
        planned = plans.run_changes(net, x, sequence, T, state, stop, chunk, precision)
        if planned is not None:
            return planned
    if precision is not None:
        net = rounded_network(net)
        frames = round_values(frames, cast(float, net.unit))
    steps = chunk or (CHUNK if stop is None or ends is not None else STOP_CHUNK)
    tallies = {name: ChangesTally() for name, layer, _ in net.layers() if isinstance(layer, SigmaDeltaNeurons)}
    parts, start, samples = list[_Samples](), 0, FIRST
    if x.device.type != "cpu":
        samples = max(FIRST, FIRST_ON_GPU // min(steps, T))
    while start < len(frames) or not parts:  # of no samples, too
        some = slice(start, start + samples)
        given = {name: [_copy(part[some]) for part in (state or {}).get(name, ())] for name in names}
        part = _Samples(net, frames[some], T, given, watch)
        part.run(steps, stop if ends is None else ends[some], state is not None, tallies)
        parts.append(part)
        start += samples
        samples = max(1, BYTES[x.device.type] * len(part.steps) // part.needed)
    kept = {} if state is None else _together([part.state() for part in parts])
    output, taken = _joined([part.potentials for part in parts], 1), _joined([part.steps for part in parts])
    last: Any = net.layers()[-1][1]
    return SigmaDeltaResult(output, taken, tallies, last, kept, (), (), not sequence)


def _check_state(net: LayerGraph, state: dict, frame: Tensor) -> list[str]:
    """The names that a state has, each with two tensors: of neurons z and a [N, P, C] (behind a max pooling, z before
    it), of a pooling what it has taken and given, and under "" of the network the last frame and the outputs."""
    names = [LayerGraph.INPUT]
    names += [
        name for name, layer, _ in net.layers() if isinstance(layer, RunningMaxPool2d | OfSums) or _has_state(layer)
    ]
    check_layers(state, names)
    if not state:
        return names
    for name in names:
        part = state.get(name, ())
        if len(part) != 2 or any(not isinstance(t, Tensor) or t.dtype != torch.float32 for t in part):
            got = [str(t.dtype) if isinstance(t, Tensor) else type(t).__name__ for t in part]
            raise ValueError(f"state of {name!r} must be two float32 tensors, as a result has them, got {got}")
        for tensor in part:
            checks.same_device(f"state of {name!r}", tensor, frame.device)
            checks.strided(f"state of {name!r}", tensor)
            checks.finite(f"state of {name!r}", tensor)
            samples = len(tensor) if tensor.ndim else 0
            if samples != len(frame):
                raise ValueError(f"state of {name!r} is of {samples} samples, and x has {len(frame)}")
    if state[LayerGraph.INPUT][0].shape != frame.shape:
        raise ValueError(f"state is of inputs {list(state[LayerGraph.INPUT][0].shape)}, and x has {list(frame.shape)}")
    return names


def _copy(part: Tensor) -> Tensor:
    return part.clone(memory_format=torch.contiguous_format)


def _has_state(layer: nn.Module) -> bool:
    return isinstance(layer, SigmaDeltaNeurons) and layer.fires


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _together(states: list[dict[str, list[Tensor]]]) -> dict[str, list[Tensor]]:
    """The states of all samples, from each part's."""
    return {name: [torch.cat(t) for t in zip(*(part[name] for part in states), strict=True)] for name in states[0]}


class _Samples:
    """Samples that go through the network together, some steps at a time.

    Attributes:
        potentials: [T, n, ...], the outputs after each step.
        steps: int64 [n], those that each sample was simulated for.
        needed: bytes of values that were needed at a time.
    """

    potentials: Tensor

    def __init__(self, net: LayerGraph, frames: Tensor, T: int, given: dict[str, list[Tensor]], watch: Watch):
        """``frames`` [n, T or 1, ...]; ``given``: states, empty lists at the start."""
        self.net, self.frames, self.T, self.needed, self.watch = net, frames, T, 1, watch
        self.states = {name: States(parts) for name, parts in given.items()}
        self.index = torch.arange(len(frames), dtype=torch.int64, device=frames.device)
        self.steps = torch.full_like(self.index, T)

    def state(self) -> dict[str, list[Tensor]]:
        return {name: states.whole(self.index) for name, states in self.states.items()}

    def run(self, chunk: int, stop: Stop | Tensor | None, keeps: bool, tallies: dict[str, ChangesTally]) -> None:
        """All steps. ``stop``: a rule, or the steps of each sample, int64 [n]. ``keeps``: whether states are wanted."""
        start, ends = 0, sorted({*stop.tolist()}) if isinstance(stop, Tensor) else []
        while start < self.T and (start == 0 or len(self.index)):
            steps = min(chunk, self.T - start, *(end - start for end in ends if end > start))
            part = self._rehearsed(start, steps, keeps or start + steps < self.T, tallies)
            if steps == self.T:
                self.potentials = part
            else:
                if start == 0:
                    self.potentials = part.new_empty(self.T, *part.shape[1:])
                self.potentials[start : start + steps, self.index] = part
            start += steps
            if stop is not None and start < self.T:
                self._retire(stop, start)

    def _retire(self, stop: Stop | Tensor, t: int) -> None:
        """Stop the samples that are decided, or end, after step ``t``; they keep their outputs."""
        if isinstance(stop, Tensor):
            decided = stop[self.index] <= t
        else:
            decided = decided_by(stop, self.potentials[:t, self.index], t, len(self.index))
        stopped = self.index[decided]
        self.steps[stopped] = t
        self.potentials[t:, stopped] = self.potentials[t - 1, stopped]
        for states in self.states.values():
            states.retire(decided, self.index)
        self.index = self.index[~decided]

    def _rehearsed(self, start: int, steps: int, keeps: bool, tallies: dict[str, ChangesTally]) -> Tensor:
        """_advance; the first steps from rest on a GPU compile the kernels side by side."""
        is_first = start == 0 and not self.states[LayerGraph.INPUT].now
        if not is_first or self.frames.device.type == "cpu" or self.watch is not unwatched:
            return self._advance(start, steps, keeps, tallies)
        if any(map(has_forward_hooks, self.net.modules())) or torch.cuda.is_current_stream_capturing():
            return self._advance(start, steps, keeps, tallies)
        before = {name: replace(tally, on_device=[*tally.on_device]) for name, tally in tallies.items()}

        def undo() -> None:
            for states in self.states.values():
                states.now = []
            for name, tally in before.items():
                vars(tallies[name]).update(vars(tally))

        return rehearsal.rehearsed(lambda: self._advance(start, steps, keeps, tallies), undo)

    def _advance(self, start: int, steps: int, keeps: bool, tallies: dict[str, ChangesTally]) -> Tensor:
        """The outputs [steps, n, ...] of the samples that are left, after each of some steps."""
        ends = self.states[LayerGraph.INPUT]
        fresh = not ends.now
        frames = self.frames[self.index] if len(self.index) < len(self.frames) else self.frames
        frames = frames[:, start : start + steps] if self.frames.shape[1] > 1 or not start else frames
        if fresh and frames.shape[1] == 1:
            changes = frames  # since zero
        else:
            before = torch.zeros_like(frames[:, :1]) if fresh else ends.now[0].unsqueeze(1)
            changes = torch.diff(frames, dim=1, prepend=before)
        states = {name: states.now for name, states in self.states.items()} if keeps or not fresh else {}
        y, scale, needed = _run(self.net, Changes.of(changes), steps, tallies, states, fresh, start == 0, self.watch)
        self.needed = max(self.needed, needed)
        sent = None if fresh else _copy(Changes.of(ends.now[1].unsqueeze(1)).values.squeeze(1))
        if sent is not None and sent.shape != (len(frames), *y.values.shape[2:]):
            raise ValueError(f"state is of outputs {list(ends.now[1].shape)}, and the network has others")
        sums = backends.backend_of(frames.device.type).sums_so_far(y.real(), sent, steps)
        outputs = Changes(sums, y.size).dense().transpose(0, 1)
        if keeps:
            ends.now = [frames[:, -1], outputs[-1]]
        return torch.mul(outputs, scale, out=outputs.new_empty(outputs.shape))


def _run(
    net: LayerGraph,
    x: Changes,
    T: int,
    tallies: dict[str, ChangesTally],
    states: dict[str, list[Tensor]],
    fresh: bool,
    first: bool,
    watch: Watch,
) -> tuple[Changes, Tensor, int]:
    """The changes of the outputs, what 1 stands for in them, and the bytes of values that were needed at a time.

    ``states`` are changed in place; without one of a layer, it is at rest and nothing is kept. ``fresh``: no state was
    given; ``first``: the first steps of this call."""
    one = torch.ones((), dtype=torch.float32, device=x.values.device)
    values, scales = {LayerGraph.INPUT: x}, {LayerGraph.INPUT: one}
    last_use = {source: name for name, _, sources in net.layers() for source in sources}
    most, name = 1, LayerGraph.INPUT
    for name, layer, sources in net.layers():
        inputs, within = [values[source] for source in sources], 0
        scales[name] = scales[sources[0]]
        with checks.at(f"layer {name}"):
            if isinstance(layer, SigmaDeltaNeurons):
                before = tallies[name].sums
                with watch(name, InputsInSteps(inputs, T)):
                    y = layer.run(inputs, T, tallies[name], states.get(name), fresh)
                if layer.pool is not None:
                    within = 4 * (tallies[name].sums - before)  # what arrives before the pooling
                tallies[name].products += layer.products(inputs) if first else 0
                scales[name] = layer.scale
            else:
                y = _plain(layer, inputs, states.get(name))
        values[name] = y
        most = max(most, within + sum(v.values.numel() * v.values.element_size() for v in values.values()))
        for source in set(sources):
            if last_use[source] == name:
                del values[source]
    changes, scale = values[name], scales[name]
    if scale.ndim:
        times = changes.values.shape[3] // len(scale)
        scale = scale.repeat_interleave(times) if times > 1 else scale
        scale = scale.view(-1, *[1] * len(changes.size))
    return changes, scale, most


def _plain(layer: nn.Module, inputs: list[Changes], state: list[Tensor] | None) -> Changes:
    """A layer without neurons: linear, so that it takes changes as it takes values; or a maximum of their sums."""
    if isinstance(layer, nn.Identity) or _leaves_size(layer, inputs[0].size):
        return inputs[0]
    if isinstance(layer, OfSums):
        return layer.run(inputs, state)
    if isinstance(layer, Flatten):
        return inputs[0].flatten()
    if isinstance(layer, RunningMaxPool2d):
        return _maximum(layer, inputs[0], state)
    if isinstance(layer, ZeroPad2d) and layer.spread == (1, 1):
        images = F.pad(inputs[0].values.unflatten(2, inputs[0].size), (0, 0, *layer.padding))
        return Changes(images.flatten(2, 3), tuple(images.shape[2:4]))
    if isinstance(layer, Concatenate):
        return _side_by_side(inputs)
    if isinstance(layer, AVERAGES) and not inputs[0].are_spikes:
        return Changes.of(reference.average_of_values(layer, inputs[0].dense()))
    return Changes.of(layer(inputs[0].dense()))


def _leaves_size(layer: nn.Module, size: tuple[int, ...]) -> bool:
    """Whether it averages to the size that images have, so that spikes stay spikes."""
    return isinstance(layer, AdaptiveAvgPool1d | AdaptiveAvgPool2d) and layer.output_of(size) == size


def _side_by_side(inputs: list[Changes]) -> Changes:
    """Along the channels; spikes where all are."""
    steps, spikes = max(x.steps for x in inputs), all(x.are_spikes for x in inputs)
    parts = [x.values if spikes else x.real() for x in inputs]
    parts = [F.pad(part, (0, 0, 0, 0, 0, steps - part.shape[1])) for part in parts]
    return Changes(torch.cat(parts, 3), inputs[0].size)


def _maximum(layer: RunningMaxPool2d, x: Changes, state: list[Tensor] | None) -> Changes:
    """The change of the maximum of what has been sent so far.

    ``state``: what the inputs have sent [N, P, C], and the maxima, which are changed in place; an empty list is filled.
    """
    size, pooling = pooling_of(layer, x.size)
    N, _, P, C = x.values.shape
    device = x.values.device
    kept = None if state is None else kept_state(state, (N, P, C), (N, math.prod(size), C), device)
    return Changes(backends.backend_of(device.type).running_maximum(x.values, x.image, *pooling, kept), size)
