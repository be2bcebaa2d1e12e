"""Layers of any neuron model: after a convolution, after a matrix product, or alone."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..calls import neuron_ops, window_checks
from ..calls.currents import batch_moments
from ..kernels import unfused, value_checks_cache
from ..neurons import AnyNeuron
from ..spikes import Spikes
from ..surrogates import Surrogate
from .base import Neurons, as_images, as_row, each_step
from .keywords import flag, taken_by_position
from .normalisation import as_before, fold, fold_values, gain_and_offset, normalised
from .synapses import Convolution, Convolution1d, Product

PARAMETERS_BY_NAME = "; parameters of the neurons are given by name, such as v_threshold=1.0"


class Fused(Neurons):
    """Base of layers with weights. The other base class, nn.Conv2d for example, defines the weights.

    Attributes:
        bn: batch normalisation of the currents, or None.
    """

    weight: Tensor
    bias: Tensor | None
    bn: nn.BatchNorm1d | nn.BatchNorm2d | None

    def _fire(self, x, v, batch_statistics):
        if self.bn is not None and batch_statistics and (self.bn.training or self.bn.running_mean is None):
            x = checks.frames(x)
            if batch_statistics == "means":
                return self._fire_with(*self._folded_by(*self._moments_of_means(x)), x, v)
            if isinstance(x, Spikes) and self._takes_sums():
                return self._fire_with(*self._folded_by(*self._moments_of_steps(x)), x, v)
            dtype = self.weight.dtype
            x = x.dense(dtype) if isinstance(x, Spikes) else x
            with unfused.exact(x.device):
                currents = normalised(self.bn, each_step(lambda step: self.affine(step.to(dtype)), x))
            return _scan(currents, v, self.neuron, self.surrogate)
        own = self._parameters
        if self.bn is None and "weight" in own and "bias" in own:  # the usual case
            return self._fire_with(own["weight"], own["bias"], x, v)  # type: ignore[arg-type]
        return self._fire_with(*self._parameters_now(), x, v)

    def _parameters_now(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as :meth:`folded`. If no gradient is needed, the result is cached between calls."""
        weight, bias = self.weight, self.bias
        differentiable = self.surrogate is not None and torch.is_grad_enabled()
        kept = not (differentiable or torch.jit.is_tracing()) and value_checks_cache.can_be_read(weight)
        if kept and "weight" not in self._parameters:  # recomputed at each access, by a parametrization or a hook
            weight = as_before(self, weight)
        return (weight, bias) if self.bn is None else fold(weight, bias, self.bn, kept=kept)

    def _takes_sums(self) -> bool:
        """Whether batch statistics are computed from packed spikes, so that no currents are stored."""
        bn: Any = self.bn
        plain = nn.BatchNorm1d, nn.BatchNorm2d  # another class may normalise otherwise
        return not torch.is_grad_enabled() and type(bn) in plain and bn.training and bn.running_mean is not None

    @torch.no_grad()
    def _moments_of_steps(self, x: Spikes) -> tuple[Tensor, Tensor, int]:
        """Mean and variance [C] of the currents of all steps of this batch, and the number of currents."""
        bn: Any = self.bn
        bias = torch.zeros_like(bn.running_mean) if self.bias is None else self.bias
        near = bn.running_mean - bias  # a first guess of the mean
        mean, variance, count = self._batch_moments(x, self.weight.detach(), -near)
        return mean + near.double() + bias.double(), variance, count

    @torch.no_grad()
    def _moments_of_means(self, x: Spikes | Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean and variance of the currents' means over the steps, which are the currents of the mean input."""
        if self.weight.ndim == 2:
            checks.features(x.shape, self.weight)
        else:
            window_checks.groups(getattr(self, "groups", 1), x.shape[2], self.weight)
        if isinstance(x, Spikes):
            mean_input = (x.count() * (x.scale / len(x))).to(self.weight.dtype)
        else:
            mean_input = x[0].to(self.weight.dtype) if checks.is_constant(x) else x.mean(0, dtype=self.weight.dtype)
        if mean_input.ndim == 4:
            mean_input = mean_input.contiguous(memory_format=torch.channels_last)
        with unfused.exact(x.device):
            currents = self.affine(mean_input)
        count = currents[:, 0].numel()
        if count < 2:
            raise ValueError(
                "x must have at least two values for each channel of its mean currents, whose statistics this call "
                f"normalises by, got {count}: {len(currents)} samples"
            )
        currents = currents.to(torch.promote_types(currents.dtype, torch.float32))
        mean, variance = currents.new_zeros(2, currents.shape[1])
        F.batch_norm(currents, mean, variance, training=True, momentum=1.0)  # torch's fastest way to compute both
        return mean.double(), variance.double() * ((count - 1) / count), count

    @torch.no_grad()
    def _folded_by(self, mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Weight and bias with these batch statistics folded in. Also updates the running statistics."""
        bn: Any = self.bn
        bn.num_batches_tracked += 1
        momentum = 1 / bn.num_batches_tracked.double() if bn.momentum is None else bn.momentum
        for running, now in ((bn.running_mean, mean), (bn.running_var, variance * (count / max(count - 1, 1)))):
            running.copy_(running.double() + (now - running.double()) * momentum)
        return fold_values(self.weight.detach(), self.bias, *gain_and_offset(bn), mean, variance, bn.eps)

    def _batch_moments(self, x: Spikes, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean and variance of the currents with this weight and bias, and the number of currents."""
        raise NotImplementedError

    def _fire_with(self, weight: Tensor, bias: Tensor | None, x, v) -> tuple[Spikes, Tensor]:
        """Run the layer with this weight and bias instead of its own."""
        raise NotImplementedError

    def affine(self, x: Tensor) -> Tensor:
        return self.synapse.plain_class.forward(self, x)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, with the running statistics of ``bn`` folded in if there is one."""
        return (self.weight, self.bias) if self.bn is None else fold(self.weight, self.bias, self.bn)


class FusedConvolution(Fused):
    """Base of convolutions followed by neurons, of any number of axes."""

    axes: ClassVar[int]

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
        flag("bias", bias, PARAMETERS_BY_NAME)
        check = window_checks.single if self.axes == 1 else window_checks.pair
        _check_window(check, kernel_size, stride, padding, dilation, padding_mode)
        self.synapse.plain_class.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._set_neurons(neuron, v_init)
        norm = nn.BatchNorm1d if self.axes == 1 else nn.BatchNorm2d
        self.bn = norm(out_channels, device=device, dtype=dtype) if batch_norm else None


class FusedConv2d(FusedConvolution, nn.Conv2d):
    """Convolution followed by neurons, over all T steps. Replaces nn.Conv2d and a multi-step neuron module.

    Takes the arguments of nn.Conv2d, has the same parameters, and loads the same state_dict. Its own state_dict also
    has the parameters of the neurons, such as ``v_threshold``; nn.Conv2d loads it with strict=False. Equations:
    :mod:`proxykernels.kernels.reference`.

    Args:
        neuron: a neuron of :mod:`proxykernels.neurons`. Its fields become attributes of the layer and entries of the
            state_dict. They must not be parameters or require a gradient (see :func:`proxykernels.learn_neurons`).
        v_init: initial potential of a call without a state, a number or one value per channel [C]; default: at rest.
            It is in the state_dict. With a soft reset, half a threshold halves the rounding error of rates.
        batch_norm: adds ``bn``, an nn.BatchNorm2d on the currents. In evaluation it is folded into the weights. In
            training it uses the statistics of all N * T steps. For that all currents are kept in memory where
            gradients are wanted, and of real-valued inputs.

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out], or
    [N, states, C_out, H_out, W_out] for neurons with several state variables.

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_conv2d`; or padding_mode is not 'zeros'.
    """

    synapse, axes = Convolution, 2
    pool_follows = False  # set by simulate from the network

    def _batch_moments(self, x, weight, bias):
        checks.parameters(weight, bias, 4, "[C_out, C_in / groups, kernel_h, kernel_w]", x.device)
        checks.steps_of(x, 5, "[T, N, C_in, H, W]")
        return batch_moments(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def _fire_with(self, weight, bias, x, v):
        window = self.stride, self.padding, self.dilation, self.groups
        options = {"pool_follows": self.pool_follows, "surrogate": self.surrogate}
        return neuron_ops.conv2d(x, weight, bias, v, self.neuron, *window, **options)


class FusedConv1d(FusedConvolution, nn.Conv1d):
    """1-d convolution followed by neurons, over all T steps. Takes the arguments of nn.Conv1d, and:

    Args:
        neuron, v_init, batch_norm: as in :class:`FusedConv2d`.

    Shapes: x (T, N, C_in, L), Spikes or a tensor; y (T, N, C_out, L_out); v [N, C_out, L_out].

    Raises:
        TypeError, ValueError: as :class:`FusedConv2d`.
    """

    synapse, axes = Convolution1d, 1

    def _of_images(self) -> tuple:
        """Stride, padding, dilation and groups for images of one row."""
        padding = self.padding if isinstance(self.padding, str) else (0, *self.padding)
        return (1, *self.stride), padding, (1, *self.dilation), self.groups

    def _batch_moments(self, x, weight, bias):
        checks.parameters(weight, bias, 3, "[C_out, C_in / groups, kernel]", x.device)
        checks.steps_of(x, 4, "(T, N, C_in, L)")
        return batch_moments(as_images(x), weight.unsqueeze(2), bias, *self._of_images())

    def _fire_with(self, weight, bias, x, v):
        checks.steps_of(x, 4, "(T, N, C_in, L)")
        v = v.unsqueeze(-2) if isinstance(v, Tensor) and v.ndim else v
        window = self._of_images()
        weight = value_checks_cache.computed_from(weight.unsqueeze(2), weight)
        spikes, v = neuron_ops.conv2d(as_images(x), weight, bias, v, self.neuron, *window, surrogate=self.surrogate)
        return as_row(spikes), v.squeeze(-2)


class FusedLinear(Fused, nn.Linear):  # type: ignore[misc]  # whose bias is never None to torch's annotations
    """Fully connected layer followed by neurons, over all T steps. Takes the arguments of nn.Linear, and:

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
        flag("bias", bias, PARAMETERS_BY_NAME)
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_neurons(neuron, v_init)
        self.bn = nn.BatchNorm1d(out_features, device=device, dtype=dtype) if batch_norm else None

    def _batch_moments(self, x, weight, bias):
        checks.parameters(weight, bias, 2, "[out, in]", x.device)
        checks.steps_of(x, 3, "[T, N, features]")
        checks.features(x.shape, weight)
        return batch_moments(x, weight, bias, (1, 1), (0, 0), (1, 1), 1)

    def _fire_with(self, weight, bias, x, v):
        return neuron_ops.linear(x, weight, bias, v, self.neuron, self.surrogate)


def _scan(currents: Tensor, v: Tensor | float | None, neuron: AnyNeuron, surrogate: Surrogate | None):
    """Neurons on currents of each step; constant currents are not copied for each step."""
    if isinstance(currents, Tensor) and currents.ndim > 1 and checks.is_repeated(currents):
        return neuron_ops.hold(currents[0], len(currents), v, neuron, surrogate)
    return neuron_ops.scan(currents, v, neuron, surrogate)


def _check_window(check, kernel_size, stride, padding, dilation, padding_mode: str) -> None:
    """Refuse windows that torch takes but the functions do not; ``check``: window_checks.pair or single."""
    if padding_mode != "zeros":
        raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}; pad the input before the layer instead")
    check("kernel_size", kernel_size, 1)
    check("stride", stride, 1)
    check("dilation", dilation, 1)
    if not isinstance(padding, str):
        check("padding", padding, 0)


class Population(Neurons):
    """Neurons without weights. The input are their currents, for example the output of :class:`AvgPool2d`.

    Args:
        neuron, v_init: as in :class:`FusedConv2d`.

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes, where a spike is a current of 1;
    y (T, N, ...); v [N, ...], or [N, states, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    @taken_by_position
    def __init__(self, neuron: AnyNeuron, *, v_init: float | Tensor | None = None):
        super().__init__()
        self._set_neurons(neuron, v_init)

    def _fire(self, x, v, batch_statistics):
        x = checks.frames(x)
        if isinstance(x, Spikes):
            x = x.dense()
        return _scan(x, v, self.neuron, self.surrogate)

    def affine(self, x: Tensor) -> Tensor:
        return x
