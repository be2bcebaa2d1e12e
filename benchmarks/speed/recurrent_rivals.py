"""Recurrent networks as a step loop in plain torch, and in other libraries."""

import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ATanSpike(torch.autograd.Function):
    """x >= 0, with the derivative of pk.ATan(2.0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient / (1 + (math.pi * x) ** 2)


class Loop:
    """A layer of leaky or current-based neurons with hard reset to 0, recurrent or not, as a loop over steps."""

    def __init__(self, layer: Any):
        self.layer, neuron = layer, layer.neuron
        self.decay, self.current_decay = neuron.decay, getattr(neuron, "current_decay", 0.0)
        self.recurrent = getattr(layer, "recurrent_weight", None)

    def __call__(self, x: Tensor, surrogate: bool = False) -> Tensor:
        currents, spikes = F.linear(x, self.layer.weight, self.layer.bias), []
        v = i = s = torch.zeros_like(currents[0])
        for current in currents:
            if self.recurrent is not None:
                current = current + F.linear(s, self.recurrent)
            i = self.current_decay * i + current if self.current_decay else current
            h = self.decay * v + i
            s = ATanSpike.apply(h - 1) if surrogate else (h >= 1).float()
            v = h * (1 - s)
            spikes.append(s)
        return torch.stack(spikes)


def snntorch(net: nn.Sequential) -> Callable[[Tensor], Tensor] | None:
    """The same network in snnTorch, whose synaptic neurons reset by subtraction; None: it is not installed.

    Its potentials and so its spikes are others; its work is the same.
    """
    if importlib.util.find_spec("snntorch") is None:
        return None
    import snntorch as snn

    first, last = net[0].neuron, net[1].neuron
    options = {"reset_mechanism": "subtract"}
    lif1 = snn.RSynaptic(first.current_decay, first.decay, linear_features=38, **options)
    lif2 = snn.Synaptic(last.current_decay, last.decay, **options)
    with torch.no_grad():
        lif1.recurrent.weight.copy_(net[0].recurrent_weight)
        lif1.recurrent.bias.zero_()

    def run(x: Tensor) -> Tensor:
        first_state, last_state, spikes = lif1.reset_mem(), lif2.reset_mem(), []
        for step in x:
            first_state = lif1(F.linear(step, net[0].weight, net[0].bias), *first_state)
            last_state = lif2(F.linear(first_state[0], net[1].weight, net[1].bias), *last_state[-2:])
            spikes.append(last_state[0])
        return torch.stack(spikes)

    return run


def norse(net: nn.Sequential) -> Callable[[Tensor], Tensor] | None:
    """The same sizes in Norse, of current-based neurons; None: it is not installed."""
    if importlib.util.find_spec("norse") is None:
        return None
    from norse.torch.module.lif import LIFCell, LIFRecurrentCell

    recurrent, linear, last = LIFRecurrentCell(12, 38), nn.Linear(38, 7), LIFCell()

    def run(x: Tensor) -> Tensor:
        first_state = last_state = None
        spikes = []
        for step in x:
            z, first_state = recurrent(step, first_state)
            z, last_state = last(linear(z), last_state)
            spikes.append(z)
        return torch.stack(spikes)

    return run


def numba(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """A recurrent layer of leaky neurons in numba, which adds the rows of what fired, as our kernels do; None: it is
    not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    from numba import njit

    @njit
    def run(x, rows, back, bias, decay, spikes):
        T, N, inputs = x.shape
        C = len(bias)
        v, h = np.zeros(C, np.float32), np.empty(C, np.float32)
        for n in range(N):
            v[:] = 0
            for t in range(T):
                for i in range(C):
                    h[i] = bias[i]
                for j in range(inputs):
                    if x[t, n, j]:
                        for i in range(C):
                            h[i] += rows[j, i]
                if t:
                    for j in range(C):
                        if spikes[t - 1, n, j]:
                            for i in range(C):
                                h[i] += back[j, i]
                for i in range(C):
                    leaked = decay * v[i]
                    here = leaked + h[i]
                    spikes[t, n, i] = here >= 1
                    v[i] = 0 if here >= 1 else here

    rows, back = (weight.detach().T.contiguous().numpy() for weight in (layer.weight, layer.recurrent_weight))
    bias, decay = layer.bias.detach().numpy(), np.float32(layer.neuron.decay)

    def fired(x: Tensor) -> Tensor:
        spikes = np.empty((*x.shape[:2], len(bias)), np.uint8)
        run(x.numpy() != 0, rows, back, bias, decay, spikes)
        return torch.from_numpy(spikes)

    return fired


def jax(layer: Any) -> Callable[[Tensor], Tensor] | None:
    """The same in JAX: all inputs multiplied at once, then a compiled scan over steps; None: it is not installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax as of_jax
    from jax import numpy as jnp

    weight, back, bias = (
        jnp.asarray(part.detach().numpy()) for part in (layer.weight, layer.recurrent_weight, layer.bias)
    )
    decay = np.float32(layer.neuron.decay)

    @of_jax.jit
    def run(x):
        def step(state, current):
            v, s = state
            h = decay * v + (current + s @ back.T)
            s = (h >= 1).astype(jnp.float32)
            return (h * (1 - s), s), s

        rest = jnp.zeros((x.shape[1], len(bias)), jnp.float32)
        return of_jax.lax.scan(step, (rest, rest), x @ weight.T + bias)[1]

    return lambda x: torch.from_numpy(np.array(run(x.numpy())))
