"""What backends have no kernel of their own for, in plain torch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import rounding, unfused, unfused_backward


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

    def conv2d_weight_gradient(self, words, size, grad_current, weight_shape, *window) -> Tensor:
        """The gradient of the weights of if_conv2d."""
        T, C = grad_current.shape[0], weight_shape[1] * window[-1]
        x = self.unpack(words, T, C, grad_current.dtype).unflatten(3, tuple(size))
        return unfused_backward.conv2d_weight_gradient(x, grad_current, weight_shape, *window)

    def max_pool2d_backward(self, words, grad, size, *windows) -> Tensor:
        """The gradient of max pooling's input."""
        x = self.unpack(words, grad.shape[0], grad.shape[3], torch.float32).unflatten(3, tuple(size))
        return unfused_backward.max_pool2d_backward(x, grad.float(), *windows)

    def fingerprint(self, values: Tensor) -> int:
        """A hash of the bytes of a contiguous tensor."""
        return hash(values.detach().cpu().view(torch.uint8).numpy().tobytes())
