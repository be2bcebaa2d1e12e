"""Layers of any neurons, behind a convolution or a matrix product, or alone."""

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import checks
from ..calls import neuron_ops
from ..calls.currents import batch_moments
from ..checks import window_checks
from ..kernels import unfused, value_checks_cache
from ..neurons import AnyNeuron
from ..spikes import Spikes, word_ops
from .base import Neurons, each_step
from .folded import as_before, fold, fold_values
from .synapses import Convolution, Convolution1d, Product


class Fused(Neurons):
    """Neurons behind weights of their own, those of nn.Conv2d or nn.Linear, which is the other base class.

    Attributes:
        bn: the normalisation of the currents, or None.
    """

    weight: Tensor
    bias: Tensor | None
    bn: nn.BatchNorm1d | nn.BatchNorm2d | None

    def _fire(self, x, v, batch_statistics):
        if self.bn is not None and batch_statistics:
            x = checks.frames(x)
            if self._sums_up(x):
                return self._fire_with(*self._folded_by_batch(x), x, v)
            x = x.dense(self.weight.dtype) if isinstance(x, Spikes) else x
            with nullcontext() if torch.is_grad_enabled() else unfused.exact(x.device):
                currents = each_step(lambda step: self.bn(self.affine(step)), x)
            return neuron_ops.scan(currents, v, self.neuron, self.surrogate)
        return self._fire_with(*self._parameters_now(), x, v)

    def _parameters_now(self) -> tuple[Tensor, Tensor | None]:
        """:meth:`folded`; where no gradient goes there, what is made of the parameters is kept from call to call."""
        if self.bn is None and "weight" in self._parameters:
            return self.weight, self.bias
        weight, bias = self.weight, self.bias
        differentiable = self.surrogate is not None and torch.is_grad_enabled()
        kept = not (differentiable or torch.jit.is_tracing()) and value_checks_cache.can_be_read(weight)
        if kept and "weight" not in self._parameters:  # computed anew at each look, by a parametrization or a hook
            weight = as_before(self, weight)
        return (weight, bias) if self.bn is None else fold(weight, bias, self.bn, kept=kept)

    def _sums_up(self, x: Any) -> bool:
        """Whether the statistics of a batch are sums that a launch makes, and currents are in memory at no time."""
        return False

    def _folded_by_batch(self, x: Spikes) -> tuple[Tensor, Tensor]:
        """Weight and bias with the batch's own statistics folded in; the running ones are updated."""
        raise NotImplementedError

    def _fire_with(self, weight: Tensor, bias: Tensor | None, x, v) -> tuple[Spikes, Tensor]:
        """The layer with other weights."""
        raise NotImplementedError

    def affine(self, x: Tensor) -> Tensor:
        return self.synapse.plain_class.forward(self, x)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch normalisation's running statistics folded in (none: just weight and bias)."""
        return (self.weight, self.bias) if self.bn is None else fold(self.weight, self.bias, self.bn)


class FusedConv2d(Fused, nn.Conv2d):
    """Convolution and neurons over all steps: in place of nn.Conv2d and multi-step neurons.

    Equations: :mod:`proxykernels.kernels.reference`. Takes nn.Conv2d's arguments and parameters and loads its
    state_dict (its own has the neurons' parameters besides, ``v_threshold`` for example: nn.Conv2d loads it with
    strict=False), and then:

    Args:
        neuron: one of :mod:`proxykernels.neurons`. Its fields are the layer's attributes. They are saved in the
            state_dict, and taken from there if they are there. A parameter, or a tensor that requires a gradient, is
            refused.
        v_init: potential at which a call without a state starts (default: at rest), a number or one value a channel
            [C]; in the state_dict too. Half a threshold halves the rounding of a soft reset.
        batch_norm: adds ``bn``, an nn.BatchNorm2d on the currents. In evaluation it is folded into the weights; in
            training it normalises by the statistics of all N * T steps, for which all currents are held in memory.

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out], of
    neurons that keep several values [N, states, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_conv2d`; padding_mode other than 'zeros' is not offered.
    """

    synapse = Convolution

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros"] = "zeros",
        device=None,
        dtype=None,
        *,
        neuron: AnyNeuron,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        _check_window(window_checks.pair, kernel_size, stride, padding, dilation, padding_mode)
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._set_neurons(neuron, v_init)
        self.pool_follows = False  # what simulate finds out of the network
        self.bn = nn.BatchNorm2d(out_channels, device=device, dtype=dtype) if batch_norm else None

    def _sums_up(self, x):
        if torch.is_grad_enabled() or not isinstance(x, Spikes) or not word_ops.over_time(x._words):
            return False
        return self.bn.training and self.bn.running_mean is not None

    @torch.no_grad()
    def _folded_by_batch(self, x):
        bn, window = self.bn, (self.stride, self.padding, self.dilation, self.groups)
        checks.parameters(self.weight, self.bias, 4, "[C_out, C_in / groups, kernel_h, kernel_w]", x.device)
        bias = torch.zeros_like(bn.running_mean) if self.bias is None else self.bias
        near = bn.running_mean - bias  # what a first look at the mean is
        mean, variance, count = batch_moments(x, self.weight.detach(), -near, *window)
        mean = mean + near.double() + bias.double()
        bn.num_batches_tracked += 1
        momentum = 1 / bn.num_batches_tracked.double() if bn.momentum is None else bn.momentum
        for running, now in ((bn.running_mean, mean), (bn.running_var, variance * (count / max(count - 1, 1)))):
            running.copy_(running.double() + (now - running.double()) * momentum)
        return fold_values(self.weight, self.bias, bn.weight, bn.bias, mean, variance, bn.eps)

    def _fire_with(self, weight, bias, x, v):
        window = self.stride, self.padding, self.dilation, self.groups
        options = {"pool_follows": self.pool_follows, "surrogate": self.surrogate}
        return neuron_ops.conv2d(x, weight, bias, v, self.neuron, *window, **options)


class FusedConv1d(Fused, nn.Conv1d):
    """Convolution along one axis and neurons over all steps: nn.Conv1d's arguments and parameters, and then:

    Args:
        neuron, v_init, batch_norm: as in :class:`FusedConv2d`.

    Shapes: x (T, N, C_in, L), Spikes or a tensor; y (T, N, C_out, L_out); v [N, C_out, L_out].

    Raises:
        TypeError, ValueError: as :class:`FusedConv2d`, by which it is computed, on images of one row.
    """

    synapse = Convolution1d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros"] = "zeros",
        device=None,
        dtype=None,
        *,
        neuron: AnyNeuron,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        _check_window(window_checks.single, kernel_size, stride, padding, dilation, padding_mode)
        nn.Conv1d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._set_neurons(neuron, v_init)
        self.bn = nn.BatchNorm1d(out_channels, device=device, dtype=dtype) if batch_norm else None

    def _fire_with(self, weight, bias, x, v):
        checks.steps_of(x, 4, "(T, N, C_in, L)")
        images = x._sized(1, x.shape[3]) if isinstance(x, Spikes) else x.unsqueeze(3)
        v = v.unsqueeze(-2) if isinstance(v, Tensor) else v
        padding = self.padding if isinstance(self.padding, str) else (0, *self.padding)
        window = (1, *self.stride), padding, (1, *self.dilation), self.groups
        weight = value_checks_cache.computed_from(weight.unsqueeze(2), weight)
        spikes, v = neuron_ops.conv2d(images, weight, bias, v, self.neuron, *window, surrogate=self.surrogate)
        y = spikes._sized(spikes.shape[4]) if isinstance(spikes, Spikes) else spikes.squeeze(-2)
        return y, v.squeeze(-2)


class FusedLinear(Fused, nn.Linear):  # type: ignore[misc]  # whose bias is never None to torch's annotations
    """Fully connected layer of neurons over all steps: nn.Linear's arguments and parameters, and then:

    Args:
        neuron, v_init, batch_norm: as in :class:`FusedConv2d`; ``bn`` is an nn.BatchNorm1d.

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, out], or [N, states, out].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_linear`.
    """

    synapse = Product

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        neuron: AnyNeuron,
        v_init: float | Tensor | None = None,
        batch_norm: bool = False,
    ):
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_neurons(neuron, v_init)
        self.bn = nn.BatchNorm1d(out_features, device=device, dtype=dtype) if batch_norm else None

    def _fire_with(self, weight, bias, x, v):
        return neuron_ops.linear(x, weight, bias, v, self.neuron, self.surrogate)


def _check_window(check, kernel_size, stride, padding, dilation, padding_mode: str) -> None:
    """What torch takes and the functions do not; ``check``: window_checks.pair or single, of a number for each
    axis."""
    if padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}; pad the input before the layer instead")
    check("kernel_size", kernel_size, 1)
    check("stride", stride, 1)
    check("dilation", dilation, 1)
    if not isinstance(padding, str):
        check("padding", padding, 0)


class Population(Neurons):
    """Neurons alone, on currents that come from elsewhere, such as :class:`AvgPool2d`.

    Args:
        neuron, v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes, which count as 1; y (T, N, ...); v [N, ...],
    or [N, states, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    def __init__(self, neuron: AnyNeuron, v_init: float | Tensor | None = None):
        super().__init__()
        self._set_neurons(neuron, v_init)

    def _fire(self, x, v, batch_statistics):
        x = checks.frames(x)
        if isinstance(x, Spikes):
            x = x.dense()
        if isinstance(x, Tensor) and x.ndim > 1 and checks.is_constant(x):
            return neuron_ops.hold(x[0], len(x), v, self.neuron, self.surrogate)
        return neuron_ops.scan(x, v, self.neuron, self.surrogate)

    def affine(self, x: Tensor) -> Tensor:
        return x
