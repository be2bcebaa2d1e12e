"""Layers of IF neurons: torch modules that take spikes, or a sequence [T, N, ...], and give spikes for all T steps.

A layer is stateless: every call starts at rest. ``layer(x)`` is Spikes for Spikes; for a tensor it is a tensor of 0 and
1 in the input's dtype. ``layer(x, v)`` starts from the potentials ``v`` and returns ``(y, v)``.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checks, functional
from .neurons import IFNeuron
from .spikes import Spikes

_warned: set[type] = set()  # classes that have said it


class Neurons(nn.Module):
    """What all layers of IF neurons share: threshold, reset, and how they are called."""

    def _set_neurons(self, v_threshold: float | Tensor, v_reset: float | None, v_init: float) -> None:
        checks.neuron(v_threshold, v_reset)
        checks.no_gradient("v_threshold", v_threshold)
        checks.start("v_init", v_init)
        self.v_reset, self.v_init = v_reset, float(v_init)
        self._set_threshold(v_threshold)

    def _set_threshold(self, v_threshold: float | Tensor) -> None:
        """A tensor becomes a buffer; a number stays one, which a GPU need not be asked for."""
        self.__dict__.pop("v_threshold", None)
        self._buffers.pop("v_threshold", None)
        if isinstance(v_threshold, Tensor):
            self.register_buffer("v_threshold", v_threshold.detach().clone())
        else:
            self.v_threshold = float(v_threshold)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if "v_threshold" in self.__dict__:
            destination[prefix + "v_threshold"] = torch.as_tensor(self.v_threshold, dtype=torch.float64, device="cpu")

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        """Takes the threshold that was saved, of whatever kind; without one the layer keeps its own."""
        key = prefix + "v_threshold"
        threshold = state_dict.get(key)
        if threshold is not None:
            try:
                checks.neuron(threshold, self.v_reset)
            except (TypeError, ValueError) as error:
                errors.append(f"{key}: {error}")
                threshold = torch.as_tensor(self.v_threshold)
            number = "v_threshold" in self.__dict__
            if number or ("v_threshold" in self._buffers and threshold.shape != self.v_threshold.shape):
                device = next((tensor.device for tensor in self.parameters()), threshold.device)
                self._set_threshold(threshold.to(device) if threshold.ndim else threshold.item())
            if "v_threshold" in self.__dict__:  # torch expects tensors only
                state_dict = {name: tensor for name, tensor in state_dict.items() if name != key}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        if key in missing:  # the state_dict of nn.Conv2d, or an older one of this package
            missing.remove(key)

    def forward(self, x: Spikes | Tensor, v: Tensor | None = None):
        self._warn_without_gradient(x)
        spikes, state = self.spike(x, v, batch_statistics=self.training)
        y = spikes.dense(x.dtype) if isinstance(x, Tensor) else spikes
        return y if v is None else (y, state)

    def spike(
        self, x: Spikes | Tensor, v: Tensor | None = None, *, batch_statistics: bool = False
    ) -> tuple[Spikes, Tensor]:
        """Spikes (T, N, ...) and the last potentials, whatever ``x`` is.

        ``batch_statistics`` normalises by, and updates, the statistics of this batch (as BatchNorm does in training).
        """
        return self._fire(x, self.v_init or None if v is None else v, batch_statistics)

    def _warn_without_gradient(self, *inputs: Spikes | Tensor) -> None:
        """Say, once for each class of layers, that a call in training cuts the gradient off."""
        if not (self.training and torch.is_grad_enabled()) or torch.compiler.is_compiling() or type(self) in _warned:
            return
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if any(tensor.requires_grad for tensor in (*self.parameters(), *tensors)):
            _warned.add(type(self))
            warnings.warn(
                f"{type(self).__name__} was called in training, and its spikes have no gradient: its weights and its "
                "input get none from this call. Train through ProxyNet or if_scan_surrogate; where no gradient is "
                "wanted, call it after .eval() or under torch.no_grad()",
                UserWarning,
                stacklevel=2,
            )

    def _fire(self, x: Spikes | Tensor, v: Tensor | float | None, batch_statistics: bool) -> tuple[Spikes, Tensor]:
        raise NotImplementedError

    def affine(self, x: Tensor) -> Tensor:
        """The layer's currents for one step [N, ...], before any normalisation; differentiable."""
        raise NotImplementedError

    def terms(self, x: Spikes | Tensor) -> list[tuple[nn.Module, Spikes | Tensor]]:
        """The synapses whose currents add up, each with the input that it takes."""
        return [(self, x)]

    def extra_repr(self) -> str:
        threshold = self.v_threshold
        threshold = (
            f"[{len(threshold)}]" if isinstance(threshold, Tensor) and threshold.ndim else f"{float(threshold):g}"
        )
        own = super().extra_repr()
        start = f", v_init={self.v_init:g}" if self.v_init else ""
        return f"{own}{', ' if own else ''}v_threshold={threshold}, v_reset={self.v_reset}{start}"

    @property
    def neuron(self) -> IFNeuron:
        """What a step of these neurons needs besides potentials and currents."""
        return IFNeuron(self.v_threshold, self.v_reset)


class FusedIFConv2d(Neurons, nn.Conv2d):
    """Convolution and IF neurons over all steps: in place of nn.Conv2d and a multi-step IF neuron.

    Equations and their source: :mod:`proxykernels.functional`. Takes nn.Conv2d's arguments and parameters and loads its
    state_dict (its own has the key ``v_threshold`` besides: nn.Conv2d loads it with strict=False), and then:

    Args:
        v_threshold: threshold > 0, a number or one value an output channel. It is saved in the state_dict, and taken
            from there if it is there; v_reset and v_init are not, as stride and padding are not. Thresholds get no
            gradient: a parameter, or a tensor that requires one, is refused.
        v_reset: potential after a spike, below the threshold; None subtracts the threshold (soft reset).
        v_init: potential at which a call without a state starts; half a threshold halves the rounding of a soft reset.
        batch_norm: adds ``bn``, an nn.BatchNorm2d on the currents. In evaluation it is folded into the weights; in
            training it normalises by the statistics of all N * T steps, for which all currents are held in memory.

    Shapes: x (T, N, C_in, H, W), Spikes or a tensor; y (T, N, C_out, H_out, W_out); v [N, C_out, H_out, W_out].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_conv2d`; padding_mode other than 'zeros' is not offered.
    """

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
        padding_mode: str = "zeros",
        device=None,
        dtype=None,
        *,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_init: float = 0.0,
        batch_norm: bool = False,
    ):
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode must be 'zeros', got {padding_mode!r}; pad the input before the layer instead"
            )
        checks.pair("kernel_size", kernel_size, 1)
        checks.pair("stride", stride, 1)
        checks.pair("dilation", dilation, 1)
        if not isinstance(padding, str):
            checks.pair("padding", padding, 0)
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip
        self._set_neurons(v_threshold, v_reset, v_init)
        self.pool_follows = False  # what simulate finds out of the network
        self.bn = nn.BatchNorm2d(out_channels, device=device, dtype=dtype) if batch_norm else None

    def _fire(self, x, v, batch_statistics):
        if self.bn is not None and batch_statistics:
            x = x.dense(self.weight.dtype) if isinstance(x, Spikes) else x
            return functional.scan(each_step(lambda image: self.bn(self.affine(image)), x), v, self.neuron)
        return self._fire_with(*self.folded(), x, v)

    def _fire_with(self, weight: Tensor, bias: Tensor | None, x, v) -> tuple[Spikes, Tensor]:
        """The layer with other weights."""
        window = self.stride, self.padding, self.dilation, self.groups
        return functional.conv2d(x, weight, bias, v, self.neuron, *window, pool_follows=self.pool_follows)

    def affine(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, x)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch normalisation's running statistics folded in (none: just weight and bias).

        Computed in float64 by operations that IEEE rounds, so that they are the same on every machine.
        """
        weight, bias, bn = self.weight, self.bias, self.bn
        if bn is None:
            return weight, bias
        scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)  # a GPU's rsqrt is one ulp off
        shift = bn.bias.double() + ((0 if bias is None else bias.double()) - bn.running_mean.double()) * scale
        return (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)


class FusedIFLinear(Neurons, nn.Linear):
    """Fully connected layer of IF neurons over all steps: nn.Linear's arguments and parameters, and then:

    Args:
        v_threshold, v_reset, v_init: as in :class:`FusedIFConv2d`.

    Shapes: x (T, N, in), Spikes or a tensor; y (T, N, out); v [N, out].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device=None,
        dtype=None,
        *,
        v_threshold: float | Tensor = 1.0,
        v_reset: float | None = 0.0,
        v_init: float = 0.0,
    ):
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_neurons(v_threshold, v_reset, v_init)

    def _fire(self, x, v, batch_statistics):
        return self._fire_with(self.weight, self.bias, x, v)

    def _fire_with(self, weight: Tensor, bias: Tensor | None, x, v) -> tuple[Spikes, Tensor]:
        """The layer with other weights."""
        return functional.linear(x, weight, bias, v, self.neuron)

    def affine(self, x: Tensor) -> Tensor:
        return nn.Linear.forward(self, x)


class IF(Neurons):
    """IF neurons alone, on currents that come from elsewhere, such as :class:`AvgPool2d`.

    Args:
        v_threshold, v_reset, v_init: as in :class:`FusedIFConv2d`.

    Shapes: x (T, N, ...), currents in units of the threshold, or Spikes, which count as 1; y (T, N, ...); v [N, ...].

    Raises:
        TypeError, ValueError: as :func:`proxykernels.if_scan`.
    """

    def __init__(self, v_threshold: float | Tensor = 1.0, v_reset: float | None = 0.0, v_init: float = 0.0):
        super().__init__()
        self._set_neurons(v_threshold, v_reset, v_init)

    def _fire(self, x, v, batch_statistics):
        if isinstance(x, Spikes):
            x = x.dense()
        if isinstance(x, Tensor) and x.ndim > 1 and checks.is_held(x):
            return functional.hold(x[0], len(x), v, self.neuron)
        return functional.scan(x, v, self.neuron)

    def affine(self, x: Tensor) -> Tensor:
        return x


class MaxPool2d(nn.Module):
    """Max pooling of every step: the OR of spikes, or torch's maximum on a tensor.

    Args:
        kernel_size, stride, padding: as in nn.MaxPool2d (stride defaults to kernel_size).

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y (T, N, C, H_out, W_out).

    Raises:
        TypeError, ValueError: as :func:`proxykernels.max_pool2d`.
    """

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        checks.pooling(kernel_size, stride, padding)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        if isinstance(x, Spikes):
            return functional.max_pool2d(x, self.kernel_size, self.stride, self.padding)
        return each_step(lambda image: F.max_pool2d(image, self.kernel_size, self.stride, self.padding), x)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(nn.AvgPool2d):
    """Average pooling of every step.

    A mean of spikes is not a spike: the result is a tensor, which the next layer takes as real-valued input.

    Args: those of nn.AvgPool2d.

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y [T, N, C, H_out, W_out], for Spikes in float32.

    Raises:
        TypeError, ValueError, RuntimeError: as nn.AvgPool2d, for windows that do not fit.
    """

    def forward(self, x: Spikes | Tensor) -> Tensor:
        return each_step(super().forward, x.dense() if isinstance(x, Spikes) else x)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average pooling of every step to a given size; otherwise as :class:`AvgPool2d`.

    Args:
        output_size: as in nn.AdaptiveAvgPool2d: a number or (height, width).

    Shapes: x (T, N, C, H, W); y [T, N, C, height, width]. Spikes that already have that size stay Spikes.

    Raises:
        TypeError, ValueError, RuntimeError: as nn.AdaptiveAvgPool2d.
    """

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        if isinstance(x, Spikes):
            if x.shape[3:] == checks.pair("output_size", self.output_size, 1):
                return x
            x = x.dense()
        return each_step(super().forward, x)


class Flatten(nn.Module):
    """Each sample's neurons in a row, in the order of nn.Flatten.

    Shapes: x (T, N, C, H, W), Spikes or a tensor; y (T, N, C * H * W), of the same kind.
    """

    def forward(self, x: Spikes | Tensor) -> Spikes | Tensor:
        if isinstance(x, Spikes):
            return functional.flatten(x)
        return each_step(lambda image: image.flatten(1), x) if checks.is_held(x) else x.flatten(2)


def each_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of [N, ...] to every step of x [T, N, ...]; once if x is one step repeated by expand."""
    if x.shape[0] > 1 and checks.is_held(x):
        y = function(x[0])
        return y.expand(x.shape[0], *y.shape)
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
