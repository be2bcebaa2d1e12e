"""Networks of sigma-delta neurons: layer by layer, all steps of each in one call, whose state never leaves it."""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..kernels.heap import keep_freed
from ..layers import Concatenate, Flatten, RunningMaxPool2d, ZeroPad2d
from ..layers.sigma_delta import Changes, SigmaDeltaNeurons, Tally
from ..network import Network
from ..sequences import is_sequence
from ..spikes import Spikes
from .result import Result
from .synops import SynOps

FIRST = 4  # samples that are run first, which tell how many more go at a time
BYTES = {"cpu": 32 << 20, "cuda": 1 << 30}  # of what the layers give that is needed at a time


class SigmaDeltaResult(Result):
    """A :class:`Result` whose ``potentials`` [T, N, ...] are the ReLU network's outputs as far as each step tells
    them, ``logits`` [N, ...] those of the last step. It has no ``spikes``, and its ``state`` is empty."""

    @cached_property
    def synops(self) -> SynOps:
        tallies: Any = self._tallies
        return SynOps(
            {name: tally.accumulates for name, tally in tallies.items()},
            {name: tally.multiply_accumulates for name, tally in tallies.items()},
        )

    @property
    def logits(self) -> Tensor:
        return self.potentials[-1]


def has_sigma_delta(net: nn.Module) -> bool:
    return any(isinstance(module, SigmaDeltaNeurons) for module in net.modules())


def simulate(net: nn.Module, x: Tensor | Spikes, T: int, **unknown: Any) -> SigmaDeltaResult:
    """``T`` steps of a network from ``convert(..., neuron="sigma-delta")``.

    Args:
        x: constant [N, ...], or frames [T, N, ...], of which each step takes what has changed.
        unknown: options of :func:`proxykernels.simulate` that these networks do not take.

    Raises:
        TypeError, ValueError: as :func:`proxykernels.simulate`.
    """
    if not isinstance(net, Network):
        raise TypeError(f"net has sigma-delta neurons: it must be what convert returned, got {type(net).__name__}")
    for name, value in unknown.items():
        if value:
            raise ValueError(
                f"{name} is not supported for networks of sigma-delta neurons, got {value!r}; leave it out"
            )
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
    changes = torch.cat([frames[:, :1], frames[:, 1:] - frames[:, :-1]], 1)  # [N, steps, ...]
    tallies = {name: Tally() for name, layer, _ in net.layers() if isinstance(layer, SigmaDeltaNeurons)}
    outputs, start, samples = list[Tensor](), 0, FIRST
    while start < len(changes) or not outputs:  # of no samples, too
        part = changes[start : start + samples]
        output, needed = _run(net, Changes.of(part), T, tallies)
        outputs.append(output)
        start += len(part)
        samples = max(1, BYTES[x.device.type] * len(part) // needed)
    output = torch.cat(outputs, 1)
    last: Any = net.layers()[-1][1]
    tally: Any = tallies
    return SigmaDeltaResult(output, tally, {}, torch.full((output.shape[1],), T), {}, (last, ()))


def _run(net: Network, x: Changes, T: int, tallies: dict[str, Tally]) -> tuple[Tensor, int]:
    """The outputs [T, N, ...] after each step, and the bytes of values that were needed at a time."""
    values, scales = {Network.INPUT: x}, {Network.INPUT: torch.ones(())}
    last_use = {source: name for name, _, sources in net.layers() for source in sources}
    most, name = 1, Network.INPUT
    for name, layer, sources in net.layers():
        inputs = [values[source] for source in sources]
        scales[name] = scales[sources[0]]
        with checks.at(f"layer {name}"):
            if isinstance(layer, SigmaDeltaNeurons):
                y = layer.run(inputs, T, tallies[name])
                scales[name] = layer.scale
            else:
                y = _plain(layer, inputs)
        values[name] = y
        most = max(most, sum(v.values.numel() * v.values.element_size() for v in values.values()))
        for source in set(sources):
            if last_use[source] == name:
                del values[source]
    changes = values[name].dense().transpose(0, 1)
    scale = scales[name]
    if scale.ndim:
        scale = scale.repeat_interleave(changes.shape[2] // len(scale)).view(-1, *[1] * (changes.ndim - 3))
    outputs = changes.cumsum(0) * scale
    if len(outputs) < T:
        outputs = torch.cat([outputs, outputs[-1:].expand(T - len(outputs), *outputs.shape[1:])])
    return outputs, most


def _plain(layer: nn.Module, inputs: list[Changes]) -> Changes:
    """A layer without neurons: linear, so that it takes changes as it takes values; or a maximum of their sums."""
    if isinstance(layer, Flatten):
        return inputs[0].flatten()
    if isinstance(layer, RunningMaxPool2d):
        return _maximum(layer, inputs[0])
    if isinstance(layer, ZeroPad2d) and layer.spread == (1, 1):
        images = F.pad(inputs[0].values.unflatten(2, inputs[0].size), (0, 0, *layer.padding))
        return Changes(images.flatten(2, 3), tuple(images.shape[2:4]))
    if isinstance(layer, Concatenate):
        return _side_by_side(inputs)
    return Changes.of(layer(inputs[0].dense()))


def _side_by_side(inputs: list[Changes]) -> Changes:
    """Along the channels; spikes where all are."""
    steps, spikes = max(x.steps for x in inputs), all(x.are_spikes for x in inputs)
    parts = [x.values if spikes else x.real() for x in inputs]
    parts = [F.pad(part, (0, 0, 0, 0, 0, steps - part.shape[1])) for part in parts]
    return Changes(torch.cat(parts, 3), inputs[0].size)


def _maximum(layer: RunningMaxPool2d, x: Changes) -> Changes:
    """The change of the maximum of what has been sent so far, of images that stay channels last."""
    sums = x.real().clone()
    N, steps, _, C = sums.shape
    for t in range(1, steps):  # torch's cumsum takes ten times as long
        sums[:, t] += sums[:, t - 1]
    images = sums.view(N * steps, *x.size, C).movedim(-1, 1)
    most = layer.affine(images).unflatten(0, (N, steps))
    pixels = most.flatten(3).transpose(2, 3).contiguous()
    pixels[:, 1:] -= pixels[:, :-1].clone()
    return Changes(pixels, tuple(most.shape[3:]))
