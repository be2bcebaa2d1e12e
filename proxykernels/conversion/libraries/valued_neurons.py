"""SpikingJelly's neurons that hand on values instead of spikes, in the order of its operations: the same bits."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import Formula, ValuedNeurons
from ...layers.all_steps import AllSteps
from ...layers.valued_neurons import Rule
from ...surrogates import Surrogate


class _Leaky(Rule):
    """The charge and the reset of IFNode and LIFNode; ``tau`` None: without a leak."""

    def __init__(self, node: Any):
        super().__init__()
        self.tau, self.decay_input = getattr(node, "tau", None), getattr(node, "decay_input", True)
        self.v_threshold, self.v_reset, self.detached = node.v_threshold, node.v_reset, node.detach_reset
        self.start = (node.v_reset or 0.0,)

    def charged(self, v: Tensor, x: Tensor) -> Tensor:
        reset = self.v_reset or 0.0
        if self.tau is None:
            return v + x
        if self.decay_input:
            return v + (x - (v - reset)) / self.tau
        return v - (v - reset) / self.tau + x

    def after(self, h: Tensor, spikes: Tensor) -> Tensor:
        spikes = spikes.detach() if self.detached else spikes
        if self.v_reset is None:
            return h - spikes * self.v_threshold
        return spikes * self.v_reset + (1.0 - spikes) * h


class Ternary(_Leaky):
    """Fires 1 at h >= v_threshold and -1 at h <= -v_threshold."""

    def step(self, state, x, fire):
        h = self.charged(state[0], x)
        above, below = fire(h - self.v_threshold), fire(-h - self.v_threshold)
        spikes = above - below
        return spikes, (self.after(h, spikes if self.v_reset is None else above + below),)


class AnalogLeaky(_Leaky):
    """Hands on a function of its potential before the reset: LIAF, arXiv:2011.06176."""

    def __init__(self, node: Any):
        super().__init__(node)
        self.act, self.of_distance = node.act, node.threshold_related

    def step(self, state, x, fire):
        h = self.charged(state[0], x)
        given = self.act(h - self.v_threshold if self.of_distance else h)
        return given, (self.after(h, fire(h - self.v_threshold)),)


class Quantised(Rule):
    """Fires a level up or down while the sum of all that it fired stays between two bounds: ST-BIF of SpikeZIP-TF."""

    start = (0.5, 0.0)

    def __init__(self, node: Any):
        super().__init__()
        for name in ("q_threshold", "pos_max", "neg_min"):
            self.register_buffer(name, getattr(node, name).detach().clone())
        self.v_threshold = float(node.q_threshold)

    def step(self, state, x, fire):
        q, total = state
        threshold: Any = self.q_threshold
        most: Any = self.pos_max
        least: Any = self.neg_min
        q = q + x / threshold.to(x)
        total = total.round()
        up = ((q >= 1) & (total < most)).to(x)
        down = ((q < 0) & (total > least)).to(x)
        return (up - down) * threshold.to(x), (q - up + down, total + (up - down))


class FewSpikes(nn.Module):
    """What few-spike neurons make of a value: in each of K steps d where v >= theta, which takes h off v.

    The tables [regions, K] of theta, h and d are those of the region that the value lies in; arXiv:2002.00860.

    Attributes:
        bounds: between the regions; None: there is one.
        signed: whether sizes are coded, and their signs are put back.
        most: of the sizes; None: there is no bound.
    """

    def __init__(self, node: Any):
        super().__init__()
        kind, most = type(node).__name__, getattr(node, "clamp_value", None)
        self.signed, self.most, bounds = kind.startswith("Outlier"), most, None
        tables: tuple[Tensor, ...]
        if kind.startswith("HG"):
            tables, bounds = (node.region_theta, node.region_h, node.region_d), node.gate_thresholds
        else:
            tables = tuple(getattr(node, name)[None] for name in ("theta", "h", "d"))
        if self.signed:
            others = (getattr(node, f"outlier_{name}")[None] for name in ("theta", "h", "d"))
            tables = tuple(torch.cat(pair) for pair in zip(tables, others, strict=True))
            bounds = node.theta.new_tensor([node.split_threshold])
        for name, table in zip(("theta", "h", "d"), tables, strict=True):
            self.register_buffer(name, table.detach().clone())
        self.register_buffer("bounds", None if bounds is None else bounds.detach().clone())

    def coded(self, x: Tensor) -> list[Tensor]:
        """What is handed on in each step for a value x [...]."""
        if self.most is not None:
            x = x.clamp(-self.most, self.most)
        v, signs = (x.abs(), x.sign()) if self.signed else (x, None)
        bounds: Any = self.bounds
        region = torch.zeros_like(v, dtype=torch.long) if bounds is None else torch.bucketize(v, bounds)
        given = []
        for k in range(self.theta.shape[1]):  # type: ignore[index]
            theta, h, d = (getattr(self, name)[:, k][region].to(x) for name in ("theta", "h", "d"))
            z = (v - theta >= 0).to(x)
            given.append(d * z if signs is None else d * z * signs)
            v = v - h * z
        return given

    def forward(self, x: Tensor) -> Tensor:
        """What all K steps hand on for values x [T, N, ...], each of one step."""
        first, *others = self.coded(x)
        return sum(others, first)


class FewSpikesOfSteps(FewSpikes):
    """The same for the sum of K steps x [K, N, ...]: each step hands on its own part."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.coded(x.sum(0)))


def few_spikes(node: Any, surrogate: Surrogate | None) -> nn.Module:
    if getattr(node, "step_mode", "s") == "s":
        return Formula(FewSpikes(node))
    return AllSteps(FewSpikesOfSteps(node), node.K)


def _analog(node: Any, surrogate: Surrogate | None) -> nn.Module:
    """In SpikingJelly 2.0 all steps at once give a LIFNode's spikes."""
    if getattr(node, "step_mode", "s") == "m":
        x = torch.linspace(-2, 2, 9, dtype=torch.float32, device="cpu").expand(2, 1, 9) * node.v_threshold
        single, multi = (copy.deepcopy(node).cpu() for _ in range(2))
        for one, mode in ((single, "s"), (multi, "m")):
            one.reset()
            one.step_mode = mode
        if not torch.equal(multi(x), torch.stack([single(step) for step in x])):
            raise ValueError(
                "LIAFNode in multi-step mode gives the spikes of a LIFNode, not the values of its act: use single "
                "steps, functional.set_step_mode(net, 's')"
            )
    return ValuedNeurons(AnalogLeaky(node), surrogate)


def _of(rule: Callable[[Any], Rule]) -> Callable[[Any, Surrogate | None], nn.Module]:
    return lambda node, surrogate: ValuedNeurons(rule(node), surrogate)


KINDS: dict[str, Callable[[Any, Surrogate | None], nn.Module]] = {
    "TernaryIFNode": _of(Ternary),
    "TernaryLIFNode": _of(Ternary),
    "LIAFNode": _analog,
    "STBIFNode": _of(Quantised),
    "FewSpikeNode": few_spikes,
    "HGNode": few_spikes,
    "OutlierAwareThresholdNode": few_spikes,
}
