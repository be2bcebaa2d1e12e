"""What all layers here share.

A layer is stateless: every call starts at rest. ``layer(x)`` is Spikes for Spikes; for a tensor it is a tensor of 0 and
1 in the input's dtype. ``layer(x, v)`` starts from the state ``v`` and returns ``(y, v)``.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import checks
from ..neurons import IFNeuron
from ..spikes import Spikes
from .synapses import Synapse

_warned: set[type] = set()  # classes that have said it


class SpikingLayer(nn.Module):
    """A layer that gives spikes, and whose state a caller may carry from call to call."""

    v_init = 0.0
    synapse: type[Synapse] = Synapse  # what makes its currents

    def forward(self, x: Spikes | Tensor, v: Tensor | None = None):
        if self.training:
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
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(self) in _warned:
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

    def terms(self, x: Spikes | Tensor) -> list[tuple[Synapse, Spikes | Tensor]]:
        """The synapses whose currents add up, each with the input that it takes."""
        return [(self.synapse(self), x)]

    def repeats(self, device: torch.device, T: int) -> bool:
        """Whether on an input that is held for T steps its spikes are kept as periods."""
        return False


class Neurons(SpikingLayer):
    """What all layers of IF neurons share: threshold, reset and start."""

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

    def extra_repr(self) -> str:
        value = self.v_threshold
        threshold = f"[{len(value)}]" if isinstance(value, Tensor) and value.ndim else f"{float(value):g}"
        own = super().extra_repr()
        start = f", v_init={self.v_init:g}" if self.v_init else ""
        return f"{own}{', ' if own else ''}v_threshold={threshold}, v_reset={self.v_reset}{start}"

    @property
    def neuron(self) -> IFNeuron:
        """What a step of these neurons needs besides potentials and currents."""
        return IFNeuron(self.v_threshold, self.v_reset)

    def repeats(self, device: torch.device, T: int) -> bool:
        return not self.v_init and self.neuron.repeats(device, T)


def each_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of [N, ...] to every step of x [T, N, ...]; once if x is one step repeated by expand."""
    if x.shape[0] > 1 and checks.is_held(x):
        y = function(x[0])
        return y.expand(x.shape[0], *y.shape)
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
