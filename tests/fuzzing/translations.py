"""Random torch networks and what convert makes of them, compared as ReLU networks and by their spikes."""

import copy
from dataclasses import dataclass
from random import Random
from typing import Any

import layerwise
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import proxykernels as pk

from . import draw, ways
from .case import Case, Mismatch
from .models import Drawn

SIZES = ((2, 6, 6), (1, 8, 5), (3, 4, 4), (3, 10), (2, 9), (7,))  # of a sample
STEPS = 200
CHANGES = 80  # steps of sigma-delta neurons, after which they are silent
ROUNDING = 2e-3  # of the largest output, which a deep network's rounding stays below
NEAR = 0.1  # of the largest output: what spikes may be off by after STEPS; else it must fall


@dataclass(frozen=True, kw_only=True)
class Translation(Case):
    operations: int = 1
    size: tuple[int, ...] = SIZES[0]
    ends: str = "tensor"
    method: str = "max"
    share: bool = False
    changes: bool = False  # sigma-delta neurons
    signed: bool = False

    @classmethod
    def draw(cls, random: Random, **common) -> "Translation":
        return cls(
            **common | {"seed": random.randint(0, 10_000_000)}, operations=random.choice((1, 2, 3, 4, 5, 6, 8, 10)),
            size=random.choice(SIZES), ends=random.choice(("tensor", "tensor", "tensor", "tensor", "dict", "tuple")),
            method=random.choice(("max", "max", "max", "percentile")), share=random.random() < 0.1,
            changes=random.random() < 0.25, signed=random.random() < 0.5,
        )  # fmt: skip

    def check(self) -> bool:
        g = draw.generator(self.seed)
        x, other = (torch.rand(6, *self.size, generator=g) * 2 - 0.5 for _ in range(2))
        ann = Drawn(self.operations, self.seed, x, self.ends)
        original = copy.deepcopy(ann.state_dict())
        with torch.no_grad():
            expected = [_flat(ann(inputs)) for inputs in (x, other)]
        if self.changes:
            return self.sigma_delta(ann, x, expected[0])
        try:
            net = pk.convert(ann, x, method=self.method, share=self.share)
        except (TypeError, ValueError) as error:
            return self.refusal(ann, str(error))
        if not self.share and any(not torch.equal(value, original[key]) for key, value in ann.state_dict().items()):
            raise Mismatch("convert changed the model")
        for inputs, outputs in zip((x, other), expected, strict=True):
            _near("as a ReLU network", relu_outputs(net, inputs), outputs, ROUNDING)
        if self.method != "max":  # clips a few activations
            return True
        with ways.use(self.way, self.threads):
            result = layerwise.simulate(net, x, STEPS, chunk=64)
            if _error(result.logits.flatten(1), expected[0]) > NEAR:
                longer = layerwise.simulate(net, x, 16 * STEPS, chunk=400)
                if (error := _error(longer.logits.flatten(1), expected[0])) > NEAR / 2:
                    raise Mismatch(f"after {16 * STEPS} steps the logits are off by {error:.3f} of the largest")
        return bool(result.count().any())

    def sigma_delta(self, ann: Drawn, x: Tensor, expected: Tensor) -> bool:
        """Outputs come to those of the ReLU network, and a state goes on as if nothing had been in between."""
        try:
            net = pk.convert(ann, x, neuron=pk.neurons.SigmaDelta(12, signed=self.signed))
        except (TypeError, ValueError) as error:
            return self.refusal(ann, str(error))
        with ways.use(self.way, self.threads):
            whole, first = pk.simulate(net, x, CHANGES), pk.simulate(net, x, 5, state={})
            later = pk.simulate(net, x, CHANGES - 5, state=first.state)
        for result in (whole, later):
            if (error := _error(result.logits.flatten(1), expected)) > NEAR:
                raise Mismatch(f"after {CHANGES} steps the outputs are off by {error:.3f} of the largest")
        return bool(whole.potentials.any())

    def refusal(self, ann: Drawn, message: str) -> bool:
        """A refusal is one sentence, and a list of several parts; convert's own check finds only what is strange."""
        if "is not what convert makes of it" in message and not any(name == "strange" for name, *_ in ann.steps):
            raise Mismatch(f"convert's own check found: {message}")
        sentence, *others = message.splitlines()
        if "Drawn" not in sentence or (others and "such parts" not in others[0]):
            raise Mismatch(f"refused without the place, or in several lines: {message}")
        return False


def _flat(returned: Any) -> Tensor:
    """All tensors of tuples, lists and dicts, side by side."""
    if isinstance(returned, Tensor):
        return returned.flatten(1) if returned.ndim > 1 else returned.unsqueeze(1)
    parts = returned.values() if isinstance(returned, dict) else returned
    return torch.cat([_flat(part) for part in parts], 1)


def _near(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    if actual.shape != expected.shape:
        raise Mismatch(f"{what}: {list(actual.shape)} outputs, expected {list(expected.shape)}")
    if not (error := _error(actual, expected)) <= tolerance:
        raise Mismatch(f"{what}: off by {error:.4f} of the largest output")


def _error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()


@torch.no_grad()
def relu_outputs(net: pk.Network, x: Tensor) -> Tensor:
    """What a converted network's weights compute as a ReLU network, by torch alone: [N, outputs]."""
    values = {pk.Network.INPUT: x}
    for name, layer, sources in net.layers():
        values[name] = _layer(layer, [values[source] for source in sources])
    last = [layer for _, layer, _ in net.layers() if isinstance(layer, pk.layers.Neurons)][-1]
    return (values[name] * torch.as_tensor(last.scale)).flatten(1)


def _layer(layer: Any, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    if isinstance(layer, pk.Concatenate):
        return torch.cat(inputs, 1)
    if isinstance(layer, pk.layers.Neurons):
        taken = layer.terms(tuple(inputs) if len(inputs) > 1 else x)
        current = sum(synapse.plain()(part) for synapse, part in taken)
        if not (layer.neuron.fires and layer.rectifies):
            return current
        scale = torch.as_tensor(layer.scale)
        scale = scale.view(-1, *[1] * (current.ndim - 2)) if scale.ndim else scale
        return current.relu() if layer.limit is None else torch.minimum(current.relu(), layer.limit / scale)
    if hasattr(layer, "kernel_size") and "Max" in type(layer).__name__:
        pool = F.max_pool2d if x.ndim == 4 else F.max_pool1d
        return pool(x, layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    if isinstance(layer, pk.Channels):
        padded = torch.cat([x, torch.zeros_like(x[:, :1])], 1)  # of index -1
        return padded[:, layer.index]
    for kind in (nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample):
        if isinstance(layer, kind):
            return kind.forward(layer, x)
    if isinstance(layer, pk.Unflatten):
        return x.unflatten(1, layer.size)
    if isinstance(layer, pk.ZeroPad2d):
        return layer._pad(x)
    assert isinstance(layer, pk.Flatten), layer
    return x.flatten(1)
