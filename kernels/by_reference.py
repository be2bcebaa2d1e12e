"""Layers by the reference code, for any packing of spikes into words: a loop over time in plain torch.

:class:`InTorch` has what no backend has a kernel for, and :class:`ByReference` all layers. Recurrent neurons:
``current`` [T, N, 1, C] is what the input contributes; ``recurrent`` [C, C] has in row i the weights of what neuron i
receives, or is one value a neuron [C]. The states ``v`` are [N, states + 1, 1, C]: those of the model, and last the
spikes, 0 or 1, of the step before.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference, rounding, sigma_delta_codes, unfused
from .neuron_models import Neuron, Surrogate
from .recording import SCAN, Choice, note, unrecorded
from .reference_gradients import surrogate_scan
from .weight_layouts import require_finite

LOOP = Choice("step loop", "no recurrent kernel here")
AUTOGRAD = [
    getattr(torch._C.DispatchKey, name)
    for name in ("AutogradFunctionality", "AutogradOther", "AutogradCPU", "AutogradCUDA", "ADInplaceOrView")
]


class InTorch:
    """A part of a backend (kernels/backends.py has arguments and results), on the words that the others pack."""

    runs_plans = False
    pack: Callable[[Tensor], Tensor]
    unpack: Callable[..., Tensor]
    round_weights = staticmethod(rounding.round_weights)

    def max_rate_pool2d(
        self, words: Tensor, T: int, counts: Tensor, size, kernel_size, stride, padding
    ) -> tuple[Tensor, Tensor]:
        """An output fires when the highest count in its window grows."""
        images = counts.transpose(1, 2).unflatten(2, tuple(size))
        counts = images.clone(memory_format=torch.contiguous_format)
        highest, fired = F.max_pool2d(counts, kernel_size, stride, padding), []
        for step in self.unpack(words, T, counts.shape[1]).unflatten(3, tuple(size)):
            counts += step
            before, highest = highest, F.max_pool2d(counts, kernel_size, stride, padding)
            fired.append((highest > before).flatten(2))
        return self.pack(torch.stack(fired)), counts.flatten(2).transpose(1, 2).contiguous()

    def if_conv2d_real(self, *layer) -> tuple[Tensor, Tensor]:
        """A convolution of real values, then IF."""
        return unfused.if_conv2d_real(self, *layer)

    def potentials(self, current: Tensor, v: Tensor, neuron: Neuron) -> Tensor:
        """The potentials [T, N, P, C] of leaky neurons that never fire."""
        return reference.integrate(current.transpose(2, 3), v.transpose(1, 2), neuron).transpose(2, 3).contiguous()

    def conv2d_weight_gradient(self, words, size, grad_current, weight_shape, *window) -> Tensor:
        """The gradient of the weights of if_conv2d."""
        T, C = grad_current.shape[0], weight_shape[1] * window[-1]
        x = self.unpack(words, T, C, grad_current.dtype).unflatten(3, tuple(size))
        return unfused.conv2d_weight_gradient(x, grad_current, weight_shape, *window)

    def max_pool2d_backward(self, words, grad, size, *windows) -> Tensor:
        """The gradient of max pooling's input."""
        x = self.unpack(words, grad.shape[0], grad.shape[3], torch.float32).unflatten(3, tuple(size))
        return unfused.max_pool2d_backward(x, grad.float(), *windows)

    def fingerprint(self, address: int, size: int) -> int:
        """A hash of some memory."""
        return hash(ctypes.string_at(address, size) if size else b"")


def recurrent_scan(pack: Callable[[Tensor], Tensor], current: Tensor, v: Tensor, neuron: Neuron, recurrent: Tensor):
    """Words, and the states after the last step; ``pack``: the backend's."""
    note(LOOP)
    if recurrent.is_cpu:  # a GPU would have to be waited for
        require_finite("recurrent_weight", recurrent)
    spikes, after = reference.recurrent_scan(current.squeeze(2), v.squeeze(2), neuron, recurrent)
    return pack(spikes.unsqueeze(3).bool()), after.unsqueeze(2).contiguous()


def recurrent_scan_backward(
    scan_backward: Callable[..., tuple[Tensor, Tensor, Tensor]], grad_spikes: Tensor, grad_v: Tensor | None,
    current: Tensor, v: Tensor, neuron: Neuron, surrogate: Surrogate, recurrent: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Back through all T steps, one after another, each by the backend's ``scan_backward`` (backends.Backend).

    Returns:
        As scan_backward: the gradients of the currents, of the states before the first step and the spikes before it,
        and of a bias and of the parameters of a channel.
    """
    neuron, recurrent = neuron.detach(), recurrent.detach().float()
    spike, its_states = v[:, -1].float(), v[:, :-1].float()
    state, steps = tuple(its_states.unbind(1)), []
    for step_current in current.float():
        whole = step_current + reference.feedback(spike, recurrent)
        steps.append((whole, state[0] if neuron.states == 1 else torch.stack(state, 1)))
        spike, state = reference.step(state, whole, neuron)
    grad_state, grad_spike = None, torch.zeros_like(spike)
    if grad_v is not None:
        grad_state, grad_spike = grad_v[:, :-1].float(), grad_v[:, -1].float()
        grad_state = grad_state.squeeze(1) if neuron.states == 1 else grad_state
    grad_current = torch.empty(grad_spikes.shape, dtype=torch.float32, device=v.device)
    sums = v.new_zeros(1 + len(neuron.channels), v.shape[-1], dtype=torch.float64)
    for t in reversed(range(len(steps))):
        outer = (grad_spikes[t] + grad_spike).unsqueeze(0)
        whole, before = steps.pop()
        its, grad_state, grown = scan_backward(outer, grad_state, whole.unsqueeze(0), before, neuron, surrogate)
        grad_current[t] = its[0]
        grad_spike = its[0] * recurrent if recurrent.ndim == 1 else its[0] @ recurrent
        sums += grown
    if grad_state is None:
        grad_state = torch.zeros_like(its_states)
    return grad_current, torch.cat([grad_state.view_as(its_states), grad_spike.unsqueeze(1)], 1), sums


class ByReference(InTorch):
    """The layers of a backend (kernels/backends.py has arguments and results), which has ``pack`` and ``unpack``.

    Args:
        why: the reason why it is taken, in the words of :func:`proxykernels.explain`.
    """

    running_maximum = staticmethod(sigma_delta_codes.running_maximum)
    pooled_sigma_delta = staticmethod(sigma_delta_codes.pooled_sigma_delta)
    sums_so_far = staticmethod(sigma_delta_codes.sums_so_far)
    sigma_delta = staticmethod(sigma_delta_codes.sigma_delta)

    def __init__(self, why: str = "the reference code"):
        self._choice = Choice("dense", why)

    def if_scan(self, current: Tensor, v: Tensor, neuron: Neuron, T: int | None = None) -> tuple[Tensor, Tensor]:
        """See backends.Backend."""
        note(SCAN)
        current = current if T is None else current.expand(T, *current.shape)
        spikes, v = reference.scan(current.transpose(2, 3), v.transpose(-1, -2), neuron)
        sent = spikes.transpose(2, 3).contiguous() if neuron.counts else self.pack(spikes.bool())
        return sent, v.transpose(-1, -2).contiguous()

    def recurrent_scan(self, *neurons) -> tuple[Tensor, Tensor]:
        """Recurrent neurons on currents [T, N, 1, C]."""
        return recurrent_scan(self.pack, *neurons)

    def recurrent_scan_backward(self, *neurons) -> tuple[Tensor, Tensor, Tensor]:
        """Back through all steps of recurrent neurons, one step after another."""
        return recurrent_scan_backward(self.scan_backward, *neurons)

    def scan_backward(
        self,
        grad_spikes: Tensor,
        grad_v: Tensor | None,
        current: Tensor,
        v: Tensor,
        neuron: Neuron,
        surrogate: Surrogate,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Back through all T steps, by the definition's autograd; see backends.Backend."""

        with _autograd():
            given = [x.detach().float().requires_grad_() for x in (current, v, neuron.channels)]
            currents = given[0].expand(grad_spikes.shape).transpose(2, 3)
            state = given[1].transpose(-2, -1)
            fired, after = surrogate_scan(currents, state, neuron._replace(channels=given[2]), surrogate)
            last = torch.zeros_like(after) if grad_v is None else grad_v.float().transpose(-2, -1)
            outer = grad_spikes.float().transpose(2, 3), last
            found = torch.autograd.grad((fired, after), given, outer, materialize_grads=True)
        of_bias = found[0].double().flatten(0, -2).sum(0)
        return (
            found[0].contiguous(),
            found[1].contiguous(),
            torch.cat([of_bias.unsqueeze(0), found[2].double().reshape(-1, len(of_bias))]),
        )

    def conv2d_current_sums(self, words, T, size, weight, bias, *window) -> Tensor:
        """Sums of the currents of if_conv2d in each channel, and of their squares: float64 [2, C_out]."""
        N = words.shape[0 if words.dtype == torch.uint8 else 1]
        currents = unfused.conv2d_currents(self, words, T, N, size, weight, bias, *window).double()
        return torch.stack([x.sum((0, 1, 2)) for x in (currents, currents * currents)])

    def conv2d_currents(self, words, T, size, weight, bias, v, neuron, *window) -> Tensor:
        """The currents [T, N, P, C] of a convolution of packed spikes."""
        note(self._choice)
        with unrecorded():
            return unfused.conv2d_currents(self, words, T, v.shape[0], size, weight, bias, *window)

    def if_conv2d(self, *layer) -> tuple[Tensor, Tensor]:
        """A convolution of packed spikes and IF."""
        note(self._choice)
        with unrecorded():
            return unfused.if_conv2d(self, *layer)


@contextmanager
def _autograd() -> Iterator[None]:
    """Lets autograd follow what is done in the block, where a mode of torch, such as FlopCounterMode, has stopped it.

    In the same thread: a GPU has one thread for backward passes. A pass inside a pass runs there and then, whereas one
    that another thread starts would wait for the thread that waits for it.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in AUTOGRAD:
        excluded = excluded - torch._C.DispatchKeySet(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        yield
