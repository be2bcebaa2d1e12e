"""Simulate a whole network for T steps in bounded memory."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import checks, functional, ops
from .layers import Neurons
from .spikes import Spikes

CHUNK = 64  # steps: two words of a GPU, and a size at which a CPU's launch costs vanish


class Result:
    """What a simulation leaves behind.

    Attributes:
        spikes: Spikes (T, N, ...) of the network's output.
        rates: layer name -> firing rate (spikes a neuron and step), over all N samples and T steps.
        state: layer name -> potentials after the last step; pass it to :func:`simulate` to go on.
    """

    def __init__(self, spikes: Spikes, rates: dict[str, float], state: dict[str, list[Tensor]]):
        self.spikes, self.rates, self.state = spikes, rates, state

    def count(self, until: int | None = None) -> Tensor:
        """Output spikes in the first ``until`` steps (default: all): int32 [N, ...]."""
        return self.spikes.count(until)


@torch.no_grad()
def simulate(
    net: nn.Module,
    x: Tensor | Spikes,
    T: int,
    *,
    chunk: int | None = None,
    state: dict | None = None,
) -> Result:
    """Run a network of this package's layers for ``T`` steps.

    The steps go through the whole network a chunk at a time with the potentials handed on, so memory does not grow with
    T beyond the output's packed spikes. Normalisation uses its running statistics, whatever ``net.training`` says.

    Args:
        net: an nn.Sequential or any nn.Module of the layers of this package; its output must be spikes.
        x: an input held for all steps, [N, features] or [N, C, H, W] (constant currents, an image for example), or a
            sequence [T, N, features] or [T, N, C, H, W] of spikes or real values, or Spikes.
        T: number of steps.
        chunk: steps at a time (default 64; on a GPU rounded up to a multiple of 32). Any value gives the same spikes.
        state: ``result.state`` of an earlier call, to go on from there.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or value; the message names it.
    """
    return run(net, x, T, chunk=chunk, state=state)


def run(net, x, T, *, chunk=None, state=None, batch_statistics: bool = False) -> Result:
    """simulate, for callers that need the statistics of the batch (training); they take all T steps at once."""
    T = checks.steps(T)
    chunk = T if batch_statistics else CHUNK if chunk is None else _chunk(chunk)
    x = _input(x, T)
    if x.device.type != "cpu":
        chunk = -(-chunk // 32) * 32
    carriers: dict[str, _Carrier] = {}

    def carry(name: str, layer: Neurons) -> _Carrier:
        carriers[name] = _Carrier(name, layer, (state or {}).get(name), batch_statistics)
        return carriers[name]

    carrying = replace_neurons(net, carry)
    unknown = set(state or ()) - set(carriers)
    if unknown:
        raise ValueError(f"state holds layers that net has not: {sorted(unknown)}; it has {sorted(carriers)}")
    parts = []
    for start in range(0, T, chunk):
        for carrier in carriers.values():
            carrier.calls = 0
        part = carrying(x[start : start + chunk])
        if not isinstance(part, Spikes):
            raise TypeError(
                f"net must end in a layer of IF neurons (or pooling or flattening of one); "
                f"it gave {type(part).__name__}"
            )
        parts.append(part)
    return Result(
        functional.cat_steps(parts),
        {name: carrier.rate() for name, carrier in carriers.items()},
        {name: carrier.states for name, carrier in carriers.items()},
    )


def replace_neurons(net: nn.Module, replacement: Callable[[str, Neurons], nn.Module], name: str = "") -> nn.Module:
    """The network with each layer of neurons replaced by ``replacement(name, layer)``.

    Other modules are shallow copies: they share their parameters and buffers with ``net``, which stays as it is, so two
    threads may do this to one network.
    """
    if isinstance(net, Neurons):
        return replacement(name or type(net).__name__, net)
    clone = copy.copy(net)
    clone._modules = {
        key: child and replace_neurons(child, replacement, f"{name}.{key}" if name else key)
        for key, child in net._modules.items()
    }
    return clone


class _Carrier(nn.Module):
    """A layer that hands its potentials from chunk to chunk and counts its spikes.

    A layer that a network calls more than once is that many populations of neurons: one state for each call.
    """

    def __init__(self, name: str, layer: Neurons, states: list[Tensor] | None, batch_statistics: bool):
        super().__init__()
        self.name, self.layer, self.batch_statistics = name, layer, batch_statistics
        self.states = list(states or [])
        self.calls = 0
        self.spikes: list[Tensor] = []
        self.steps = 0

    def forward(self, x: Spikes | Tensor) -> Spikes:
        v = self.states[self.calls] if self.calls < len(self.states) else None
        try:
            y, v = self.layer.spike(x, v, batch_statistics=self.batch_statistics)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {self.name}: {error}") from error
        self.states[self.calls : self.calls + 1] = [v]
        self.calls += 1
        self.spikes.append(ops.total(y._words))
        self.steps += math.prod(y.shape)
        return y

    def rate(self) -> float:
        """Spikes a neuron and step; nan if there were none of these."""
        return sum(int(s) for s in self.spikes) / self.steps if self.steps else math.nan


def _chunk(chunk: int) -> int:
    try:
        return checks.steps(chunk)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("T must", "chunk must")) from None


def _input(x: Tensor | Spikes, T: int) -> Tensor | Spikes:
    """The input as a sequence of T steps; a held input is repeated without a copy."""
    if not isinstance(x, Spikes):
        checks.floating("x", x)
        checks.finite("x", x)
    dims = len(x.shape)
    if dims in (2, 4) and isinstance(x, Tensor):
        return x.detach().expand(T, *x.shape)
    if dims not in (3, 5):
        raise ValueError(
            "x must be held, [N, features] or [N, C, H, W], or a sequence, [T, N, features] or [T, N, C, H, W]; "
            f"got {list(x.shape)}"
        )
    if x.shape[0] != T:
        raise ValueError(f"x is a sequence of {x.shape[0]} steps, and T is {T}")
    return x
