"""Layers by the reference code, for any packing of spikes into words: a loop over time in plain torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import recurrent, reference, sigma_delta_codes, unfused
from .in_torch import InTorch
from .neuron_models import Neuron
from .recording import SCAN, Choice, note, recording
from .reference_gradients import surrogate_scan
from .surrogates import Surrogate


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
        """IF on currents [T, N, P, C], or for T steps on a constant current [N, P, C]: spikes, and potentials [N, P, C]
        after the last step."""
        note(SCAN)
        current = current if T is None else current.expand(T, *current.shape)
        spikes, v = reference.scan(current.transpose(2, 3), v.transpose(-1, -2), neuron)
        return self.pack(spikes.bool()), v.transpose(-1, -2).contiguous()

    def recurrent_scan(self, *neurons) -> tuple[Tensor, Tensor]:
        """Recurrent neurons on currents [T, N, 1, C]."""
        return recurrent.recurrent_scan(self.pack, *neurons)

    def recurrent_scan_backward(self, *neurons) -> tuple[Tensor, Tensor, Tensor]:
        """Back through all steps of recurrent neurons, one step after another."""
        return recurrent.recurrent_scan_backward(self.scan_backward, *neurons)

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
        with recording():
            return unfused.conv2d_currents(self, words, T, v.shape[0], size, weight, bias, *window)

    def if_conv2d(self, *layer) -> tuple[Tensor, Tensor]:
        """A convolution of packed spikes and IF."""
        note(self._choice)
        with recording():
            return unfused.if_conv2d(self, *layer)


AUTOGRAD = [
    getattr(torch._C.DispatchKey, name)
    for name in ("AutogradFunctionality", "AutogradOther", "AutogradCPU", "AutogradCUDA", "ADInplaceOrView")
]


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
