"""The layers of the ReLU network, which share a spiking network's weights; the swap that connects their outputs; and a
watch that warns once in training about a layer that is silent and cannot learn, or whose twin diverges."""

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import heap
from ..layers import FusedRecurrentLinear, Neurons, SpikingLayer
from ..neurons import ALIFNeuron, CubaLIFNeuron, IFNeuron, LIFNeuron, LINeuron, RefractoryLIFNeuron
from . import fi_curve

KNOWN = IFNeuron, LIFNeuron, CubaLIFNeuron, ALIFNeuron, RefractoryLIFNeuron, LINeuron  # exactly these, no subclasses
PASSES = 20  # a layer that is silent for that many passes in a row is unlikely to recover
# Mean activation in thresholds, without the clip: below 2 while training went well, above 4 soon after it diverged
# (three networks, Adam at 1e-3 to 1e-2, cross-entropy on 256 images).
HIGHEST = 3.0

LARGER = (
    "Give it larger currents: batch_norm=True, a lower v_threshold, or for leaky neurons a decay nearer to 1 or biases "
    "at the onset (docs/train.md, Leaky neurons)"
)


class OutputSwap(torch.autograd.Function):
    """Forward, the values of the spiking network; backward, their gradient goes to the ReLU network's values."""

    @staticmethod
    def forward(ann: Tensor, snn: Tensor) -> Tensor:
        return snn.view_as(snn)  # float32, even under autocast: bfloat16 cannot represent large counts

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.to(ctx.dtype), None


class NotBelowZero(torch.autograd.Function):
    """Identity on the ReLU network's output y, whose gradient may raise values below zero but not lower them."""

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.where(y < 0, gradient.clamp(max=0), gradient)


class Twin(nn.Module):
    """A layer of the ReLU network, on [1, N, ...]: the layer's currents, normalised by the twin's own statistics.

    Args:
        layer: a SpikingLayer. statistics: the twin's nn.BatchNorm, or None. given: values that replace its input.
        linear: whether it is the last layer, whose activation is its current. The others: as in ProxyNet.
        rates: layer name -> mean activation as a share of the threshold; a pass stores this layer's there.
    """

    def __init__(
        self,
        name: str,
        layer: Any,
        *,
        statistics: Any,
        given: Tensor | None,
        linear: bool,
        clip: bool,
        readout: str,
        batch_statistics: bool,
        rates: dict[str, Tensor],
    ):
        super().__init__()
        self.name, self.layer, self.statistics, self.given = name, layer, statistics, given
        self.neuron = layer.neuron if isinstance(layer, Neurons) else None  # None: pooled activations
        self.linear, self.clip, self.readout = linear, clip, readout
        self.batch_statistics, self.rates = batch_statistics, rates

    def forward(self, x: Any) -> Tensor:
        x = tuple(part.squeeze(0) for part in x) if isinstance(x, tuple) else x.squeeze(0)
        if self.given is not None:
            x = OutputSwap.apply(x, self.given)
        self.check_shape(x)
        current = self.layer.affine(x)
        if self.statistics is not None:
            current = self.normalise(current)
        return self.activation(current).unsqueeze(0)

    def check_shape(self, x: Any) -> None:
        weight = getattr(self.layer, "weight", None)
        if weight is None:  # not a single convolution or matrix product
            return
        inputs = weight.shape[1] * getattr(self.layer, "groups", 1)
        if x.ndim != weight.ndim or x.shape[1] != inputs:
            wanted = f"[{', '.join(['N', str(inputs), *'HW'[4 - weight.ndim :]])}]"
            raise ValueError(f"layer {self.name} takes inputs of the shape {wanted}, got {list(x.shape)}")

    def normalise(self, current: Tensor) -> Tensor:
        own, bn = self.statistics, self.layer.bn
        learns = self.batch_statistics and bn.training
        if learns:
            own.num_batches_tracked += 1
        momentum = 1 / max(1, own.num_batches_tracked.item()) if own.momentum is None else own.momentum
        return F.batch_norm(current, own.running_mean, own.running_var, bn.weight, bn.bias, learns, momentum, own.eps)

    def activation(self, current: Tensor) -> Tensor:
        neuron = self.neuron
        if self.linear:
            if isinstance(neuron, LIFNeuron) and self.readout != "potential":
                return fi_curve.line(neuron, current)
            return current
        if neuron is None:
            self.rates[self.name] = _mean(current)
            return current
        if not isinstance(neuron, IFNeuron):  # the current is the activation
            return current
        if isinstance(neuron, LIFNeuron):
            y = fi_curve.rate(neuron, current)
            self.rates[self.name] = _mean(y)
            return y
        return self.relu(current, neuron.v_threshold)

    def relu(self, current: Tensor, theta: float | Tensor) -> Tensor:
        """The twin's activation for integrate-and-fire neurons of the threshold theta, a number or [C]."""
        if isinstance(theta, Tensor):
            theta = theta.to(current.dtype).view(-1, *[1] * (current.ndim - 2)) if theta.ndim else theta.item()
        if not self.clip:
            y = F.relu(current)
        elif isinstance(theta, Tensor):
            y = torch.minimum(F.relu(current), theta)
        else:
            y = F.hardtanh(current, 0.0, theta)
        self.rates[self.name] = _mean(y / theta) if isinstance(theta, Tensor) else _mean(y, theta)
        return y


def check_twin(name: str, layer: SpikingLayer, *, last: bool) -> None:
    """Refuse neurons whose activation is not known, since a ReLU would not correspond to them.

    Raises:
        TypeError: they are of another class, or recurrent.
        ValueError: they give potentials that are not the currents.
    """
    if not isinstance(layer, Neurons):
        return
    neuron = layer.neuron
    if isinstance(layer, FusedRecurrentLinear):
        raise TypeError(
            f"layer {name} is recurrent, and a ReLU twin has no steps in which its output could come back; train it "
            "with SurrogateNet"
        )
    if type(neuron) not in KNOWN:
        raise TypeError(
            f"layer {name} has {type(neuron).__name__}s, whose activation in a ReLU twin is not known; train it with "
            f"SurrogateNet. Known: {', '.join(kind.__name__ for kind in KNOWN)}"
        )
    decay = torch.as_tensor(getattr(neuron, "decay", 0.0), dtype=torch.float32, device=heap.CPU)
    if isinstance(neuron, LINeuron) and not last and (decay.any() or neuron.v_rest):
        raise ValueError(
            f"layer {name} passes on potentials that add up over the steps, which a twin without steps has not; give "
            "it decay=0 and v_rest=0, so that they are its currents, or train with SurrogateNet"
        )


def _mean(y: Tensor, unit: float = 1.0) -> Tensor:
    """The mean in float32, in units. The gradient of a sum is a single expanded number, while that of a mean, or of
    another dtype than y's, would be a new tensor of y's size."""
    if y.dtype == torch.float16:  # its sum may overflow
        return y.mean(dtype=torch.float32) / unit
    return y.sum().float() / (y.numel() * unit)


class Watch:
    """Watches the firing rates of each training pass, until it has warned."""

    def __init__(self) -> None:
        self._silent: Counter[str] = Counter()  # layer -> passes in a row
        self._said = False

    def look(self, rates: Mapping[str, float], activations: Mapping[str, Tensor], *, clip: bool = True) -> None:
        """``rates``: layer -> firing rate, in the order of the network. ``activations``: layer -> the twin's mean
        activation in thresholds, if it has one; at most 1 with ``clip``."""
        if self._said:
            return
        message = self._silence(rates, activations) or (None if clip else _divergence(activations))
        if message is not None:
            self._said = True
            warnings.warn(message, UserWarning, stacklevel=5)  # at the model's call

    def _silence(self, rates: Mapping[str, float], activations: Mapping[str, Tensor]) -> str | None:
        silent = [name for name, rate in rates.items() if not rate]
        self._silent = Counter({name: self._silent[name] + 1 for name in silent})
        for name in silent:
            if name in activations and not activations[name].item():
                return (
                    f"layer {silent[0]} gave no spike, and layer {name} of the twin is 0: it has no gradient. {LARGER}"
                )
        for name in silent:
            if self._silent[name] >= PASSES:
                return f"layer {name} gave no spike in {PASSES} passes in a row. {LARGER}"
        return None


def _divergence(activations: Mapping[str, Tensor]) -> str | None:
    for name, activation in activations.items():
        if activation.item() > HIGHEST:
            return (
                f"activations in layer {name} of the twin are {activation.item():.1f} thresholds on average, and a "
                "neuron fires once a step at most: training diverges. Use clip=True, the default"
            )
    return None
